"""Optimizers of PyTorch and of fastnn, with what they remember.

The updates are the same, but for where the rate of a momentum stands: torch's buffer b sums gradients, and a
step is lr b; fastnn's velocity is v = -lr b. So what is converted holds at the rate of the moment: once that
changes, it is in all of torch's next step, and in fastnn's with the newest gradient only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import _checks, optimizers
from ..groups import Group
from ..reference import layers as reference_layers
from ..reference import optimizers as reference
from .torch_modules import floats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._checks import Array
    from .torch_modules import Source

__all__ = ["check", "read", "write", "write_state"]

HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Rule(NamedTuple):
    """How a class of torch's optimizers is converted.

    Attributes
    ----------
    make : callable
        Given the options of a group, returns the class of fastnn and its arguments but lr and weight_decay.
    slots : dict
        What torch remembers, and under which name fastnn does.
    refused : dict
        Options, and what they must be.
    """

    make: Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]
    slots: dict[str, str]
    refused: dict[str, Any]


def _sgd(o: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if o["momentum"] == 0:
        return "SGD", {}
    if o["dampening"] != 0:
        raise ValueError(f"dampening must be 0, got {o['dampening']}")
    return "Nesterov" if o["nesterov"] else "Momentum", {"momentum": o["momentum"]}


def _adam(o: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    beta1, beta2 = map(float, o["betas"])
    decoupled = o.get("decoupled_weight_decay", False)  # which AdamW is a case of since torch 2.7
    return "AdamW" if decoupled else "Adam", {"beta1": beta1, "beta2": beta2, "eps": o["eps"]}


MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}
RULES: dict[type, Rule] = {
    torch.optim.SGD: Rule(_sgd, {"momentum_buffer": "v"}, {}),
    torch.optim.Adagrad: Rule(lambda o: ("AdaGrad", {"eps": o["eps"]}), {"sum": "h"}, {"lr_decay": 0}),
    torch.optim.RMSprop: Rule(
        lambda o: ("RMSProp", {"decay_rate": o["alpha"], "eps": o["eps"]}),
        {"square_avg": "h"},
        {"centered": False, "momentum": 0},
    ),
    torch.optim.Adam: Rule(_adam, MOMENTS, {"amsgrad": False}),
    torch.optim.AdamW: Rule(
        lambda o: _adam({**o, "decoupled_weight_decay": True}), MOMENTS, {"amsgrad": False}
    ),
}
OF_ALL = {"maximize": False, "differentiable": False}


# From torch


def read(optimizer: Any, sources: Mapping[str, Source], net: Any) -> Any:
    """Return fastnn's optimizer, with the state of torch's, for a network whose arrays have these sources."""
    if isinstance(optimizer, type) or not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {_checks.shown(optimizer)}")
    what = f"optimizer ({type(optimizer).__name__})"
    if type(optimizer) not in RULES:
        names = ", ".join(c.__name__ for c in RULES)
        raise TypeError(f"{what}: must be one of {names} of torch.optim, which fastnn has, too")
    if any(getattr(optimizer, hooks, None) for hooks in HOOKS):
        raise ValueError(f"{what}: has hooks, which nobody would call")
    rule = RULES[type(optimizer)]
    made = [_made(f"{what}, group {i}", rule, group) for i, group in enumerate(optimizer.param_groups)]
    if not made:
        raise ValueError(f"{what}: must have a group of parameters")
    for i, other in enumerate(made):
        if other[:2] != made[0][:2]:
            raise ValueError(
                f"{what}: groups may differ in lr and weight_decay only, got {_shown(made[0])} and, in group "
                f"{i}, {_shown(other)}"
            )
    name, arguments = made[0][:2]
    rates = _rates(what, optimizer, made, sources, net)
    _check_rows(what, name, rates, net)
    try:
        lr, lr_factors = _common([lr for lr, _ in rates.values()])
        decay, decay_factors = _common([decay for _, decay in rates.values()])
        groups = [
            Group(key, of_lr, of_decay)
            for key, of_lr, of_decay in zip(rates, lr_factors, decay_factors, strict=True)
            if (of_lr, of_decay) != (1, 1)
        ]
        groups += [Group(key, frozen=True) for key in net.params if key not in rates]
        ours = optimizers.CLASSES[name](lr, **arguments, weight_decay=decay, groups=groups)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}: {error}") from None
    slots = {theirs: slot for theirs, slot in rule.slots.items() if slot in ours.slots}
    ours.load_state_dict(_state(what, ours, slots, optimizer, rates, sources))
    return ours


def _made(where: str, rule: Rule, group: Mapping[str, Any]) -> tuple[str, dict[str, Any], float, float]:
    """Return what a group of torch's asks for: class, arguments, lr and weight_decay."""
    try:
        for option, wanted in (*rule.refused.items(), *OF_ALL.items()):
            if group.get(option, wanted) != wanted:
                raise ValueError(f"{option} must be {wanted}, got {_checks.shown(group[option])}")
        name, arguments = rule.make(group)
        arguments = {option: float(value) for option, value in arguments.items()}
        rates = float(group["lr"]), float(group["weight_decay"])
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if name in ("Momentum", "Nesterov") and rates[0] == 0:
        raise ValueError(
            f"{where}: lr must be > 0 with momentum: fastnn's velocity holds the rate; requires_grad=False "
            "leaves parameters as they are"
        )
    return name, arguments, *rates


