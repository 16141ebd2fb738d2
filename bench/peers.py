"""Networks in all libraries: which are there, the same weights for each, and how they compare."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import fastnn

from . import jax_peer, machine, numpy_peer, pytorch, sklearn_peer
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .shapes import Network
    from .timing import Times

OTHERS = {"PyTorch": pytorch, "JAX": jax_peer, "scikit-learn": sklearn_peer}
BUDGET = 20.0  # seconds for all rounds of a comparison
NONE = "-"  # in a table


def installed() -> list[str]:
    """Return the names of the libraries besides NumPy that can be imported."""
    return [name for name, peer in OTHERS.items() if peer.load()]


def notes() -> list[str]:
    """Return what to say of those that cannot."""
    absent = [name for name in OTHERS if name not in installed()]
    return [f"not installed, and left out: {', '.join(absent)}"] if absent else []


def rate(network: Network) -> float:
    """Return a learning rate that changes the second loss by more than rounding does, but not much more.

    Thousands of steps on the same rows must not learn them by heart: gradients would become subnormal
    numbers, which are slow everywhere but in fastnn.
    """
    return {"SGD": 0.1, "Adam": 0.01}[network.optimizer] / max(network.sizes)


def names(network: Network) -> list[str]:
    """Return the names of the peers that can train such a network."""
    able = [name for name in installed() if name != "scikit-learn" or sklearn_peer.knows(network)]
    return ["NumPy by hand", *able]


def net(name: str, network: Network, lr: float | None = None) -> Any:
    """Return the network in the library of that name, with the weights that training starts from in all.

    The learning rate is `rate`'s by default.
    """
    weights = list(fastnn.mlp(network.sizes, seed=0).params.values())
    make = OTHERS[name].Net if name in OTHERS else numpy_peer.Net
    return make(network, weights, rate(network) if lr is None else lr)


def trainer(lib: Any, network: Network, lr: float | None = None) -> Any:
    """Return a trainer of fastnn or of its reference, from the same weights and with the same rate."""
    net = lib.mlp(network.sizes, batch_norm=network.batch_norm, dropout=network.dropout, seed=0)
    optimizer = getattr(lib, network.optimizer)(rate(network) if lr is None else lr)
    return lib.Trainer(net, lib.SoftmaxCrossEntropy(), optimizer)


def owned(name: str, *arrays: Any) -> tuple[Any, ...]:
    """Return arrays as the library's own; tensors of PyTorch share the memory."""
    if name == "PyTorch":
        return tuple(map(pytorch.load().from_numpy, arrays))
    return jax_peer.arrays(*arrays) if name == "JAX" else arrays


def timed(
    calls: Mapping[str, Callable[[], Any]], threads: Iterable[int], rounds: int, budget: float = BUDGET
) -> dict[int, dict[str, Times]]:
    """Return the times of each call, for each number of threads that the libraries may use."""
    found = {}
    for count in sorted(threads):

        def confine(name: str, count: int = count) -> None:
            machine.confine(count if name.startswith("JAX") else None)

        try:
            with machine.limited(count):
                found[count] = time_interleaved(
                    calls, rounds=rounds, threads=count, before=confine, budget=budget
                )
        finally:
            machine.confine()
    return found


def seconds(
    times: Mapping[int, Mapping[str, Times]], count: int, steps: Mapping[str, int] = MappingProxyType({})
) -> dict[str, float]:
    """Return the seconds a call, or a step of one: fastnn's on so many threads, a peer's on at most as many.

    A peer gets the best of the numbers of threads that were measured.
    """

    def best(name: str) -> float:
        counts = [count] if _library(name) == "fastnn" else [c for c in times if c <= count]
        return min(times[c][name].median for c in counts) / steps.get(name, 1)

    return {name: best(name) for name in times[count]}


def microseconds(seconds: Mapping[str, float], names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of times; what a library does not do is a dash."""
    return {f"{name} us": 1e6 * seconds[name] if name in seconds else NONE for name in names}


def ratios(seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the columns that say how many times as long as fastnn's call a peer takes.

    Of NumPy's codes the faster one counts, and of JAX's ways.
    """
    ours = seconds["fastnn"]
    peers = {name: s for name, s in seconds.items() if _library(name) != "fastnn"}
    best = min(peers, key=peers.__getitem__)
    columns: dict[str, Any] = {"best peer": best, "over best peer": peers[best] / ours}
    for library in ("NumPy", *installed()):
        of_library = [s for name, s in peers.items() if _library(name) == library]
        columns[f"over {library}"] = min(of_library) / ours if of_library else NONE
    return columns


def _library(name: str) -> str:
    return name.split(" ")[0]
