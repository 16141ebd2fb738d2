"""Networks as models of Keras 3."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import keras

from .. import _checks
from ..reference import layers as reference_layers
from . import forms

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["write"]


class Writing:
    """A network as it becomes a model of Keras, layer by layer.

    Attributes
    ----------
    items : list
        Layers of Keras, and lists of them around which their input is led.
    weights : list of (layer, list of arrays)
    """

    def __init__(self, net: Any) -> None:
        self.dtype = str(net.dtype or _checks.FLOATS[0])
        self.items: list[Any] = []
        self.weights: list[tuple[Any, list[Any]]] = []
        self._row: tuple[int | None, int] | None = None  # T and dim, while fastnn's rows are an embedding's
        self._flat = False  # whether Keras' are flat then
        if net.layers[0].takes_indices:
            self._row = forms.tokens(net), net.layers[0].params["W"].shape[1]

    def layer(self, kind: str, *arguments: Any, arrays: Any = None, **options: Any) -> None:
        """Add a layer of Keras; `arrays` is what its weights are to be."""
        if not hasattr(keras.layers, kind):
            raise ValueError(f"Keras {keras.__version__} has no {kind}: it needs a newer one")
        layer = getattr(keras.layers, kind)(*arguments, dtype=self.dtype, **options)
        self.items.append(layer)
        if arrays is not None:
            self.weights.append((layer, list(arrays)))

    def add(self, where: str, layer: Any) -> None:
        """Add the layers that a layer stands for."""
        if isinstance(layer, reference_layers.Residual):
            self.as_ours()
            outer, self.items = self.items, []
            for i, inner in enumerate(layer.layers):
                self.add(f"{where}.layers[{i}]", inner)
            self.as_ours()
            self.items = [*outer, self.items]
            return
        if isinstance(layer, (reference_layers.Affine, reference_layers.BatchNorm)):
            if self._row and not self._flat:
                self.layer("Flatten")
                self._flat = True
        elif layer.params and not layer.takes_indices:
            self.as_ours()
        try:
            WRITERS[type(layer).__name__](self, layer)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where} ({type(layer).__name__}): {error}") from None
        if isinstance(layer, reference_layers.Affine):
            self._row, self._flat = None, False

    def as_ours(self) -> None:
        """Make rows of an embedding's of flat ones."""
        if self._flat:
            self.layer("Reshape", self._row)
            self._flat = False


def _affine(w: Writing, layer: Any) -> None:
    w.layer("Dense", layer.params["W"].shape[1], arrays=layer.params.values())


def _batch_norm(w: Writing, layer: Any) -> None:
    arrays = [*layer.params.values(), layer.running_mean, layer.running_var]
    w.layer("BatchNormalization", momentum=layer.momentum, epsilon=layer.eps, arrays=arrays)


def _row_norm(kind: str, w: Writing, layer: Any) -> None:
    w.layer(kind, epsilon=layer.eps, arrays=layer.params.values())


def _embedding(w: Writing, layer: Any) -> None:
    w.layer("Embedding", *layer.params["W"].shape, arrays=layer.params.values())


def _dropout(w: Writing, layer: Any) -> None:
    if not layer.inverted:
        raise ValueError("inverted must be True: Keras has no other")
    if callable(layer.ratio):
        raise ValueError("ratio must be a number: Keras has no schedules of it")
    w.layer("Dropout", layer.ratio)


def _gelu(w: Writing, layer: Any) -> None:
    if layer.approximate != "none":
        raise ValueError(f"approximate must be 'none': Keras has no layer of {layer.approximate!r}")
    w.layer("Activation", "gelu")


def _activation(w: Writing, layer: Any) -> None:
    w.layer("Activation", type(layer).__name__.lower())


WRITERS: dict[str, Callable[[Writing, Any], None]] = {
    "Affine": _affine,
    "BatchNorm": _batch_norm,
    "LayerNorm": partial(_row_norm, "LayerNormalization"),
    "RMSNorm": partial(_row_norm, "RMSNormalization"),
    "Embedding": _embedding,
    "Dropout": _dropout,
    "LeakyReLU": lambda w, layer: w.layer("LeakyReLU", layer.alpha),
    "GELU": _gelu,
    **dict.fromkeys(("ReLU", "Sigmoid", "Tanh", "SELU", "SiLU", "Softplus", "Mish"), _activation),
}


def _through(x: Any, items: list[Any], dtype: str) -> Any:
    """Return what layers make of a tensor."""
    for item in items:
        if isinstance(item, list):
            x = keras.layers.Add(dtype=dtype)([x, _through(x, item, dtype)])
        else:
            x = item(x)
    return x


def write(net: Any) -> Any:
    """Return the model of Keras that a network is; TypeError or ValueError, with the place, if none is."""
    forms.check_network(net)
    writing = Writing(net)
    for i, layer in enumerate(net.layers):
        writing.add(f"layers[{i}]", layer)
    if net.layers[0].takes_indices:
        x = keras.Input((forms.tokens(net),), dtype="int64")
    else:
        x = keras.Input((forms.features(net),), dtype=writing.dtype)
    if any(isinstance(item, list) for item in writing.items):
        model = keras.Model(x, _through(x, writing.items, writing.dtype))
    else:
        model = keras.Sequential([x, *writing.items])
    for layer, arrays in writing.weights:
        layer.set_weights(arrays)
    return model
