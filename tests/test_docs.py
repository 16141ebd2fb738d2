"""What README, the pages of docs and help() say: the programs that they show run, and print what they say."""

import contextlib
import inspect
import io
import re
import shlex
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastnn

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
COMMAND = re.compile(r"python3? -m ((?:fastnn|bench)\b[^`#&\n]*)")
EXTRAS = re.compile(r"'\.\[([\w,]+)\]'")
ELSEWHERE = "postgresql://"  # a server that nobody has here
PEER = re.compile(r"^(?:import|from) (torch|pyarrow)\b", re.MULTILINE)  # what no extra brings


def name_of(page):
    """Return the path of a page as a reader of the repository writes it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """Return (language, text, number of its first line, what stands between it and the next block)."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    ends = [*(m.start() for m in found[1:]), len(text)][: len(found)]
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
@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=name_of)
def test_the_programs_of_a_page(page, tmp_path, monkeypatch):
    """As a reader types them: one after the other, in a directory of his own."""
    for peer in {name for _, text, _, _ in programs(page) for name in PEER.findall(text)}:
        pytest.importorskip(peer, reason=f"the programs of {name_of(page)} need it")
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
            assert_printed(printed[line], text, f"{name_of(page)}, line {line}")


@pytest.mark.parametrize("wrong", ["accuracy 0.91", "precision 0.95", "accuracy 0.95 0.95"])
def test_the_comparison_bites(wrong):
    assert_printed("accuracy 0.951\n", "accuracy  0.95", "here")
    with pytest.raises(AssertionError):
        assert_printed("accuracy 0.95", wrong, "here")


def shown(pattern):
    """Return what fits in the pages, each once."""
    return sorted({found.strip() for page in PAGES for found in pattern.findall(page.read_text())})


def unknown(line):
    """Return the words of a command line of which the command's own help knows nothing."""
    module, *words = shlex.split(line)
    main = import_module(f"{module}.__main__").main
    commands = words[:1] if module == "fastnn" else []
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit, match=r"^0$"):
        main([*commands, "--help"])
    text = out.getvalue()
    known, found, words = set(re.findall(r"[\w-]+", text)), [], iter(words[len(commands) :])
    for word in words:
        if word not in known:
            found.append(word)
        elif word.startswith("--") and re.search(rf"{word} [A-Z]", text):
            next(words)  # its value
    return found


def test_the_command_lines_are_found():
    assert len(shown(COMMAND)) >= 8
    assert len(shown(EXTRAS)) >= 4


@pytest.mark.parametrize("line", shown(COMMAND))
def test_the_commands_and_their_options_exist(line, monkeypatch):
    if line.startswith("bench"):  # which is in the repository, not in the package
        pytest.importorskip("matplotlib")
        pytest.importorskip("threadpoolctl")
        monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    assert not unknown(line)


def test_what_does_not_exist_is_found_out():
    assert unknown("fastnn experiments dropout --outs --out here pooling --list") == ["--outs", "pooling"]
    with pytest.raises(AssertionError), contextlib.redirect_stderr(io.StringIO()):
        unknown("fastnn dropout")


def test_the_extras_exist():
    text = (ROOT / "pyproject.toml").read_text()
    known = re.findall(r"^(\w+) = \[", text.split("[project.optional-dependencies]")[1], re.MULTILINE)
    assert {name for names in shown(EXTRAS) for name in names.split(",")} <= set(known)


REFERENCE = {
    name: c for name in fastnn.__all__ if inspect.isclass(c := getattr(fastnn.reference, name, None))
}


@pytest.mark.parametrize("name", [n for n, c in REFERENCE.items() if issubclass(getattr(fastnn, n), c)])
def test_help_of_a_class_speaks_of_it(name):
    """Native classes share methods: none has the docstring of another class of the reference."""
    native = getattr(fastnn, name)
    assert native.__doc__ == REFERENCE[name].__doc__
    for attribute, method in inspect.getmembers(native, inspect.isfunction):
        if not attribute.startswith("_"):
            texts = {n: getattr(getattr(c, attribute, None), "__doc__", None) for n, c in REFERENCE.items()}
            assert method.__doc__, attribute
            assert method.__doc__ == texts[name] or method.__doc__ not in texts.values(), attribute
