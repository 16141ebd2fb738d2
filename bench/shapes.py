"""The sizes that are measured."""

from __future__ import annotations

import numpy as np

# Products of m x k and k x n as (m, n, k).
GEMM = (
    (32, 32, 64),
    (37, 53, 101),
    (64, 64, 64),
    (128, 10, 100),
    (128, 100, 784),
    (784, 100, 128),
    (128, 784, 100),
    (1, 512, 784),  # a prediction for one sample
    (1, 2048, 2048),
    (32, 2048, 2048),
    (2048, 2048, 32),
    (256, 512, 512),
    (300, 300, 300),
    (512, 512, 512),
    (1000, 1000, 1000),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
)
GEMM_QUICK = ((5, 7, 9), (32, 32, 64))
LAYOUTS = ("NN", "TN", "NT", "TT")  # whether A and B are transposed views

BATCHES = ((128, 100), (1024, 256), (4096, 1024))  # rows and columns of a layer's input
BATCHES_QUICK = ((16, 10),)
LADDER = tuple((n, n) for n in (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048))
LADDER_QUICK = ((8, 8), (64, 64))

PARAMETERS = ((12, 50), (1, 100_000), (1, 10_000_000))  # how many arrays of how many numbers
PARAMETERS_QUICK = ((3, 50),)

NETWORK = (784, 100, 100, 100, 100, 10)
NETWORK_QUICK = (20, 10, 4)
BATCH = 128


def sweep(
    count: int, largest: int = 2048, flops: float = 2e9, seed: int = 0
) -> list[tuple[int, int, int, str]]:
    """Return random products (m, n, k, layout), the same ones every time.

    Each of m, n, k is drawn from 1 to `largest`, log-uniformly, until the product takes at most `flops`; the
    layouts take turns.
    """
    rng = np.random.default_rng(seed)
    products: list[tuple[int, int, int, str]] = []
    while len(products) < count:
        m, n, k = (round(float(side)) for side in largest ** rng.random(3))
        if 2 * m * n * k <= flops:
            products.append((m, n, k, LAYOUTS[len(products) % len(LAYOUTS)]))
    return products
