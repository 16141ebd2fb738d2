"""The memory that training takes, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import peers, pytorch, shapes
from .cases import LIBRARIES
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shapes import Network

STILL = 1.01  # the growth between the counts of steps that is none


def run(threads: Sequence[int] = (1, 2), rounds: int = 1, quick: bool = False) -> Report:
    """Measure the peak of resident memory after few and after many steps, over that before the network."""
    few, many = shapes.MEMORY_STEPS_QUICK if quick else shapes.MEMORY_STEPS
    rows: list[dict[str, Any]] = []
    for network in shapes.MEMORY_QUICK if quick else shapes.MEMORY:
        for name in (*LIBRARIES, *(["PyTorch"] * bool(pytorch.load()))):
            first, last = _in_a_process(name, network, few, many)
            rows.append(
                {"network": network.name, "library": name, "bytes a parameter": last / network.parameters}
                | {f"MB after {few} steps": first / 1e6, f"MB after {many} steps": last / 1e6}
            )
    growing = [
        f"{row['library']}, {row['network']}"
        for row in rows
        if row[f"MB after {many} steps"] > STILL * row[f"MB after {few} steps"]
    ]
    return Report(rows, [f"grows between {few} and {many} steps: {'; '.join(growing) or 'none'}"])


def _in_a_process(name: str, network: Network, few: int, many: int) -> tuple[int, int]:
    arguments = [sys.executable, "-m", "bench.memory", name, json.dumps([network, few, many])]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    first, last = json.loads(done.stdout)
    return first, last


def peaks(name: str, network: Network, few: int, many: int) -> tuple[int, int]:
    """Return the bytes by which the peak of this process has grown after so many steps.

    The library and a batch of data are there before; the network, its gradients, the optimizer and all that a
    step uses are not.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((network.batch, network.sizes[0]), np.float32)
    t = rng.integers(0, network.sizes[-1], network.batch)
    x, t = peers.owned(name, x, t)
    before = _peak()
    net = peers.trainer(LIBRARIES[name], network) if name in LIBRARIES else peers.net(name, network)
    found = []
    for steps in (few, many - few):
        for _ in range(steps):
            net.step(x, t)
        found.append(_peak() - before)
    return found[0], found[1]


def _peak() -> int:
    """Return the most bytes that were resident; ru_maxrss would count what the parent process had, too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    library, (fields, *steps) = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(peaks(library, shapes.Network(*fields), *steps)))
