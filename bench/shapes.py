"""The sizes that are measured."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

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
    (32, 512, 784),
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


class Network(NamedTuple):
    """A network of dense layers with ReLU between them, and how it is trained."""

    sizes: tuple[int, ...]
    batch: int
    optimizer: str = "SGD"
    batch_norm: bool = False
    dropout: float = 0.0

    @property
    def name(self) -> str:
        """Sizes, a run of equal hidden ones as 100x4, and what else there is."""
        first, *hidden, last = self.sizes
        equal = len(hidden) > 2 and len(set(hidden)) == 1
        middle = [f"{hidden[0]}x{len(hidden)}"] if equal else map(str, hidden)
        parts = ["-".join((str(first), *middle, str(last))), f"batch {self.batch}", self.optimizer]
        parts += ["BatchNorm"] * self.batch_norm + [f"dropout {self.dropout:g}"] * (self.dropout > 0)
        return ", ".join(parts)

    @property
    def flops(self) -> int:
        """The flops of a step's products: forward, dW, and dx of all layers but the first."""
        weights = [n_in * n_out for n_in, n_out in pairwise(self.sizes)]
        return 2 * self.batch * (3 * sum(weights) - weights[0])

    @property
    def parameters(self) -> int:
        """The numbers that are trained."""
        affine = sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))
        return affine + 2 * sum(self.sizes[1:-1]) * self.batch_norm


SMALL, LARGE = (64, 32, 10), (1024, 2048, 2048, 1000)
GUARDED = Network((784, 100, 100, 100, 100, 10), 128, "Adam")
NETWORKS = (
    Network(SMALL, 32),
    GUARDED._replace(optimizer="SGD"),
    GUARDED,
    Network((784, *[100] * 5, 10), 100, batch_norm=True),
    Network((784, *[100] * 6, 10), 100, dropout=0.2),
    Network((784, 512, 512, 10), 256, "Adam", batch_norm=True, dropout=0.5),
    Network(LARGE, 512, "Adam"),
)
NETWORKS_QUICK = (Network((20, 10, 4), 16), Network((20, 10, 10, 4), 16, "Adam", True, 0.2))

# How a step scales: (width, depth, batch), the depth in hidden layers. Three lines through one centre...
CENTRE = (256, 4, 128)
STEPS = (
    *[(width, 4, 128) for width in (16, 64, 100, 256, 512, 1024, 2048, 4096)],
    *[(256, depth, 128) for depth in (1, 2, 8, 16)],
    *[(256, 4, batch) for batch in (1, 8, 32, 512, 4096)],
    # ... and the corners: latency, memory (a batch of few rows through wide layers), arithmetic.
    (16, 1, 1),
    (16, 16, 1),
    (16, 1, 32),
    (16, 8, 4096),
    (64, 1, 1),
    (64, 2, 32),
    (64, 16, 32),
    (64, 2, 4096),
    (100, 1, 8),
    (100, 2, 32),
    (100, 4, 1),
    (100, 16, 128),
    (100, 8, 512),
    (512, 1, 8),
    (512, 2, 512),
    (512, 16, 32),
    (1024, 1, 32),
    (1024, 2, 1),
    (1024, 2, 4096),
    (2048, 1, 1),
    (2048, 2, 8),
    (2048, 2, 512),
    (4096, 1, 1),
    (4096, 1, 32),
)
STEPS_QUICK = ((256, 4, 128), (16, 1, 1), (16, 2, 8))

BATCHES_HELD = 16  # that a call of `fit` or of a scan goes through, unless they are more than...
NUMBERS_HELD = 2**24  # ... so many numbers, or take...
FLOPS_HELD = 2e11  # ... so many flops, which is some seconds

EPOCH_ROWS, EPOCH_ROWS_QUICK = 60_000, 2_000
EPOCH = Network((784, 512, 256, 10), 128, "Adam")

PREDICTED = (SMALL, EPOCH.sizes)
PREDICTED_ROWS = (1, 32, 1000)

MEMORY = (Network(LARGE, 512, "Adam"), Network(LARGE, 1, "Adam"))
MEMORY_QUICK = (Network((512, 512, 10), 8, "Adam"),)
MEMORY_STEPS, MEMORY_STEPS_QUICK = (10, 200), (2, 6)


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


def scaled(width: int, depth: int, batch: int) -> Network:
    """Return a network with `depth` hidden layers as wide as its input, and ten outputs."""
    return Network((width,) * (depth + 1) + (10,), batch)
