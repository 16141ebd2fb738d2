"""Files of arrays with a description: round trips, atomic writes, refusals.

Exact resume of a training is in the tests of the trainers.
"""

import builtins
import io
import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastnn import checkpoint

ARRAYS = {
    "0.W": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "a/b": np.array(2.5),
    "file": np.zeros((0, 3)),
    "7.b": np.array([np.nan, -0.0, np.inf]),
}
META = {"layers": [{"layer": "Affine", "n": 2**63}], "lr": 0.1, "nothing": None, "text": "ü"}


@pytest.fixture(params=["npz", "safetensors"])
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"file.{request.param}"


@pytest.mark.parametrize("kind", [str, Path])
def test_round_trip(path, kind):
    checkpoint.write(kind(path), "thing", ARRAYS, META)
    arrays, meta = checkpoint.read(kind(path), "other", "thing")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()
    assert meta == META | {"format": "fastnn", "version": 1, "kind": "thing"}
    assert os.listdir(path.parent) == [path.name]


def test_same_content_same_bytes(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    first = path.read_bytes()
    checkpoint.write(path, "thing", ARRAYS, META)
    assert path.read_bytes() == first


def test_npz_is_plain_numpy(tmp_path):
    checkpoint.write(tmp_path / "x", "thing", ARRAYS, META)  # the name is taken as it is
    with np.load(tmp_path / "x", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["0.W"], ARRAYS["0.W"])
        assert json.loads(str(archive["__fastnn__"]))["text"] == "ü"


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions_are_the_usual(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    (path.parent / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    checkpoint.write(path, "thing", ARRAYS, META)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.write(path, "thing", ARRAYS, {"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write(path, "thing", ARRAYS, {"x": float("nan")})
    with pytest.raises(TypeError, match=r"^arrays\['a'\] must hold real numbers"):
        checkpoint.write(path, "thing", {"a": np.array([object()])}, META)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, "thing", {}, META)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_cut_anywhere_is_refused(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    whole = path.read_bytes()
    for size in {0, 1, 4, 30, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{path.name} is"):
            checkpoint.read(path, "thing")


def test_damaged_bytes_never_give_other_errors(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = accepted = 0
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(3):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            checkpoint.read(path, "thing")
        except ValueError as error:
            refused += path.name in str(error)
        else:
            accepted += 1
    assert refused + accepted == 300
    assert refused > 50


def test_no_pickle(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{"evil": 1}], dtype=object))
    with pytest.raises(ValueError, match="is damaged: Object arrays cannot be loaded"):
        checkpoint.read(path, "thing")


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "is not a NumPy archive, or is truncated"),
        (npy(np.zeros(3)), "is not a NumPy archive"),
        (zipped({}), "is not a file of fastnn"),
        (zipped({"a.npy": npy(np.zeros(3))}), "is not a file of fastnn"),
        (zipped({"__fastnn__": "{}"}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.zeros(3))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array("{"))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array("[" * 100_000))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array('{"format": "other"}'))}), "is not a file of fastnn"),
        (
            zipped({"__fastnn__.npy": npy(np.array('{"format": "fastnn", "version": 9}'))}),
            "has version 9, this fastnn reads",
        ),
        (
            zipped({"__fastnn__.npy": npy(np.array('{"format": "fastnn", "version": 1, "kind": "cat"}'))}),
            "must hold a thing or other, got 'cat'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path, "thing", "other")


def test_a_foreign_safetensors_file(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"a": np.zeros(3)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="is not a file of fastnn"):
        checkpoint.read(tmp_path / "x.safetensors", "thing")


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        checkpoint.read(path, "thing")


@pytest.mark.parametrize("bad", [3, None, b"x.npz"])
def test_a_path_that_is_none(bad):
    with pytest.raises(TypeError, match=r"^path must be a string or a path"):
        checkpoint.read(bad, "thing")
    with pytest.raises(TypeError, match=r"^path must be a string or a path"):
        checkpoint.write(bad, "thing", {}, {})


def test_without_safetensors(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    path = tmp_path / "x.safetensors"
    for call in (lambda: checkpoint.write(path, "thing", {}, {}), lambda: checkpoint.read(path, "thing")):
        with pytest.raises(ImportError, match=r"pip install fastnn\[safetensors\]"):
            call()
    assert os.listdir(tmp_path) == []
