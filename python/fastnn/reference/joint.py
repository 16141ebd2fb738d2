"""Several networks and arrays under one optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _checks, checkpoint
from .layers import Residual, each_layer
from .network import Sequential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from .._checks import Array
    from ..checkpoint import Path

__all__ = ["Joint"]


class _Own(dict[str, Any]):
    """Gradients by name: what is assigned to that of an array of the joint's own is copied into it."""

    def __init__(self, gradients: dict[str, Any], own: dict[str, Array]) -> None:
        super().__init__(gradients)
        self._own = own

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._own:
            raise ValueError(
                f"grads[...] can be assigned for the joint's own arrays, {', '.join(self._own) or 'none'}, "
                f"got {_checks.shown(name)}: the others are filled by backward"
            )
        array = self._own[name]
        if value is not array:
            array[...] = _checks.parameter(f"grads[{name!r}]", value, array.ndim, shape=array.shape)


class Joint:
    """Several networks, and arrays, as one set of parameters: an actor and a critic under one optimizer.

        joint = Joint({"actor": actor, "critic": critic, "log_std": log_std})
        actor.backward_params(...); critic.backward_params(...); joint.grads["log_std"] = ...
        joint.update(optimizer, clip_norm=0.5)

    Parameters
    ----------
    parts : dict
        By names without ".": networks, or float32 or float64 arrays, which are kept, not copied. No two may
        share memory.

    Attributes
    ----------
    parts : dict
        As given.
    params : dict
        All parameters, live, by names: "actor.0.W", "log_std".
    grads : dict
        Their gradients: those of networks by their last backward; for each array one of its shape, zeros at
        first, which goes with it: `joint.grads["log_std"][...] = g`, or without the dots.

    Raises
    ------
    TypeError, ValueError
        If `parts` is anything else.
    """

    network_class: ClassVar[type[Sequential]] = Sequential

    def __init__(self, parts: Mapping[str, Any]) -> None:
        if not hasattr(parts, "items") or not parts:
            raise TypeError(f"parts must be a dict of networks and arrays, got {_checks.shown(parts)}")
        self.parts: dict[str, Any] = dict(parts)
        self._own_grads: dict[str, Array] = {}
        for name, part in self.parts.items():
            if not isinstance(name, str) or not name or "." in name:
                raise ValueError(f"the names of parts must be texts without '.', got {_checks.shown(name)}")
            if isinstance(part, np.ndarray):
                _checks.parameter(f"parts[{name!r}]", part, part.ndim)
                if not part.flags.writeable:
                    raise ValueError(f"parts[{name!r}] must be writeable")
                self._own_grads[name] = np.zeros(part.shape, part.dtype)
            elif not all(hasattr(part, a) for a in ("params", "grads", "layers")):
                raise TypeError(f"parts[{name!r}] must be a network or an array, got {_checks.shown(part)}")
        self._places: list[tuple[str, Any, Any, str]] = []
        self._layers: list[tuple[str, Any, tuple[Any, ...]]] = []
        self._find()
        seen: list[tuple[str, Array]] = []
        for name, array in self.params.items():
            for other, before in seen:
                if np.may_share_memory(array, before) and np.shares_memory(array, before):
                    raise ValueError(f"parts must not share memory, got {other} and {name}")
            seen.append((name, array))

    def _find(self) -> None:
        """Note where every parameter is: (its name, the dict of it, the dict of its gradient, its key)."""
        self._places, self._layers = [], []
        for name, part in self.parts.items():
            if isinstance(part, np.ndarray):
                self._places.append((name, self.parts, self._own_grads, name))
                continue
            self._layers.append((name, part, part.layers))
            for prefix, layer in each_layer(part.layers):
                if isinstance(layer, Residual):
                    continue
                for key in getattr(layer, "params", ()):
                    self._places.append((f"{name}.{prefix}{key}", layer.params, layer.grads, key))

    def _found(self) -> list[tuple[str, Any, Any, str]]:
        if any(
            part.layers is not layers or self.parts.get(name) is not part
            for name, part, layers in self._layers
        ):
            self._find()
        return self._places

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name: a new dict of the live arrays."""
        return {name: params[key] for name, params, _, key in self._found()}

    @property
    def grads(self) -> dict[str, Any]:
        """The gradients by name: a new dict of the live arrays."""
        found = {name: grads[key] for name, _, grads, key in self._found() if key in grads}
        return _Own(found, self._own_grads)

    def update(self, optimizer: Any, clip_norm: float | None = None) -> float | None:
        """Do one update of all parameters by their gradients, in place.

        Parameters
        ----------
        optimizer : optimizer
            Its state and groups know the parameters by the names in `params`.
        clip_norm : float > 0 or None
            Limits the norm of all gradients together, those of all parts.

        Returns
        -------
        float or None
            With `clip_norm` the norm that the gradients had.

        Raises
        ------
        TypeError, ValueError
            If a network has no gradients yet, or as `optimizer.update`; then nothing has changed.
        FloatingPointError
            If the norm that `clip_norm` limits is infinite or NaN; then likewise.
        """
        places = self._found()
        try:
            grads = {name: grads[key] for name, _, grads, key in places}
        except KeyError:
            grads = {name: grads[key] for name, _, grads, key in places if key in grads}
            trained = self.params
            if getattr(optimizer, "groups", ()):
                trained = optimizer.trained(trained, trained)  # what is frozen needs no gradient
            missing = next((name for name in trained if name not in grads), None)
            if missing is not None:
                message = f"{missing} must have a gradient: call backward of its network first"
                raise ValueError(message) from None
        params = {name: params[key] for name, params, _, key in places}
        norm: float | None = optimizer.update(params, grads, clip_norm)
        return norm

    def _state(self) -> dict[str, Array]:
        state = {}
        for name, part in self.parts.items():
            if isinstance(part, np.ndarray):
                state[name] = part
            else:
                state |= {f"{name}.{key}": array for key, array in part._state().items()}
        return state

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters and running statistics, by name."""
        return {name: np.array(array) for name, array in self._state().items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Copy the arrays of `d` in, which must have exactly the names and shapes of `state_dict`.

        TypeError or ValueError, and no change, if it has not.
        """
        _checks.copy_state("the joint's state", self._state(), d)

    def save(self, path: Path) -> None:
        """Write all parts to a file, .npz or .safetensors by its name; see `fastnn.checkpoint`.

        Raises TypeError, and writes nothing, if a layer is not one of fastnn's own.
        """
        parts = {
            name: None if isinstance(part, np.ndarray) else part.architecture()
            for name, part in self.parts.items()
        }
        checkpoint.write(path, "joint", self._state(), {"parts": parts})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return a joint of new networks and arrays, as the file says that `save` has written.

        Raises OSError if it cannot be opened and ValueError, which says why, if it holds no joint.
        """
        with checkpoint.opened(path, "joint") as contents:
            try:
                parts: dict[str, Any] = {}
                for name, layers in contents.meta["parts"].items():
                    if layers is None:
                        parts[name] = np.array(contents[name])
                        continue
                    parts[name] = cls.network_class._from_layers(
                        layers,
                        {
                            key.removeprefix(f"{name}."): spec
                            for key, spec in contents.specs.items()
                            if key.startswith(f"{name}.")
                        },
                    )
                joint = cls(parts)
                joint.load_state_dict({name: contents[name] for name in contents.specs})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{contents.path} does not describe a joint: {type(error).__name__}: {error}"
                ) from None
            return joint

    def __repr__(self) -> str:
        """Return the parts."""
        return f"Joint({self.parts!r})"
