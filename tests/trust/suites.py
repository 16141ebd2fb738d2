"""Tests that pytest runs, for long or under the compiler's sanitizers, and the figures of what they did."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANITIZE = ROOT / ".ci" / "sanitize"


def run(command, **environment):
    """Run a command in the root; show what it says, and return (exit status, that, seconds)."""
    begun, said = time.perf_counter(), []
    with subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        for line in child.stdout:
            said.append(line)
            if not re.match(r"\s*-|tests/\S+::|$", line):  # statistics
                print(line, end="", flush=True)
    return child.returncode, "".join(said), round(time.perf_counter() - begun, 1)


def examples(said):
    """Return (examples that passed, that failed, properties) by Hypothesis's statistics."""
    told = re.findall(r"during generate phase.*?(\d+) passing(?: examples)?, (\d+) failing", said, re.DOTALL)
    return sum(int(a) for a, _ in told), sum(int(b) for _, b in told), len(told)


def properties(files):
    """Return how many properties files have."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "hypothesis", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FASTNN_EXAMPLES": "1"},
    ).stdout
    return len([line for line in listed.splitlines() if "::" in line])


def hypothesis(files, wanted, *options):
    """Try the properties of files on so many examples in all, or more."""
    each = math.ceil(1.05 * wanted / properties(files))  # some have fewer to try
    status, said, seconds = run(
        [sys.executable, "-m", "pytest", "-q", "--hypothesis-show-statistics", *options, *files],
        FASTNN_EXAMPLES=str(each),
    )
    passed, failing, tried = examples(said)
    failed = [] if status == 0 else [f"pytest ended with {status}"]
    if not failed and passed < wanted:
        failed.append(f"{passed} examples, {wanted} were asked for")
    return {"examples": passed, "failing": failing, "properties": tried, "seconds": seconds, "failed": failed}


def sanitized(arguments=(), **environment):
    """Run .ci/sanitize."""
    status, said, seconds = run([SANITIZE, *arguments], PYTHON=sys.executable, **environment)
    tests = sum(int(n) for n in re.findall(r"(\d+) passed", said))
    reports = len(re.findall(r"ERROR: AddressSanitizer|WARNING: ThreadSanitizer|runtime error:", said))
    failed = [] if status == 0 else [f".ci/sanitize ended with {status}"]
    if not failed and not tests:
        failed.append("no test has run")
    return {"tests": tests, "reports": reports, "seconds": seconds, "failed": failed}


def races(arguments=()):
    """Run .ci/sanitize --thread, after a look at whether it finds a race that is there."""
    status, said, _ = run([SANITIZE, "--thread", "tests/trust/planted.py"], PYTHON=sys.executable)
    if status == 0 or "WARNING: ThreadSanitizer: data race" not in said:
        return {"tests": 0, "failed": [f"a planted race is not found: .ci/sanitize ended with {status}"]}
    return sanitized(["--thread", *arguments])