def _shown(made: tuple[Any, ...]) -> str:
    return f"{made[0]}({', '.join(f'{option}={value}' for option, value in made[1].items())})"


def _rates(
    what: str, optimizer: Any, made: list[Any], sources: Mapping[str, Source], net: Any
) -> dict[str, tuple[float, float]]:
    """Return lr and weight_decay of the parameters that are trained, by name, in the network's order."""
    names = {id(sources[name].tensor): name for name in net.params if sources[name].tensor is not None}
    rates = {}
    for i, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if id(p) not in names:
                raise ValueError(
                    f"{what}, group {i}: must have parameters of the module only, got one of shape "
                    f"{tuple(p.shape)} that it does not have"
                )
            if p.requires_grad:
                rates[names[id(p)]] = made[i][2:]
    return {name: rates[name] for name in net.params if name in rates}


def _check_rows(what: str, kind: str, rates: Mapping[str, tuple[float, float]], net: Any) -> None:
    """Refuse embeddings where an update of the rows that occur is not one of all rows: ValueError."""
    for i, layer in enumerate(net.layers):
        if not isinstance(layer, reference_layers.Embedding) or f"{i}.W" not in rates:
            continue
        if kind not in ("SGD", "AdaGrad") or rates[f"{i}.W"][1] != 0:
            raise ValueError(
                f"{what}: in torch it moves rows of the embedding that do not occur in a batch, too (by "
                "momentum, decaying averages or weight decay), and in fastnn it does not: SGD and AdaGrad "
                "without weight decay agree, and so does what is frozen; a network that is converted without "
                "its optimizer can be trained with any"
            )


def _common(numbers: list[float]) -> tuple[float, list[float]]:
    """Return a number, and the factors that make each of these of it."""
    base = next((n for n in numbers if n != 0), 0.0)
    return base, [n / base if base else 1.0 for n in numbers]


def _state(
    what: str,
    ours: Any,
    slots: dict[str, str],
    optimizer: Any,
    rates: Mapping[str, tuple[float, float]],
    sources: Mapping[str, Source],
) -> dict[str, Any]:
    """Return the state that fastnn's optimizer is to have."""
    state: dict[str, dict[str, Array]] = {slot: {} for slot in ours.slots}
    steps = {}
    for name, (lr, _) in rates.items():
        source = sources[name]
        entry = optimizer.state.get(source.tensor) or {}
        steps[name] = _step(source.where, entry.get("step", 0))
        for theirs, slot in slots.items():
            memory = entry.get(theirs)
            if memory is not None:
                array = _memory(f"{source.where}, {theirs} of the {what}", memory, source)
                state[slot][name] = -lr * array if theirs == "momentum_buffer" else array
    if isinstance(ours, reference.Adam) and len(set(steps.values())) > 1:
        one, other = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        raise ValueError(
            f"{what}: must have updated all parameters equally often, as fastnn counts, got {steps[one]} "
            f"updates of {sources[one].where} and {steps[other]} of {sources[other].where}"
        )
    for name in state[ours.slots[0]] if ours.slots else ():
        missing = [slot for slot in ours.slots if name not in state[slot]]
        if missing:
            raise ValueError(f"{what}: must have all of its memory of {sources[name].where}")
    step = max(steps.values(), default=0)
    return {"optimizer": type(ours).__name__, "step": step, "state": state}


def _step(where: str, step: Any) -> int:
    try:
        count = float(step)
        if not (count >= 0 and count == int(count)):
            raise ValueError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{where}: the optimizer's step must be a whole number, got {step!r}") from None
    return int(count)


