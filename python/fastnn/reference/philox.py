"""Philox-4x32-10, a counter-based random generator: a pure function of counter and key to 128 random bits.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
(Random123). No state to carry: the random number at a position is computed from the position, in any order,
on any number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["philox4x32", "words"]

ROUNDS = 10
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = (
    np.uint64(0x9E3779B9),
    np.uint64(0xBB67AE85),
)  # added to the key each round: golden ratio and sqrt(3) - 1
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
LANES = 16
PIECE = 1 << 16  # blocks at a time in `words`: temporaries stay in cache


def philox4x32(counter: Any, key: Any) -> Array:
    """Return the random words of each counter.

    Each of ten rounds takes the full 64-bit products of two words with constants and mixes their halves with
    the other words and the key:

        (h0, l0) = 0xD2511F53 * c0        (h1, l1) = 0xCD9E8D57 * c2
        c = (h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0)

    Parameters
    ----------
    counter : array of uint32, shape (..., 4)
    key : array of uint32, shape (..., 2)
        Broadcast against the counters.

    Returns
    -------
    array of uint32, shape (..., 4)
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, dtype=np.uint64), -1, 0)
    for _ in range(ROUNDS):
        p0 = MULTIPLIERS[0] * c0
        p1 = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0 = (k0 + WEYL[0]) & LOW
        k1 = (k1 + WEYL[1]) & LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, step: int, stream: int, n: int) -> Array:
    """Return the first `n` random words of (seed, step, stream).

    The key is the seed's two halves, the counter (block, stream, low half of step, high half of step).
    Element i is word (i // 16) % 4 of block (i // 64) * 16 + i % 16: sixteen neighbours are the same word of
    sixteen blocks, so that a vector of sixteen lanes holds them as they are computed.

    Parameters
    ----------
    seed, step : int, 0 <= seed, step < 2**64
    stream : int, 0 <= stream < 2**32
    n : int, 0 <= n <= 2**34

    Returns
    -------
    array of uint32, shape (n,)
    """
    seed = _checks.seed64("seed", seed)
    step = _checks.seed64("step", step)
    stream = _checks.integer("stream", stream, 0, 2**32 - 1)
    n = _checks.integer("n", n, 0, 2**34)
    blocks = -(-n // (4 * LANES)) * LANES
    out = np.empty((blocks // LANES, 4, LANES), dtype=np.uint32)
    counter = np.empty((min(blocks, PIECE), 4), dtype=np.uint32)
    counter[:, 1:] = stream, step & 0xFFFFFFFF, step >> 32
    for first in range(0, blocks, PIECE):
        piece = counter[: blocks - first]
        piece[:, 0] = np.arange(first, first + len(piece), dtype=np.uint32)
        result = philox4x32(piece, (seed & 0xFFFFFFFF, seed >> 32))
        lanes = result.reshape(-1, LANES, 4).transpose(0, 2, 1)
        out[first // LANES : first // LANES + len(lanes)] = lanes
    return out.reshape(-1)[:n]
