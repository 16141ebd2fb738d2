"""The accuracy of the float32 activations and their derivatives, on every one of the 2^32 inputs.

    python -m tests.exhaustive [--stride N] [--processes N] [--every-isa]

in the root of the repository, with SciPy beside fastnn; FASTNN_ISA picks the instruction set. It fails where
a function is beyond its bound.

The largest errors, in ulp: on AVX-512 of all inputs, in 9 minutes on one core of a Zen 4 server; on the
baseline, which has no fused multiply-add, of a quarter of them; of GELU and GELU' one in 32.

    function   AVX-512  baseline  at (AVX-512)    derivative   AVX-512  baseline  at (AVX-512)
    ReLU          0         0                     ReLU'           0         0
    LeakyReLU     0.50      0.50                  LeakyReLU'      0         0
    Sigmoid       2.48      2.44      -16.64      Sigmoid'        2.85      2.83      -6.93
                                                  of y            1.50      1.50      -3.5e-4
    Tanh          2.46      2.46       0.031      Tanh'           2.99      2.99       3.81
                                                  of y            1.50      1.50       0.0036
    GELU          7.35      7.27      -7.23       GELU'           4.71      4.55      -3.22
    SiLU          2.87      2.86      -16.68      SiLU'           2.91      3.39      -10.03

On AVX-512 Sigmoid falls between neighbours 885 times, by 1 ulp, and Tanh 1544388 times, by 2 ulp at most.

The expected values are textbook formulas in float64, written without cancellation, with NumPy's exp and tanh
and SciPy's erfc: their error, 1e-13 at most, is nothing beside a float32's 6e-8. Errors count in ulp, the
spacing of the float32 numbers where the exact result lies, with three allowances:

- Subnormals are zero to a kernel: x is read so, and no result is subnormal. Zero is right where the exact
  result is below the normal numbers.
- Where a factor f, the sigmoid or the normal distribution, is below the least normal number TINY, it is
  flushed, although the product x f may be normal: an error of (1 + |x|) TINY is allowed. That concerns SiLU
  and its derivative below x = -87.3, GELU and its derivative below -12.9. GELU subtracts x (1 - P) from x:
  where that product is flushed before the difference, on the baseline, an error of TINY is allowed.
- A derivative is a sum of terms, whose errors remain where they cancel: errors count in ulp of the sum of
  their magnitudes where that is more than the result. For Sigmoid' = s (1 - s) and Tanh' = 1 - y^2, computed
  from outputs s and y that were rounded, it is s and y^2 (in terms of these outputs, in the rows "of y", both
  are accurate without it); for GELU' = P + x p it is P + |x| p; for SiLU' = s (1 + x (1 - s)), s rounded, it
  is s (1 + |x|), where |x| counts up to 17, for there s rounds to 1 and 1 - s has no error but itself.

NaN gives NaN, but for the derivatives of ReLU and LeakyReLU, to which it is not positive. Infinities give the
limits, but NaN where the formula has 0 inf: GELU and SiLU at -inf, and their derivatives at both.

`--stride N` takes one of every N inputs in a row, at random but always the same. Instruction sets that fuse
multiply-add promise the same bits: so their checksums, of all outputs at finite inputs, must be the same, and
`--every-isa` compares them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import special

import fastnn
from fastnn import _core

# In ulp as above: what is found on all inputs, rounded up to halves. tests/test_math.py derives what
# roundings of the forward passes explain: 2 of exp, and more of the quotient and product that follow.
# A derivative brings those of its factors along, and adds a half for each sum and product of its own.
FUSED = {
    "ReLU": 0.0,
    "ReLU'": 0.0,
    "LeakyReLU": 0.5,
    "LeakyReLU'": 0.0,
    "Sigmoid": 2.5,
    "Sigmoid'": 3.0,
    "Sigmoid' of y": 1.5,
    "Tanh": 2.5,
    "Tanh'": 3.0,
    "Tanh' of y": 1.5,
    "GELU": 7.5,
    "GELU'": 5.0,
    "SiLU": 3.0,
    "SiLU'": 3.0,
}
# One more where a product and a sum round apart: half an ulp, and half for the inputs not tried there.
ROUNDED_TWICE = {name: bound + 1 if bound >= 2 else bound for name, bound in FUSED.items()}
BOUNDS = {isa: ROUNDED_TWICE if isa == "baseline" else FUSED for isa in _core.isas_built()}
ALPHA = float(np.float32(fastnn.LeakyReLU().alpha))
AT_INFINITY = {  # at -inf and at inf
    "ReLU": (0, math.inf),
    "ReLU'": (0, 1),
    "LeakyReLU": (-math.inf, math.inf),
    "LeakyReLU'": (ALPHA, 1),
    "Sigmoid": (0, 1),
    "Sigmoid'": (0, 0),
    "Tanh": (-1, 1),
    "Tanh'": (0, 0),
    "GELU": (math.nan, math.inf),
    "GELU'": (math.nan, math.nan),
    "SiLU": (math.nan, math.inf),
    "SiLU'": (math.nan, math.nan),
}
AT_NAN = dict.fromkeys(AT_INFINITY, math.nan) | {"ReLU'": 0, "LeakyReLU'": ALPHA}

SIGN = np.uint32(1 << 31)
PATTERNS = 1 << 31  # of either sign
INFINITY = 0x7F800000  # as bits: below are the finite numbers >= 0, above the NaNs
EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
FLUSHED = TINY * (1 + 2.0**-18)  # what is less may be rounded to less than TINY, and so to zero
SATURATED = 17  # 1 - sigmoid(x) is less than half an ulp of 1 from here on
CHUNK = 1 << 22  # inputs of one task
BLOCK = 1 << 14  # inputs at a time: their arrays of 128 KiB stay in the second cache


class Target(NamedTuple):
    """The exact results, in ulp of what errors count if it is more than they, and errors that are allowed."""

    exact: np.ndarray
    scale: np.ndarray | float = 0.0
    allowed: np.ndarray | float = 0.0


class Worst(NamedTuple):
    """The largest error, where it is, and what is right there."""

    ulp: float = -1.0
    x: float = math.nan
    got: float = math.nan
    exact: float = math.nan


class Falls(NamedTuple):
    """The neighbours that a function which rises should not have: how many, and the largest fall in ulp."""

    count: int = 0
    ulp: int = 0


class Findings:
    """By name of function: the worst error, the checksum of the outputs, and the falls."""

    def __init__(self):
        self.worst, self.checksum, self.falls = {}, {}, {}

    def add(self, other):
        """Append what was found on the inputs that follow."""
        for name, worst in other.worst.items():
            self.worst[name] = max(self.worst.get(name, Worst()), worst)
        for name, checksum in other.checksum.items():
            self.checksum[name] = zlib.crc32(checksum.to_bytes(4, "little"), self.checksum.get(name, 0))
        for name, (count, ulp) in other.falls.items():
            before = self.falls.get(name, Falls())
            self.falls[name] = Falls(before.count + count, max(before.ulp, ulp))

    def beyond(self, bounds):
        """Return the names of the functions that are not within their bounds."""
        return [name for name, worst in self.worst.items() if not worst.ulp <= bounds[name]]


def outputs(x):
    """Return what the kernels make of x, by name; a prime is the derivative, the gradient for dout = 1."""
    ones, found = np.ones_like(x), {}
    for name in ("ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "SiLU"):
        layer = getattr(fastnn, name)()
        found[name] = layer.forward(x)
        found[name + "'"] = layer.backward(ones)
    return found


class Magnitudes:
    """The functions of a = |x| (float64) of which the targets at a and at -a are made."""

    def __init__(self, a):
        e = np.exp(-a)
        square = e * e
        self.a = a
        self.upper = 1 / (1 + e)  # sigmoid(a)
        self.lower = e / (1 + e)  # sigmoid(-a)
        self.tanh = np.tanh(a)
        self.sech_squared = 4 * square / (1 + square) ** 2
        self.tail = special.erfc(a * math.sqrt(0.5)) / 2  # the normal distribution at -a
        self.swing = a * np.exp(-a * a / 2) / math.sqrt(2 * math.pi)  # a times its density


def targets(of, negative):
    """Return the targets of `outputs` at x = -a or a."""
    x = -of.a if negative else of.a
    s, rest = (of.lower, of.upper) if negative else (of.upper, of.lower)
    cdf = of.tail if negative else 1 - of.tail
    flushed = (1 + of.a) * TINY
    flushed_s, flushed_cdf = flushed * (s < FLUSHED), flushed * (cdf < FLUSHED)
    return {
        "ReLU": Target(np.maximum(x, 0)),
        "ReLU'": Target(np.where(x > 0, 1.0, 0.0)),
        "LeakyReLU": Target(np.where(x > 0, x, ALPHA * x)),
        "LeakyReLU'": Target(np.where(x > 0, 1.0, ALPHA)),
        "Sigmoid": Target(s),
        "Sigmoid'": Target(s * rest, s),
        "Tanh": Target(-of.tanh if negative else of.tanh),
        "Tanh'": Target(of.sech_squared, of.tanh * of.tanh),
        "GELU": Target(x * cdf, 0.0, np.maximum(flushed_cdf, TINY)),
        "GELU'": Target(cdf - of.swing if negative else cdf + of.swing, cdf + of.swing, flushed_cdf),
        "SiLU": Target(x * s, 0.0, flushed_s),
        "SiLU'": Target(s * (1 + x * rest), s * (1 + np.minimum(of.a, SATURATED)), flushed_s),
    }


def targets_of_outputs(got):
    """Return the derivatives in terms of the outputs of Sigmoid and Tanh, of which backward makes them."""
    s, y = got["Sigmoid"].astype(np.float64), got["Tanh"].astype(np.float64)
    return {"Sigmoid'": Target(s * (1 - s)), "Tanh'": Target((1 - y) * (1 + y))}


def worst_of(got, target, x, before):
    """Return the worst error of `got` at x, or `before` if that is worse."""
    exact = target.exact
    error = np.abs(got - exact)
    size = np.maximum(np.maximum(np.abs(exact), target.scale), TINY)
    binade = (size.view(np.int64) & np.int64(0x7FF << 52)).view(np.float64)  # the power of two below
    ulp = error / (binade * EPS)
    if ulp.max() <= before.ulp:  # not so where there is a NaN
        return before
    ulp[(error <= target.allowed) | ((got == 0) & (np.abs(exact) < FLUSHED))] = 0
    ulp[np.isnan(ulp)] = math.inf
    at = ulp.argmax()
    return max(before, Worst(*(float(of[at]) for of in (ulp, x, got, exact))))


def refuse_subnormals(name, got):
    """Fail if a kernel has not flushed its result."""
    magnitude = got.view(np.uint32) & ~SIGN
    assert not (magnitude - np.uint32(1) < np.uint32(0x7FFFFF)).any(), f"{name} returns subnormal numbers"


def examine(bits):
    """Return what is found at the finite numbers >= 0 with these bits, and at their negatives."""
    found = Findings()
    for first in range(0, len(bits), BLOCK):
        block = bits[first : first + BLOCK]
        a = block.view(np.float32).astype(np.float64)
        magnitudes = Magnitudes(np.where(a < TINY, 0.0, a))
        for negative in (False, True):
            x = (block | SIGN if negative else block).view(np.float32)
            got, expected = outputs(x), targets(magnitudes, negative)
            rows = [(name, name, target) for name, target in expected.items()]
            rows += [(f"{name} of y", name, target) for name, target in targets_of_outputs(got).items()]
            for row, name, target in rows:
                found.worst[row] = worst_of(got[name], target, x, found.worst.get(row, Worst()))
            for name, y in got.items():
                refuse_subnormals(name, y)
                found.checksum[name] = zlib.crc32(y, found.checksum.get(name, 0))
    return found


def falls_of(y, rising):
    """Return the falls of |y| in a row, in ulp; its rises if it should not rise."""
    steps = np.diff((y.view(np.uint32) & ~SIGN).view(np.int32))
    against = -steps if rising else steps
    return Falls(int(np.count_nonzero(against > 0)), max(0, int(against.max(initial=0))))


def falls(bits):
    """Return the falls of Sigmoid and Tanh between these ascending numbers, and between their negatives."""
    found, x = Findings(), bits.view(np.float32)
    for name, layer in (("Sigmoid", fastnn.Sigmoid()), ("Tanh", fastnn.Tanh())):
        right = falls_of(layer.forward(x), rising=True)
        left = falls_of(layer.forward(-x), rising=name == "Tanh")
        found.falls[name] = Falls(right.count + left.count, max(right.ulp, left.ulp))
    return found


def sample(first, stride, count=CHUNK):
    """Return the bits of finite numbers >= 0, one of each `stride` in a row from `first` on."""
    within = np.random.default_rng(first).integers(0, stride, count)
    bits = first + stride * np.arange(count) + within
    return bits[bits < INFINITY].astype(np.uint32)


def examine_chunk(first, stride):
    """Return what is found at one of each `stride` numbers in a row, CHUNK times, and at their negatives."""
    bits = sample(first, stride)
    found = examine(bits)
    after = bits[-1:] + np.uint32(1)  # where the next chunk begins, when all inputs are taken
    found.add(falls(np.concatenate([bits, after[after < INFINITY]])))
    return found


def check_not_finite(nans):
    """Fail unless infinities, and the NaNs with these bits and their negatives, give what they must."""
    infinities = outputs(np.array([-math.inf, math.inf], np.float32))
    for name, expected in AT_INFINITY.items():
        np.testing.assert_array_equal(infinities[name], np.array(expected, np.float32), name)
    for x in (nans, nans | SIGN):
        for name, y in outputs(x.view(np.float32)).items():
            np.testing.assert_array_equal(y, np.full(len(y), AT_NAN[name], np.float32), name)


def prepare(isa):
    """Set a process up to be one of many."""
    _core.use_isa(isa)
    fastnn.set_num_threads(1)


def examine_all(isa, stride, processes):
    """Return what is found on one of each `stride` inputs, with as many processes."""
    _core.use_isa(isa)
    for first in range(INFINITY + 1, PATTERNS, CHUNK * stride):
        check_not_finite(np.arange(first, min(first + CHUNK * stride, PATTERNS), stride, dtype=np.uint32))
    found, chunks = Findings(), range(0, INFINITY, CHUNK * stride)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, prepare, (isa,)) as pool:
        for part in pool.map(partial(examine_chunk, stride=stride), chunks):
            found.add(part)
    return found


def show(isa, found):
    print(f"\n{isa:13} {'ulp':>7} {'bound':>6} {'at':>16} {'got':>16} {'exact':>16}  checksum")
    for name, worst in found.worst.items():
        numbers = " ".join(f"{value:16.9g}" for value in worst[1:])
        checksum = f"{found.checksum[name]:08x}" if name in found.checksum else ""
        print(f"{name:13} {worst.ulp:7.4f} {BOUNDS[isa][name]:6.1f} {numbers}  {checksum}")
    for name, (count, ulp) in found.falls.items():
        print(f"{name} falls {count} times between neighbours, by {ulp} ulp at most")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="one of each N inputs; default: all"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, metavar="N", help="default: a core each")
    parser.add_argument("--every-isa", action="store_true", help="one after another, and compare their bits")
    args = parser.parse_args(argv)
    if args.stride < 1 or args.processes < 1:
        parser.error("N must be at least 1")
    before, failed, checksums = _core.isa(), [], {}
    try:
        for isa in _core.isas_supported() if args.every_isa else [before]:
            found = examine_all(isa, args.stride, args.processes)
            show(isa, found)
            failed += [f"{name} on {isa} is beyond its bound" for name in found.beyond(BOUNDS[isa])]
            if BOUNDS[isa] is FUSED:
                checksums[isa] = found.checksum
    finally:
        _core.use_isa(before)
    for isa, checksum in checksums.items():
        if checksum != next(iter(checksums.values())):
            failed.append(f"the bits of {isa} are others than those of {next(iter(checksums))}")
    print("\n".join(failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
