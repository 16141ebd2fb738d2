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
    ("door", "arguments"),
    [("from_torch", (None,)), ("to_torch", (None,)), ("train_torch", (None,) * 5)],
)
def test_a_door_says_what_it_needs(door, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportError, match=rf"^fastnn\.interchange\.{door} needs the package torch, .*pip install"
    ):
        getattr(interchange, door)(*arguments)


def test_an_old_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.3.1+cpu"))
    with pytest.raises(ImportError, match=r"torch, 2\.4 or newer, found 2\.3\.1\+cpu: pip install torch$"):
        interchange.from_torch(None)


def test_the_doors_are_those_of_the_package():
    assert set(interchange.__all__) >= {"from_torch", "to_torch", "train_torch"}
    for name in interchange.__all__:
        assert getattr(interchange, name).__doc__
