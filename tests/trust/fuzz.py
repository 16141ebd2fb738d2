"""Feeds a reader with what a mutation makes of good files: `python -m tests.trust readers` runs one of each.

With --guided by coverage, by libFuzzer through the package atheris; otherwise by a mutation of our own, which
knows nothing of the reader.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from pathlib import Path

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
    """A reader that counts what it has done, writes the figures to a file now and then, and may not hang."""

    def __init__(self, read, path=None):
        self.read, self.path = read, path
        self.figures = {"executions": 0, "accepted": 0, "refused": 0}
        signal.signal(signal.SIGPROF, _hangs)

    def __call__(self, content):
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        try:
            accepted = self.read(content)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self.figures["executions"] += 1
        self.figures["accepted" if accepted else "refused"] += 1
        done = self.figures["executions"]
        if done % (EVERY if done > EVERY else 16) == 0:
            self.write()

    def write(self):
        if self.path:
            Path(self.path).write_text(json.dumps(self.figures))


def _hangs(*_):
    raise AssertionError(f"an input takes more than {HANGS} s")


VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.5, 1e-300, 1e308),
    *("", "relu", "Affine", "ReLU", "Adam", "float64", "float16", "0.W", [], {}, [[]], [1, 2], [0], {"a": 1}),
]


def mutated(rng, seeds):
    """Return what up to eight small changes make of a seed: of its values, where it is JSON, or its bytes."""
    content = rng.choice(seeds)
    changes = rng.choice((1, 1, 1, 1, 2, 2, 4, 8))
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
    (node, key), (other, name) = rng.choice(known), rng.choice(known)
    way = rng.randrange(6)
    if way == 0:
        del node[key]
    elif way == 1:
        node[key] = json.loads(json.dumps(other[name]))
    elif way == 2 and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(other[name])))
    elif way == 3 and isinstance(node[key], (int, float)):
        node[key] += rng.choice((-1, 1, 0.5))
    else:
        node[key] = json.loads(json.dumps(rng.choice(VALUES)))


def change_bytes(rng, content, seeds):
    at, n = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    way = rng.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6))
    if way == 0 and at < len(content):
        content[at] ^= 1 << rng.randrange(8)
    elif way == 1 and at < len(content):
        content[at] = rng.randrange(256)
    elif way == 2:
        del content[at : at + n]
    elif way == 3:
        content[at:at] = rng.choice(WORDS)
    elif way == 4:
        word = rng.choice(WORDS)
        content[at : at + len(word)] = word
    elif way == 5:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        content[at : at + rng.choice((0, n))] = other[start : start + n]
    else:
        del content[at:]


def ours(read, seeds, runs, seed):
    """Run a reader on the seeds and so many inputs in all; an error tells the input that led to it."""
    rng = random.Random(seed)
    for i in range(runs):
        content = seeds[i] if i < len(seeds) else mutated(rng, seeds)
        try:
            read(content)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}, at the input {content!r}") from error


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.trust.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=0, help="at most; 0: as many as the runs take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--figures", help="a file for them, in JSON")
    parser.add_argument("--folder", default=".", help="where inputs are kept")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if not args.guided:
        from trust.readers import READERS

        seeds, read = READERS[args.name]
        counted = Counted(read, args.figures)
        ours(counted, seeds(), args.runs, args.seed)
        counted.write()
        return
    import atheris

    with atheris.instrument_imports(
        include=["fastnn", "zipfile", "gzip", "json", "numpy.lib.format", "numpy.lib._format_impl"]
    ):
        from trust.readers import READERS
    seeds, read = READERS[args.name]
    corpus = Path(args.folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(content)
        read(content)  # which imports what it needs
    words = Path(args.folder) / "words"
    words.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in WORDS))
    options = {
        "runs": args.runs,
        "max_total_time": args.seconds,
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
    counted = Counted(read, args.figures)
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], counted, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
