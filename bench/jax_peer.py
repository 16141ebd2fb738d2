"""The peer where it is installed: JAX, compiled, with its buffers given away from step to step.

It runs on as many threads as the process had cores when it started; `machine.confined` takes them away.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .shapes import Network

EPS = 1e-5


def load() -> Any:
    """Return JAX, or None where it cannot be imported."""
    try:
        import jax
    except ImportError:
        return None
    return jax


class Net:
    """A network and its optimizer, from the weights W, b, W, b... of its dense layers."""

    def __init__(self, network: Network, weights: Sequence[Any], lr: float) -> None:
        import jax
        import jax.numpy as jnp

        # rbg: the generator that JAX calls the fastest to draw from.
        self.state = jax.tree.map(jnp.array, _start(network, weights)) | {
            "key": jax.random.key(0, impl="rbg")
        }
        step = partial(_step, network, lr)
        self._step = jax.jit(step, donate_argnums=0)
        self._scan = jax.jit(lambda state, xs, ts: jax.lax.scan(step, state, (xs, ts)), donate_argnums=0)
        self._epoch = jax.jit(partial(_epoch, step, network.batch), donate_argnums=0)
        self._predict = jax.jit(partial(_outputs, network))

    def step(self, x: Any, t: Any) -> float:
        """Do a step; return the loss before the update."""
        self.state, loss = self._step(self.state, (x, t))
        return float(loss)

    def scan(self, xs: Any, ts: Any) -> Any:
        """Do a step on each batch of xs (steps, rows, columns); return the losses."""
        self.state, losses = self._scan(self.state, xs, ts)
        return np.asarray(losses)

    def epoch(self, x: Any, t: Any) -> float:
        """Go through the rows once, shuffled; return the mean loss of the steps.

        Rows of an integer type are scaled by 1 / 255.
        """
        self.state, loss = self._epoch(self.state, x, t)
        return float(loss)

    def predict(self, x: Any) -> Any:
        """Return the outputs of a network without BatchNorm and dropout."""
        return np.asarray(self._predict(self.state["params"], x))


def _population(
    network: Network,
    nets: Sequence[Any],
    lr: float,
    x: Any,
    t: Any,
    orders: Any,
    *,
    at_once: bool,
    shared: bool,
) -> Callable[[], Any] | None:
    """Return a call that does some steps of all members and returns their losses, (members, steps).

    `orders`: the rows of each step of each member. None: there is but one device, or they do not divide.
    """
    import jax
    import jax.numpy as jnp

    devices = jax.devices()
    if shared and (len(devices) < 2 or len(nets) % len(devices)):
        return None
    states = [jax.tree.map(jnp.array, _start(network, weights)) for weights in nets]
    states = [state | {"key": jax.random.key(i, impl="rbg")} for i, state in enumerate(states)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    given, rows = arrays(x, t), jnp.array(orders)
    step = partial(_step, network, lr)

    def epoch(state: Any, rows: Any, x: Any, t: Any) -> Any:
        return jax.lax.scan(lambda s, some: step(s, (x[some], t[some])), state, rows)

    def members(state: Any, rows: Any, x: Any, t: Any) -> Any:
        if at_once:
            return jax.vmap(lambda s, r: epoch(s, r, x, t))(state, rows)
        return jax.lax.map(lambda own: epoch(*own, x, t), (state, rows))

    if shared:
        from jax.sharding import Mesh, PartitionSpec

        each, all_ = PartitionSpec("members"), PartitionSpec()
        mesh = Mesh(np.array(devices), ("members",))
        members = jax.shard_map(
            members, mesh=mesh, in_specs=(each, each, all_, all_), out_specs=each, check_vma=False
        )
    run = jax.jit(members, donate_argnums=0)

    def call() -> Any:
        nonlocal state
        state, losses = run(state, rows, *given)
        return np.asarray(losses)

    return call


POPULATIONS = {
    "JAX, map": partial(_population, at_once=False, shared=False),
    "JAX, vmap": partial(_population, at_once=True, shared=False),
    "JAX, map on devices": partial(_population, at_once=False, shared=True),
    "JAX, vmap on devices": partial(_population, at_once=True, shared=True),
}


def arrays(*given: Any) -> tuple[Any, ...]:
    """Return arrays as JAX's own; labels become int32."""
    import jax.numpy as jnp

    return tuple(jnp.array(a, jnp.int32 if a.dtype == np.int64 else None) for a in given)


