"""Networks of native layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _core, layers
from .reference import network as reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._checks import Array
    from .checkpoint import Path


__all__ = ["Sequential", "mlp"]


@layers.documented
class Sequential(reference.Sequential):
    layer_classes: ClassVar[Mapping[str, Any]] = {
        name: getattr(layers, name) for name in reference.Sequential.layer_classes
    }

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__(layers)
        self._in_use = _core.InUse()

    def forward(self, x: Any, train: bool = True) -> Any:
        with self._in_use:
            return super().forward(x, train)

    def backward(self, dout: Any) -> Any:
        with self._in_use:
            return super().backward(dout)

    def backward_params(self, dout: Any) -> None:
        with self._in_use:
            super().backward_params(dout)

    def predict(self, x: Any, batch_size: int | None = None) -> Array:
        with self._in_use:
            return super().predict(x, batch_size)

    def state_dict(self) -> dict[str, Array]:
        with self._in_use:
            return super().state_dict()

    def save(self, path: Path) -> None:
        with self._in_use:
            super().save(path)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        with self._in_use:
            super().load_state_dict(d)


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: Any = "he",
    seed: Any = None,
    dtype: Any = np.float32,
) -> Sequential:
    """Return a network of dense layers; see `fastnn.reference.mlp` for the parameters."""
    return Sequential.from_sizes(
        sizes,
        activation=activation,
        batch_norm=batch_norm,
        dropout=dropout,
        init=init,
        seed=seed,
        dtype=dtype,
    )


mlp.__doc__ = reference.mlp.__doc__
