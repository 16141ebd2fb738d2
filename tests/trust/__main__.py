"""Promises, each shown by a command."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # as for pytest

from . import suites  # noqa: E402

COMMANDS = {  # name: (what it shows, how long it takes on two cores)
    "face": ("any input at the public face: native code and reference agree, or refuse it alike", "an hour"),
    "states": ("a trainer's life in any order of events, native beside the reference", "20 minutes"),
    "readers": ("damaged files of all formats are refused as documented, or read right", "an hour"),
    "kills": (
        "processes that are killed in the middle of a save leave the old file or the new one",
        "a minute",
    ),
    "soak": ("mixed use leaves memory, threads and handles as they are", "10 minutes"),
    "bits": ("the same bits on 1 to 16 threads and on every instruction set that fuses", "5 minutes"),
    "sanitize": (
        "the properties and the attack under AddressSanitizer and UndefinedBehaviorSanitizer",
        "15 minutes",
    ),
    "races": ("the tests of threads under ThreadSanitizer", "10 minutes"),
}
# Executions in a full run and in a quick one, and whether coverage, of our own code, may guide some of them.
RUNS = {
    "idx": (8_000_000, 20_000, True),
    "network.npz": (500_000, 400, True),
    "trainer.npz": (200_000, 200, True),
    "network.safetensors": (700_000, 400, True),
    "trainer.safetensors": (500_000, 200, True),
    "csv": (20_000, 30, True),
    "onnx": (40_000, 200, False),
    "keras": (40_000, 200, False),
}
GUIDED = 0.01  # of the executions, which take longer; the others begin with what they find


def fuzzed(name, runs, folder, *options):
    """Run a reader so often in a process of its own; return (its figures, what has failed)."""
    told = Path(folder) / "figures.json"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.trust.fuzz", name, "--runs", runs, "--folder", folder]
    child = subprocess.run(
        list(map(str, [*command, "--figures", told, *options])),
        cwd=HERE.parents[1],
        env={**os.environ, "FASTNN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    figures = json.loads(told.read_text()) if told.exists() else {}
    return figures, [f"{name}: {child.stdout[-4000:]}"] if child.returncode else []


def read(runs, guided, only, keep=None):
    """Run each reader on its share of executions; return the figures."""
    figures = {"executions": 0, "guided": 0, "accepted": 0, "refused": 0}
    failed, each, begun = [], {}, time.perf_counter()
    for name, n in runs.items():
        if only and name not in only:
            continue
        own, one = dict.fromkeys(figures, 0), time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="fastnn-fuzz-") as folder:
            if keep:
                folder = Path(keep) / name
                folder.mkdir(parents=True, exist_ok=True)
            parts = [(n, ())]
            if guided and RUNS[name][2]:
                parts = [(max(1, round(GUIDED * n)), ("--guided",)), *parts]
            for part, options in parts:
                done, wrong = fuzzed(name, part - own["executions"], folder, *options)
                failed += wrong
                for key, value in done.items():
                    own[key] += value
                own["guided"] += done.get("executions", 0) if options else 0
        if not failed and not (own["accepted"] and own["refused"]):
            failed.append(f"{name}: nothing was {'refused' if own['accepted'] else 'accepted'}")
        each[name] = {**own, "seconds": round(time.perf_counter() - one, 1)}
        print(f"{name}: {each[name]}", flush=True)
        for key, value in own.items():
            figures[key] += value
    return {**figures, "readers": each, "seconds": round(time.perf_counter() - begun, 1), "failed": failed}


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m tests.trust",
        description="Promises, each shown by a command. It prints what it did in a line of JSON, and ends "
        "with 1 where a promise is broken.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    options = {
        name: commands.add_parser(name, help=f"{text}; {duration}", description=f"Show: {text}.")
        for name, (text, duration) in COMMANDS.items()
    }
    for one in options.values():
        one.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    options["face"].add_argument(
        "--examples", type=int, default=100_000, metavar="N", help="default: %(default)s"
    )
    options["states"].add_argument(
        "--examples", type=int, default=2_000, metavar="N", help="default: %(default)s lives"
    )
    options["sanitize"].add_argument(
        "--examples", type=int, default=25, metavar="N", help="of each property; default: 25"
    )
    options["sanitize"].add_argument("tests", nargs="*", help="others than the properties and the attack")
    options["races"].add_argument("tests", nargs="*", help="others than those of .ci/sanitize --thread")
    options["kills"].add_argument("--kills", type=int, default=200, metavar="N", help="default: %(default)s")
    options["kills"].add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    options["soak"].add_argument(
        "--minutes", type=float, default=10, metavar="N", help="default: %(default)s"
    )
    options["readers"].add_argument(
        "--only", nargs="+", choices=tuple(RUNS), metavar="NAME", help=", ".join(RUNS)
    )
    options["readers"].add_argument(
        "--share", type=float, default=1.0, metavar="X", help="of the executions; default: all 10 million"
    )
    options["readers"].add_argument(
        "--keep", metavar="FOLDER", help="where what guidance finds stays, for the next run to begin with"
    )
    options["readers"].add_argument(
        "--unguided", action="store_true", help="by a mutation of our own, even where atheris is installed"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    quick = args.quick
    if args.command == "face":
        figures = suites.hypothesis(
            ("tests/test_face.py", "tests/test_face_whole.py"), 1 if quick else args.examples
        )
    elif args.command == "states":
        figures = suites.hypothesis(("tests/test_states.py",), 5 if quick else args.examples)
    elif args.command == "readers":
        guided = not quick and not args.unguided and find_spec("atheris") is not None
        runs = {name: n[1] if quick else max(1, round(n[0] * args.share)) for name, n in RUNS.items()}
        figures = read(runs, guided, args.only, args.keep)
    elif args.command == "kills":
        from . import kills

        figures = kills.run(12 if quick else args.kills, args.seed)
    elif args.command == "soak":
        from . import soak

        figures = soak.run(0.1 if quick else args.minutes)
    elif args.command == "bits":
        import bits

        figures = bits.run((1, 2, 16), ("plain", "nested")) if quick else bits.run(range(1, 17))
    elif args.command == "sanitize":
        figures = suites.sanitized(
            args.tests, FASTNN_EXAMPLES=str(2 if quick else args.examples), ROUNDS="50" if quick else "2000"
        )
    else:
        figures = suites.races(args.tests)
    figures = {"command": args.command, "machine": machine(), "date": time.strftime("%Y-%m-%d"), **figures}
    print(json.dumps(figures))
    for text in figures["failed"]:
        print(f"FAILED {text}", file=sys.stderr)
    return 1 if figures["failed"] else 0


def machine():
    """Return the processor, its cores that are ours, the instruction set and the interpreter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [platform.machine(), f"{cores} cores", f"CPython {platform.python_version()}"]
    with suppress(ImportError):  # a sanitized build is another
        from fastnn import _core

        parts.insert(2, _core.isa())
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
