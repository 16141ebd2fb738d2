"""The doors of `fastnn.interchange`, without the libraries behind them."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import fastnn
from fastnn import interchange
from native import PYTHON


def test_it_loads_on_first_use_and_brings_nobody():
    code = (
        "import sys, fastnn; print('fastnn.interchange' in sys.modules); fastnn.interchange; "
        "print('fastnn.interchange' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
    assert "interchange" in dir(fastnn)


@pytest.mark.parametrize(
    ("door", "package", "arguments"),
    [
        ("from_torch", "torch", (None,)),
        ("to_torch", "torch", (None,)),
        ("train_torch", "torch", (None,) * 5),
        ("from_onnx", "onnx", ("a.onnx",)),
        ("to_onnx", "onnx", (None, "a.onnx")),
        ("from_keras", "h5py", ("a.keras",)),
        ("to_keras", "keras", (None,)),
    ],
)
def test_a_door_says_what_it_needs(door, package, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"^fastnn\.interchange\.{door} needs the package {package}, .*pip install"
    ):
        getattr(interchange, door)(*arguments)


def test_an_extra_is_named_where_there_is_one(monkeypatch):
    for door, package, extra in (("from_onnx", "onnx", "onnx"), ("from_keras", "h5py", "keras")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"pip install fastnn-cpu\[{extra}\]$"):
            getattr(interchange, door)("a.file")


def test_an_old_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.3.1+cpu"))
    with pytest.raises(ImportError, match=r"torch, 2\.4 or newer, found 2\.3\.1\+cpu: pip install torch$"):
        interchange.from_torch(None)


def test_the_doors_are_those_of_the_package():
    doors = {f"{way}_{library}" for way in ("from", "to") for library in ("torch", "onnx", "keras")}
    assert set(interchange.__all__) >= {*doors, "train_torch"}
    for name in interchange.__all__:
        assert getattr(interchange, name).__doc__
