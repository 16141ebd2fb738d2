"""What two ranks take that a command starts, beside the model: bench.two_hosts_model GBIT/S COMMAND..."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

from .distributed import BATCH, SIZES, measured, modelled


def main() -> None:
    """Print the medians of a step and of the latency, and what the model says."""
    gigabits, command = float(sys.argv[1]), sys.argv[2:]
    step = {"task": "step", "sizes": SIZES, "threads": 1, "batch": BATCH}
    rounds = 7
    network = measured(2, {"task": "network"}, rounds, command)
    compute = measured(1, step | {"batch": BATCH // 2}, rounds)["plain"]
    found = measured(2, step, rounds, command)["pieces"]
    parameters = sum(a * b + b for a, b in pairwise(SIZES))
    said = modelled(compute, 4 * parameters, 2, gigabits * 1e9 / 8, network["message"])
    figures = {"compute": compute, "step": found, "model": said, "message": network["message"]}
    print(json.dumps({"Gbit/s": gigabits, **{f"{k} ms": round(1e3 * v, 3) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
