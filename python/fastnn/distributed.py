"""Training by several processes, on one machine or many, to the bits that one process comes to.

    parallel = fastnn.distributed.DataParallel(trainer)      # run by: mpiexec -n 4 python train.py
    history = parallel.fit(x, t, epochs=10, batch_size=512)

A batch is cut into as many pieces whatever the number of processes ("ranks" of MPI), each of which passes its
own pieces through the network. The gradients of the pieces are added up along a binary tree that the pieces
alone make,

    ((g0 + g1) + (g2 + g3)) + ((g4 + g5) + (g6 + g7))

so that every rank has the same sum, bit for bit, and does the same update. It takes the package mpi4py, the
extra fastnn-cpu[mpi], and an MPI.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import ExitStack
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, _checks
from ._exchange import Exchange, Memory, Shared, in_order, norms_of
from ._lockstep import Lockstep
from .reference.network import RUNNING, layers_of
from .reference.trainer import name_row
from .trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ._checks import Array
    from .reference.history import History

__all__ = ["DataParallel"]

LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID")  # set by an mpiexec
YIELDS = 0.02  # seconds that a rank which waits only yields its processor; then it sleeps


class DataParallel:
    """A trainer whose batches are shared by processes.

    Every rank makes the same trainer: the same network, weights, optimizer and seeds.

    Parameters
    ----------
    trainer : Trainer
    comm : mpi4py communicator or None
        Whose ranks train together. None: all that mpiexec has started; this process alone where it has not
        been started by one.
    pieces : int >= 1
        Into how many pieces a batch is cut, at least as many as there are ranks. The bits of a training
        depend on it, and not on the number of ranks, which had better divide it.
    batch_norm : "global" or "local"
        By which rows batch normalization goes: all of the batch, by sums along the same tree, as one process
        would without pieces but for rounding; or those of each piece by itself, whose running statistics take
        in the pieces in order.
    exact : bool
        False: gradients are added up by MPI's own Allreduce, in whatever order it takes; the bits are then
        the same on all ranks of a run, and no more.
    timeout : float > 0
        Seconds that a rank waits for others before it raises RuntimeError.

    Masks of dropout go by the rows of the whole batch: those of `Trainer.step`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these; on every rank if the ranks' trainers, versions or pieces differ.
    ImportError
        Under an mpiexec without mpi4py.
    """

    def __init__(
        self,
        trainer: Trainer,
        comm: Any = None,
        pieces: int = 8,
        *,
        batch_norm: str = "global",
        exact: bool = True,
        timeout: float = 300.0,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a fastnn.Trainer, got {_checks.shown(trainer)}")
        self.trainer = trainer
        self.pieces = _checks.size("pieces", pieces)
        self.batch_norm = _checks.choice("batch_norm", batch_norm, ("global", "local"))
        self.exact = _checks.flag("exact", exact)
        self.timeout = _checks.real_number("timeout", timeout, 0, None, "(]")
        self._free: list[Array] = []
        self._memory: tuple[tuple[int, Any], Memory] | None = None
        self.comm = _world() if comm is None else comm
        self.rank: int = self.comm.Get_rank()
        self.ranks: int = self.comm.Get_size()
        if self.pieces < self.ranks:
            raise ValueError(
                f"pieces must be at least as many as there are ranks, {self.ranks}, got {pieces}"
            )
        options = {"pieces": str(pieces), "batch_norm": batch_norm, "exact": str(exact)}
        marks = self._share(_marks(trainer) | options)
        for name in marks[0]:
            odd = [rank for rank, own in enumerate(marks) if own.get(name) != marks[0][name]]
            if odd:
                raise ValueError(
                    f"the {name} of all ranks must be the same, got another on {odd} than on rank 0"
                )

    def rows(self, n: int) -> slice:
        """Return which rows of a batch of n rows are this rank's."""
        n = _checks.size("n", n)
        first, last = self._pieces_of(self.rank)
        return slice(self._begin(first, n), self._begin(last, n))

    def _pieces_of(self, rank: int) -> tuple[int, int]:
        return self.pieces * rank // self.ranks, self.pieces * (rank + 1) // self.ranks

    def _begin(self, piece: int, n: int) -> int:
        """Return where a piece of n rows begins: none is smaller than a layer takes, the last are empty."""
        least = 2 if self.batch_norm == "local" and norms_of(self.trainer) else 1
        pieces = max(1, min(self.pieces, n // least))
        return n * min(piece, pieces) // pieces

    def _rows_of_pieces(self, n: int) -> list[int]:
        return [self._begin(piece + 1, n) - self._begin(piece, n) for piece in range(self.pieces)]

    def step(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        """Do one step on a batch of which each rank has its rows.

        Parameters
        ----------
        x, t, sample_weight : array
            This rank's rows of the batch, those that `rows` names; sample_weight may be None, on all ranks.

        Returns
        -------
        float
            The loss of the whole batch, on every rank.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `Trainer.step`, on every rank, with the number of the one that it began on; then nothing has
            changed on any.
        RuntimeError
            If other ranks do not come in time.
        """
        failed: Exception | None = None
        own: tuple[int, list[float] | None] = (0, None)
        try:
            x, t = _checks.real_array("x", x), _checks.as_array("t", t)
            if (
                hasattr(self.trainer.loss, "plain_targets")
                and (labels := _checks.other_labels(t)) is not None
            ):
                t = labels
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight, np.float64)
            if x.ndim == 0 or t.ndim == 0 or len(x) != len(t) or len(x) == 0:
                raise ValueError(f"x and t must have as many rows, at least one, got {x.shape} and {t.shape}")
            own = (len(x), None if sample_weight is None else sample_weight.tolist())
        except Exception as error:
            failed = error
        told = self._tell_rows(failed, own)
        self._raise(failed, [error for error, _ in told])
        counts = [count for _, (count, _) in told]
        n = sum(counts)
        for rank, count in enumerate(counts):
            first, last = (self._begin(piece, n) for piece in self._pieces_of(rank))
            if count != last - first:
                expected = f"rank {rank} must have rows {first} to {last} of a batch of {n}"
                raise ValueError(f"{expected} in {self.pieces} pieces, got {count} rows")
        weights = [weight for _, (_, weight) in told]
        if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
            raise ValueError("sample_weight must be given on all ranks or on none")
        whole = None if weights[0] is None else np.concatenate([np.asarray(weight) for weight in weights])
        if whole is not None and not 0 < whole.sum() < np.inf:
            raise ValueError(f"sample_weight must have a finite sum > 0, got {whole.sum():f}")
        if self.ranks == 1 and self._passes_natively(whole):
            loss = self.trainer.net._compiled.step(self.trainer, x, t, whole, self.pieces)
            if loss is not None:
                self.trainer._check_loss(loss)
                return float(loss)
        offset = sum(counts[: self.rank])
        return self._step(n, whole, lambda rows: (x[_moved(rows, offset)], t[_moved(rows, offset)]))

    def _tell_rows(self, failed: Exception | None, own: tuple[int, Any]) -> list[Any]:
        """Return what has failed on each rank, and how many rows it has with what weights."""
        if self._memory is not None and self._memory[1].is_shared:
            rows, weights = own
            memory = self._memory[1]
            memory.say(-1 if failed is not None or weights is not None else rows)
            self._wait(self.comm.Ibarrier())
            counts = memory.said()
            if min(counts) >= 0:
                return [(None, (count, None)) for count in counts]
        return self._share((failed, own))

    def _step(self, n: int, weights: Array | None, take: Any) -> float:
        """Do a step on n rows; `take` returns x and t of a slice of them."""
        sums = Exchange(self)
        trainer = self.trainer
        with ExitStack() as held:
            for lock in trainer._locks:
                held.enter_context(lock)
            try:
                return trainer._step_by_parts(self._pieces(n, weights, take, sums), sums)
            except Exception as error:
                if not sums.told:
                    sums.fail(error)
                raise

    def _pieces(self, n: int, weights: Array | None, take: Any, sums: Exchange) -> Iterable[Any]:
        """Pass this rank's pieces; return those that are left for the trainer to pass one by one."""
        norms = self.batch_norm == "global" and bool(norms_of(self.trainer))
        if norms and n == 1:
            raise ValueError("x must have at least 2 rows in training, got a batch of 1")
        if self._passes_natively(weights):
            return self._passed(n, weights, take, sums)
        if norms:
            Lockstep(self, n, sums).run(self._parts(n, weights, take, sums, all_of_them=True))
            return ()
        return self._parts(n, weights, take, sums)

    def _passes_natively(self, weights: Array | None) -> bool:
        """Return whether a rank's pieces are one native call, given all weights: on every rank alike."""
        trainer, net = self.trainer, self.trainer.net
        if weights is not None and ((weights > 0) & (weights < np.finfo(np.float64).tiny)).any():
            return False  # subnormal numbers would be flushed
        return (
            getattr(net, "_compiled", None) is not None
            and bool(Exchange(self)._trained(net.params))
            and type(trainer.loss) in trainer.loss_classes.values()
            and (self.batch_norm == "global" or not norms_of(trainer))
            and not any(getattr(layer, "takes_indices", False) for layer in layers_of(net))
        )

    def _passed(self, n: int, weights: Array | None, take: Any, sums: Exchange) -> Iterable[Any]:
        """Pass this rank's pieces natively; return those that are left for the trainer."""
        trainer, room = self.trainer, sums.room  # which all ranks make together
        first, last = self._pieces_of(self.rank)
        bounds = np.array([self._begin(p, n) for p in range(self.pieces + 1)])
        counts = np.diff(bounds) > 0
        if weights is not None:
            counts &= np.array([bool(weights[a:b].any()) for a, b in pairwise(bounds)])
        norms = norms_of(trainer)
        begin, end = int(bounds[first]), int(bounds[last])
        if begin < end and (norms or counts[first:last].any()):
            x, t = take(slice(begin, end))
            if x.dtype not in _checks.FLOATS and x.dtype.kind not in "iu":
                x = x.astype(trainer.net.dtype)
            _, whole = self._whole(n, weights)
            own = None if weights is None else weights[begin:end]
            share = sums.share if norms and self.ranks > 1 else None
            pieces = bounds, first, last, counts.view(np.uint8), whole, room, share
            result = trainer.net._compiled.pieces(trainer, x, t, own, 1.0, pieces)
            if result is None:
                if not norms:
                    return self._parts(n, weights, take, sums)
                Lockstep(self, n, sums).run(self._parts(n, weights, take, sums, all_of_them=True))
                return ()
            if isinstance(result, float):
                trainer._check_loss(result)
            losses, nodes, sums.moments = result
            numbers = np.flatnonzero(counts[first:last]) + first
            sums.losses = dict(zip(numbers.tolist(), losses, strict=True))
            sums.nodes = {node: room[i] for i, node in enumerate(nodes)}
        if norms:
            sums.come_to_end(n)
        return ()

    def _parts(
        self, n: int, weights: Array | None, take: Any, sums: Exchange, *, all_of_them: bool = False
    ) -> Iterator[Any]:
        """Yield this rank's pieces as a trainer takes them, or also those that weigh nothing.

        Where each is normalized by itself, what it makes of running statistics is noted.
        """
        norms = norms_of(self.trainer) if self.batch_norm == "local" else []
        per_row, whole = self._whole(n, weights)
        sums.first_rows = {piece: self._begin(piece, n) for piece in range(*self._pieces_of(self.rank))}
        for piece in range(*self._pieces_of(self.rank)):
            rows = slice(self._begin(piece, n), self._begin(piece + 1, n))
            if rows.start == rows.stop:
                continue
            own = None if weights is None else weights[rows]
            size = float(rows.stop - rows.start) if per_row else self._weight(piece, n, weights)
            share = size / whole if own is None or own.any() else 0.0
            if not share and not all_of_them:
                continue
            with _Batch(norms) as statistics:
                yield piece, *take(rows), own, share
                if share:
                    sums.statistics[piece] = statistics()

    def _whole(self, n: int, weights: Array | None) -> tuple[bool, float]:
        """Return whether each of n rows counts alike, and what their losses are divided by."""
        if weights is None or self.trainer._per_row:
            return True, float(n)
        return False, in_order(self._weight(p, n, weights) for p in range(self.pieces))

    def _weight(self, piece: int, n: int, weights: Any) -> float:
        return in_order(weights[self._begin(piece, n) : self._begin(piece + 1, n)].tolist())

    def fit(self, x: Any, t: Any, *args: Any, **options: Any) -> History:
        """Train on a data set that every rank can read; each reads its own rows of each batch.

        Arguments, the history and errors are those of `Trainer.fit`, on every rank; `accumulate` must be 1.
        `batch_size` is that of the whole batch. Callbacks run on every rank and must say the same there: only
        rank 0 should write files.
        """
        if options.get("accumulate", 1) != 1:
            raise ValueError(
                f"accumulate must be 1, got {_checks.shown(options['accumulate'])}: raise pieces"
            )
        trainer = self.trainer
        trainer.__dict__["_run_epoch"] = self._run_epoch
        try:
            return trainer.fit(x, t, *args, **options)
        finally:
            del trainer.__dict__["_run_epoch"]

    def _run_epoch(
        self, x: Any, t: Any, sample_weight: Any, order: Any, batch_size: int, scale: float
    ) -> Iterator[Any]:
        trainer, n = self.trainer, len(x) if order is None else len(order)
        done = 0
        if self.ranks == 1 and self._passes_natively(sample_weight):
            done = yield from trainer._run_natively(
                x, t, sample_weight, order, min(batch_size, n), scale, self.pieces
            )
        for batch in islice(trainer._batches(n, batch_size), done, None):
            rows = np.arange(batch.start, batch.stop) if order is None else order[batch]
            weights = None if sample_weight is None else sample_weight[rows]
            if weights is not None and not weights.any():
                continue

            def take(few: slice, rows: Array = rows) -> tuple[Any, Any]:
                return trainer._inputs(x, rows[few], scale), trainer._gather(t, rows[few])

            try:
                loss = self._step(len(rows), weights, take)
            except FloatingPointError as error:
                name_row(error, x, t, rows)
                raise
            yield [loss]

    def evaluate(self, x: Any, t: Any, sample_weight: Any = None, **options: Any) -> dict[str, float]:
        """Return what `Trainer.evaluate` does, on every rank for itself."""
        return self.trainer.evaluate(x, t, sample_weight, **options)

    def predict(self, x: Any, **options: Any) -> Array:
        """Return what `Trainer.predict` does, on every rank for itself."""
        return self.trainer.predict(x, **options)

    def save(self, path: Any) -> None:
        """Write the trainer to a file, by rank 0; see `Trainer.save`. All ranks return when it is there.

        `DataParallel(Trainer.load(path))` goes on from it, on any number of ranks, to the same bits. What
        rank 0 raises is raised on every rank.
        """
        failed: Exception | None = None
        if self.rank == 0:
            try:
                self.trainer.save(path)
            except Exception as error:
                failed = error
        self._raise(failed, self._share(failed))

    def _memory_for(self, size: int, dtype: Any) -> Memory:
        """Return room for the sums of so many numbers, that of the steps before if it fits."""
        if self._memory is None or self._memory[0] != (size, dtype):
            self._memory = (size, dtype), Memory(self, size, dtype)
        return self._memory[1]

    def _segments(self, size: int) -> list[Any]:
        """Return memory of so many bytes that all ranks see, that of each; or this rank's alone."""
        if self.ranks == 1 or not self.exact or not (shared := Shared.of(self.comm)).is_whole:
            return [np.empty(size, np.uint8)]
        return shared.segments(size)

    def _room(self, size: int, dtype: Any) -> Array:
        """Return room for the gradients of a piece: used before, where there is some."""
        self._free = [room for room in self._free if room.size == size and room.dtype == dtype]
        return self._free.pop() if self._free else np.empty(size, dtype)

    def _share(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        if self.ranks == 1:
            return [value]
        self._wait(self.comm.Ibarrier())
        values: list[Any] = self.comm.allgather(value)
        return values

    def _wait(self, request: Any) -> None:
        """Wait for a request, as long as that is allowed."""
        began, looks = time.monotonic(), 0
        while not request.Test():
            looks += 1
            if looks % 100:
                continue
            waited = time.monotonic() - began
            if waited > self.timeout:
                told = f"rank {self.rank} of {self.ranks} has waited {self.timeout:g} s for the others"
                raise RuntimeError(f"{told}: one has ended, or does something else")
            time.sleep(0 if waited < YIELDS else 0.0001)

    def _raise(self, own: Exception | None, errors: list[Exception | None]) -> None:
        """Raise this rank's own error, or one of its kind where another rank has one."""
        if own is not None:
            raise own
        for rank, error in enumerate(errors):
            if error is not None:
                raise _checks.told_of(f"rank {rank}", error)

    def __repr__(self) -> str:
        """Return rank, ranks, pieces and the trainer."""
        return f"DataParallel(rank {self.rank} of {self.ranks}, pieces={self.pieces}, {self.trainer!r})"


class _Batch:
    """Has batch normalization leave the statistics of a single batch, and puts the running ones back."""

    def __init__(self, norms: list[Any]) -> None:
        self.norms = norms

    def __enter__(self) -> Any:
        self.before = [(n, n.momentum, *(getattr(n, name).copy() for name in RUNNING)) for n in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0
            for name in RUNNING:
                getattr(norm, name)[...] = 0
        return lambda: [[getattr(norm, name).copy() for name in RUNNING] for norm in self.norms]

    def __exit__(self, *_: object) -> None:
        for norm, momentum, *arrays in self.before:
            norm.momentum = momentum
            for name, array in zip(RUNNING, arrays, strict=True):
                getattr(norm, name)[...] = array


class _Alone:
    """A communicator of one."""

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 1


def _world() -> Any:
    """Return the communicator of all that were started together."""
    if not any(name in os.environ for name in LAUNCHED):
        return _Alone()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            "processes that mpiexec has started need the package mpi4py: pip install fastnn-cpu[mpi]"
        ) from error
    return MPI.COMM_WORLD


def _marks(trainer: Trainer) -> dict[str, str]:
    """Return digests of what must be the same on all ranks."""
    net, optimizer = trainer.net, trainer.optimizer
    memory = {f"{slot}.{k}": a for slot, m in getattr(optimizer, "state", {}).items() for k, a in m.items()}
    layers = [[type(layer).__name__, repr(layer)] for layer in layers_of(net)]
    return {
        "versions of fastnn": __version__,
        "layers": _digest(json.dumps(layers).encode()),
        "parameters": _digest(*_bytes(net.state_dict())),
        "optimizers": _digest(repr(optimizer).encode(), str(getattr(optimizer, "step", None)).encode()),
        "optimizers' states": _digest(*_bytes(memory)),
        "losses": type(trainer.loss).__name__,
        "seeds, steps and options": repr(
            (
                trainer.seed,
                trainer.steps,
                trainer.epochs,
                trainer.clip_norm,
                trainer.average,
                trainer.nonfinite,
            )
        ),
    }


def _bytes(arrays: Mapping[str, Array]) -> Iterator[bytes]:
    for name, array in arrays.items():
        yield name.encode()
        yield array.tobytes()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _moved(rows: slice, offset: int) -> slice:
    return slice(rows.start - offset, rows.stop - offset)