def _memory(where: str, tensor: Any, source: Source) -> Array:
    """Return a copy of what torch remembers of a parameter, in the form of the network's array."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{where}: must be a tensor, got {_checks.shown(tensor)}")
    if tensor.shape != source.tensor.shape:  # torch loads states of any shape
        raise ValueError(
            f"{where}: must have the parameter's shape {tuple(source.tensor.shape)}, got "
            f"{tuple(tensor.shape)}"
        )
    array = floats(where, tensor, source.tensor.detach().numpy().dtype)
    return np.array(array.T if source.transposed else array, order="C")


# To torch


def check(optimizer: Any, net: Any) -> set[str]:
    """Return the names of what an optimizer of fastnn freezes; TypeError or ValueError if it is none."""
    name = type(optimizer).__name__
    if type(optimizer) not in (optimizers.CLASSES.get(name), reference.CLASSES.get(name)):
        raise TypeError(f"optimizer must be one of fastnn, got {_checks.shown(optimizer)}")
    if callable(optimizer.lr):
        raise ValueError(
            f"lr of the optimizer must be a number, got {_checks.shown(optimizer.lr)}: torch's schedules are "
            "made for its own optimizers; assign optimizer.lr = optimizer.rate() first"
        )
    params = net.params
    for memory in optimizer.state.values():
        for key, array in memory.items():
            if key not in params or array.shape != params[key].shape:
                raise ValueError(
                    f"optimizer must be that of the network, got {_checks.shown(array)} for {key!r}, which "
                    "the network has not"
                )
    trained = optimizer.trained(params, params)
    if not trained:
        raise ValueError("optimizer must train a parameter: torch has no optimizer of none")
    rates = _rates_of(optimizer, params)
    _check_rows(f"optimizer ({name})", name, rates, net)
    if getattr(optimizer, "momentum", 0) > 0 and any(lr == 0 for lr, _ in rates.values()):
        raise ValueError(
            "lr of the optimizer must be > 0 with momentum: torch's buffer is the velocity over it"
        )
    return set(params) - set(trained)


def _rates_of(optimizer: Any, params: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return lr and weight_decay of the parameters that fastnn's optimizer trains, by name."""
    groups = optimizer._groups(params)
    rates = {}
    for name in optimizer.trained(params, params):
        group = groups.get(name, reference.PLAIN)
        rates[name] = optimizer.rate() * group.lr, optimizer.weight_decay * group.decay
    return rates


def write(optimizer: Any, sources: Mapping[str, Source], net: Any) -> Any:
    """Return torch's optimizer, with the state of fastnn's, for tensors that are the network's parameters."""
    parts: dict[tuple[float, float], list[Any]] = {}
    for name, rates in _rates_of(optimizer, net.params).items():
        parts.setdefault(rates, []).append(sources[name].tensor)
    param_groups = [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in parts.items()]
    theirs = _counterpart(optimizer, param_groups)
    write_state(optimizer, theirs, sources)
    return theirs


def _counterpart(o: Any, groups: list[dict[str, Any]]) -> Any:
    name = type(o).__name__
    if name in ("SGD", "Momentum", "Nesterov"):
        momentum = getattr(o, "momentum", 0)
        return torch.optim.SGD(groups, o.rate(), momentum, nesterov=name == "Nesterov" and momentum > 0)
    if name == "AdaGrad":
        return torch.optim.Adagrad(groups, o.rate(), eps=o.eps)
    if name == "RMSProp":
        return torch.optim.RMSprop(groups, o.rate(), o.decay_rate, o.eps)
    adam = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return adam(groups, o.rate(), (o.beta1, o.beta2), o.eps)


def write_state(ours: Any, theirs: Any, sources: Mapping[str, Source]) -> None:
    """Copy the state of fastnn's optimizer into that of torch's, at the rates of its groups."""
    names = {id(source.tensor): name for name, source in sources.items() if source.tensor is not None}
    counts = not isinstance(ours, (reference.SGD, reference.Momentum))
    slots = {key: slot for key, slot in RULES[type(theirs)].slots.items() if slot in ours.slots}
    if getattr(ours, "momentum", 1) == 0:
        slots = {}
    for group in theirs.param_groups:
        for p in group["params"]:
            source = sources[names[id(p)]]
            memories = {key: ours.state[slot].get(names[id(p)]) for key, slot in slots.items()}
            known = all(memory is not None for memory in memories.values())
            if not p.requires_grad or not (known if not counts else known or ours.step > 0):
                continue
            for key, memory in memories.items():
                if memory is None:
                    tensor = torch.zeros_like(p, memory_format=torch.contiguous_format)
                else:
                    tensor = source.like(-memory / float(group["lr"]) if key == "momentum_buffer" else memory)
                _put(theirs.state[p], key, tensor)
            if counts:
                _put(theirs.state[p], "step", torch.tensor(float(ours.step), dtype=torch.float32))


def _put(entry: dict[str, Any], key: str, tensor: Any) -> None:
    """Copy a tensor into that which is there, or put a copy there."""
    old = entry.get(key)
    if isinstance(old, torch.Tensor):
        with torch.no_grad():
            old.copy_(tensor)
    else:
        entry[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
