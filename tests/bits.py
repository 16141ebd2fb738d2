"""The bits of trained networks, which any processor must agree on: python -m tests.bits.

Each network is trained for a few steps on every instruction set of this processor, by teams of several sizes.
All that fuse a multiply-add (AVX-512, AVX2, NEON) give one digest of the parameters, the baseline, which
rounds twice, another, and both are compared with those that stand here. Weights and data are plain fractions:
no function of a C library has touched them. What is left of it in training is the power in Adam's
correction of its moments, which float32 rounds the differences of libraries away from.
"""

import argparse
import hashlib
import platform
import sys

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


NETS = {f.__name__: f for f in (plain, normed, residual, embedded, doubles)}

# By network: of what fuses a multiply-add, and of the baseline.
EXPECTED = {
    "plain": ("18a12645831b661e", "831eda0f20e98125"),
    "normed": ("135c3e7c9a3d0447", "5bfd81407a956f94"),
    "residual": ("e5fd51be33db6762", "c9273abd03e88e66"),
    "embedded": ("b1fd71bd3fdbe459", "e6a5e1137dae7979"),
    "doubles": ("9da159d8279c3cb4", "a90d63e90d2ce965"),
}


def digest(make):
    """Train a network for a few steps; return a digest of its parameters and losses."""
    rng = np.random.Generator(np.random.PCG64(7))
    layers, loss, optimizer, (rows, columns), kind = make(rng)
    trainer = fastnn.Trainer(fastnn.Sequential(layers), loss, optimizer, clip_norm=5.0, seed=3)
    dtype = layers[-1].W.dtype
    hashed = hashlib.sha256()
    for _ in range(STEPS):
        if kind == "indices":
            x = rng.integers(0, 50, (rows, columns))
        else:
            x = fractions(rng, (rows, columns), dtype, 2.0)
        outputs = layers[-1].W.shape[1]
        if kind in ("classes", "indices"):
            t = rng.integers(0, outputs, rows)
        elif kind == "chances":
            t = np.abs(fractions(rng, (rows, outputs), dtype))
        else:
            t = fractions(rng, (rows, outputs), dtype)
        trainer.step(x, t)
    for name, value in sorted(trainer.net.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()[:16]


def digests(name, isa, teams=TEAMS):
    """Return the set of digests of a network on an instruction set, by teams of all sizes."""
    before, threads = _core.isa(), _core.thread_limit()
    _core.use_isa(isa)
    _core.set_work_per_member(0.0)  # a team for every op, however small its work
    try:
        found = set()
        for team in teams:
            fastnn.set_num_threads(team)
            found.add(digest(NETS[name]))
        return found
    finally:
        _core.use_isa(before)
        _core.set_work_per_member(-1.0)
        fastnn.set_num_threads(threads)


def expected(name, isa):
    return EXPECTED[name][isa == "baseline"]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bits", description=__doc__.splitlines()[0])
    parser.parse_args()
    print(f"fastnn {fastnn.__version__}, NumPy {np.__version__}, {platform.machine()}, teams of {TEAMS}")
    good = True
    for name in NETS:
        for isa in _core.isas_supported():
            found = digests(name, isa)
            right = found == {expected(name, isa)}
            good &= right
            print(f"{name:10} {isa:9} {' '.join(sorted(found))} {'as expected' if right else 'OTHER BITS'}")
    sys.exit(0 if good else "bits differ from those of other processors")


if __name__ == "__main__":
    main()
