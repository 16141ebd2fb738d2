"""`python -m bench [NAME ...] [--out FILE]`: every benchmark, or those named."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import gemm, machine, overhead, report, step

BENCHMARKS = {"gemm": gemm.run, "step": step.run, "overhead": overhead.calls, "import": overhead.imports}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--out", type=Path, help="a folder for NAME.csv")
    args = parser.parse_args()
    for name in args.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    print(machine.header())
    for name in args.names or BENCHMARKS:
        rows = BENCHMARKS[name]()
        print(f"\n{name}")
        report.show(rows)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            report.write(rows, args.out / f"{name}.csv")


if __name__ == "__main__":
    main()
