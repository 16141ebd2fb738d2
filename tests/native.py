"""The instruction sets, what one computes on each, and processes apart."""

import os
import shlex
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import fastnn
from fastnn import _core

# Starts a Python, behind a launcher where one is needed: FASTNN_TEST_LAUNCHER="qemu-aarch64 -L /sysroot".
PYTHON = [*shlex.split(os.environ.get("FASTNN_TEST_LAUNCHER", "")), sys.executable]
SMALLER = int(os.environ.get("FASTNN_TEST_SMALLER", "1"))  # where a sanitizer makes large work take a minute
FUSING = [name for name in _core.isas_supported() if name != "baseline"]  # one rounding a multiply-add


@contextmanager
def using_isa(name):
    before = _core.isa()
    _core.use_isa(name)
    try:
        yield
    finally:
        _core.use_isa(before)


def on_each_fusing_isa(compute):
    """Return [compute() on AVX-512, on AVX2, ...], which promise the same bits."""
    results = []
    for name in FUSING:
        with using_isa(name):
            results.append(compute())
    return results


def run_python(code, timeout=60, **environment):
    """Run code in a process of its own; return its standard output, or fail with what it said."""
    paths = [str(Path(fastnn.__file__).parents[1]), str(Path(__file__).parent)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [*PYTHON, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
