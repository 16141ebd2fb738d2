"""A network as it is read from another library that has its layers one after the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _checks, layers
from ..network import Sequential

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["Chain", "Mark"]

CLAIMED = 2**22  # numbers that are made because of a shape that a file only claims
NORMS = (layers.BatchNorm, layers.LayerNorm, layers.RMSNorm)


class Mark(NamedTuple):
    """A place in a chain, and the shape of a row there."""

    position: int
    shape: tuple[int | None, ...] | None
    flattened: str


class Chain:
    """Layers in order, each checked against the shape of what it is given.

    y = a x + c, with constants for each number of a row, is taken into the layer before, or the one after it;
    where neither is one that can take it, it becomes a BatchNorm of the running statistics 0 and 1.

    `where`, in all methods, is the place for messages: "layer dense (Dense)".

    Parameters
    ----------
    shape : tuple or None
        Of a row of the input; None, whole or in it: not known.
    default : float32 or float64
        What is computed in where no parameter says it.

    Attributes
    ----------
    layers : list
    dtype : numpy dtype or None
        That of the parameters, by the first of them.
    shape : tuple or None
        Of a row, as the other library has it.
    """

    def __init__(self, shape: tuple[int | None, ...] | None, default: Any = np.float32) -> None:
        self.layers: list[Any] = []
        self.dtype: np.dtype[Any] | None = None
        self.shape = shape
        self._default: np.dtype[Any] = np.dtype(default)
        self._probabilities = ""  # what makes logits probabilities, which must be the end
        self._flattened = ""  # what has flattened there and, before an Affine, does nothing here
        self._unflattened: tuple[int | None, ...] | None = None  # the shape before that
        self._claimed = 0
        self._sealed = 0  # layers that stay as they are, since what they return goes elsewhere, too
        self._scale: tuple[str, Array, Array] | None = None  # where, a, c: for the next layer

    def parameter(self, where: str, array: Array, shape: tuple[int, ...] | None = None) -> Array:
        """Return a copy of a parameter's values; TypeError or ValueError if its dtype or shape is another."""
        if array.dtype not in _checks.FLOATS:
            raise TypeError(f"{where}: must be float32 or float64, got {array.dtype}")
        if self.dtype is not None and array.dtype != self.dtype:
            raise TypeError(f"{where}: must have the dtype {self.dtype} of the others, got {array.dtype}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"{where}: must have shape {shape}, got {array.shape}")
        if not array.size:
            raise ValueError(f"{where}: must hold numbers, got shape {array.shape}")
        self.dtype = array.dtype
        return np.array(array, order="C")

    def claim(self, where: str, n: int) -> None:
        """Refuse to make n numbers for a shape that has none in the file, beyond a bound: ValueError."""
        self._claimed += n
        if self._claimed > CLAIMED:
            raise ValueError(f"{where}: must not take rows of {n} numbers without weights of their own")

    def embedding(self, where: str, W: Array) -> None:
        """Add an Embedding."""
        self._check_open(where)
        W = self.parameter(where, W)
        if self.layers or self._flattened or self._scale:
            raise ValueError(f"{where}: must come first: fastnn looks up rows of the data only")
        if self.shape is None:
            raise ValueError(f"{where}: must take indices of a known number of dimensions")
        self.layers.append(layers.Embedding(W))
        self.shape = (*self.shape, W.shape[1])

    def affine(self, where: str, W: Array, b: Array | None = None) -> None:
        """Add an Affine, its bias zeros for None."""
        self._check_open(where)
        W = self.parameter(where, W)
        n_in, n_out = W.shape
        self._check_rows(where, n_in)
        b = np.zeros(n_out, W.dtype) if b is None else self.parameter(where, b, (n_out,))
        if self._scale:
            scaling, a, c = self._take_scale(n_in)
            with np.errstate(all="ignore"):
                b = _finite(scaling, b, b + c @ W.astype(float))
                W = _finite(scaling, W, a.reshape(-1, 1) * W)
        self.layers.append(layers.Affine(W, b))
        self.shape, self._flattened = (n_out,), ""

    def norm(self, where: str, layer: Any) -> None:
        """Add a BatchNorm, LayerNorm or RMSNorm; of its own arrays, of `parameter`."""
        self._check_open(where)
        n = layer.params["gamma"].size
        if isinstance(layer, layers.BatchNorm):
            self._check_rows(where, n)
        else:
            self._check_same(where)
            if self.shape is not None and self.shape[-1:] != (n,):
                raise ValueError(f"{where}: must take rows of shape (..., {n}), got {_row(self.shape)}")
        self.settle()
        self.layers.append(layer)
        if self.shape is None and isinstance(layer, layers.BatchNorm):
            self.shape = (n,)

    def function(self, where: str, layer: Any) -> None:
        """Add an activation, or Dropout."""
        self._check_open(where)
        self.settle()
        self.layers.append(layer)

    def scale(self, where: str, a: Any, c: Any) -> None:
        """Add y = a x + c."""
        self._check_open(where)
        a, c = np.asarray(a, dtype=float), np.asarray(c, dtype=float)
        self._check_fits(where, a)
        self._check_fits(where, c)
        if self._scale:
            before, a0, c0 = self._scale
            with np.errstate(all="ignore"):
                self._scale = before, a * a0, a * c0 + c
            return
        last = self.layers[-1] if self.layers and not self._flattened else None
        if len(self.layers) > self._sealed and isinstance(last, (layers.Affine, *NORMS)):
            shape = (
                last.params["W"].shape[1:] if isinstance(last, layers.Affine) else last.params["gamma"].shape
            )
            if max(a.ndim, c.ndim) <= 1 and not (c.any() and isinstance(last, layers.RMSNorm)):
                a, c = np.broadcast_to(a, shape), np.broadcast_to(c, shape)
                with np.errstate(all="ignore"):
                    for name, p in last.params.items():
                        p[...] = _finite(where, p, p * a + (c if name in ("b", "beta") else 0))
                return
        self._scale = where, a, c

    def _check_fits(self, where: str, a: Array) -> None:
        """Refuse constants that do not fit a row, or make more of it: ValueError."""
        if a.ndim == 0:
            return
        shape = self.shape
        if shape is None:
            fits = a.ndim == 1
        else:
            pairs = zip(a.shape[::-1], shape[::-1], strict=False)
            fits = a.ndim <= len(shape) and all(n == 1 or n == m or m is None for n, m in pairs)
        if not fits:
            raise ValueError(f"{where}: constants must fit rows of shape {_row(shape)}, got {a.shape}")

    def _take_scale(self, n: int) -> tuple[str, Array, Array]:
        """Return where, a and c of what waits, each of n numbers, and forget it."""
        assert self._scale is not None
        where, a, c = self._scale
        try:
            a, c = (np.broadcast_to(v, (n,)) if v.ndim <= 1 else v.reshape(n) for v in (a, c))
        except ValueError:
            raise ValueError(f"{where}: constants must be one or {n}, got shape {a.shape}") from None
        self._scale = None
        return where, a, c

    def settle(self) -> None:
        """Make a layer of what waits for the next one to take it in."""
        if self._scale is None:
            return
        where, a, c = self._scale
        a, c = self._each(where, a, c)
        self.dtype = self.dtype or self._default
        eps = 1e-5
        var = np.full(a.size, 1 - eps, self.dtype)
        with np.errstate(all="ignore"):
            gamma, beta = (_finite(where, var, v) for v in (a, c))
        self._scale = None
        self.layers.append(layers.BatchNorm(gamma, beta, running_var=var, eps=eps))

    def _each(self, where: str, a: Array, c: Array) -> tuple[Array, Array]:
        """Return constants for each number of a row, which must be of a known shape: ValueError."""
        known: Any = self.shape if self.shape is not None else a.shape or c.shape
        if not known or None in known:
            raise ValueError(f"{where}: must scale rows of a known shape, got {_row(self.shape)}")
        n = math.prod(known)
        self.claim(where, n)
        return np.broadcast_to(a, known).reshape(n), np.broadcast_to(c, known).reshape(n)

    def seal(self) -> None:
        """Have all that comes leave as it is what is reached, which goes elsewhere, too."""
        self.settle()
        self._sealed = len(self.layers)

    def flatten(self, where: str) -> None:
        """Take what makes of each row one of numbers."""
        self._check_open(where)
        shape = self.shape
        if shape is not None and len(shape) == 1:
            return
        if self._scale and max(v.ndim for v in self._scale[1:]) > 0:
            before, a, c = self._scale
            self._scale = before, *self._each(where, a, c)
        self._flattened, self._unflattened = where, shape
        if shape is not None:
            known = None not in shape
            self.shape = (math.prod(shape) if known else None,)  # type: ignore[arg-type]

    def reshape(self, where: str, row: tuple[int, ...]) -> None:
        """Take what gives each row another shape, of as many numbers."""
        self._check_open(where)
        shape = self.shape
        if shape is None or None in shape or math.prod(row) != math.prod(shape):  # type: ignore[arg-type]
            raise ValueError(f"{where}: must keep the {_row(shape)} of a row, got {_row(row)}")
        if len(row) == 1:
            self.flatten(where)
        elif self._flattened and row == self._unflattened and self._scale is None:
            self.shape, self._flattened = row, ""
        elif row != shape:
            raise ValueError(
                f"{where}: must leave rows as they are or flat, got {_row(row)} of {_row(shape)}"
            )

    def add_around(self, where: str, mark: Mark) -> None:
        """Make of the layers from a place on a Residual."""
        self._check_open(where)
        self.settle()
        if self._flattened or mark.flattened:
            raise ValueError(f"{where}: must add what no {self._flattened or mark.flattened} has flattened")
        if self.shape != mark.shape:
            raise ValueError(
                f"{where}: must add rows of one shape, got {_row(mark.shape)} and {_row(self.shape)}"
            )
        inner = self.layers[mark.position :]
        if not inner:
            raise ValueError(f"{where}: must add to x what layers make of it, got x twice")
        if mark.position == 0 and inner[0].takes_indices:
            raise ValueError(f"{where}: must not add to indices")
        self.layers[mark.position :] = [layers.Residual(inner)]
        self._sealed = min(self._sealed, mark.position)

    def probabilities(self, where: str) -> None:
        """Take a softmax, which must be the end."""
        self._check_open(where)
        self._probabilities = where

    @property
    def mark(self) -> Mark:
        """The place that is reached."""
        return Mark(len(self.layers), self.shape, self._flattened)

    def end(self, logits: bool) -> Any:
        """Return the network; ValueError if it would be another.

        `logits` says whether a softmax, or a Sigmoid, at the end is left out.
        """
        self.settle()
        self._check_same("the end")
        if self._probabilities and not logits:
            raise ValueError(
                f"{self._probabilities}: fastnn's losses take logits: pass logits=True to have it left out"
            )
        if logits and not self._probabilities and self.layers and isinstance(self.layers[-1], layers.Sigmoid):
            del self.layers[-1]
        if not self.layers:
            raise ValueError("the model must hold at least one layer that computes something")
        return Sequential(self.layers)

    def _check_open(self, where: str) -> None:
        """Refuse to go on from probabilities: ValueError."""
        if self._probabilities:
            raise ValueError(f"{self._probabilities}: must be the end, and {where} goes on from it")

    def _check_rows(self, where: str, n: int) -> None:
        """Refuse rows of anything but n numbers: ValueError."""
        if self.shape is not None and (len(self.shape) != 1 or self.shape[0] not in (n, None)):
            hint = ": a Flatten must come before" if len(self.shape) != 1 else ""
            raise ValueError(f"{where}: must take rows of {n} numbers, got rows of {_row(self.shape)}{hint}")

    def _check_same(self, where: str) -> None:
        """Refuse what is flat there and not here: ValueError."""
        if self._flattened:
            raise ValueError(
                f"{self._flattened}: must be followed by weights, with nothing but activations, dropout and "
                f"batch normalization between, not by {where}: fastnn flattens where an Affine takes x"
            )


def _finite(where: str, like: Array, values: Array) -> Array:
    """Return values in the dtype of an array; ValueError if they are infinite or NaN and it is not."""
    array: Array = values.astype(like.dtype)
    if np.isfinite(like).all() and not np.isfinite(array).all():
        raise ValueError(f"{where}: constants must leave finite numbers of {like.dtype}")
    return array


def _row(shape: tuple[int | None, ...] | None) -> str:
    """Return the shape of a row for a message."""
    if shape is None:
        return "an unknown shape"
    return f"({', '.join('?' if n is None else str(n) for n in shape)}{',' * (len(shape) == 1)})"
