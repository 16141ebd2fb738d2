"""Other thread pools in this process whose idle threads keep processors busy."""

from __future__ import annotations

import os
import re

from . import _load

__all__ = ["spinning"]

LIBRARIES = {  # the patterns of their file names
    "OpenBLAS": re.compile(r"lib(\w*_)?openblas\S*\.so\S*"),
    "OpenMP": re.compile(r"lib(gomp|iomp5|omp)\S*\.so\S*"),
}
SYSTEM_OPENMP = re.compile(r"libgomp\.so\.1[.\d]*")  # which fastnn has loaded, with a short spin
OPENBLAS_EXPONENT = 26  # of ticks of the processor's clock: THREAD_TIMEOUT in OpenBLAS's own build


def loaded() -> list[str]:
    """Return the names of the shared libraries in this process; none where the system does not list them."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    except OSError:
        return []
    return sorted({os.path.basename(path) for path in paths})


def spinning() -> tuple[str, ...]:
    """Return a line for each pool: its library, how long its idle threads spin, and what quiets them."""
    lines = []
    for name in loaded():
        if LIBRARIES["OpenBLAS"].fullmatch(name):
            chosen = os.environ.get("OPENBLAS_THREAD_TIMEOUT", "")
            exponent = int(chosen) if chosen.isdigit() else OPENBLAS_EXPONENT
            lines.append(f"{name} spins for 2**{exponent} ticks (OPENBLAS_THREAD_TIMEOUT=4 quiets it)")
        elif LIBRARIES["OpenMP"].fullmatch(name) and not (_load.SHORT_SPIN and SYSTEM_OPENMP.fullmatch(name)):
            intel = "gomp" not in name
            settings = {"KMP_BLOCKTIME"} if intel else {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
            if settings.isdisjoint(os.environ):
                quiet = "KMP_BLOCKTIME=0" if intel else "GOMP_SPINCOUNT=1000"
                lines.append(f"{name} spins for milliseconds ({quiet} quiets it)")
    return tuple(lines)
