"""The documentation's site: `sphinx-build -W --keep-going docs site`, with the extra `docs`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import fastnn

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "fastnn"
author = "The fastnn developers"
project_copyright = "The fastnn developers"
version = release = fastnn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["figures", "gallery"]

# Pages. Their programs are run by tests/test_docs.py, not here.
myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 4
smartquotes = False

# Docstrings: NumPy's sections, and otherwise plain text, see `setup`.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
default_role = "code"

# The theme
html_theme = "furo"
html_title = f"fastnn {version}"
html_extra_path = ["llms.txt"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False

# Links between pages are looked at by the build itself, which needs no network. Those to elsewhere:
# `FASTNN_LINKS=1 sphinx-build -b linkcheck docs links`.
linkcheck_ignore = [] if os.environ.get("FASTNN_LINKS") else [r"https?://"]


QUOTED = re.compile(r"(`[^`]*`)")
FIELDS = ("Parameters", "Attributes", "Returns", "Yields", "Raises")  # whose texts are indented


def setup(app: Sphinx) -> None:
    """Have docstrings read as what they are: plain text with `names` in it and formulas set in."""
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon's
    app.connect("autodoc-skip-member", _skip)


def _as_text(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Escape what would be markup; make literal blocks of lines that are set in by four after a blank one."""
    found: list[str] = []
    section, literal = "", False
    for i, line in enumerate(lines):
        below = lines[i + 1] if i + 1 < len(lines) else ""
        if below and not below.strip("-"):
            section = line
        if line and not line.startswith("    "):
            literal = False
        elif line and not literal and section not in FIELDS and not lines[i - 1]:
            found += ["::", ""]
            literal = True
        found.append(line if literal else _escaped(line))
    lines[:] = found


def _escaped(line: str) -> str:
    parts = QUOTED.split(line)
    return "".join(p if i % 2 else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", p) for i, p in enumerate(parts))


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what estimators have from scikit-learn, which its own pages describe."""
    return True if (getattr(obj, "__module__", None) or "").startswith("sklearn.") else None
