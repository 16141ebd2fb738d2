"""The documentation's site, without building it: pages are found, links lead somewhere, names are there."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import fastnn

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OUTSIDE = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|<img src=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
INCLUDE = re.compile(r"^```\{(?:literal)?include\} (\S+)$", re.MULTILINE)
IN_CHINESE = {  # page: what it is of
    "five-minutes": "start/five-minutes",
    "from-scratch": "from-scratch",
    "from-scikit-learn": "estimators",
    "from-keras-and-pytorch": "start/from-keras-and-pytorch",
    "gallery": "gallery",
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def below(page):
    """Return the pages that the toctrees of a page name."""
    entries = [line for block in TOCTREE.findall(page.read_text()) for line in block.split("\n")]
    return [(page.parent / f"{line}.md").resolve() for line in entries if line and not line.startswith(":")]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = HEADING.findall(FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page):
    """Return the links of a page that lead nowhere."""
    found = []
    for link in filter(None, (a or b for a, b in LINK.findall(FENCED.sub("", page.read_text())))):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.is_file() or (anchor and anchor not in anchors(path)):
            found.append(link)
    return found


def test_every_page_is_in_one_toctree():
    named = [child for page in PAGES for child in below(page)]
    assert sorted(named) == sorted(set(PAGES) - {DOCS / "index.md"}), "name it in the index.md of its folder"


def test_no_page_has_a_name_that_the_site_has_for_itself():
    assert not {"search", "genindex", "py-modindex", "404"} & {path.stem for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=name_of)
def test_links_between_pages(page):
    assert not broken(page)
    for path in INCLUDE.findall(page.read_text()):
        assert (page.parent / path).is_file(), path


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, `code`\n\n```sh\n# none\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-heading-code) [b](other.md#none) [c](no.md) [d](#e) ![f](g.png) [h](https://i)\n"
    )
    assert broken(page) == ["other.md#none", "no.md", "#e", "g.png"]


def test_the_pages_for_language_models_are_there():
    links = re.findall(r"\]\(([^)]+)\.html\)", (DOCS / "llms.txt").read_text())
    assert len(links) > 20
    for link in links:
        assert (DOCS / f"{link}.md").is_file(), link


def test_start_is_there_in_chinese_with_the_same_programs():
    assert {path.stem for path in (DOCS / "zh").iterdir()} == {"index", *IN_CHINESE}
    for chinese, english in IN_CHINESE.items():
        if chinese != "from-scikit-learn":  # which is shorter
            ours, theirs = (
                set(re.findall(r"fastnn\.[\w.]+\(", (DOCS / f"{page}.md").read_text()))
                for page in (f"zh/{chinese}", english)
            )
            assert theirs <= ours, chinese


def test_every_public_name_is_in_the_api():
    text = "".join(path.read_text() for path in (DOCS / "api").iterdir())
    named = set(re.findall(r"auto(?:class|function|module):: fastnn\.(\w+)", text))
    assert set(fastnn.__all__) - {"__version__"} <= named
    assert {"distributed", "estimators", "experiments", "interchange"} <= named


def test_the_citation_is_of_this_version():
    assert f"\nversion: {fastnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawings():
    return loaded(DOCS / "figures" / "draw.py")


def test_the_drawings_are_those_of_the_script():
    """Of the speed, that of the table in README."""
    module = drawings()
    assert {path.name for path in (DOCS / "figures").glob("*.svg")} == set(module.DRAWINGS)
    for name, draw in module.DRAWINGS.items():
        assert draw() == (DOCS / "figures" / name).read_text(), "run docs/figures/draw.py"


def test_the_table_is_read_as_it_is():
    names, rows = drawings().table(
        "| a step of training | own | PyTorch |\n|---|---|---|\n| 1-1, SGD | 2 (1 in fit) | 3.5 |\n\n"
    )
    assert (names, rows) == (["own", "PyTorch"], [("1-1, SGD", [2.0, 3.5])])
    with pytest.raises(ValueError, match="no table"):
        drawings().table("nothing")


# Docstrings


def test_docstrings_are_read_as_text():
    text = """Adam, |x| of `a_` and loss_.

        m <- b1 * m

    Parameters
    ----------
    lr : float
        Not *bold*.

        Another one.
    """
    lines = inspect.cleandoc(text).split("\n")
    loaded(DOCS / "conf.py")._as_text(None, "class", "Adam", None, {}, lines)
    assert lines == [
        r"Adam, \|x\| of `a_` and loss\_.",
        "",
        "::",
        "",
        "    m <- b1 * m",
        "",
        "Parameters",
        "----------",
        "lr : float",
        r"    Not \*bold\*.",
        "",
        "    Another one.",
    ]
