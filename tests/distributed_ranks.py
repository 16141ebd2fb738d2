"""What each rank of a test does: it trains, and writes what it has come to, or says what was refused."""

import sys
from types import SimpleNamespace

import numpy as np

import fastnn
from fastnn import _exchange
from fastnn.distributed import DataParallel

CASES = (
    "plain",
    "norm",
    "local norm",
    "own norm",
    "embedding norm",
    "frozen norm",
    "row norm",
    "dropout",
    "embedding",
    "residual",
    "clip",
    "frozen",
    "weights",
    "large",
    "faint",
    "muon",
    "own",
    "inexact",
)


def squares(y, t):
    return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size


def trainer_of(case, dtype=np.float32):
    affine = fastnn.Affine.create
    first = [affine(12, 16, rng=0, dtype=dtype)]
    if case == "large":  # a network that keeps no gradients in a step of its own
        n = 80_000
        first = [affine(12, n, rng=3, dtype=dtype), fastnn.ReLU(), affine(n, 16, rng=0, dtype=dtype)]
    if case.startswith("embedding"):
        first = [fastnn.Embedding.create(30, 4, rng=0, init=0.5, dtype=dtype), *first]
    norm = fastnn.BatchNorm.create(16, dtype=dtype)
    inner = {
        "row norm": [fastnn.LayerNorm.create(16, dtype=dtype), fastnn.ReLU(), fastnn.Dropout(0.2)],
        "dropout": [fastnn.ReLU(), fastnn.Dropout(0.3), fastnn.Dropout(0.1, seed=7)],
        "residual": [
            fastnn.Residual([fastnn.LayerNorm.create(16, dtype=dtype), affine(16, 16, rng=2, dtype=dtype)])
        ],
        "own norm": [
            fastnn.Residual([norm, fastnn.ReLU(), affine(16, 16, rng=2, dtype=dtype)]),
            fastnn.Dropout(0.2),
        ],
    }.get(case, [norm, fastnn.ReLU()] if "norm" in case else [fastnn.Tanh()])
    net = fastnn.Sequential([*first, *inner, affine(16, 5, rng=1, dtype=dtype)])
    frozen = {"frozen": "0.*", "frozen norm": "[01].*"}.get(case)
    groups = [fastnn.Group(frozen, frozen=True)] if frozen else []
    optimizer = fastnn.Muon(0.01) if case == "muon" else fastnn.Adam(1e-2, groups=groups)
    loss = squares if case.startswith("own") else fastnn.SoftmaxCrossEntropy()
    options = {"clip_norm": 0.3, "average": 0.9} if case == "clip" else {}
    return fastnn.Trainer(net, loss, optimizer, seed=3, **options)


def data(case):
    rng = np.random.default_rng(0)
    embedding, own = case.startswith("embedding"), case.startswith("own")
    x = rng.integers(0, 30, (203, 3)) if embedding else rng.normal(size=(203, 12))
    return x, rng.normal(size=(203, 5)) if own else rng.integers(0, 5, 203)


def trained(case, comm=None, pieces=8):
    x, t = data(case)
    options = {"exact": case != "inexact", "batch_norm": "local" if case == "local norm" else "global"}
    parallel = DataParallel(trainer_of(case), comm, pieces, timeout=60, **options)
    weights = None
    if case in ("weights", "faint", "embedding norm", "norm"):
        weights = np.linspace(0, 2, 203) * (np.arange(203) > 20)
    if case == "faint":  # a subnormal weight is Python's to take, on all ranks
        weights[[33, 150]] = 1e-310
    begun = parallel.fit(x[:5], t[:5], epochs=1, batch_size=5)  # not all ranks have rows
    own = parallel.rows(60)
    losses = [*begun.loss]
    losses += [parallel.step(x[:60][own], t[:60][own], None if weights is None else weights[100:160][own])]
    history = parallel.fit(x, t, epochs=2, batch_size=40, sample_weight=weights, validation=(x[:50], t[:50]))
    trainer = parallel.trainer
    state = {
        "loss": np.array([*losses, *history.loss]),
        "val": np.array(history.val_loss),
        **trainer.net.state_dict(),
    }
    for slot, memory in trainer.optimizer.state_dict()["state"].items():
        state |= {f"{slot} {name}": array for name, array in memory.items()}
    if trainer.averaged is not None:
        state |= {f"average {name}": array for name, array in trainer.averaged.state_dict().items()}
    return state


def refused(comm, case):
    """What goes wrong on one rank is told by all."""
    messages = []
    x, t = data(case)

    def attempt(f):
        try:
            f()
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
        else:
            messages.append("nothing was raised")

    rank = comm.Get_rank()
    other = trainer_of(case)
    if rank == 1:
        other.net.params["0.W"][0, 0] = 5
    attempt(lambda: DataParallel(other, comm))
    parallel = DataParallel(trainer_of(case), comm, timeout=20)
    before = parallel.trainer.net.state_dict()
    own = parallel.rows(60)
    attempt(lambda: parallel.step(x[own], t[own] + 5 * (rank == 1)))
    attempt(lambda: parallel.step(x[own][rank:], t[own][rank:]))
    attempt(lambda: parallel.step("no" if rank == 0 else x[own], t[own]))
    attempt(lambda: parallel.step(x[own] * (np.nan if rank == 1 else 1), t[own]))
    attempt(lambda: parallel.step(x[own], t[own], np.ones(len(t[own])) if rank else None))
    attempt(lambda: parallel.save("/no/such/folder/run.npz"))
    same = all((before[name] == a).all() for name, a in parallel.trainer.net.state_dict().items())
    messages.append(f"unchanged: {same}, {parallel.trainer.steps} steps")
    parallel.step(x[own], t[own])
    late = DataParallel(trainer_of(case), comm, timeout=1)
    if rank == 0:
        attempt(lambda: late.step(x[own], t[own]))
    return messages


def main():
    from mpi4py import MPI

    comm, (task, folder, *where) = MPI.COMM_WORLD, sys.argv[1:]
    if where == ["apart"]:  # as on machines of their own
        _exchange.Shared.of = classmethod(lambda *_: SimpleNamespace(is_whole=False))
    if task.startswith("refused"):
        told = refused(comm, "norm" if "norm" in task else "plain")
        print("\n".join(f"{comm.Get_rank()}> {message}" for message in told), flush=True)
        if comm.Get_rank() == 0:
            comm.Abort(0)  # the other waits for a call that does not come
        return
    for case in CASES:
        state = trained(case, comm)
        digest = comm.allgather({name: array.tobytes() for name, array in state.items()})
        assert all(own == digest[0] for own in digest), f"ranks differ: {case}"
        if comm.Get_rank() == 0:
            np.savez(f"{folder}/{case}.npz", **state)
    parallel = DataParallel(fastnn.Trainer.load(f"{folder}/begun.npz"), comm, timeout=60)
    parallel.fit(*data("norm"), epochs=1, batch_size=40)
    parallel.save(f"{folder}/ended.npz")


if __name__ == "__main__":
    main()
