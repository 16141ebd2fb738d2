"""The layers, in NumPy: forward and backward of each, as a textbook has them.

A layer is eager: `forward` computes and remembers what `backward` needs, `backward` takes the gradient of the
loss with respect to the output (`dout`), leaves the gradients of the parameters in `grads` and returns the
gradient with respect to the input. What forward was given and returned must not be changed before backward,
which may look at it again. N is the number of rows of a batch; sums and means run over it. Inputs are
never modified; the dtype is that of the parameters or, in a layer without any, of the input (float32 for what
is neither float32 nor float64).
"""

from __future__ import annotations

import copy
import math
import os
import weakref
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from .. import _checks
from .. import init as initial
from ..schedules import rate_from_json, rate_to_json
from ..sparse import RowSparse
from .philox import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from typing_extensions import Self

    from .._checks import Array

__all__ = [
    "GELU",
    "SELU",
    "Affine",
    "BatchNorm",
    "Dropout",
    "Embedding",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Mish",
    "RMSNorm",
    "ReLU",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "dropout_threshold",
    "each_layer",
    "erfc",
    "place_of",
    "sigmoid",
    "tuple_of_layers",
]


P = ParamSpec("P")

SELU_L, SELU_A = 1.0507009873554804934, 1.6732632423543772848


def of_arrays(init: Callable[P, None]) -> Callable[P, None]:
    """Return a constructor that refuses sizes in the place of arrays and names `create`, which takes them."""

    @wraps(init)
    def checked(*args: P.args, **options: P.kwargs) -> None:
        self, *given = args
        if given and isinstance(given[0], (int, np.integer)):
            name = type(self).__name__
            sizes = ", ".join(map(_checks.shown, given))
            raise TypeError(f"{name} takes arrays: a layer of sizes is made by {name}.create({sizes})")
        init(*args, **options)

    return checked


def _param(name: str) -> Any:
    """Return a property over `params[name]`; what is assigned must have the old shape and dtype."""

    def get(self: Layer) -> Array:
        return self.params[name]

    def put(self: Layer, value: Any) -> None:
        old = self.params[name]
        self.params[name] = _checks.parameter(name, value, old.ndim, like=old, shape=old.shape)

    return property(get, put, doc=f'The parameter `params["{name}"]`.')


def _grad(name: str) -> Any:
    """Return a property over `grads[name]`, None before the first backward."""
    return property(
        lambda self: self.grads.get(name),
        doc=f'The gradient `grads["{name}"]`; None before the first backward.',
    )


class Passed:
    """What the passes of a network share: its layers, which it does not keep alive, and the dtype of x."""

    def __init__(self, layers: tuple[Any, ...], dtype: np.dtype[Any] | None) -> None:
        self._layers = [weakref.ref(layer) for layer in layers]
        self.dtype = dtype

    def layers(self) -> tuple[Any, ...]:
        """Return the layers; none where one is no more."""
        layers = tuple(layer() for layer in self._layers)
        return () if None in layers else layers

    def __getstate__(self) -> tuple[Any, ...]:
        return self.layers(), self.dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]


class Pass:
    """A pass through a network that has left nothing in its layers but itself.

    A layer that is asked for its backward has it repeated, layer by layer; nothing else changes by that.
    `counters` are those that the layers of dropout had before it.
    """

    __slots__ = ("counters", "of", "train", "x")

    def __init__(self, of: Passed, x: Any, train: bool, counters: list[tuple[int, int, int]]) -> None:
        self.of, self.x, self.train, self.counters = of, x, train, counters

    def repeat(self) -> None:
        """Leave in each layer what its backward needs."""
        layers = self.of.layers()
        if not layers:
            raise RuntimeError("backward after the end of the network that the last forward went through")
        every = [layer for _, layer in each_layer(layers)]
        statistics = [
            (getattr(layer, name), getattr(layer, name).copy())
            for layer in every
            for name in ("running_mean", "running_var")
            if hasattr(layer, name)
        ]
        dropouts = [layer for layer in every if hasattr(layer, "stream")]
        now = counters_of(dropouts)
        _count(dropouts, self.counters)
        try:
            x = self.x if self.of.dtype is None else _checks.float_array("x", self.x, self.of.dtype)
            for layer in layers:
                x = layer.forward(x, self.train)
        finally:
            _count(dropouts, now)
            for array, before in statistics:
                array[...] = before


def counters_of(dropouts: Iterable[Any]) -> list[tuple[int, int, int]]:
    """Return what the masks of layers of dropout are drawn from."""
    return [(layer.seed, layer.stream, layer.step) for layer in dropouts]


def _count(dropouts: Iterable[Any], counters: list[tuple[int, int, int]]) -> None:
    for layer, (seed, stream, step) in zip(dropouts, counters, strict=True):
        layer.seed, layer.stream, layer.step = seed, stream, step


