"""What other libraries ask of a network and fastnn's layers do not say."""

from __future__ import annotations

from typing import Any

from .. import _checks
from ..reference import layers as reference_layers
from ..reference import network as reference

__all__ = ["check_network", "features", "tokens"]


def check_network(net: Any) -> None:
    """Refuse what is no network of fastnn's layers, or takes more than rows of numbers or of indices.

    Raises TypeError or ValueError.
    """
    if not isinstance(net, reference.Sequential):
        raise TypeError(f"net must be a Sequential of fastnn, got {_checks.shown(net)}")
    for prefix, layer in reference_layers.each_layer(net.layers):
        if net.layer_classes.get(type(layer).__name__) is not type(layer):
            raise TypeError(f"layers[{prefix[:-1]}] must be a layer of fastnn, got {_checks.shown(layer)}")
    width, rows = features(net), 1
    for prefix, layer in _with_parameters(net):
        n = _taken(layer)
        by_rows = isinstance(layer, (reference_layers.LayerNorm, reference_layers.RMSNorm))
        wanted = width if by_rows or width is None else width * rows
        if not layer.takes_indices and n != wanted:
            raise ValueError(
                f"layers[{prefix[:-1]}] must take rows of {wanted} numbers, as those before return them, "
                f"got one for {n}"
            )
        if layer.takes_indices:
            width, rows = layer.params["W"].shape[1], tokens(net) or 1
        elif isinstance(layer, reference_layers.Affine):
            width, rows = layer.params["W"].shape[1], 1


def _with_parameters(net: Any) -> list[tuple[str, Any]]:
    return [
        (prefix, layer)
        for prefix, layer in reference_layers.each_layer(net.layers)
        if not isinstance(layer, reference_layers.Residual) and layer.params
    ]


def _taken(layer: Any) -> int:
    """Return how many numbers a layer with parameters takes."""
    return int(next(iter(layer.params.values())).shape[0])


def features(net: Any) -> int | None:
    """Return how many numbers a row of the input has; None for indices, and where no layer says it."""
    if net.layers[0].takes_indices:
        return None
    return next((_taken(layer) for _, layer in _with_parameters(net)), None)


def tokens(net: Any) -> int | None:
    """Return how many indices a row of the input has; None for numbers, and where no layer says it."""
    if net.layers[0].takes_indices:
        dim: int = net.layers[0].params["W"].shape[1]
        for _, layer in _with_parameters(net)[1:]:
            if isinstance(layer, (reference_layers.Affine, reference_layers.BatchNorm)):
                return _taken(layer) // dim
    return None
