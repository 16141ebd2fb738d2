"""The command line: `python -m fastnn COMMAND`, a function for each command, named and described by it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


def demo(arguments: Sequence[str]) -> int:
    """Train a classifier of handwritten digits, natively and in NumPy, and compare the two."""
    from .demo import main

    return main(arguments)


def experiments(arguments: Sequence[str]) -> int:
    """Run the experiments of a course on neural networks, and draw what they find."""
    from .experiments.command import main

    return main(arguments)


def info(arguments: Sequence[str]) -> int:
    """Show the version, the instruction set in use and the number of threads."""
    from . import show_config

    argparse.ArgumentParser(prog="python -m fastnn info", description=info.__doc__).parse_args(arguments)
    print(show_config())
    return 0


def train(arguments: Sequence[str]) -> int:
    """Train a model of a column of a table (CSV, Parquet), with a report and a picture."""
    from .table import train

    return train(arguments)


def predict(arguments: Sequence[str]) -> int:
    """Predict the rows of a table with such a model."""
    from .table import predict

    return predict(arguments)


COMMANDS = {command.__name__: command for command in (demo, experiments, info, train, predict)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv`, by default that of the process, names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:13}{run.__doc__}" for name, run in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="see COMMAND --help")
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    return COMMANDS[args.command](args.arguments)


if __name__ == "__main__":
    sys.exit(main())
