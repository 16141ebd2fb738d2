"""The bits of trained networks, which any processor must agree on: python -m tests.bits.

Each network is trained for a few steps on every instruction set of this processor, by teams of several sizes
(`python -m tests.trust bits`: of 1 to 16 threads), and a few matrices are multiplied. All that fuse a
multiply-add (AVX-512, AVX2, NEON) give one digest of the parameters or products, the baseline, which rounds
twice, another, and both are compared with those that stand here. Weights and data are plain fractions:
no function of a C library has touched them. What is left of it in training is the power in Adam's
correction of its moments, which float32 rounds the differences of libraries away from.
"""

import argparse
import hashlib
import platform
import sys
import time

import numpy as np

import fastnn
from fastnn import _core

TEAMS = (1, 2, 3, 7)
STEPS = 12


def fractions(rng, shape, dtype=np.float32, scale=1.0):
    """Return multiples of 2^-20 in [-scale, scale)."""
    return (rng.integers(-(2**20), 2**20, shape) * (scale * 2.0**-20)).astype(dtype)


def affine(rng, n_in, n_out, dtype=np.float32):
    scale = 2.0 ** -int(np.log2(n_in) / 2)
    return fastnn.Affine(fractions(rng, (n_in, n_out), dtype, scale), np.zeros(n_out, dtype))


def plain(rng):
    net = [affine(rng, 64, 32), fastnn.ReLU(), affine(rng, 32, 10)]
    return net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1), (32, 64), "classes"


def normed(rng):
    norms = [fastnn.BatchNorm.create(100), fastnn.ReLU(), fastnn.Dropout(0.2, seed=1)]
    net = [affine(rng, 784, 100), *norms, affine(rng, 100, 100), fastnn.Tanh(), affine(rng, 100, 10)]
    return net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(0.01), (100, 784), "classes"


def residual(rng):
    inner = [fastnn.LayerNorm.create(48), affine(rng, 48, 96), fastnn.GELU(), affine(rng, 96, 48)]
    net = [affine(rng, 20, 48), fastnn.SiLU(), fastnn.Residual(inner), fastnn.Mish(), affine(rng, 48, 3)]
    return net, fastnn.Huber(0.5), fastnn.AdamW(0.01), (65, 20), "numbers"


def embedded(rng):
    table = fastnn.Embedding(fractions(rng, (50, 8)))
    net = [table, affine(rng, 32, 17), fastnn.Sigmoid(), affine(rng, 17, 10)]
    return net, fastnn.SoftmaxCrossEntropy(), fastnn.RMSProp(0.01), (33, 4), "indices"


def doubles(rng):
    net = [affine(rng, 30, 41, float), fastnn.SELU(), affine(rng, 41, 3, float)]
    return net, fastnn.SigmoidCrossEntropy(), fastnn.Nesterov(0.1), (50, 30), "chances"


def words(rng):
    table = fastnn.Embedding(fractions(rng, (50, 4), float))
    net = [table, fastnn.LayerNorm.create(4, dtype=float), affine(rng, 12, 9, float), fastnn.ReLU()]
    net.append(affine(rng, 9, 10, float))
    return net, fastnn.SoftmaxCrossEntropy(), fastnn.Momentum(0.1), (70, 3), "indices"


def nested(rng):
    inner = fastnn.Residual([affine(rng, 16, 16), fastnn.Dropout(0.3, seed=2), fastnn.ReLU(), fastnn.Tanh()])
    block = fastnn.Residual([fastnn.RMSNorm.create(16), inner, fastnn.BatchNorm.create(16)])
    net = [affine(rng, 12, 16), block, affine(rng, 16, 5), fastnn.RMSNorm.create(5)]
    return net, fastnn.SigmoidCrossEntropy(), fastnn.Muon(0.01), (70, 12), "chances"


def products(rng):
    """Return products of matrices, the first of few rows and the last of no round sizes."""
    sizes = (3, 500, 7), (70, 70, 300), (129, 257, 65)
    return [fastnn.matmul(fractions(rng, (m, k)), fractions(rng, (k, n))) for m, k, n in sizes]


