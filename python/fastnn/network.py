"""Networks of native layers."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import numpy as np

from . import _core, layers
from .reference import network as reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Sequential", "exclusive", "mlp"]

P = ParamSpec("P")
R = TypeVar("R")


def exclusive(method: Callable[P, R]) -> Callable[P, R]:
    """Return a method during which its object is refused to other threads."""

    @wraps(method)
    def alone(*args: P.args, **options: P.kwargs) -> R:
        with args[0]._in_use:  # type: ignore[attr-defined]
            return method(*args, **options)

    return alone


@layers.documented
class Sequential(reference.Sequential):
    layer_classes: ClassVar[Mapping[str, Any]] = {
        name: getattr(layers, name) for name in reference.Sequential.layer_classes
    }

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__(layers)
        self._in_use = _core.InUse()

    forward = exclusive(reference.Sequential.forward)
    backward = exclusive(reference.Sequential.backward)
    backward_params = exclusive(reference.Sequential.backward_params)
    predict = exclusive(reference.Sequential.predict)
    state_dict = exclusive(reference.Sequential.state_dict)
    load_state_dict = exclusive(reference.Sequential.load_state_dict)
    save = exclusive(reference.Sequential.save)


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
