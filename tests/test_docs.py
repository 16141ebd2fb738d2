"""The programs that README and the pages of docs show: they run, and print what the pages say they print."""

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
ELSEWHERE = "postgresql://"  # a server that nobody has here


def blocks(page):
    """Return (language, text, number of its first line, what stands between it and the next block)."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    ends = [*(m.start() for m in found[1:]), len(text)]
    return [
        (m[1], m[2], text.count("\n", 0, m.start()) + 2, text[m.end() : end])
        for m, end in zip(found, ends, strict=True)
    ]


def programs(page):
    return [block for block in blocks(page) if block[0] == "python"]


def assert_printed(actual, expected, where):
    """Words are the same, and numbers as far as processors and versions of NumPy agree on them."""
    assert NUMBER.sub("#", actual).split() == NUMBER.sub("#", expected).split(), where
    np.testing.assert_allclose(
        [float(n) for n in NUMBER.findall(actual)],
        [float(n) for n in NUMBER.findall(expected)],
        rtol=0.02,
        atol=0.02,
        err_msg=where,
    )


def test_the_pages_are_found():
    assert {page.name for page in PAGES} >= {"README.md", "estimators.md", "from-scratch.md", "own-loops.md"}
    assert sum(len(programs(page)) for page in PAGES) > 20


@pytest.mark.filterwarnings("ignore::UserWarning")  # of scikit-learn, for trainings that are short
@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=lambda page: page.name)
def test_the_programs_of_a_page(page, tmp_path, monkeypatch):
    """As a reader types them: one after the other, in a directory of his own."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    printed, shown = {}, blocks(page)
    for language, text, line, _ in shown:
        if language != "python":
            continue
        code = compile("\n" * (line - 1) + text, str(page), "exec")
        if ELSEWHERE in text:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed[line] = out.getvalue()
    for (_, _, line, between), (language, text, _, _) in pairwise(shown):
        if language == "text" and line in printed and not between.strip():
            assert_printed(printed[line], text, f"{page.name}, line {line}")


@pytest.mark.parametrize("wrong", ["accuracy 0.91", "precision 0.95", "accuracy 0.95 0.95"])
def test_the_comparison_bites(wrong):
    assert_printed("accuracy 0.951\n", "accuracy  0.95", "here")
    with pytest.raises(AssertionError):
        assert_printed("accuracy 0.95", wrong, "here")
