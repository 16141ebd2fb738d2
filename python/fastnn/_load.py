"""Loads the native core, and with it OpenMP, so that waiting threads soon give their core away.

GNU OpenMP reads its settings when it is loaded. By default its idle threads spin for milliseconds: where
another process wanted the core, a step of many small parallel regions took 10 ms, against 1.2 ms on one
thread. With a short spin it took 1.7 ms there, and 0.60 instead of 0.56 on an idle machine. A setting of the
user's own, or an OpenMP that another package has loaded before, stays as it is.
"""

import os

if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}.isdisjoint(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        from . import _core
    finally:
        del os.environ["GOMP_SPINCOUNT"]  # child processes choose for themselves
else:
    from . import _core

__all__ = ["_core"]
