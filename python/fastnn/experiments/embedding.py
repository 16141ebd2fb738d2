"""An embedding is a matrix product with one-hot rows, at a fraction of its cost."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from .style import BLUE, RED, frame, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

LR = 0.1


class Results(NamedTuple):
    """Seconds of product and look-up by size of the vocabulary: forward, and backward with an update."""

    tokens: int
    dim: int
    vocabularies: Array
    product_forward: Array
    gather_forward: Array
    product_update: Array
    gather_update: Array


def run(
    lib: ModuleType = fastnn,
    vocabularies: Sequence[int] = (100, 300, 1000, 3000, 10000, 30000),
    tokens: int = 128,
    dim: int = 100,
    repeats: int = 5,
    dtype: Any = np.float32,
) -> Results:
    """Return the times, each the shortest of `repeats`; AssertionError where the two ways differ."""
    times = [measure(lib, vocab, tokens, dim, repeats, dtype) for vocab in vocabularies]
    return Results(tokens, dim, np.array(vocabularies), *np.array(times).T)


def measure(lib: ModuleType, vocab: int, tokens: int, dim: int, repeats: int, dtype: Any) -> list[float]:
    """Return the seconds of product and look-up forward, then backward with an update of the table."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((vocab, dim)).astype(dtype)
    dout = rng.standard_normal((tokens, dim)).astype(dtype)
    x = rng.integers(0, vocab, tokens)
    one_hot = np.zeros((tokens, vocab), dtype)
    one_hot[np.arange(tokens), x] = 1
    product = lib.Affine(W.copy(), np.zeros(dim, dtype))
    gather = lib.Embedding(W.copy())

    # One term of each sum is not zero: the same to the last bit.
    np.testing.assert_array_equal(product.forward(one_hot), gather.forward(x))
    forward = [
        shortest(partial(product.forward, one_hot), repeats),
        shortest(partial(gather.forward, x), repeats),
    ]
    for layer in (product, gather):
        update_once(lib, layer, dout)
    # A word that occurs more than once gets a sum, perhaps in another order.
    np.testing.assert_allclose(product.W, gather.W, rtol=1e-5, atol=1e-5)
    update = [shortest(partial(update_once, lib, layer, dout), repeats) for layer in (product, gather)]
    return [*forward, *update]


def update_once(lib: ModuleType, layer: Any, dout: Array) -> None:
    """Do a backward and a step of SGD."""
    layer.backward_params(dout)
    lib.SGD(LR).update({"W": layer.W}, {"W": layer.grads["W"]})


def shortest(call: Callable[[], Any], repeats: int) -> float:
    """Return the shortest time that a call took, in seconds."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def finding(results: Results) -> str:
    """Return what was found."""
    product, gather = 1e6 * results.product_forward[-1], 1e6 * results.gather_forward[-1]
    words = results.vocabularies[-1]
    return f"With {words:,} words the product takes {product:,.0f} us, the look-up {gather:.1f}"


@styled
def draw(results: Results) -> Figure:
    """Draw the two costs against the size of the vocabulary."""
    tokens, dim, vocabularies, *times = results
    note = f"{tokens} words, vectors of {dim}; one-hot rows times the table, against its rows by number"
    figure, axes = frame(finding(results), note, 1, 2, 4.6, sharey=True)
    titles = "Forward", "Backward and update of the table"
    for ax, title, product, gather in zip(axes[0], titles, times[::2], times[1::2], strict=True):
        ax.loglog(vocabularies, 1e6 * product, "o-", color=RED, label="one-hot product")
        ax.loglog(vocabularies, 1e6 * gather, "o-", color=BLUE, label="look-up")
        ax.set(title=title, xlabel="words in the vocabulary")
    axes[0, 0].set_ylabel("microseconds")
    axes[0, 0].legend(loc="upper left")
    return figure
