"""The optimizers, in NumPy: in-place updates of a whole dict of parameters.

In the formulas p is a parameter, g its gradient, lr the learning rate and t the number of the update, 1 for
the first. Weight decay adds weight_decay * p to the gradient (the slope of the penalty weight_decay / 2 *
|p|^2) of every entry given, but in AdamW and Muon, where it is decoupled from the gradient.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from functools import lru_cache, wraps
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

import numpy as np

from .. import _checks, schedules
from ..groups import Group, assigned, checked
from ..sparse import RowSparse
from .layers import normal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._checks import Array

    Rate = float | Callable[[int], float]

__all__ = [
    "CLASSES",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Muon",
    "Nesterov",
    "Optimizer",
    "RMSProp",
    "from_config",
]


P = ParamSpec("P")
PLAIN = Group("*")


def _with_lr(init: Callable[P, None]) -> Callable[P, None]:
    """Return a constructor whose TypeError for `learning_rate` says `lr`."""

    @wraps(init)
    def checked(*args: P.args, **options: P.kwargs) -> None:
        if "learning_rate" in options:
            raise TypeError(f"{type(args[0]).__name__} calls the learning rate lr, got learning_rate")
        init(*args, **options)

    return checked


class Optimizer:
    """Base of the optimizers.

    Attributes
    ----------
    lr : float >= 0, or function step -> float
        The learning rate as given; a function is called with the number of updates done. May be assigned
        between updates.
    weight_decay : float >= 0, or function step -> float
        Likewise.
    groups : tuple of Group
        Which parameters have rates and decays of their own, or are frozen.
    step : int
        Updates done.
    state : dict
        The memory by kind and name of parameter, {"m": {name: array}, ...}, made of zeros when a name is
        first seen.
    """

    options: ClassVar[tuple[str, ...]] = ("weight_decay",)
    choices: ClassVar[tuple[str, ...]] = ()  # options that are no numbers, or whole ones
    slots: ClassVar[tuple[str, ...]] = ()
    squares = False  # whether it remembers squares of gradients
    partial = False  # whether some parameters have the first slot alone

    def __init__(self, lr: Rate, weight_decay: Rate, groups: Iterable[Group]) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        if not callable(lr):
            self.lr = _checks.real_number("lr", lr, 0)
        if not callable(weight_decay):
            self.weight_decay = _checks.real_number("weight_decay", weight_decay, 0)
        self.groups = checked(groups)
        self._assigned: tuple[Any, dict[str, Group]] | None = None
        self.step = 0
        self.state: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}

    def update(
        self, params: dict[str, Any], grads: dict[str, Any], clip_norm: float | None = None
    ) -> float | None:
        """Do one update of every parameter, in place.

        Parameters
        ----------
        params : dict
            float32 or float64 arrays by name, changed in place. A plain number is replaced in the dict.
        grads : dict
            For each name in `params`, and no other, the gradient: an array of the same shape and dtype; a
            number for a number; or a `RowSparse`, for which only the rows that it names, and their state,
            change ("lazy"), by weight decay too. An element the square of whose gradient is infinite, where
            the optimizer remembers squares, is left as it is: it would never move again.
        clip_norm : float > 0 or None
            Where the L2 norm of all gradients together exceeds it, they are scaled down to it, in place
            (Pascanu, Mikolov, Bengio 2013). A number among the gradients counts, and is scaled for the
            update alone.

        Returns
        -------
        float or None
            With `clip_norm` the norm that the gradients had.

        Raises
        ------
        TypeError, ValueError
            If anything does not fit; then nothing has changed.
        FloatingPointError
            If the norm that `clip_norm` limits is infinite or NaN; then likewise.
        """
        lr, weight_decay = self.rate(), self.decay()
        entries = self._entries(params, grads)
        norm = None if clip_norm is None else clipped([g for _, _, g, _ in entries], clip_norm)
        groups, matrices = self._groups(params), self._matrices(params)
        # An overflow gives inf, as in any kernel, and never an exception half-way.
        with np.errstate(all="ignore"):
            for name, p, g, state in entries:
                for slot, memory in zip(self.slots, state, strict=False):
                    self.state[slot][name] = memory
                group = groups.get(name, PLAIN)
                rate, decay = lr * group.lr, weight_decay * group.decay
                if isinstance(g, RowSparse):
                    rows = g.rows
                    p_rows, state_rows = p[rows], [memory[rows] for memory in state]
                    self._step_finite(p_rows, g.values, state_rows, rate, decay)
                    p[rows] = p_rows
                    for memory, changed in zip(state, state_rows, strict=True):
                        memory[rows] = changed
                elif name in matrices:
                    self._step_matrix(p, g, state, rate, decay)
                else:
                    memories = [np.atleast_1d(m) for m in state]
                    self._step_finite(np.atleast_1d(p), np.atleast_1d(g), memories, rate, decay)
                if not isinstance(params[name], np.ndarray):
                    params[name] = p[()] if isinstance(params[name], np.generic) else float(p)
        self.step += 1
        return norm

    def rate(self, step: int | None = None) -> float:
        """Return the learning rate of update `step`; None: of the next one.

        TypeError or ValueError unless it is a number >= 0.
        """
        return _checks.scheduled("lr", self.lr, self.step if step is None else step)

    def decay(self, step: int | None = None) -> float:
        """Return the weight decay of update `step`; None: of the next one. Errors are those of `rate`."""
        return _checks.scheduled("weight_decay", self.weight_decay, self.step if step is None else step)

    def _entries(self, params: Any, grads: Any) -> list[tuple[str, Array, Any, list[Array]]]:
        """Return (name, parameter, gradient, state) of every entry, checked, nothing changed yet."""
        for name, value in (("params", params), ("grads", grads)):
            if not isinstance(value, dict):
                raise TypeError(f"{name} must be a dict, got {_checks.shown(value)}")
        frozen = {name for name, group in self._groups(params).items() if group.frozen}
        odd_ones = (params.keys() ^ grads.keys()) - frozen
        if odd_ones:
            odd = next(iter(odd_ones))
            here, there = ("params", "grads") if odd in params else ("grads", "params")
            raise ValueError(
                f"params and grads must have the same names: {odd!r} is in {here}, not in {there}"
            )
        entries, matrices = [], self._matrices(params)
        for name, param in params.items():
            if name in frozen:
                continue
            p = _parameter(f"params[{name!r}]", param)
            g = _gradient(f"grads[{name!r}]", grads[name], p)
            whole = name in matrices and not isinstance(g, RowSparse)
            state = [self.state[slot].get(name) for slot in (self.slots[:1] if whole else self.slots)]
            for memory in state:
                if memory is not None and (memory.shape != p.shape or memory.dtype != p.dtype):
                    was = _checks.shown(memory)
                    raise ValueError(f"params[{name!r}] must be what it was, {was}, got {_checks.shown(p)}")
            entries.append((name, p, g, [np.zeros(p.shape, p.dtype) if m is None else m for m in state]))
        return entries

    def trained(self, params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values, by name, of those parameters that are not frozen."""
        groups = self._groups(params)
        return {name: value for name, value in values.items() if not groups.get(name, PLAIN).frozen}

    def _groups(self, params: Mapping[str, Any]) -> dict[str, Group]:
        """Return what the groups of each parameter come to; ValueError if a pattern fits none."""
        if not self.groups:
            return {}
        key = self.groups, [(name, np.ndim(p)) for name, p in params.items()]
        if self._assigned is None or self._assigned[0] != key:
            self._assigned = key, assigned(self.groups, params)
        return self._assigned[1]

    def _matrices(self, params: Mapping[str, Any]) -> frozenset[str]:
        """Return the names of those that are updated as a whole, unless their gradients are row-sparse."""
        return frozenset()

    def _step_matrix(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        """Update one of these and its state, which is the first slot's alone, in place."""
        raise NotImplementedError

    def _step_finite(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        """Update one parameter and its state in place, but where the square of its gradient is infinite."""
        if not self.squares or not np.isinf(g * g).any():
            return self._step(p, g, state, lr, decay)
        fits = ~np.isinf(g * g)
        arrays = [p, *state]
        p_part, *state_part = parts = [a[fits] for a in arrays]
        self._step(p_part, g[fits], state_part, lr, decay)
        for array, part in zip(arrays, parts, strict=True):
            array[fits] = part

    def _step(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        """Update one parameter and its state in place."""
        self._apply(p, g + decay * p if decay else g, state, lr)

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        """Apply the optimizer's formula, in place; `g` has the weight decay in it, and is not changed."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return {"optimizer": class, "step": updates done, "state": {slot: {name: array}}}, all copied."""
        state = {slot: {name: m.copy() for name, m in memory.items()} for slot, memory in self.state.items()}
        return {"optimizer": type(self).__name__, "step": self.step, "state": state}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Copy what `state_dict` returned; TypeError or ValueError, and no change, if it does not fit."""
        if not isinstance(d, dict) or not d.keys() >= {"optimizer", "step", "state"}:
            raise ValueError(f"d must be a dict with optimizer, step and state, got {_checks.shown(d)}")
        if d["optimizer"] != type(self).__name__:
            raise ValueError(
                f"d must be the state of {type(self).__name__}, got that of {_checks.shown(d['optimizer'])}"
            )
        step = _checks.integer("d['step']", d["step"], 0)
        given = d["state"]
        if not isinstance(given, dict) or given.keys() != set(self.slots):
            raise ValueError(f"d['state'] must have the entries {self.slots}, got {_checks.shown(given)}")
        state: dict[str, dict[str, Array]] = {}
        for slot in self.slots:
            if not isinstance(given[slot], dict):
                raise TypeError(f"d['state'][{slot!r}] must be a dict, got {_checks.shown(given[slot])}")
            state[slot] = {}
            for name, memory in given[slot].items():
                what = f"d['state'][{slot!r}][{name!r}]"
                state[slot][name] = np.array(_checks.parameter(what, memory, np.ndim(memory)))
        first = state[self.slots[0]] if self.slots else {}
        for slot in self.slots[1:]:
            names = first.keys() & state[slot].keys() if self.partial else first
            if {n: (m.shape, m.dtype) for n, m in state[slot].items()} != {
                n: (first[n].shape, first[n].dtype) for n in names
            }:
                raise ValueError(
                    f"d['state'][{slot!r}] must have the names, shapes and dtypes of {self.slots[0]!r}"
                )
        self.step, self.state = step, state

    def config(self) -> dict[str, Any]:
        """Return {"optimizer": class, "lr": number or schedule's dict, option: value, ...}, fit for JSON.

        Raises TypeError if `lr` or `weight_decay` is a plain function.
        """
        options = {name: schedules.rate_to_json(getattr(self, name), name) for name in ("lr", *self.options)}
        choices = {name: getattr(self, name) for name in self.choices}
        groups = {"groups": [group.config() for group in self.groups]} if self.groups else {}
        return {"optimizer": type(self).__name__} | options | choices | groups

    def __repr__(self) -> str:
        """Return the class, its learning rate and its options."""
        names = ("lr", *self.options, *self.choices, *(["groups"] if self.groups else []))
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({options})"


def l2_norm(arrays: list[Array], sum_of_squares: Callable[[list[Array]], float]) -> float:
    """Return the norm of all numbers together, finite wherever it can be."""
    with np.errstate(over="ignore"):
        squares = sum_of_squares(arrays)
    if not math.isinf(squares):
        return math.sqrt(squares)
    largest = max(float(np.abs(a).max(initial=0)) for a in arrays)
    if not largest < math.inf:
        return largest
    return largest * math.sqrt(sum_of_squares([a / largest for a in arrays]))


def sum_of_squares(arrays: list[Array]) -> float:
    """Return the sum of the squares of all numbers."""
    return sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)


def clipped(grads: list[Any], clip_norm: float) -> float:
    """Scale gradients down to a norm, in place, where theirs is larger; return theirs."""
    limit = _checks.real_number("clip_norm", clip_norm, 0, None, "(]")
    arrays = [g.values if isinstance(g, RowSparse) else g for g in grads]
    for a in arrays:
        if not a.flags.writeable:
            raise ValueError(
                f"grads must be writeable with clip_norm, got {_checks.shown(a)}, which is read-only"
            )
    norm = l2_norm(arrays, sum_of_squares)
    if not math.isfinite(norm):
        raise FloatingPointError(f"the norm of the gradients is {norm}: nothing has changed")
    if norm > limit:
        for a in arrays:
            a *= limit / norm
    return norm


def _parameter(what: str, param: Any) -> Array:
    """Return a parameter as an array to change in place; a number as a new array without dimensions."""
    if not isinstance(param, np.ndarray):
        _checks.real_number(what, param)
        return np.array(param, dtype=np.float32 if isinstance(param, np.float32) else np.float64)
    if param.dtype not in _checks.FLOATS:
        raise TypeError(f"{what} must be float32 or float64, got dtype {param.dtype}")
    if not param.flags.writeable:
        raise ValueError(f"{what} must be writeable")
    return param


def _gradient(what: str, grad: Any, p: Array) -> Any:
    """Return the gradient of a parameter, checked."""
    if p.ndim == 0 and not isinstance(grad, (np.ndarray, RowSparse)):
        grad = np.array(_checks.real_number(what, grad, -np.inf, np.inf), dtype=p.dtype)
    if not isinstance(grad, (np.ndarray, RowSparse)):
        raise TypeError(f"{what} must be an array, got {_checks.shown(grad)}")
    if grad.shape != p.shape:
        raise ValueError(f"{what} must have its parameter's shape {p.shape}, got {grad.shape}")
    if grad.dtype != p.dtype:
        raise TypeError(f"{what} must have its parameter's dtype {p.dtype}, got {grad.dtype}")
    return grad


class SGD(Optimizer):
    """Stochastic gradient descent: p <- p - lr g.

    Parameters
    ----------
    lr, weight_decay : float >= 0 or schedule
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.
    """

    @_with_lr
    def __init__(self, lr: Rate = 0.01, *, weight_decay: Rate = 0.0, groups: Iterable[Group] = ()) -> None:
        super().__init__(lr, weight_decay, groups)

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        p -= lr * g


class Momentum(Optimizer):
    """Momentum: v <- momentum v - lr g; p <- p + v.

    Parameters
    ----------
    lr : float >= 0 or schedule
    momentum : float in [0, 1]
    weight_decay : float >= 0 or schedule
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.
    """

    options = ("momentum", "weight_decay")
    slots = ("v",)

    @_with_lr
    def __init__(
        self,
        lr: Rate = 0.01,
        momentum: float = 0.9,
        *,
        weight_decay: Rate = 0.0,
        groups: Iterable[Group] = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        self.momentum = _checks.real_number("momentum", momentum, 0, 1)

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        (v,) = state
        v *= self.momentum
        v -= lr * g
        p += v


class Nesterov(Momentum):
    """Nesterov's accelerated gradient: v <- momentum v - lr g; p <- p + momentum v - lr g, with the new v.

    p is the point one step ahead, where the gradient is taken (Bengio, Boulanger-Lewandowski, Pascanu 2013).
    With the old v the step is momentum^2 v - (1 + momentum) lr g. Parameters as for `Momentum`.
    """

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        (v,) = state
        v *= self.momentum
        v -= lr * g
        p += self.momentum * v - lr * g


class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan, Singer 2011): h <- h + g^2; p <- p - lr g / (sqrt(h) + eps).

    Parameters
    ----------
    lr : float >= 0 or schedule
    eps : float > 0
        Outside the root.
    weight_decay : float >= 0 or schedule
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.
    """

    options = ("eps", "weight_decay")
    slots = ("h",)
    squares = True

    @_with_lr
    def __init__(
        self, lr: Rate = 0.01, eps: float = 1e-7, *, weight_decay: Rate = 0.0, groups: Iterable[Group] = ()
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        self.eps = _checks.real_number("eps", eps, 0, None, "(]")

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        (h,) = state
        h += g * g
        p -= lr * g / (np.sqrt(h) + normal(self.eps, h))


class RMSProp(Optimizer):
    """RMSProp (Tieleman, Hinton 2012): h <- d h + (1 - d) g^2; p <- p - lr g / (sqrt(h) + eps).

    Parameters
    ----------
    lr : float >= 0 or schedule
    decay_rate : float in [0, 1]
        d.
    eps : float > 0
        Outside the root.
    weight_decay : float >= 0 or schedule
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.
    """

    options = ("decay_rate", "eps", "weight_decay")
    slots = ("h",)
    squares = True

    @_with_lr
    def __init__(
        self,
        lr: Rate = 0.01,
        decay_rate: float = 0.99,
        eps: float = 1e-7,
        *,
        weight_decay: Rate = 0.0,
        groups: Iterable[Group] = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        self.decay_rate = _checks.real_number("decay_rate", decay_rate, 0, 1)
        self.eps = _checks.real_number("eps", eps, 0, None, "(]")

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        (h,) = state
        h *= self.decay_rate
        h += (1 - self.decay_rate) * (g * g)
        p -= lr * g / (np.sqrt(h) + normal(self.eps, h))


class Adam(Optimizer):
    """Adam (Kingma, Ba 2015, Algorithm 1).

        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
        p <- p - lr mhat / (sqrt(vhat) + eps)        mhat = m / (1 - beta1^t)        vhat = v / (1 - beta2^t)

    Parameters
    ----------
    lr : float >= 0 or schedule
    beta1, beta2 : float in [0, 1)
    eps : float > 0
        Outside the root, after the bias correction.
    weight_decay : float >= 0 or schedule
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.
    """

    options: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "eps", "weight_decay")
    slots = ("m", "v")
    squares = True

    @_with_lr
    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        groups: Iterable[Group] = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        self.beta1 = _checks.real_number("beta1", beta1, 0, 1, "[)")
        self.beta2 = _checks.real_number("beta2", beta2, 0, 1, "[)")
        self.eps = _checks.real_number("eps", eps, 0, None, "(]")

    def _apply(self, p: Array, g: Array, state: list[Array], lr: float) -> None:
        m, v = state
        t = self.step + 1
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * (g * g)
        mhat = m / (1 - self.beta1**t)
        vhat = v / (1 - self.beta2**t)
        p -= lr * mhat / (np.sqrt(vhat) + normal(self.eps, v))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019).

    First p <- p - lr weight_decay p, then Adam's update by g alone. Parameters as for `Adam`.
    """

    @_with_lr
    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        weight_decay: Rate = 0.01,
        groups: Iterable[Group] = (),
    ) -> None:
        super().__init__(lr, beta1, beta2, eps=eps, weight_decay=weight_decay, groups=groups)

    def _step(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        p -= lr * decay * p
        self._apply(p, g, state, lr)


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for the matrices within a network, AdamW for the rest.

        m <- momentum m + (1 - momentum) g        u = momentum m + (1 - momentum) g with nesterov, else m
        X <- u / (|u| + 1e-7), then ns_steps times X <- 3.4445 X - 4.7750 (X X') X + 2.0315 (X X')^2 X
        W <- W - lr weight_decay W - lr sqrt(max(1, n_out / n_in)) X

    The iteration, a quintic one after Newton and Schulz, takes the singular values of u, but for those next
    to nothing, to between 0.7 and 1.2 or so, and leaves its singular vectors as they are. The root, for W of
    shape (n_in, n_out), is that of https://github.com/KellerJordan/Muon, max(1, rows / cols)^0.5 of matrices
    (n_out, n_in). A matrix the squares of whose u add up to infinity in its dtype, or to no number, stays as
    it is, with its momentum.

    Muon's are the parameters of two dimensions whose names end in "W", but for the last of each network: the
    weights of all `Affine` layers but the last. (A network is what has the same name before the number of its
    layer, as in "actor.0.W"; a layer by itself is its own last.) AdamW's are all others, embeddings among
    them, whose gradients are row-sparse; its learning rate is adamw_factor times lr, so that a schedule
    drives both.

    Parameters
    ----------
    lr : float >= 0 or schedule
        Of Muon's matrices.
    momentum : float in [0, 1]
    nesterov : bool
    ns_steps : int in [1, 100]
    weight_decay : float >= 0 or schedule
        Decoupled, in both.
    adamw_factor : float >= 0
        With the default rate AdamW's is 3e-4.
    beta1, beta2 : float in [0, 1)
        AdamW's.
    eps : float > 0
        AdamW's.
    matrices : list of str or None
        Patterns, as of a `Group`, of the names of Muon's parameters instead: ["*.W"] takes the last layer in,
        ["[1-9]*.W"] leaves the first one out. Those that fit and have no two dimensions stay AdamW's.
    groups : iterable of Group
        Rates and decays of parameters' own, and frozen ones, by name.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these; from the first update, if no parameter of two dimensions fits a
        pattern.
    """

    options = ("momentum", "adamw_factor", "beta1", "beta2", "eps", "weight_decay")
    choices = ("nesterov", "ns_steps", "matrices")
    partial = True

    @_with_lr
    def __init__(
        self,
        lr: Rate = 0.02,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: Rate = 0.0,
        adamw_factor: float = 0.015,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        matrices: Iterable[str] | None = None,
        groups: Iterable[Group] = (),
    ) -> None:
        super().__init__(lr, beta1, beta2, eps=eps, weight_decay=weight_decay, groups=groups)
        self.momentum = _checks.real_number("momentum", momentum, 0, 1)
        self.nesterov = _checks.flag("nesterov", nesterov)
        self.ns_steps = _checks.integer("ns_steps", ns_steps, 1, 100)
        self.adamw_factor = _checks.real_number("adamw_factor", adamw_factor, 0)
        self.matrices = None if matrices is None else _patterns("matrices", matrices)

    def _matrices(self, params: Mapping[str, Any]) -> frozenset[str]:
        names = tuple(name for name, p in params.items() if np.ndim(p) == 2)
        return within(names) if self.matrices is None else fitting(tuple(self.matrices), names)

    def _step(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        super()._step(p, g, state, self.adamw_factor * lr, decay)

    def _step_matrix(self, p: Array, g: Array, state: list[Array], lr: float, decay: float) -> None:
        (m,) = state
        new = self.momentum * m + (1 - self.momentum) * g
        u = self.momentum * new + (1 - self.momentum) * g if self.nesterov else new
        if not sum_of_squares([u]) <= np.finfo(p.dtype).max:
            return
        m[...] = new
        p -= lr * decay * p
        if p.size:
            p -= lr * math.sqrt(max(1, p.shape[1] / p.shape[0])) * orthogonalized(u, self.ns_steps)


def orthogonalized(u: Array, steps: int) -> Array:
    """Return a matrix of the same singular vectors as `u`, its singular values near one (see `Muon`)."""
    x = u if u.shape[0] >= u.shape[1] else u.T
    x = x / (math.sqrt(sum_of_squares([u])) + 1e-7)
    for _ in range(steps):
        gram = x.T @ x
        x = x @ (3.4445 * np.eye(len(gram), dtype=u.dtype) - 4.7750 * gram + 2.0315 * (gram @ gram))
    return x if u.shape[0] >= u.shape[1] else x.T


@lru_cache(256)
def within(names: tuple[str, ...]) -> frozenset[str]:
    """Return those of the names of matrices that are W's, but the last of each network."""
    found, last = [], {}
    for name in names:
        *place, own = str(name).split(".")
        if own == "W":
            found.append(name)
            last[tuple(takewhile(lambda part: not part.isdigit(), place))] = name
    return frozenset(found) - frozenset(last.values())


@lru_cache(256)
def fitting(patterns: tuple[str, ...], names: tuple[str, ...]) -> frozenset[str]:
    """Return those of the names of matrices that fit a pattern; ValueError if one fits none."""
    found: set[str] = set()
    for pattern in patterns:
        fit = [name for name in names if fnmatchcase(str(name), pattern)]
        if not fit:
            shown = ", ".join(map(str, names)) or "none"
            raise ValueError(
                f"matrices: the pattern {pattern!r} must fit a parameter of two dimensions, got {shown}"
            )
        found.update(fit)
    return frozenset(found)


def _patterns(what: str, given: Any) -> tuple[str, ...]:
    """Return patterns as a tuple; TypeError if they are none."""
    patterns = tuple(given) if isinstance(given, (list, tuple)) else ()
    if not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise TypeError(f"{what} must be a list of texts, or None, got {_checks.shown(given)}")
    return patterns


CLASSES: dict[str, type[Any]] = {
    c.__name__: c for c in (SGD, Momentum, Nesterov, AdaGrad, RMSProp, Adam, AdamW, Muon)
}


def from_config(config: Any, classes: Mapping[str, type[Any]] = CLASSES) -> Any:
    """Return a new optimizer as `Optimizer.config` described it; ValueError if that is none of `classes`."""
    arguments = dict(config) if isinstance(config, dict) else {}
    name = arguments.pop("optimizer", None)
    if not isinstance(name, str) or name not in classes:
        raise ValueError(
            f"config must be a dict with an optimizer of {', '.join(classes)}, got {_checks.shown(config)}"
        )
    try:
        groups = [Group(**group) for group in arguments.pop("groups", [])]
        arguments.setdefault("lr", None)  # which is refused
        options = {key: schedules.rate_from_json(value) for key, value in arguments.items()}
        return classes[name](**options, groups=groups)
    except TypeError as error:
        raise ValueError(f"config does not describe {name}: {error}") from None
