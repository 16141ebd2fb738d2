"""Fixtures that cross the native tests over instruction sets, team sizes and dtypes."""

import math
import signal

import numpy as np
import pytest

import fastnn
from fastnn import _core, _interrupts

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_ctrl_c_before(monkeypatch):
    """Let the Ctrl-C of one test be no second one of another's."""
    monkeypatch.setattr(_interrupts, "_last", -math.inf)


@pytest.fixture(params=_core.isas_supported())
def isa(request):
    """Every instruction set that this processor runs, in turn."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(before)


@pytest.fixture(params=[1, 2, 3, 7], ids=lambda n: f"team{n}")
def team(request):
    """Teams of this many threads for every op, however small its work."""
    before = _core.thread_limit()
    fastnn.set_num_threads(request.param)
    _core.set_work_per_member(0.0)
    yield request.param
    _core.set_work_per_member(-1.0)
    fastnn.set_num_threads(before)


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)
