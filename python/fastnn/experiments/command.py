"""The experiments from the command line, `python -m fastnn experiments`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import fastnn

from . import EXPERIMENTS, style

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments that are named, by default all that can run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn experiments",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run experiments with neural networks, print what each has found and draw it.",
        epilog=f"experiments:\n{listing()}",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="one of those below; default: all that can run"
    )
    parser.add_argument(
        "--out",
        default="fastnn-experiments",
        metavar="FOLDER",
        help="where the pictures go, NAME.png; made if need be; default: %(default)s",
    )
    parser.add_argument(
        "--environment",
        metavar="ID",
        help="of ppo: one of gymnasium's with discrete actions; default: CartPole-v1",
    )
    parser.add_argument("--reference", action="store_true", help="run in NumPy, with fastnn.reference")
    parser.add_argument("--list", action="store_true", help="show the experiments and run none")
    args = parser.parse_args(argv)
    if args.list:
        print(listing())
        return 0
    lib = fastnn.reference if args.reference else fastnn
    try:
        names = known(args.names)
        options = {"ppo": {"environment": args.environment}} if args.environment else {}
        style.require()
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            experiment = EXPERIMENTS[name]
            start = perf_counter()
            try:
                results = experiment.run(lib, **options.get(name, {}))
            except ImportError as error:
                if args.names:
                    raise
                print(f"{name} is left out: {error}", flush=True)
                continue
            seconds = perf_counter() - start
            style.save(experiment.draw(results), folder / f"{name}.png")
            print(f"{folder / name}.png  {seconds:.1f} s  {experiment.finding(results)}", flush=True)
    except (ImportError, OSError, ValueError) as error:
        print(f"fastnn experiments: {error}", file=sys.stderr)
        return 2
    return 0


def listing() -> str:
    """Return a line for each experiment, its name and what it is about."""
    width = max(map(len, EXPERIMENTS))
    lines = ((name, str(module.__doc__).splitlines()[0]) for name, module in EXPERIMENTS.items())
    return "\n".join(f"  {name:{width}}  {about}" for name, about in lines)


def known(names: Sequence[str]) -> list[str]:
    """Return the names, each once, all for none; ValueError, which lists them, if one is no experiment's."""
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(f"NAME must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    return list(dict.fromkeys(names or EXPERIMENTS))
