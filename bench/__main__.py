"""Benchmarks of fastnn against NumPy and, where they are installed, PyTorch, JAX and scikit-learn.

Operations: gemm, sweep, kernels, optimizers, overhead, import, threads, neighbours. Training: step (with
--sweep, of many sizes), epoch, predict, memory, estimators, population. Searching: search, samplers. Two
can fail: `guard`, below its floors, and `history`, below what this machine has measured before.

Every result is checked before it is timed, and the libraries take turns within one run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastnn import _core

from . import (
    distributed,
    epoch,
    estimators,
    gemm,
    guard,
    history,
    kernels,
    machine,
    memory,
    neighbours,
    overhead,
    plots,
    population,
    predict,
    report,
    search,
    step,
    threads,
)

BENCHMARKS = {
    "gemm": gemm.run,
    "sweep": gemm.sweep,
    "kernels": kernels.layers,
    "optimizers": kernels.optimizers,
    "step": step.run,
    "step-sweep": step.sweep,
    "epoch": epoch.run,
    "predict": predict.run,
    "memory": memory.run,
    "search": search.run,
    "samplers": search.samplers,
    "estimators": estimators.run,
    "population": population.run,
    "distributed": distributed.run,
    "overhead": overhead.calls,
    "import": overhead.imports,
    "threads": threads.run,
    "neighbours": neighbours.run,
}


def main(argv: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [*BENCHMARKS, "guard", "history"]
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a folder for NAME.csv, NAME.json and NAME.png"
    )
    parser.add_argument("--threads", type=_counts, default=(1, 2), metavar="N,...", help="default: 1,2")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="turns of each library, less for slow benchmarks"
    )
    parser.add_argument("--isa", choices=_core.isas_supported(), help="default: the best")
    parser.add_argument("--sweep", action="store_true", help="step: of many sizes, which is step-sweep")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--append", action="store_true", help="history: write the figures down")
    args = parser.parse_args(argv)
    if args.append and "history" not in args.names:
        parser.error("--append is for history")
    if args.isa:
        _core.use_isa(args.isa)
    options = {"rounds": args.rounds or 3} if args.quick or args.rounds else {}
    setting = machine.setting()
    print("; ".join(f"{name} {value}" for name, value in setting.items()))
    for name in [f"{name}-sweep" if args.sweep and name == "step" else name for name in args.names]:
        print(f"\n{name}", flush=True)
        if name == "guard":
            if not all([guard.fast_enough(), guard.fast_beside_neighbours()]):
                return 1
            continue
        fallen: list[str] = []
        if name == "history":
            found, lines, fallen = history.run()
            if args.append:
                history.append(lines)
        else:
            found = BENCHMARKS[name](threads=args.threads, quick=args.quick, **options)
        report.show(found)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            report.write_csv(found, args.out / f"{name}.csv")
            report.write_json(found, setting, args.out / f"{name}.json")
            plots.draw(name, found.rows, setting, args.out / f"{name}.png")
        if fallen:
            return 1
    return 0


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(map(int, text.split(",")))
    if min(counts) < 1:
        raise ValueError
    return counts


if __name__ == "__main__":
    sys.exit(main())