def _start(network: Network, weights: Sequence[Any]) -> dict[str, Any]:
    params: dict[str, Any] = {"W": list(weights[::2]), "b": list(weights[1::2])}
    widths = network.sizes[1:-1] if network.batch_norm else ()
    ones = [np.ones(n, np.float32) for n in widths]
    zeros = [np.zeros(n, np.float32) for n in widths]
    params |= {"gamma": ones, "beta": zeros}
    moments = network.optimizer == "Adam"
    zero = {name: [np.zeros_like(a) for a in arrays] for name, arrays in params.items()} if moments else {}
    return {
        "params": params,
        "m": zero,
        "v": zero,
        "steps": np.zeros((), np.float32),
        "mean": zeros,
        "var": ones,
    }


def _step(network: Network, lr: float, state: dict[str, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the state after a step and the loss before it."""
    import jax

    key, own = jax.random.split(state["key"])
    statistics: tuple[list[Any], list[Any]]
    (loss, statistics), grads = jax.value_and_grad(partial(_loss, network), has_aux=True)(
        state["params"], own, *batch
    )
    running = {
        name: [0.9 * old + 0.1 * new for old, new in zip(state[name], batch_, strict=True)]
        for name, batch_ in zip(("mean", "var"), statistics, strict=True)
    }
    update = {"SGD": _sgd, "Adam": _adam}[network.optimizer]
    return state | update(state, grads, lr) | running | {"key": key}, loss


def _outputs(
    network: Network, params: dict[str, Any], x: Any, key: Any = None, statistics: Any = ((), ())
) -> Any:
    """Return the outputs in training; append each batch's mean and variance to the lists `statistics`."""
    import jax
    import jax.numpy as jnp

    last = len(params["W"]) - 1
    for i, (W, b) in enumerate(zip(params["W"], params["b"], strict=True)):
        x = x @ W + b
        if i == last:
            break
        if network.batch_norm:
            mean, var = x.mean(axis=0), x.var(axis=0)
            x = params["gamma"][i] * (x - mean) * jax.lax.rsqrt(var + EPS) + params["beta"][i]
            for list_, figures in zip(statistics, (mean, var), strict=True):
                list_.append(figures)
        x = jax.nn.relu(x)
        if network.dropout:
            keep = 1 - network.dropout
            mask = jax.random.bernoulli(jax.random.fold_in(key, i), keep, x.shape)
            x = jnp.where(mask, x / keep, 0)
    return x


def _loss(network: Network, params: dict[str, Any], key: Any, x: Any, t: Any) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    statistics: tuple[list[Any], list[Any]] = ([], [])
    logp = jax.nn.log_softmax(_outputs(network, params, x, key, statistics))
    return -jnp.take_along_axis(logp, t[:, None], axis=1).mean(), statistics


def _sgd(state: dict[str, Any], grads: Any, lr: float) -> dict[str, Any]:
    import jax

    return {"params": jax.tree.map(lambda p, g: p - lr * g, state["params"], grads)}


def _adam(
    state: dict[str, Any], grads: Any, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    steps = state["steps"] + 1
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["v"], grads)
    root = jnp.sqrt(1 - beta2**steps)
    rate = lr * root / (1 - beta1**steps)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + eps * root), state["params"], m, v)
    return {"params": params, "m": m, "v": v, "steps": steps}


def _epoch(step: Callable[..., Any], batch: int, state: dict[str, Any], x: Any, t: Any) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    key, own = jax.random.split(state["key"])
    order = jax.random.permutation(own, len(x))
    whole = len(x) // batch * batch

    def gathered(state: dict[str, Any], rows: Any) -> tuple[Any, Any]:
        some = x[rows]
        if jnp.issubdtype(x.dtype, jnp.integer):
            some = some.astype(jnp.float32) * (1 / 255)
        return step(state, (some, t[rows]))

    state, losses = jax.lax.scan(gathered, state | {"key": key}, order[:whole].reshape(-1, batch))
    total = losses.sum() * batch
    if whole < len(x):
        state, loss = gathered(state, order[whole:])
        total += loss * (len(x) - whole)
    return state, total / len(x)
