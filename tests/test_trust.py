"""The commands of `python -m tests.trust`: each works, in seconds, and each finds what is wrong."""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import data
from native import PYTHON
from trust import __main__ as trust
from trust import fuzz, kills, readers, soak, suites

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")


def figures_of(capsys, *argv):
    status = trust.main(argv)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == (1 if figures["failed"] else 0)
    return figures


def test_help_lists_every_command_and_its_time(capsys):
    with pytest.raises(SystemExit):
        trust.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, (text, duration) in trust.COMMANDS.items():
        assert name in shown
        assert f"{text}; {duration}" in shown


# Readers


@pytest.mark.parametrize("name", readers.READERS)
def test_a_reader_accepts_its_seeds_and_refuses_some_of_what_becomes_of_them(name):
    for needed in {"csv": ["pandas"], "onnx": ["onnx"], "keras": ["h5py"]}.get(name, ["numpy"]):
        pytest.importorskip(needed)
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    seeds, read = readers.READERS[name]
    made = seeds()
    assert all(read(content) for content in made)
    with fuzz.Counted(read) as counted:
        fuzz.ours(counted, made, len(made) + 60, seed=1)
    assert counted.figures["accepted"] >= len(made)
    assert counted.figures["refused"] > 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda array: 1 / 0, "ZeroDivisionError"),  # an error of no documented kind
        (lambda array: array[..., ::-1].copy(), "other elements"),
        (lambda array: array[None], "the header says"),
    ],
)
def test_a_wrong_reader_is_found(monkeypatch, wrong, told):
    right = data.read_idx
    monkeypatch.setattr(data, "read_idx", lambda path: wrong(right(path)))
    content = bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])
    with pytest.raises(AssertionError, match=told):
        fuzz.ours(fuzz.Counted(readers.read_idx), [content], 1, seed=0)


def test_a_network_that_comes_back_otherwise_is_found(monkeypatch):
    right = fastnn.reference.Sequential.load

    def wrong(file):
        net = right(file)
        next(iter(net.params.values()))[...] += 1
        return net

    monkeypatch.setattr(fastnn.reference.Sequential, "load", wrong)
    seeds, read = readers.READERS["network.npz"]
    with pytest.raises(AssertionError, match="brings back something else"):
        read(seeds()[0])


def test_a_reader_that_hangs_is_found(monkeypatch):
    def hang(content):
        while True:
            pass

    monkeypatch.setattr(fuzz, "HANGS", 0.1)
    with pytest.raises(AssertionError, match="takes more than"), fuzz.Counted(hang) as counted:
        counted(b"")


def test_sums_and_lengths_are_mended():
    content = bytearray(readers.content_of(readers.networks()[0]))
    place = content.find(np.float32(fastnn.Affine.create(1, 1, seed=0).W[0, 0]).tobytes())
    content[place] ^= 1
    with pytest.raises(ValueError, match="CRC"):
        fastnn.Sequential.load(io.BytesIO(content))
    fastnn.Sequential.load(io.BytesIO(readers.with_sums(content)))


# Kills


@posix
def test_killed_saves_leave_a_whole_file():
    done = kills.run(6, kinds=("network.npz", "trainer.npz", "checkpoint.npz"))
    assert done["failed"] == []
    assert done["kills"] == 6
    assert done["unfinished files at most"] <= 1


@posix
def test_a_save_in_place_is_found():
    done = kills.run(16, kinds=("network.npz", "trainer.npz"), atomic=False)
    assert any("damaged" in text or "truncated" in text for text in done["failed"]), done


# Soak


@posix
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="tells no threads")
def test_leaks_are_found():
    """In a process of its own: one that has run thousands of tests has memory to lose."""
    code = """
import json
from trust import soak

soak.USES = [soak.predict]
print(json.dumps([soak.run(0.0, **lost)["failed"] for lost in ({}, {"leak": 2 << 20}, {"handles": True})]))
"""
    paths = [str(Path(fastnn.__file__).parents[1]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, env=environment, check=True)
    nothing, leak, handles = json.loads(done.stdout)
    assert nothing == []
    assert "memory grows" in leak[0]
    assert "handles grow" in handles[0]


@posix
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("use", soak.USES, ids=lambda use: use.__name__)
def test_mixed_use(use):
    use()


# Bits


def test_bits(capsys):
    figures = figures_of(capsys, "bits", "--quick")
    assert figures["failed"] == []
    assert figures["threads"] == [1, 16]


# What pytest runs


SAID = """
tests/test_x.py::test_a:

  - during generate phase (0.02 seconds):
    - Typical runtimes: < 1ms, of which < 1ms in data generation
    - 25 passing examples, 0 failing examples, 3 invalid examples

tests/test_x.py::test_b:

  - during generate phase (0.02 seconds):
    - Typical runtimes: < 1ms, of which < 1ms in data generation
    - 7 passing, 1 failing, and 0 invalid test cases
"""


def test_examples_are_counted():
    assert suites.examples(SAID) == (32, 1, 2)


def test_a_run_that_tries_too_little_fails(monkeypatch):
    monkeypatch.setattr(suites, "properties", lambda files: 2)
    monkeypatch.setattr(suites, "run", lambda *_, **__: (0, SAID, 1.0))
    assert suites.hypothesis(("tests/test_x.py",), 32)["failed"] == []
    assert suites.hypothesis(("tests/test_x.py",), 33)["failed"] == ["32 examples, 33 were asked for"]
    monkeypatch.setattr(suites, "run", lambda *_, **__: (1, SAID, 1.0))
    assert suites.hypothesis(("tests/test_x.py",), 32)["failed"] == ["pytest ended with 1"]


def test_a_sanitized_run_needs_tests_and_success(monkeypatch):
    for status, said, failed in [
        (0, "12 passed in 3 s", []),
        (1, "12 passed\nERROR: AddressSanitizer: heap-use-after-free", [".ci/sanitize ended with 1"]),
        (0, "", ["no test has run"]),
    ]:
        monkeypatch.setattr(suites, "run", lambda *_, status=status, said=said, **__: (status, said, 1.0))
        assert suites.sanitized()["failed"] == failed


def test_races_are_only_looked_for_where_a_planted_one_is_found(monkeypatch):
    def run(command, **_):
        return answers.pop(0) if "tests/trust/planted.py" in command else (0, "12 passed in 3 s", 1.0)

    monkeypatch.setattr(suites, "run", run)
    answers = [(0, "1 passed", 1.0), (1, "no compiler", 1.0), (1, "WARNING: ThreadSanitizer: data race", 1.0)]
    for found in (False, False, True):
        done = suites.races()
        assert (done["failed"] == []) == found
        assert found or "a planted race is not found" in done["failed"][0]
