"""Training by several processes: steps and exchanges measured here, and a model of what many machines do.

The model of a step on R ranks of N parameters, of s bytes each: the rank's share of the batch at the speed of
one process, then the exchange of `DataParallel` over a network of bandwidth B and latency L,

    seconds = compute + 2 ((R - 1) / R N s / B + (R - 1) L)

a reduce-scatter by messages between all pairs, and an allgather. What every rank does as one process does,
the update above all, is within `compute`, which is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES, BATCH = (784, 512, 512, 10), 512
LEAST = 8  # rows of a rank that are modelled
RANKS = (1, 2, 4)
MODELLED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GIGABITS, LATENCY = (1, 10, 100), 20e-6  # of assumed networks; seconds a message
PARAMETERS = (100_000, 1_000_000, 10_000_000)
QUICK = (12, 16, 5), 32
ROOT = Path(__file__).parents[1]


def run(threads: Sequence[int] = (1, 2), rounds: int = 9, quick: bool = False) -> Report:
    """Measure strong and weak scaling and exchanges, and model the rest; a row is a figure."""
    sizes, batch = QUICK if quick else (SIZES, BATCH)
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    one = [
        measured(1, {"task": "step", "sizes": sizes, "batch": batch, "threads": n}, rounds) for n in threads
    ]
    for n, found in zip(threads, one, strict=True):
        rows.append(_row("measured", "one process", f"{n} threads", 1, found["plain"], one[0]["plain"]))
    rows.append(_row("measured", "one process", "pieces=8", 1, one[0]["pieces"], one[0]["plain"]))
    if (mpiexec := _mpiexec()) is None:
        notes.append("left out: several ranks, which need mpi4py and an mpiexec")
    else:
        counts = RANKS[1:2] if quick else RANKS[1:]
        for scaling in ("strong", "weak"):
            for ranks in counts:
                whole = batch if scaling == "strong" else batch * ranks
                task = {
                    "task": "step",
                    "sizes": sizes,
                    "batch": whole,
                    "threads": 1,
                    "peer": scaling == "strong",
                }
                found = measured(ranks, task, rounds, mpiexec)
                for name, seconds in found.items():
                    how = "shared memory" if name == "pieces" else name
                    rows.append(_row("measured", f"{scaling} scaling", how, ranks, seconds, one[0]["plain"]))
        found = measured(2, {"task": "network"}, rounds, mpiexec)
        for name, seconds in found.items():
            rows.append(_row("measured", "waiting", name, 2, seconds, found["barrier"]))
        for parameters in [500] if quick else PARAMETERS:
            found = measured(2, {"task": "exchange", "parameters": parameters}, rounds, mpiexec)
            for name in ("exact", "Allreduce"):
                rows.append(
                    _row("measured", f"{parameters:,} parameters", name, 2, found[name], found["exact"])
                )
        notes.append("ranks of one thread each, on the processors of this machine")
    parameters = sum(a * b + b for a, b in pairwise(sizes))
    rates = {
        n: measured(1, {"task": "step", "sizes": sizes, "batch": n, "threads": 1}, rounds)["plain"]
        for n in _shares(batch)
    }
    for scaling in ("strong", "weak"):
        for gigabits in GIGABITS:
            for ranks in MODELLED:
                if scaling == "strong" and ranks > batch // LEAST:
                    break
                compute = rates[batch // ranks] if scaling == "strong" else rates[batch]
                seconds = modelled(compute, 4 * parameters, ranks, gigabits * 1e9 / 8, LATENCY)
                rows.append(
                    _row("model", f"{scaling} scaling", f"{gigabits} Gbit/s", ranks, seconds, rates[batch])
                )
    notes += [
        f"{'-'.join(map(str, sizes))}, {parameters:,} parameters, Adam",
        f"a batch of {batch} rows; in weak scaling of each rank",
        "model: the computation as measured in one process of one thread without pieces, a piece a rank;",
        f"networks are assumed, of {1e6 * LATENCY:.0f} us a message, and copies within a machine left out",
        "efficiency: the time of one process over ranks times this (weak: over this)",
    ]
    shown = [r for r in rows if r["kind"] == "measured" or r["ranks"] in (8, 32, 64, 1024)]
    return Report(rows, notes, shown)


def modelled(compute: float, size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return the seconds of a step: those of the computation, and of the exchange of `size` bytes."""
    return compute + 2 * ((ranks - 1) / ranks * size / bandwidth + (ranks - 1) * latency)


def _shares(batch: int) -> list[int]:
    """Return the batches that a rank may have."""
    return sorted({batch // ranks for ranks in MODELLED if ranks <= batch // LEAST})


def _row(kind: str, what: str, how: str, ranks: int, seconds: float, one: float) -> dict[str, Any]:
    efficiency = one / seconds / (1 if "weak" in what or "parameters" in what or what == "waiting" else ranks)
    return {
        "kind": kind,
        "what": what,
        "how": how,
        "ranks": ranks,
        "ms": 1e3 * seconds,
        "efficiency": efficiency,
    }


def _mpiexec() -> str | None:
    """Return what starts ranks, if they can be had: that of the interpreter's environment first."""
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        return None
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def measured(
    ranks: int, task: dict[str, Any], rounds: int, mpiexec: str | Sequence[str] | None = None
) -> dict[str, float]:
    """Return the median seconds of what the ranks did, by name.

    They are started by this mpiexec, or by a command that ends in what they are to run.
    """
    command = [
        sys.executable,
        "-m",
        "bench.distributed_ranks",
        json.dumps({**task, "rounds": rounds, "ranks": ranks}),
    ]
    if isinstance(mpiexec, str):
        mpiexec = [mpiexec, "-n", str(ranks)]
    command = [*(mpiexec or ()), *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{ranks} ranks have failed: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
