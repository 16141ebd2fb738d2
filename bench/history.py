"""What this machine has measured before: ratios over NumPy in bench/history.jsonl, and which have fallen.

A line is one case of one run: the machine, the commit, and the median of several measurements of the ratio
over NumPy in the same run. Only ratios of the same processor, instruction set and NumPy are compared. What is
usual is the median of the last runs; how far they scatter says what is noise.
"""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import guard, machine
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Line = dict[str, Any]

FILE = Path(__file__).with_suffix(".jsonl")
TURNS = 3  # measurements of a case in a run, and again as many where it seems to have fallen
LAST = 10  # runs that say what is usual
LEAST_NOISE = 0.15  # of the usual ratio: a shared machine does not measure better than that
SAME = ("processor", "isa", "numpy", "threads")


def read(path: Path = FILE) -> list[Line]:
    """Return the lines of the file, the oldest first; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def usual(lines: Sequence[Line], here: Mapping[str, Any], case: str) -> tuple[float, float] | None:
    """Return the usual ratio of a case on this machine, and the least that is within the noise; None if new.

    The noise is three times the standard deviation of the last runs, estimated by the median of the absolute
    deviations, and LEAST_NOISE of the median at least.
    """
    same = [line["ratio"] for line in lines if line["case"] == case and all(line[k] == here[k] for k in SAME)]
    if not same:
        return None
    middle = median(same[-LAST:])
    noise = 3 * 1.4826 * median(abs(ratio - middle) for ratio in same[-LAST:])
    return middle, middle - max(noise, LEAST_NOISE * middle)


def measure(floor: guard.Floor, turns: int = TURNS) -> list[float]:
    """Return ratios over NumPy of medians."""
    calls = {name: call for name, call in floor.case().calls.items() if name in ("fastnn", "NumPy")}
    times = [time_interleaved(calls, rounds=11, round_seconds=5e-3) for _ in range(turns)]
    return [t["NumPy"].median / t["fastnn"].median for t in times]


def run(
    floors: Sequence[guard.Floor] = guard.FLOORS, path: Path = FILE
) -> tuple[Report, list[Line], list[str]]:
    """Measure every case on one thread; return the table, the lines of this run, and what has fallen."""
    before, here = read(path), where()
    rows, lines, fallen = [], [], []
    with machine.limited(1):
        for floor in floors:
            known, ratios = usual(before, here, floor.name), measure(floor)
            if known and median(ratios) < known[1]:
                ratios += measure(floor)
            ratio = median(ratios)
            if known and ratio < known[1]:
                fallen.append(floor.name)
            verdict = "new" if known is None else "fallen" if floor.name in fallen else "as before"
            rows.append(
                {
                    "case": floor.name,
                    "over NumPy": ratio,
                    "usual": known[0] if known else ratio,
                    "least": known[1] if known else ratio,
                    "verdict": verdict,
                }
            )
            lines.append({**here, "case": floor.name, "ratio": round(ratio, 3)})
    summary = [f"fallen: {', '.join(fallen)}" if fallen else "no case has fallen"]
    return Report(rows, summary), lines, fallen


def append(lines: Sequence[Line], path: Path = FILE) -> None:
    """Write the lines of a run below the others."""
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def where() -> Line:
    """Return what is measured, where and when."""
    config = fastnn.show_config()
    git = ["git", "-C", str(FILE.parents[1])]
    changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    commit = _output([*git, "rev-parse", "--short", "HEAD"]) or "unknown"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit + ("+" if changed else ""),
        "fastnn": config["version"],
        "processor": machine.setting()["processor"].partition(",")[0],
        "isa": config["isa"],
        "numpy": np.__version__,
        "threads": 1,
    }


def _output(command: Sequence[str]) -> str:
    """Return what a command prints; nothing if it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