NETS = {f.__name__: f for f in (plain, normed, residual, embedded, doubles, words, nested)}
WORKS = {**NETS, "products": products}

# By work: of what fuses a multiply-add, and of the baseline.
EXPECTED = {
    "plain": ("18a12645831b661e", "831eda0f20e98125"),
    "normed": ("135c3e7c9a3d0447", "5bfd81407a956f94"),
    "residual": ("e5fd51be33db6762", "c9273abd03e88e66"),
    "embedded": ("b1fd71bd3fdbe459", "e6a5e1137dae7979"),
    "doubles": ("9da159d8279c3cb4", "a90d63e90d2ce965"),
    "words": ("0277bee349fc3cee", "a581ab3494c61cbe"),
    "nested": ("1b0d1ba3c581b0a4", "881f887c8b59060c"),
    "products": ("22dff6080723cdd7", "215837a3dc0a0947"),
}


def digest(make):
    """Return a digest of products, or of the parameters of a network that is trained for a few steps."""
    rng = np.random.Generator(np.random.PCG64(7))
    made, hashed = make(rng), hashlib.sha256()
    for name, value in enumerate(made) if make is products else trained(made, rng):
        hashed.update(str(name).encode())
        hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()[:16]


def trained(made, rng):
    """Train a network for a few steps; return its parameters with their names, in order."""
    layers, loss, optimizer, (rows, columns), kind = made
    trainer = fastnn.Trainer(fastnn.Sequential(layers), loss, optimizer, clip_norm=5.0, seed=3)
    last = next(layer for layer in reversed(layers) if isinstance(layer, fastnn.Affine))
    dtype, outputs = last.W.dtype, last.W.shape[1]
    for _ in range(STEPS):
        if kind == "indices":
            x = rng.integers(0, 50, (rows, columns))
        else:
            x = fractions(rng, (rows, columns), dtype, 2.0)
        if kind in ("classes", "indices"):
            t = rng.integers(0, outputs, rows)
        elif kind == "chances":
            t = np.abs(fractions(rng, (rows, outputs), dtype))
        else:
            t = fractions(rng, (rows, outputs), dtype)
        trainer.step(x, t)
    return sorted(trainer.net.state_dict().items())


def digests(name, isa, teams=TEAMS, compute=digest):
    """Return the set of digests of a work on an instruction set, by teams of all sizes."""
    before, threads = _core.isa(), _core.thread_limit()
    _core.use_isa(isa)
    _core.set_work_per_member(0.0)  # a team for every op, however small its work
    try:
        found = set()
        for team in teams:
            fastnn.set_num_threads(team)
            found.add(compute(WORKS[name]))
        return found
    finally:
        _core.use_isa(before)
        _core.set_work_per_member(-1.0)
        fastnn.set_num_threads(threads)


def expected(name, isa):
    return EXPECTED[name][isa == "baseline"]


def run(teams=TEAMS, names=tuple(WORKS), compute=digest):
    """Compute everything, say so line by line, and return the figures, with what has failed."""
    begun, failed = time.perf_counter(), []
    for name in names:
        for isa in _core.isas_supported():
            found = digests(name, isa, teams, compute)
            right = found == {expected(name, isa)}
            print(f"{name:10} {isa:9} {' '.join(sorted(found))} {'as expected' if right else 'OTHER BITS'}")
            if not right:
                failed.append(f"{name} on {isa}: {', '.join(sorted(found))} for {expected(name, isa)}")
    return {
        "works": len(names),
        "isas": list(_core.isas_supported()),
        "threads": [min(teams), max(teams)],
        "seconds": round(time.perf_counter() - begun, 1),
        "failed": failed,
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bits", description=__doc__.splitlines()[0])
    parser.parse_args()
    print(f"fastnn {fastnn.__version__}, NumPy {np.__version__}, {platform.machine()}, teams of {TEAMS}")
    sys.exit("bits differ from those of other processors" if run()["failed"] else 0)


if __name__ == "__main__":
    main()
