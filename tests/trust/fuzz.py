"""Feeds a reader with what a mutation makes of good files: `python -m tests.trust readers` runs one of each.

With --guided by coverage, by libFuzzer through the package atheris; otherwise by a mutation of our own, which
knows nothing of the reader, but is fast, and begins with what guidance has left in the folder.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

HANGS = 10  # seconds of the processor for one input
MEMORY = 2048  # MiB
EVERY = 1024  # executions the figures are written
INSTRUMENTED = ["fastnn", "zipfile", "gzip", "json", "numpy.lib.format", "numpy.lib._format_impl"]
WORDS = [
    *(
        b"\0",
        b"\xff" * 4,
        b"\xff" * 8,
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"\0\0\0\x01",
        b"PK\x01\x02",
        b"PK\x05\x06",
    ),
    *(
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"NaN",
        b"[]",
        b"{}",
        b'""',
        b"{",
        b"}",
        b"[" * 99,
        b"18446744073709551616",
    ),
    *(
        b",",
        b";",
        b"\n",
        b'"',
        b"\t",
        b"__fastnn__",
        b"<f4",
        b"|O",
        b"float64",
        b"Affine",
        b"Embedding",
        b"\xc3\xa9",
    ),
]


class Counted:
    """A reader that counts what it has done, writes the figures to a file now and then, and may not hang.

    It is a context, in which a timer looks on, and nothing warns.
    """

    def __init__(self, read, path=None, figures=None):
        self.read, self.path = read, path
        self.figures = figures or {"executions": 0, "accepted": 0, "refused": 0}
        self.seen = -1  # executions, when the timer last looked

    def __enter__(self):
        self.ignored = warnings.catch_warnings(), np.errstate(all="ignore")
        for context in self.ignored:
            context.__enter__()
        warnings.simplefilter("ignore")
        self.before = signal.signal(signal.SIGPROF, self.look)
        signal.setitimer(signal.ITIMER_PROF, HANGS, HANGS)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self.before)
        for context in reversed(self.ignored):
            context.__exit__(None, None, None)
        self.write()

    def look(self, *_):
        if self.seen == self.figures["executions"]:
            raise AssertionError(f"an input takes more than {HANGS} s")
        self.seen = self.figures["executions"]

    def __call__(self, content):
        accepted = self.read(content)
        self.figures["executions"] += 1
        self.figures["accepted" if accepted else "refused"] += 1
        done = self.figures["executions"]
        if done % (EVERY if done > EVERY else 16) == 0:
            self.write()

    def write(self):
        if self.path:
            Path(self.path).write_text(json.dumps(self.figures))


VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.5, 1e-300, 1e308),
    *("", "relu", "Affine", "ReLU", "Adam", "float64", "float16", "0.W", [], {}, [[]], [1, 2], [0], {"a": 1}),
]


def pick(rng, things):
    """Return one of some things, in a fifth of the time of random.choice."""
    return things[int(rng.random() * len(things))]


def mutated(rng, seeds):
    """Return what up to eight small changes make of a seed: of its values, where it is JSON, or its bytes."""
    content = pick(rng, seeds)
    changes = pick(rng, (1, 1, 1, 1, 2, 2, 4, 8))
    start = content[:3].find(b"{")
    if start >= 0 and rng.random() < 0.8:
        try:
            whole = json.loads(content[start:])
        except (ValueError, RecursionError):
            pass
        else:
            for _ in range(changes):
                change_value(rng, whole)
            return content[:start] + json.dumps(whole).encode()
    content = bytearray(content)
    for _ in range(changes):
        change_bytes(rng, content, seeds)
    return bytes(content)


def places(node):
    """Return all (container, key) below a node of JSON."""
    found, open_nodes = [], [node]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (dict, list)):
            keys = node if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            open_nodes += [node[key] for key in keys]
    return found


def change_value(rng, whole):
    """Change a value in JSON, or remove or repeat it."""
    known = places(whole)
    if not known:
        return
    (node, key), (other, name) = pick(rng, known), pick(rng, known)
    way = int(rng.random() * 6)
    if way == 0:
        del node[key]
    elif way == 1:
        node[key] = json.loads(json.dumps(other[name]))
    elif way == 2 and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(other[name])))
    elif way == 3 and isinstance(node[key], (int, float)):
        node[key] += pick(rng, (-1, 1, 0.5))
    else:
        node[key] = json.loads(json.dumps(pick(rng, VALUES)))


def change_bytes(rng, content, seeds):
    at, n = int(rng.random() * (len(content) + 1)), pick(rng, (1, 1, 2, 4, 8, 64))
    way = pick(rng, (0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6))
    if way == 0 and at < len(content):
        content[at] ^= 1 << int(rng.random() * 8)
    elif way == 1 and at < len(content):
        content[at] = int(rng.random() * 256)
    elif way == 2:
        del content[at : at + n]
    elif way == 3:
        content[at:at] = pick(rng, WORDS)
    elif way == 4:
        word = pick(rng, WORDS)
        content[at : at + len(word)] = word
    elif way == 5:
        other = pick(rng, seeds)
        start = int(rng.random() * (len(other) + 1))
        content[at : at + pick(rng, (0, n))] = other[start : start + n]
    else:
        del content[at:]


def ours(read, seeds, runs, seed, found=()):
    """Run a reader on the seeds and so many inputs in all, half of them made of what is found already.

    An error tells the input that led to it.
    """
    rng = random.Random(seed)
    first, bases = [*seeds, *found], (seeds, found or seeds)
    for i in range(runs):
        content = first[i] if i < len(first) else mutated(rng, bases[i % 2])
        try:
            read(content)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}, at the input {content!r}") from error


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.trust.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--figures", help="a file for them, in JSON")
    parser.add_argument("--folder", default=".", help="where inputs are kept")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    corpus = Path(args.folder) / "corpus"
    if not args.guided:
        from trust.readers import READERS

        seeds, read = READERS[args.name]
        found = [path.read_bytes() for path in sorted(corpus.glob("*"))]
        with Counted(read, args.figures) as counted:
            ours(counted, seeds(), args.runs, args.seed, found)
        return
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from trust.readers import READERS
    seeds, read = READERS[args.name]
    corpus.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(content)
        read(content)  # which imports what it needs
    words = Path(args.folder) / "words"
    words.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in WORDS))
    options = {
        "runs": args.runs,
        "seed": args.seed,
        "timeout": 3600,  # by the clock, of which other processes may have much: HANGS is what counts
        "rss_limit_mb": MEMORY,
        "max_len": 4 * max(map(len, seeds())),
        "dict": words,
        "artifact_prefix": f"{args.folder}/",
        "verbosity": 1,
    }

    def change(content, longest, seed):
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(content, longest)
        return mutated(rng, [content])[:longest]

    arguments = [f"-{name}={value}" for name, value in options.items()]
    with Counted(read, args.figures) as counted:
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], counted, custom_mutator=change)
        atheris.Fuzz()  # which ends the process


if __name__ == "__main__":
    main()
