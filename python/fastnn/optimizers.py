"""The optimizers, native: the classes of `fastnn.reference.optimizers`, one native call an update.

Unlike the reference's, a gradient may be of another real dtype or of any strides: it is converted. A limit to
the norm scales gradients of their parameter's dtype in place, and leaves others alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from . import _checks, _core
from ._sharing import InUse
from .layers import documented
from .reference import optimizers as reference

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CLASSES",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Muon",
    "Nesterov",
    "RMSProp",
    "from_config",
]


class _Native(InUse, reference.Optimizer):
    """The update by rule `_kind` of the native table, with the options named in `_betas`, and eps."""

    eps: float  # of those that have it among their options
    _kind: ClassVar[int]
    _betas: ClassVar[tuple[str, ...]] = ()

    def update(
        self, params: dict[str, Any], grads: dict[str, Any], clip_norm: float | None = None
    ) -> float | None:
        limit = 0.0 if clip_norm is None else _checks.real_number("clip_norm", clip_norm, 0, None, "(]")
        beta1, beta2 = (*(getattr(self, name) for name in self._betas), 0.0, 0.0)[:2]
        lr, decay, eps = self.rate(), self.decay(), self.eps if "eps" in self.options else 0.0
        norm = _core.update(
            self._in_use,
            self._kind,
            params,
            grads,
            self.state,
            self.slots,
            lr,
            decay,
            beta1,
            beta2,
            eps,
            self.__dict__,
            limit,
            self._factors(params),
            self._muon(params),
        )
        return None if clip_norm is None else norm

    def _muon(self, params: Any) -> tuple[frozenset[str], float, float, bool, int]:
        """Return what `_core.update` takes of Muon."""
        return frozenset(), 0.0, 0.0, False, 0

    def _factors(self, params: Any) -> dict[str, tuple[float, float] | None]:
        """Return the factors of rate and decay of the parameters that have any; None: frozen."""
        if not self.groups or not isinstance(params, dict):
            return {}
        groups = self._groups(params)
        return {name: None if g.frozen else (g.lr, g.decay) for name, g in groups.items()}


@documented
class SGD(_Native, reference.SGD):
    _kind = _core.OPTIMIZERS["sgd"]


@documented
class Momentum(_Native, reference.Momentum):
    _kind = _core.OPTIMIZERS["momentum"]
    _betas = ("momentum",)


@documented
class Nesterov(_Native, reference.Nesterov):
    _kind = _core.OPTIMIZERS["nesterov"]
    _betas = ("momentum",)


@documented
class AdaGrad(_Native, reference.AdaGrad):
    _kind = _core.OPTIMIZERS["adagrad"]


@documented
class RMSProp(_Native, reference.RMSProp):
    _kind = _core.OPTIMIZERS["rmsprop"]
    _betas = ("decay_rate",)


@documented
class Adam(_Native, reference.Adam):
    _kind = _core.OPTIMIZERS["adam"]
    _betas = ("beta1", "beta2")


@documented
class AdamW(_Native, reference.AdamW):
    _kind = _core.OPTIMIZERS["adamw"]
    _betas = ("beta1", "beta2")


@documented
class Muon(_Native, reference.Muon):
    _kind = _core.OPTIMIZERS["muon"]
    _betas = ("beta1", "beta2")

    def _muon(self, params: Any) -> tuple[frozenset[str], float, float, bool, int]:
        names = self._matrices(params) if isinstance(params, dict) else frozenset()
        return names, self.momentum, self.adamw_factor, self.nesterov, self.ns_steps


CLASSES: dict[str, type[Any]] = {
    c.__name__: c for c in (SGD, Momentum, Nesterov, AdaGrad, RMSProp, Adam, AdamW, Muon)
}


def from_config(config: Any, classes: Mapping[str, type[Any]] = CLASSES) -> Any:
    """Return a new optimizer as its `config()` described it; ValueError if that is none of `classes`."""
    return reference.from_config(config, classes)