def each_layer(layers: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what the names of each layer's arrays begin with, "0.", and the layer; a block before its own."""
    for i, layer in enumerate(layers):
        name = f"{prefix}{i}."
        yield name, layer
        if isinstance(layer, Residual):
            yield from each_layer(layer.layers, name)


def place_of(name: str) -> str:
    """Return where a layer stands whose arrays' names begin with `name`: "layers[0].layers[1]" for "0.1."."""
    return f"layers[{'].layers['.join(name[:-1].split('.'))}]"


def tuple_of_layers(layers: Any, known: Iterable[type] = ()) -> tuple[Any, ...]:
    """Return what can be passed through in order: at least one layer, none twice; TypeError or ValueError.

    The forward of layers of `known` classes is not looked at.
    """
    try:
        several = tuple(layers)
    except TypeError:
        raise TypeError(f"layers must be an iterable of layers, got {_checks.shown(layers)}") from None
    if not several:
        raise ValueError("layers must hold at least one layer")
    for i, layer in enumerate(several):
        methods = (getattr(layer, name, None) for name in ("forward", "backward"))
        if isinstance(layer, type) or not all(map(callable, methods)):
            raise TypeError(f"layers[{i}] must have forward and backward, got {_checks.shown(layer)}")
        if type(layer) not in known:
            _check_forward(i, layer)
        if hasattr(layer, "architecture"):
            raise TypeError(f"layers[{i}] is a network: pass its layers, *net.layers")
    every = [layer for _, layer in each_layer(several)]
    if len({id(layer) for layer in every}) < len(every):
        raise ValueError("layers must hold each layer once")
    return several


def _check_forward(i: int, layer: Any) -> None:
    """Refuse a layer whose forward does not take `train`: TypeError."""
    import inspect

    try:
        inspect.signature(layer.forward).bind(None, True)
    except TypeError:
        raise TypeError(
            f"layers[{i}].forward must take (x, train), got the forward of a {type(layer).__name__}, which "
            f"takes {inspect.signature(layer.forward)}"
        ) from None
    except ValueError:  # without a signature
        pass


class Layer:
    """Base of the layers.

    Attributes
    ----------
    params : dict
        The parameters by name: the live arrays, which optimizers change in place.
    grads : dict
        Their gradients; empty before the first backward, then the same arrays, overwritten by each.
    """

    takes_indices = False

    @property
    def trainable(self) -> bool:
        """True: there are no frozen layers, and ValueError says so to whoever assigns anything else."""
        return True

    @trainable.setter
    def trainable(self, value: Any) -> None:
        _checks.trainable(f"{type(self).__name__}.trainable", value)

    def __init__(self, **params: Array) -> None:
        self.params: dict[str, Array] = params
        self.grads: dict[str, Any] = {}
        self._saved: Any = None

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return the layer's output for `x`; `train` matters to BatchNorm and Dropout."""
        raise NotImplementedError

    def backward(self, dout: Any) -> Any:
        """Return the gradient with respect to the last x, given that of the output; fill `grads`.

        Raises RuntimeError before any forward, ValueError if `dout` has not the output's shape.
        """
        raise NotImplementedError

    def backward_params(self, dout: Any) -> None:
        """Fill `grads` only: for the first layer of a network, where nobody asks for the input's gradient."""
        self.backward(dout)

    def copy(self) -> Self:
        """Return a layer of its own with the same parameters and state, but without gradients."""
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if name == "params":
                twin.params = {key: p.copy() for key, p in value.items()}
            elif isinstance(value, np.ndarray):
                setattr(twin, name, value.copy())
        twin.grads, twin._saved = {}, None
        return twin

    def config(self) -> dict[str, Any]:
        """Return what `from_config` makes a layer of this form from, as JSON can hold it."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer of the form that `config` describes, its parameters zeros (a scale: ones)."""
        return cls(**config)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The dtype of the parameters; None without any."""
        return next((p.dtype for p in self.params.values()), None)

    def take_up(self) -> None:
        """Have at hand what backward needs where a network has kept it."""
        if type(self._saved) is Pass:
            self._saved.repeat()

    def _recall(self) -> Any:
        self.take_up()
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}: backward before forward")
        return self._saved

    def _grad_out(self, name: str) -> Array:
        """Return the array that holds the gradient of a parameter, new for the first backward."""
        if name not in self.grads:
            self.grads[name] = np.empty_like(self.params[name])
        return self.grads[name]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        """Return the class and its configuration."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


def matched(dout: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return `dout` in the dtype of the output; ValueError unless it has the output's shape."""
    array = _checks.float_array("dout", dout, dtype)
    if array.shape != shape:
        raise ValueError(f"dout must have the output's shape {shape}, got {array.shape}")
    return array


def normal(eps: float, like: Array) -> float:
    """Return what keeps a divisor from zero, at least the smallest normal number of an array's dtype."""
    return max(eps, float(np.finfo(like.dtype).tiny))


def flattened(x: Array, features: int) -> Array:
    """Return x (N, ...) as (N, features); ValueError if it has not as many features."""
    if x.ndim == 0 or math.prod(x.shape[1:]) != features:
        one = "; a single row is x[None]" if x.shape == (features,) else ""
        raise ValueError(
            f"x must have shape (N, ...) with {features} features a row, got shape {x.shape}{one}"
        )
    return x.reshape(len(x), features)


class Affine(Layer):
    """The fully connected layer, y = x W + b.

        dx = dout W^T        dW = x^T dout        db = sum(dout)

    Parameters
    ----------
    W : float32 or float64 array, shape (n_in, n_out)
        Kept, not copied: an optimizer changes it in place.
    b : array of the same dtype, shape (n_out,), or None
        None: zeros, to be trained.
    """

    W, b, dW, db = _param("W"), _param("b"), _grad("W"), _grad("b")

    @of_arrays
    def __init__(self, W: Any, b: Any = None) -> None:
        W = _checks.parameter("W", W, 2)
        b = np.zeros(W.shape[1], W.dtype) if b is None else b
        super().__init__(W=W, b=_checks.parameter("b", b, 1, like=W, shape=W.shape[1:]))

    @classmethod
    def create(
        cls,
        n_in: int,
        n_out: int,
        *,
        init: Any = "he",
        seed: Any = None,
        rng: Any = None,
        dtype: Any = np.float32,
        bias: bool = True,
    ) -> Self:
        """Return a layer with initial weights and b = 0.

        Parameters
        ----------
        n_in, n_out : int >= 1
        init : str, float or callable
            See `fastnn.init.resolve`.
        seed : None, int or numpy.random.Generator
            Draws them; also called `rng`.
        dtype : float32 or float64
        bias : True
            Every layer has one. It stays zero in a group that is frozen: Adam(groups=[Group("0.b",
            frozen=True)]), for the first layer of a network.

        Raises
        ------
        TypeError, ValueError
            If an argument is none of these.
        """
        if not _checks.flag("bias", bias):
            raise ValueError(
                "bias must be True: every Affine has one, which stays zero if the optimizer gets "
                'groups=[Group("0.b", frozen=True)], with the place of the layer'
            )
        n_in = _checks.size("n_in", n_in)
        n_out = _checks.size("n_out", n_out)
        dtype = _checks.float_dtype("dtype", dtype)
        W = initial.resolve(init)(n_in, n_out, _checks.seeded(seed, rng), dtype)
        return cls(W, np.zeros(n_out, dtype))

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return x W + b, shape (N, n_out), for x (N, ...), which is flattened to (N, n_in)."""
        W, b = self.params["W"], self.params["b"]
        x = _checks.float_array("x", x, W.dtype)
        flat = flattened(x, W.shape[0])
        self._saved = x.shape, flat
        return flat @ W + b

    def backward_params(self, dout: Any) -> None:
        """Fill grads["W"] = x^T dout and grads["b"] = sum(dout); dout (N, n_out)."""
        _, x = self._recall()
        W = self.params["W"]
        dout = matched(dout, (len(x), W.shape[1]), W.dtype)
        np.matmul(x.T, dout, out=self._grad_out("W"))
        np.sum(dout, axis=0, out=self._grad_out("b"))

    def backward(self, dout: Any) -> Array:
        """Return dout W^T in the shape of x; fill `grads`."""
        self.backward_params(dout)
        shape, _ = self._recall()
        W = self.params["W"]
        dx: Array = np.reshape(np.asarray(dout, dtype=W.dtype) @ W.T, shape)
        return dx

    def config(self) -> dict[str, Any]:
        """Return n_in, n_out and dtype."""
        n_in, n_out = self.params["W"].shape
        return {"n_in": n_in, "n_out": n_out, "dtype": str(self.dtype)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer of the form that `config` describes, all zeros."""
        return cls.create(**config, init=_zeros)

    @classmethod
    def shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return the shapes of W and b in the layer that `config` describes."""
        return {"W": (config["n_in"], config["n_out"]), "b": (config["n_out"],)}


class BatchNorm(Layer):
    """Batch normalization (Ioffe, Szegedy 2015), each of D features over the N rows of the batch.

        xhat = (x - mean) rstd        rstd = 1 / sqrt(var + eps)        y = gamma xhat + beta

    with the batch's mean and biased variance, sum((x - mean)^2) / N, in training and the running ones
    otherwise. In training

        dx = gamma rstd (dout - mean(dout) - xhat mean(dout xhat))
        dgamma = sum(dout xhat)        dbeta = sum(dout)
        running = momentum running + (1 - momentum) batch

    and after `train=False`, where the statistics are constants, dx = gamma rstd dout.

    Parameters
    ----------
    gamma, beta : float32 or float64 arrays, shape (D,)
        Kept, not copied.
    momentum : float in [0, 1]
        The share of the old running statistics that a batch leaves.
    running_mean, running_var : arrays, shape (D,), or None
        Where to start, copied; None: mean 0, variance 1.
    eps : float > 0
        Added to the variance, inside the root.

    Attributes
    ----------
    running_mean, running_var : arrays, shape (D,)
        Updated in place by each forward in training.
    """

    gamma, beta, dgamma, dbeta = _param("gamma"), _param("beta"), _grad("gamma"), _grad("beta")

    @of_arrays
    def __init__(
        self,
        gamma: Any,
        beta: Any,
        momentum: float = 0.9,
        running_mean: Any = None,
        running_var: Any = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        gamma = _checks.parameter("gamma", gamma, 1)
        super().__init__(gamma=gamma, beta=_checks.parameter("beta", beta, 1, like=gamma, shape=gamma.shape))
        self.momentum = _checks.real_number("momentum", momentum, 0, 1)
        self.eps = _checks.real_number("eps", eps, 0, None, "(]")
        self.running_mean = _statistic("running_mean", running_mean, gamma, 0)
        self.running_var = _statistic("running_var", running_var, gamma, 1)
        if (self.running_var < 0).any():
            raise ValueError(f"running_var must hold numbers >= 0, got {self.running_var.min()}")

    @classmethod
    def create(cls, n: int, *, momentum: float = 0.9, eps: float = 1e-5, dtype: Any = np.float32) -> Self:
        """Return a layer for n features with gamma = 1, beta = 0."""
        n = _checks.size("n", n)
        dtype = _checks.float_dtype("dtype", dtype)
        return cls(np.ones(n, dtype), np.zeros(n, dtype), momentum, eps=eps)

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return gamma xhat + beta in the shape of x (N, ...), which is flattened to (N, D).

        Raises ValueError in training for a batch of one row, the variance of which is 0, or of none.
        """
        gamma, beta = self.params["gamma"], self.params["beta"]
        x = _checks.float_array("x", x, gamma.dtype)
        flat = flattened(x, gamma.size)
        if train:
            if len(flat) < 2:
                raise ValueError(f"x must have at least 2 rows in training, got shape {x.shape}")
            mean = flat.mean(axis=0)
            centred = flat - mean
            var = np.mean(centred * centred, axis=0)
            for running, batch in ((self.running_mean, mean), (self.running_var, var)):
                running *= self.momentum
                running += (1 - self.momentum) * batch
        else:
            centred, var = flat - self.running_mean, self.running_var
        rstd = 1 / np.sqrt(var + normal(self.eps, var))
        xhat = centred * rstd
        self._saved = x.shape, xhat, rstd, train
        y: Array = np.reshape(gamma * xhat + beta, x.shape)
        return y

    def backward(self, dout: Any) -> Array:
        """Return the gradient with respect to x; fill grads["gamma"] and grads["beta"]."""
        shape, xhat, rstd, train = self._recall()
        gamma = self.params["gamma"]
        dout = matched(dout, shape, gamma.dtype).reshape(xhat.shape)
        dgamma = np.sum(dout * xhat, axis=0, out=self._grad_out("gamma"))
        dbeta = np.sum(dout, axis=0, out=self._grad_out("beta"))
        if train:
            dout = dout - dbeta / len(xhat) - xhat * (dgamma / len(xhat))
        dx: Array = np.reshape(gamma * rstd * dout, shape)
        return dx

    def config(self) -> dict[str, Any]:
        """Return n, momentum, eps and dtype."""
        n = self.params["gamma"].size
        return {"n": n, "momentum": self.momentum, "eps": self.eps, "dtype": str(self.dtype)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer of the form that `config` describes, as `create` does."""
        return cls.create(**config)

    @classmethod
    def shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return the shapes of parameters and statistics in the layer that `config` describes."""
        return dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), (config["n"],))


def _statistic(name: str, value: Any, like: Array, default: float) -> Array:
    """Return a copy of a running statistic; all `default` for None."""
    if value is None:
        return np.full(like.shape, default, like.dtype)
    array = np.array(_checks.float_array(name, value, like.dtype))
    if array.shape != like.shape:
        raise ValueError(f"{name} must have shape {like.shape}, got {array.shape}")
    return array


class _RowNorm(Layer):
    """Base of the layers that normalize each row of D features by itself, in training or not."""

    def __init__(self, eps: float, **params: Array) -> None:
        super().__init__(**params)
        self.eps = _checks.real_number("eps", eps, 0, None, "(]")

    def _rows(self, x: Any) -> tuple[Array, Array]:
        """Return x, and as rows (M, D); ValueError if it has not D features a row."""
        gamma = self.params["gamma"]
        x = _checks.float_array("x", x, gamma.dtype)
        if x.ndim == 0 or x.shape[-1] != gamma.size:
            raise ValueError(f"x must have shape (..., {gamma.size}), got shape {x.shape}")
        return x, x.reshape(-1, gamma.size)

    def config(self) -> dict[str, Any]:
        """Return n, eps and dtype."""
        return {"n": self.params["gamma"].size, "eps": self.eps, "dtype": str(self.dtype)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer of the form that `config` describes, as `create` does."""
        return cls.create(**config)

    @classmethod
    def create(cls, n: int, *, eps: float = 1e-5, dtype: Any = np.float32) -> Self:
        """Return a layer for n features."""
        raise NotImplementedError


class LayerNorm(_RowNorm):
    """Layer normalization (Ba, Kiros, Hinton 2016), of each row of D features.

        xhat = (x - mean) rstd        rstd = 1 / sqrt(var + eps)        y = gamma xhat + beta
        h = gamma dout        dx = rstd (h - mean(h) - xhat mean(h xhat))
        dgamma = sum(dout xhat)        dbeta = sum(dout)

    with means and the biased variance over the features of a row, and sums over the rows. x is (..., D).

    Parameters
    ----------
    gamma, beta : float32 or float64 arrays, shape (D,)
        Kept, not copied.
    eps : float > 0
        Added to the variance, inside the root.
    """

    gamma, beta, dgamma, dbeta = _param("gamma"), _param("beta"), _grad("gamma"), _grad("beta")

    @of_arrays
    def __init__(self, gamma: Any, beta: Any, *, eps: float = 1e-5) -> None:
        gamma = _checks.parameter("gamma", gamma, 1)
        beta = _checks.parameter("beta", beta, 1, like=gamma, shape=gamma.shape)
        super().__init__(eps, gamma=gamma, beta=beta)

    @classmethod
    def create(cls, n: int, *, eps: float = 1e-5, dtype: Any = np.float32) -> Self:
        """Return a layer for n features with gamma = 1, beta = 0."""
        n, dtype = _checks.size("n", n), _checks.float_dtype("dtype", dtype)
        return cls(np.ones(n, dtype), np.zeros(n, dtype), eps=eps)

    @classmethod
    def shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return the shapes of gamma and beta in the layer that `config` describes."""
        return dict.fromkeys(("gamma", "beta"), (config["n"],))

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return gamma xhat + beta in the shape of x (..., D)."""
        x, rows = self._rows(x)
        centred = rows - rows.mean(axis=1, keepdims=True)
        var = np.mean(centred * centred, axis=1, keepdims=True)
        rstd = 1 / np.sqrt(var + normal(self.eps, var))
        xhat = centred * rstd
        self._saved = x.shape, xhat, rstd
        y: Array = np.reshape(self.params["gamma"] * xhat + self.params["beta"], x.shape)
        return y

    def backward(self, dout: Any) -> Array:
        """Return the gradient with respect to x; fill grads["gamma"] and grads["beta"]."""
        shape, xhat, rstd = self._recall()
        gamma = self.params["gamma"]
        dout = matched(dout, shape, gamma.dtype).reshape(xhat.shape)
        np.sum(dout * xhat, axis=0, out=self._grad_out("gamma"))
        np.sum(dout, axis=0, out=self._grad_out("beta"))
        h = gamma * dout
        dx = rstd * (h - h.mean(axis=1, keepdims=True) - xhat * np.mean(h * xhat, axis=1, keepdims=True))
        return np.asarray(dx.reshape(shape))


class RMSNorm(_RowNorm):
    """Root mean square normalization (Zhang, Sennrich 2019), of each row of D features.

        xhat = x rstd        rstd = 1 / sqrt(mean(x^2) + eps)        y = gamma xhat
        h = gamma dout        dx = rstd (h - xhat mean(h xhat))        dgamma = sum(dout xhat)

    with means over the features of a row, and the sum over the rows. x is (..., D).

    Parameters
    ----------
    gamma : float32 or float64 array, shape (D,)
        Kept, not copied.
    eps : float > 0
        Added to the mean square, inside the root.
    """

    gamma, dgamma = _param("gamma"), _grad("gamma")

    @of_arrays
    def __init__(self, gamma: Any, *, eps: float = 1e-5) -> None:
        super().__init__(eps, gamma=_checks.parameter("gamma", gamma, 1))

    @classmethod
    def create(cls, n: int, *, eps: float = 1e-5, dtype: Any = np.float32) -> Self:
        """Return a layer for n features with gamma = 1."""
        return cls(np.ones(_checks.size("n", n), _checks.float_dtype("dtype", dtype)), eps=eps)

    @classmethod
    def shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return the shape of gamma in the layer that `config` describes."""
        return {"gamma": (config["n"],)}

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return gamma xhat in the shape of x (..., D)."""
        x, rows = self._rows(x)
        square = np.mean(rows * rows, axis=1, keepdims=True)
        rstd = 1 / np.sqrt(square + normal(self.eps, square))
        xhat = rows * rstd
        self._saved = x.shape, xhat, rstd
        y: Array = np.reshape(self.params["gamma"] * xhat, x.shape)
        return y

    def backward(self, dout: Any) -> Array:
        """Return the gradient with respect to x; fill grads["gamma"]."""
        shape, xhat, rstd = self._recall()
        gamma = self.params["gamma"]
        dout = matched(dout, shape, gamma.dtype).reshape(xhat.shape)
        np.sum(dout * xhat, axis=0, out=self._grad_out("gamma"))
        h = gamma * dout
        dx = rstd * (h - xhat * np.mean(h * xhat, axis=1, keepdims=True))
        return np.asarray(dx.reshape(shape))


def dropout_threshold(ratio: float) -> int:
    """Return round(ratio 2^32), at most 2^32 - 1: an element is kept if its random word is not below."""
    return min(round(ratio * 2**32), 2**32 - 1)


class Dropout(Layer):
    """Dropout (Srivastava et al. 2014): training drops (sets to 0) each element with probability `ratio`.

        inverted (usual):  y = mask x / (1 - ratio) in training,  y = x               otherwise
        classic:           y = mask x               in training,  y = (1 - ratio) x   otherwise

    and dx is dout times what y is x times. The mask is a pure function of (seed, step, stream, position in C
    order): element i is kept if Philox word i (`fastnn.reference.philox.words`) >= round(ratio 2^32), the
    same in float32 and float64.

    Parameters
    ----------
    ratio : float in [0, 1), or function step -> float
        A function, one of `fastnn.schedules` for instance, is called with the attribute `step`.
    inverted : bool
    seed : int in [0, 2**64) or None
        None: 64 bits from the operating system, or what `mlp` draws from its seed; a Trainer then puts its
        own seed in the place.

    Attributes
    ----------
    seed : int
    seeded : bool
        Whether a seed was given.
    step : int
        Forwards in training so far; a Trainer sets it before each step.
    stream : int
        0, or the layer's place in the network that it was last put in, so that layers of one seed drop
        different elements.
    first_row : int
        The place of the first row of x among the rows that the mask is for: 0, or a part's in its batch.

    A file of the network keeps all of these but the last, so that the masks to come are the same;
    `state_dict` does not.
    """

    def __init__(
        self,
        ratio: float | Callable[[int], float] = 0.5,
        *,
        inverted: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.ratio = ratio if callable(ratio) else _checks.real_number("ratio", ratio, 0, 1, "[)")
        self.inverted = _checks.flag("inverted", inverted)
        self.seeded = seed is not None
        self.seed = _checks.seed64("seed", seed) if self.seeded else int.from_bytes(os.urandom(8), "little")
        self.step = 0
        self.stream = 0
        self.first_row = 0
        self._kept: Any = None

    @property
    def mask(self) -> Array | None:
        """What the last forward in training kept: a bool array in the shape of x, or None before any."""
        kept: Array | None = self._kept
        return kept

    def ratio_at(self, step: int) -> float:
        """Return the ratio after so many forwards; TypeError or ValueError unless it is in [0, 1)."""
        return _checks.scheduled("ratio", self.ratio, step, 1, "[)")

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return a new array of the shape of x: elements dropped if `train`, scaled as `inverted` says."""
        x = _checks.float_array("x", x)
        ratio = self.ratio_at(self.step)
        scale = x.dtype.type(1)
        if train and self.inverted:
            scale = x.dtype.type(1 / (1 - ratio))
        elif not train and not self.inverted:
            scale = x.dtype.type(1 - ratio)
        mask = None
        if train:
            threshold = np.uint32(dropout_threshold(ratio))
            first = self.first_row * (x.size // max(1, len(x))) if self.first_row else 0
            keep = words(self.seed, self.step, self.stream, first + x.size)[first:] >= threshold
            self._kept = mask = keep.reshape(x.shape)
            self.step += 1
        self._saved = x.shape, x.dtype, mask, scale
        return self._scaled(x, mask, scale)

    def backward(self, dout: Any) -> Array:
        """Return dout, dropped and scaled as the last forward did with x."""
        shape, dtype, mask, scale = self._recall()
        return self._scaled(matched(dout, shape, dtype), mask, scale)

    @staticmethod
    def _scaled(a: Array, mask: Array | None, scale: Any) -> Array:
        scaled: Array = a * scale
        return scaled if mask is None else np.where(mask, scaled, a.dtype.type(0))

    def config(self) -> dict[str, Any]:
        """Return ratio, inverted, the seed, None if none was given, the one drawn then, and step."""
        seed = int(self.seed)
        given, drawn = (seed, None) if self.seeded else (None, seed)
        return {
            "ratio": rate_to_json(self.ratio, "ratio"),
            "inverted": self.inverted,
            "seed": given,
            "drawn": drawn,
            "step": int(self.step),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer that goes on with the masks of the one that `config` describes."""
        form = dict(config)  # of which the first files had no more than the constructor's arguments
        drawn, step = form.pop("drawn", None), form.pop("step", 0)
        form["ratio"] = rate_from_json(form["ratio"])
        layer = cls(**form)
        if drawn is not None:
            if layer.seeded:
                raise ValueError(f"drawn must be None where a seed was given, got {_checks.shown(drawn)}")
            layer.seed = _checks.seed64("drawn", drawn)
        layer.step = _checks.seed64("step", step)
        return layer

    def __repr__(self) -> str:
        """Return the class and the arguments that it was made of."""
        seed = self.seed if self.seeded else None
        return f"{type(self).__name__}(ratio={self.ratio!r}, inverted={self.inverted!r}, seed={seed!r})"


class Embedding(Layer):
    """A table of vectors, looked up by row: y = W[x].

    The gradient of W is zero but in the rows that x names, so grads["W"] is a `RowSparse` with those rows
    alone; a row that occurs more than once gets the sum. Indices have no gradient: backward returns None, and
    the layer comes first in a network.

    Parameters
    ----------
    W : float32 or float64 array, shape (vocab, dim)
        Kept, not copied.
    """

    takes_indices = True
    W, dW = _param("W"), _grad("W")

    @of_arrays
    def __init__(self, W: Any) -> None:
        super().__init__(W=_checks.parameter("W", W, 2))

    @classmethod
    def create(
        cls,
        vocab: int,
        dim: int,
        *,
        init: Any = 0.01,
        seed: Any = None,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> Self:
        """Return a layer with initial vectors, by default normal draws with standard deviation 0.01.

        Parameters
        ----------
        vocab, dim : int >= 1
        init : str, float or callable
            See `fastnn.init.resolve`.
        seed : None, int or numpy.random.Generator
            Draws them; also called `rng`.
        dtype : float32 or float64
        """
        vocab = _checks.size("vocab", vocab)
        dim = _checks.size("dim", dim)
        dtype = _checks.float_dtype("dtype", dtype)
        return cls(initial.resolve(init)(vocab, dim, _checks.seeded(seed, rng), dtype))

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return W[x], shape x.shape + (dim,), for integers x of any shape, each in [0, vocab)."""
        W = self.params["W"]
        x = _checks.indices("x", x, len(W))
        self._saved = x
        y: Array = W[x]
        return y

    def backward(self, dout: Any) -> None:
        """Put the row-sparse gradient in grads["W"]."""
        x = self._recall()
        W = self.params["W"]
        dout = matched(dout, (*x.shape, W.shape[1]), W.dtype)
        self.grads["W"] = RowSparse.from_tokens(x, dout, W.shape)

    def config(self) -> dict[str, Any]:
        """Return vocab, dim and dtype."""
        vocab, dim = self.params["W"].shape
        return {"vocab": vocab, "dim": dim, "dtype": str(self.dtype)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a layer of the form that `config` describes, all zeros."""
        return cls.create(**config, init=_zeros)

    @classmethod
    def shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Return the shape of W in the layer that `config` describes."""
        return {"W": (config["vocab"], config["dim"])}


def _zeros(n_in: int, n_out: int, rng: Any, dtype: Any) -> Array:
    return np.zeros((n_in, n_out), dtype)


class Residual(Layer):
    """Layers around which their input is led: y = x + f(x), f the layers in order (He et al. 2016).

        dx = dout + the gradient that goes back through the layers

    Parameters
    ----------
    layers : iterable of layers
        What a `Sequential` may hold, but an embedding. Their last output must have the shape of x.

    Attributes
    ----------
    layers : tuple
    params, grads : dict
        Those of the layers by name, "0.W": new dicts of the live arrays.

    Raises
    ------
    TypeError, ValueError
        If `layers` is anything else.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        layers = tuple_of_layers(layers)
        for i, layer in enumerate(layers):
            if getattr(layer, "takes_indices", False):
                raise ValueError(f"layers[{i}] takes indices, to which nothing can be added: put it first")
        self.__dict__["layers"] = layers
        self._saved = None

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, which stay."""
        layers: tuple[Any, ...] = self.__dict__["layers"]
        return layers

    @property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        """The parameters of all layers by name: a new dict of the live arrays."""
        return self._by_name("params")

    @property
    def grads(self) -> dict[str, Any]:  # type: ignore[override]
        """Their gradients by name: likewise."""
        return self._by_name("grads")

    def _by_name(self, dicts: str) -> dict[str, Any]:
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in getattr(layer, dicts, {}).items()
        }

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return x plus what the layers make of it; ValueError if they change its shape."""
        x = _checks.float_array("x", x, self.dtype)
        y = x
        for layer in self.layers:
            y = layer.forward(y, train)
        self._saved = x.shape, y.dtype
        return self._added(x, y)

    @staticmethod
    def _added(x: Array, y: Array) -> Array:
        """Return the input of the block plus what its layers have made of it."""
        if y.shape != x.shape:
            raise ValueError(f"the layers of a Residual must keep the shape of x, {x.shape}, got {y.shape}")
        return np.asarray(x + y)

    def backward(self, dout: Any) -> Array:
        """Return the gradient with respect to x; fill the grads of the layers."""
        shape, dtype = self._recall()
        dx = dout = matched(dout, shape, dtype)
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        return np.asarray(dout + dx)

    def backward_params(self, dout: Any) -> None:
        """Fill the grads of the layers only."""
        shape, dtype = self._recall()
        dout = matched(dout, shape, dtype)
        for layer in self.layers[:0:-1]:
            dout = layer.backward(dout)
        first = self.layers[0]
        getattr(first, "backward_params", first.backward)(dout)

    def copy(self) -> Self:
        """Return a block of copies of the layers."""
        return type(self)(copied(layer) for layer in self.layers)

    def config(self) -> dict[str, Any]:
        """Return the layers as `Sequential.architecture` does."""
        return {"layers": [{"layer": type(layer).__name__, **layer.config()} for layer in self.layers]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a block of the form that `config` describes, of fastnn's own layers."""
        return cls.of_classes(config, cls._classes())

    @classmethod
    def of_classes(cls, config: Mapping[str, Any], classes: Mapping[str, Any]) -> Self:
        """Return a block of the form that `config` describes, of layers of these classes by name."""
        return cls(made(layer, classes) for layer in config["layers"])

    @staticmethod
    def _classes() -> Mapping[str, Any]:
        """Return the classes of layers by name that a block can be made of."""
        return LAYERS

    def __repr__(self) -> str:
        """Return the layers."""
        return f"{type(self).__name__}([{', '.join(map(repr, self.layers))}])"


def copied(layer: Any) -> Any:
    """Return a layer of its own with the same parameters and state."""
    return layer.copy() if isinstance(layer, Layer) else copy.deepcopy(layer)


def made(config: Mapping[str, Any], classes: Mapping[str, Any]) -> Any:
    """Return a layer of the form that {"layer": class name, argument: value, ...} describes."""
    form = dict(config)
    layer_class = classes[form.pop("layer")]
    if issubclass(layer_class, Residual):
        return layer_class.of_classes(form, classes)
    return layer_class.from_config(form)


class ReLU(Layer):
    """The rectifier, y = max(x, 0); dx = dout where x > 0, else 0."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return max(x, 0); NaN stays NaN."""
        x = _checks.float_array("x", x)
        self._saved = x > 0, x.dtype
        y: Array = np.maximum(x, x.dtype.type(0))
        return y

    def backward(self, dout: Any) -> Array:
        """Return dout where x > 0, else 0."""
        positive, dtype = self._recall()
        return np.where(positive, matched(dout, positive.shape, dtype), dtype.type(0))


class LeakyReLU(Layer):
    """The leaky rectifier, y = x where x > 0, else alpha x; dx = dout where x > 0, else alpha dout.

    Parameters
    ----------
    alpha : float >= 0
        The slope on the left.
    """

    def __init__(self, alpha: float = 0.01) -> None:
        super().__init__()
        self.alpha = _checks.real_number("alpha", alpha, 0)

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return x where x > 0, else alpha x."""
        x = _checks.float_array("x", x)
        positive = x > 0
        self._saved = positive, x.dtype
        y: Array = np.where(positive, x, x.dtype.type(self.alpha) * x)
        return y

    def backward(self, dout: Any) -> Array:
        """Return dout where x > 0, else alpha dout."""
        positive, dtype = self._recall()
        dout = matched(dout, positive.shape, dtype)
        dx: Array = np.where(positive, dout, dtype.type(self.alpha) * dout)
        return dx

    def config(self) -> dict[str, Any]:
        """Return alpha."""
        return {"alpha": self.alpha}


class _Smooth(Layer):
    """Base of the smooth activations: `_value` gives y and dy/dx at x."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return the function of each element of x."""
        x = _checks.float_array("x", x)
        y, slope = self._value(x)
        self._saved = slope
        return y

    def backward(self, dout: Any) -> Array:
        """Return dout dy/dx."""
        slope = self._recall()
        dx: Array = matched(dout, slope.shape, slope.dtype) * slope
        return dx

    def _value(self, x: Array) -> tuple[Array, Array]:
        raise NotImplementedError


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), written so that no exponential overflows."""
    small = np.exp(-np.abs(x))  # in (0, 1]
    y: Array = np.where(x < 0, small, x.dtype.type(1)) / (1 + small)
    return y


class Sigmoid(_Smooth):
    """The logistic function, y = 1 / (1 + exp(-x)); dx = dout y (1 - y)."""

    def _value(self, x: Array) -> tuple[Array, Array]:
        y = sigmoid(x)
        return y, y * (1 - y)


class Tanh(_Smooth):
    """The hyperbolic tangent, y = tanh(x); dx = dout (1 - y^2)."""

    def _value(self, x: Array) -> tuple[Array, Array]:
        y = np.tanh(x)
        return y, 1 - y * y


def erfc(x: Array) -> Array:
    """Return the complementary error function; NumPy has none, so Python's is called for each element."""
    return np.fromiter(map(math.erfc, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


class SELU(_Smooth):
    """The scaled exponential linear unit (Klambauer et al. 2017), which keeps mean 0 and variance 1.

    y = l x for x > 0, else l a (exp(x) - 1), with l = 1.0507 and a = 1.6733; dx = dout l, or dout (y + l a).
    It is made for weights of standard deviation 1/sqrt(n), init="lecun".
    """

    def _value(self, x: Array) -> tuple[Array, Array]:
        scale, below = x.dtype.type(SELU_L), x.dtype.type(SELU_L * SELU_A)
        y = np.where(x > 0, scale * x, below * np.expm1(np.minimum(x, 0)))
        return y, np.where(x > 0, scale, y + below)


class GELU(_Smooth):
    """The Gaussian error linear unit (Hendrycks, Gimpel 2016): y = x P(x), P the normal distribution.

        P(x) = (1 + erf(x / sqrt(2))) / 2    p(x) = exp(-x^2 / 2) / sqrt(2 pi)    dx = dout (P(x) + x p(x))

    P is computed as erfc(-x / sqrt(2)) / 2: the same, without the cancellation for x < 0.

    Parameters
    ----------
    approximate : "none" or "tanh"
        "tanh": y = x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), which is within 5e-4 of it
        and what many published networks were trained with.

    Raises
    ------
    TypeError, ValueError
        If approximate is none of these.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = _checks.choice("approximate", approximate, ("none", "tanh"))

    def config(self) -> dict[str, Any]:
        """Return approximate."""
        return {"approximate": self.approximate}

    def _value(self, x: Array) -> tuple[Array, Array]:
        if self.approximate == "tanh":
            bounded = np.clip(x, -30, 30)  # beyond, s is 0 or 1 and its slope nothing
            c = x.dtype.type(2 * math.sqrt(2 / math.pi))
            s = sigmoid(c * (bounded + x.dtype.type(0.044715) * bounded**3))
            slope = c * (1 + x.dtype.type(3 * 0.044715) * bounded**2)
            return x * s, s + bounded * slope * (s * (1 - s))
        distribution = erfc(x * -math.sqrt(0.5)) / 2
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return x * distribution, distribution + x * density


class SiLU(_Smooth):
    """The sigmoid linear unit (swish), y = x s(x), s the sigmoid; dx = dout s(x) (1 + x (1 - s(x)))."""

    def _value(self, x: Array) -> tuple[Array, Array]:
        s = sigmoid(x)
        return x * s, s * (1 + x * (1 - s))


class Softplus(_Smooth):
    """The smooth ReLU (Dugas et al. 2001), y = log(1 + exp(x)); dx = dout s(x), s the sigmoid.

    y is computed as max(x, 0) + log1p(exp(-|x|)), in which no exponential overflows.
    """

    def _value(self, x: Array) -> tuple[Array, Array]:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), sigmoid(x)


class Mish(_Smooth):
    """y = x t, t = tanh(log(1 + exp(x))) (Misra 2019); dx = dout (t + x s(x) (1 - t^2)), s the sigmoid."""

    def _value(self, x: Array) -> tuple[Array, Array]:
        bounded = np.clip(x, -1000, 20)  # above, t is 1; below, all is 0
        e = np.exp(bounded)
        n = e * (e + 2)
        t = n / (n + 2)
        return x * t, t + 4 * bounded * e * (1 + e) / (n + 2) ** 2


ACTIVATIONS: dict[str, Any] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "selu": SELU,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
    "mish": Mish,
}
LAYERS: dict[str, Any] = {
    c.__name__: c
    for c in (Affine, BatchNorm, LayerNorm, RMSNorm, Dropout, Embedding, Residual, *ACTIVATIONS.values())
}
