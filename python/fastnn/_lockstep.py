"""Pieces of a batch on their way through the layers side by side, in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._exchange import along_tree, moments_of
from .reference.layers import Residual, each_layer, flattened
from .reference.network import RUNNING, _without_grads, dropouts_among

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._checks import Array
    from ._exchange import Exchange


class Lockstep:
    """A rank's pieces on their way through the layers side by side, for statistics of the whole batch.

    Each has layers of its own, which share their parameters.
    """

    def __init__(self, parallel: Any, n: int, sums: Exchange) -> None:
        self.parallel, self.n, self.sums = parallel, n, sums
        self.rows = parallel._rows_of_pieces(n)
        self.norms: list[Any] = []  # with what backward needs

    def run(self, parts: Iterable[Any]) -> None:
        """Pass these pieces, those that weigh nothing among them."""
        trainer, sums = self.parallel.trainer, self.sums
        pieces = list(parts)
        self.numbers = [piece for piece, *_ in pieces]
        layers = [tuple(map(_without_grads, trainer.net.layers)) for _ in pieces]
        for own, (piece, *_) in zip(layers, pieces, strict=True):
            every = [layer for _, layer in each_layer(own)]
            trainer._place_masks(dropouts_among(every), *sums.place(piece))
        outputs = self._forward(layers, [x for _, x, *_ in pieces])
        gradients, losses = [], []
        for y, (_, _, t, weight, share) in zip(outputs, pieces, strict=True):
            loss, dout = trainer._loss_and_gradient(y, t, weight, share) if share else (0.0, np.zeros_like(y))
            losses.append(loss)
            gradients.append(np.array(dout))
        self._backward(layers, gradients)
        sums.come_to_end(self.n)
        for own, (piece, *_, share), loss in zip(layers, pieces, losses, strict=True):
            if share:
                grads = {
                    f"{prefix}{name}": g
                    for prefix, layer in each_layer(own)
                    if not isinstance(layer, Residual)
                    for name, g in getattr(layer, "grads", {}).items()
                }
                sums.add(piece, loss, grads)

    def _forward(self, layers: list[tuple[Any, ...]], xs: list[Any]) -> list[Any]:
        for same in zip(*layers, strict=True):
            if isinstance(same[0], Residual):
                inner = self._forward([block.layers for block in same], xs)
                xs = [block._added(x, y) for block, x, y in zip(same, xs, inner, strict=True)]
            elif hasattr(same[0], RUNNING[0]):
                xs = self._normalize(same, xs)
            else:
                xs = [layer.forward(x, True) for layer, x in zip(same, xs, strict=True)]
        return xs

    def _backward(self, layers: list[tuple[Any, ...]], ds: list[Any]) -> list[Any]:
        for same in reversed(list(zip(*layers, strict=True))):
            if isinstance(same[0], Residual):
                inner = self._backward([block.layers for block in same], ds)
                ds = [d + dx for d, dx in zip(ds, inner, strict=True)]
            elif hasattr(same[0], RUNNING[0]):
                ds = self._normalize_back(same, ds)
            else:
                ds = [layer.backward(d) for layer, d in zip(same, ds, strict=True)]
        return ds

    def _normalize(self, same: tuple[Any, ...], xs: list[Array]) -> list[Array]:
        gamma, beta = same[0].params["gamma"], same[0].params["beta"]
        shapes = [x.shape for x in xs]
        rows = [flattened(np.asarray(x, gamma.dtype), gamma.size) for x in xs]
        by_piece = np.zeros((len(self.rows), 2 * gamma.size), gamma.dtype)
        for piece, x in zip(self.numbers, rows, strict=True):
            mean = by_piece[piece, : gamma.size] = x.mean(axis=0)
            by_piece[piece, gamma.size :] = ((x - mean) ** 2).sum(axis=0)
        self.sums.share(by_piece)
        mean, var = moments_of(by_piece, self.rows)
        self.sums.moments.append((mean, var))
        rstd = 1 / np.sqrt(var + gamma.dtype.type(same[0].eps))
        self.norms.append((rows, mean, rstd))
        return [
            ((x - mean) * (rstd * gamma) + beta).reshape(shape) for x, shape in zip(rows, shapes, strict=True)
        ]

    def _normalize_back(self, same: tuple[Any, ...], ds: list[Array]) -> list[Array]:
        rows, mean, rstd = self.norms.pop()
        gamma = same[0].params["gamma"]
        kind = gamma.dtype.type
        by_piece = np.zeros((len(self.rows), 2 * gamma.size), gamma.dtype)
        flat = [np.asarray(d, gamma.dtype).reshape(len(d), gamma.size) for d in ds]
        for piece, layer, x, d in zip(self.numbers, same, rows, flat, strict=True):
            layer.grads["gamma"] = (d * (x - mean)).sum(axis=0) * rstd
            layer.grads["beta"] = d.sum(axis=0)
            by_piece[piece] = np.concatenate([layer.grads["gamma"], layer.grads["beta"]])
        self.sums.share(by_piece)
        parts = [row if n else None for n, row in zip(self.rows, by_piece, strict=True)]
        dgamma, dbeta = np.split(along_tree(parts, np.add), 2) / kind(self.n)
        return [
            (rstd * gamma * (d - ((x - mean) * (rstd * dgamma) + dbeta))).reshape(shape)
            for x, d, shape in zip(rows, flat, (d.shape for d in ds), strict=True)
        ]
