"""Loads the native core, and OpenMP if it brings that, so that its idle threads soon give processors away.

fastnn has threads of its own and asks OpenMP only for its limits, but whoever uses the same GNU OpenMP in
this process later shares the processors with it. It reads its settings when it is loaded; by default its
idle threads spin for milliseconds, and a step that shared a processor with one took 10 ms instead of 1.2. A
setting of the user's own, or an OpenMP that another package has loaded before, stays as it is.

NumPy's OpenBLAS is left alone, though its idle threads spin for some 20 ms. A time-out that ends this
(OPENBLAS_THREAD_TIMEOUT=4) makes its own products of 128x784x100, one after another, 1.13 times as slow,
and with pauses between 1.3 times; and a team of fastnn finds another processor by itself.
"""

import os

SHORT_SPIN = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}.isdisjoint(os.environ)
if SHORT_SPIN:
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        from . import _core
    finally:
        del os.environ["GOMP_SPINCOUNT"]  # child processes choose for themselves
else:
    from . import _core

__all__ = ["SHORT_SPIN", "_core"]
