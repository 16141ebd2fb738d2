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
from contextlib import ExitStack, suppress
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import __version__, _checks
from .reference.layers import Residual, each_layer
from .reference.network import RUNNING, _without_grads, dropouts_among, layers_of
from .reference.trainer import Sums, added_rows, name_row
from .sparse import RowSparse
from .trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ._checks import Array
    from .reference.history import History

__all__ = ["DataParallel"]

LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID")  # set by an mpiexec
DIRECTLY = 3  # ranks of one machine, at most, of which each adds up all of what all have
YIELDS = 0.02  # seconds that a rank which waits only yields its processor; then it sleeps
Node = tuple[int, int]  # level and place in the tree of pieces


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
        self._memory: tuple[tuple[int, Any], _Memory] | None = None
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
        least = 2 if self.batch_norm == "local" and _norms(self.trainer) else 1
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
            if hasattr(self.trainer.loss, "plain_targets") and (labels := _checks.other_labels(t)) is not None:
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
        sums = _Exchange(self)
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

    def _pieces(self, n: int, weights: Array | None, take: Any, sums: _Exchange) -> Iterable[Any]:
        """Pass this rank's pieces; return those that are left for the trainer to pass one by one."""
        norms = self.batch_norm == "global" and bool(_norms(self.trainer))
        if norms and n == 1:
            raise ValueError("x must have at least 2 rows in training, got a batch of 1")
        if self._passes_natively(weights):
            return self._passed(n, weights, take, sums)
        if norms:
            _Together(self, n, sums).run(self._parts(n, weights, take, sums, all_of_them=True))
            return ()
        return self._parts(n, weights, take, sums)

    def _passes_natively(self, weights: Array | None) -> bool:
        """Return whether a rank's pieces are one native call, given all weights: on every rank alike."""
        trainer, net = self.trainer, self.trainer.net
        if weights is not None and ((weights > 0) & (weights < np.finfo(np.float64).tiny)).any():
            return False  # subnormal numbers would be flushed
        return (
            getattr(net, "_compiled", None) is not None
            and bool(_Exchange(self)._trained(net.params))
            and type(trainer.loss) in trainer.loss_classes.values()
            and (self.batch_norm == "global" or not _norms(trainer))
            and not any(getattr(layer, "takes_indices", False) for layer in layers_of(net))
        )

    def _passed(self, n: int, weights: Array | None, take: Any, sums: _Exchange) -> Iterable[Any]:
        """Pass this rank's pieces natively; return those that are left for the trainer."""
        trainer, room = self.trainer, sums.room  # which all ranks make together
        first, last = self._pieces_of(self.rank)
        bounds = np.array([self._begin(p, n) for p in range(self.pieces + 1)])
        counts = np.diff(bounds) > 0
        if weights is not None:
            counts &= np.array([bool(weights[a:b].any()) for a, b in pairwise(bounds)])
        norms = _norms(trainer)
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
                _Together(self, n, sums).run(self._parts(n, weights, take, sums, all_of_them=True))
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
        self, n: int, weights: Array | None, take: Any, sums: _Exchange, *, all_of_them: bool = False
    ) -> Iterator[Any]:
        """Yield this rank's pieces as a trainer takes them, or also those that weigh nothing.

        Where each is normalized by itself, what it makes of running statistics is noted.
        """
        norms = _norms(self.trainer) if self.batch_norm == "local" else []
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
        return False, _in_order(self._weight(p, n, weights) for p in range(self.pieces))

    def _weight(self, piece: int, n: int, weights: Any) -> float:
        return _in_order(weights[self._begin(piece, n) : self._begin(piece + 1, n)].tolist())

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

    def _memory_for(self, size: int, dtype: Any) -> _Memory:
        """Return room for the sums of so many numbers, that of the steps before if it fits."""
        if self._memory is None or self._memory[0] != (size, dtype):
            self._memory = (size, dtype), _Memory(self, size, dtype)
        return self._memory[1]

    def _segments(self, size: int) -> list[Any]:
        """Return memory of so many bytes that all ranks see, that of each; or this rank's alone."""
        if self.ranks == 1 or not self.exact or not (shared := _Shared.of(self.comm)).is_whole:
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


class _Exchange(Sums):
    """Loss and gradients of all ranks' pieces, added up along the tree."""

    def __init__(self, parallel: DataParallel) -> None:
        super().__init__()
        self.parallel = parallel
        self._memory: _Memory | None = None
        self.losses: dict[int, float] = {}
        self.statistics: dict[int, Any] = {}  # that each piece makes of running ones
        self.moments: list[tuple[Array, Array]] = []  # of the whole batch, for each batch normalization
        self.shares = 0
        self.first_rows: dict[int, int] = {}
        self.nodes: dict[Node, Array] = {}
        self.sparse: dict[str, dict[int, RowSparse]] = {}
        self.told = False

    def add(self, part: int, loss: float, grads: Mapping[str, Any]) -> None:
        """Take in the loss and the gradients of a piece."""
        self.losses[part] = loss
        dense = []
        for name, g in self._trained(grads).items():
            if isinstance(g, RowSparse):
                self.sparse.setdefault(name, {})[part] = g
            else:
                dense.append(g.reshape(-1))
        if not dense:
            return
        node, own = (0, part), self.nodes.pop((0, part - 1), None) if part % 2 else None
        if own is not None:  # the left of a pair
            _each(own, dense, np.add)
            node = (1, part // 2)
        else:
            own = self.parallel._room(sum(g.size for g in dense), dense[0].dtype)
            _each(own, dense, lambda _, g, out: np.copyto(out, g))
        while node[1] % 2 and (node[0], node[1] - 1) in self.nodes:
            left = self.nodes.pop((node[0], node[1] - 1))
            left += own
            self.parallel._free.append(own)
            own, node = left, (node[0] + 1, node[1] // 2)
        self.nodes[node] = own

    def place(self, part: int) -> tuple[int, int]:
        """Return the stream of a piece's masks, and its first row."""
        return 0, self.first_rows[part]

    def share(self, by_piece: Any) -> None:
        """Have each rank see all rows of (pieces, n) numbers, of which it has those of its own pieces."""
        parallel = self.parallel
        turn, self.shares = self.shares % 2, self.shares + 1
        if parallel.ranks == 1:
            return
        rows = None if by_piece is None else np.asarray(by_piece)
        own = slice(*parallel._pieces_of(parallel.rank))
        memory = self._memory
        if memory is None or not memory.is_shared:
            self.told = True  # what goes wrong elsewhere
            told = parallel._share((None, None if rows is None else rows[own]))
            parallel._raise(None, [error for error, _ in told])
            self.told = False
            for rank, (_, others) in enumerate(told):
                if rows is not None and others is not None:
                    rows[slice(*parallel._pieces_of(rank))] = others
            return
        if rows is not None:
            memory.turns(parallel.rank, turn, rows[own].shape)[...] = rows[own]
        self._meet(memory)
        for rank in range(parallel.ranks):
            if rows is not None and rank != parallel.rank:
                others = rows[slice(*parallel._pieces_of(rank))]
                others[...] = memory.turns(rank, turn, others.shape)

    def come_to_end(self, n: int) -> None:
        """Share what is left of what ranks with more rows and layers have to share of a batch of n."""
        parallel = self.parallel
        norms = _norms(parallel.trainer)
        while self.shares < len(norms):
            gamma = norms[self.shares].params["gamma"]
            by_piece = np.zeros((parallel.pieces, 2 * gamma.size), gamma.dtype)
            self.share(by_piece)
            self.moments.append(_moments(by_piece, parallel._rows_of_pieces(n)))
        while self.shares < 2 * len(norms):
            self.share(None)

    def _meet(self, memory: _Memory) -> None:
        """Wait for all ranks; raise what one of them has met with."""
        parallel = self.parallel
        parallel._wait(parallel.comm.Ibarrier())
        if any(head[0] < 0 for head in memory.heads):
            self.told = True
            told = parallel.comm.allgather((None, None))
            parallel._raise(None, [error for error, _ in told])

    def _trained(self, grads: Mapping[str, Any]) -> Mapping[str, Any]:
        trainer = self.parallel.trainer
        if getattr(trainer.optimizer, "groups", ()):
            return trainer.optimizer.trained(trainer.net.params, grads)  # type: ignore[no-any-return]
        return grads

    @property
    def room(self) -> Array:
        """Room for the sums of this rank's pieces, seen by all ranks if they share a machine."""
        parallel, trainer = self.parallel, self.parallel.trainer
        if self._memory is None:
            trained = list(self._trained(trainer.net.params).values())
            self._memory = parallel._memory_for(sum(p.size for p in trained), trained[0].dtype)
            self._memory.begin()
        return self._memory.own()

    def fail(self, error: Exception) -> None:
        """Tell the others that this rank cannot go on."""
        self.told = True
        if self._memory is not None and self._memory.is_shared:
            self._memory.tell({}, None)
        with suppress(RuntimeError):  # they do not listen
            self.parallel._share((error, None))

    def move_to(self, grads: dict[str, Any]) -> float:
        """Put the sums over all ranks in the place of this rank's last piece's; return the loss."""
        parallel = self.parallel
        self.told = True
        if self._memory is not None and self._memory.is_shared:
            return self._move_in_memory(self._memory, grads)
        told = parallel._share((None, (self.losses, list(self.nodes), self.sparse, self.statistics)))
        parallel._raise(None, [error for error, _ in told])
        by_rank = [contents for _, contents in told]
        self._move_dense(grads, [nodes for _, nodes, _, _ in by_rank])
        for name in {name for _, _, sparse, _ in by_rank for name in sparse}:
            pieces = {p: g for _, _, sparse, _ in by_rank for p, g in sparse.get(name, {}).items()}
            grads[name] = added_rows([pieces[p] for p in sorted(pieces)])
        self._move_statistics({p: s for *_, statistics in by_rank for p, s in statistics.items()})
        losses = {p: loss for losses, *_ in by_rank for p, loss in losses.items()}
        return _in_order(losses[p] for p in sorted(losses))

    def _move_in_memory(self, memory: _Memory, grads: dict[str, Any]) -> float:
        """Do the same where each rank sees what the others have: each adds up a stretch of the numbers."""
        parallel = self.parallel
        for row, node in zip(memory.own(), self.nodes.values(), strict=False):
            if not np.may_share_memory(row, node):  # what Python has passed lies elsewhere
                row[...] = node
        memory.tell(self.losses, list(self.nodes))
        self._meet(memory)
        if parallel.ranks <= DIRECTLY:
            whole = {
                node: memory.rooms[rank][i]
                for rank in range(parallel.ranks)
                for i, node in enumerate(memory.nodes(rank))
            }
            losses = np.sum(memory.by_piece, axis=0).tolist()
            at = 0
            for g in self._trained(grads).values():
                few = {node: row[at : at + g.size] for node, row in whole.items()}
                self._sum(few, g.reshape(-1))
                at += g.size
            parallel._wait(parallel.comm.Ibarrier())  # before anyone writes there again
            self._move_statistics({})
            return _in_order(losses)
        cuts = memory.cuts
        own = slice(cuts[parallel.rank], cuts[parallel.rank + 1])
        nodes = {
            node: memory.rooms[rank][i, own]
            for rank in range(parallel.ranks)
            for i, node in enumerate(memory.nodes(rank))
        }
        self._sum(nodes, memory.totals[parallel.rank])
        losses = np.sum(memory.by_piece, axis=0).tolist()
        parallel._wait(parallel.comm.Ibarrier())
        self._take(grads, memory.totals)
        self._move_statistics({})
        return _in_order(losses)

    def _move_statistics(self, by_piece: dict[int, Any]) -> None:
        norms = _norms(self.parallel.trainer)
        for batches in [self.moments, *(by_piece[piece] for piece in sorted(by_piece))]:
            for norm, batch in zip(norms, batches, strict=False):
                for name, own in zip(RUNNING, batch, strict=True):
                    running = getattr(norm, name)
                    kind = running.dtype.type
                    running[...] = kind(norm.momentum) * running + kind(1 - norm.momentum) * own

    def _move_dense(self, grads: dict[str, Any], nodes: list[list[Node]]) -> None:
        for prefix, layer in self.parallel.trainer.net._with_params:
            for name, p in layer.params.items():  # of a rank that has had no rows so far
                if name not in layer.grads and not getattr(layer, "takes_indices", False):
                    grads[prefix + name] = layer.grads[name] = np.zeros_like(p)
        arrays = [g for g in self._trained(grads).values() if not isinstance(g, RowSparse)]
        if not arrays:
            return
        self._take(grads, [self._total(sum(g.size for g in arrays), arrays[0].dtype, nodes)])
        if self._memory is None:  # whose rows stay in its room
            self.parallel._free += self.nodes.values()

    def _take(self, grads: dict[str, Any], totals: list[Array]) -> None:
        """Copy the sums, stretch by stretch, to the gradients."""
        stretches = iter(totals)
        rest = next(stretches)
        for g in self._trained(grads).values():
            if isinstance(g, RowSparse):
                continue
            flat, at = g.reshape(-1), 0
            while at < flat.size:
                if not rest.size:
                    rest = next(stretches)
                    continue
                few = min(rest.size, flat.size - at)
                flat[at : at + few] = rest[:few]
                rest, at = rest[few:], at + few

    def _total(self, size: int, dtype: Any, nodes: list[list[Node]]) -> Array:
        """Return the sum over all pieces of all ranks."""
        parallel, comm = self.parallel, self.parallel.comm
        if parallel.ranks == 1:
            return self._sum(self.nodes)
        if not parallel.exact:
            mine = self._sum(self.nodes) if self.nodes else np.zeros(size, dtype)
            total = np.empty(size, dtype)
            parallel._wait(comm.Iallreduce(mine, total))
            return total
        # Each rank adds up a stretch of the numbers, of which it gets all ranks' nodes; then all get all.
        cuts = [size * rank // parallel.ranks for rank in range(parallel.ranks + 1)]
        widths = np.diff(cuts)
        keys = nodes[parallel.rank]
        sent = np.concatenate(
            [self.nodes[node][a:b] for a, b in pairwise(cuts) for node in keys] or [np.empty(0, dtype)]
        )
        width = int(widths[parallel.rank])
        counts = [len(own) * width for own in nodes]
        got = np.empty(sum(counts), dtype)
        parallel._wait(comm.Ialltoallv((sent, (widths * len(keys)).tolist()), (got, counts)))
        stretches, at = {}, 0
        for own in nodes:
            for node in own:
                stretches[node] = got[at : at + width]
                at += width
        total = np.empty(size, dtype)
        parallel._wait(comm.Iallgatherv(self._sum(stretches), (total, widths.tolist())))
        return total

    def _sum(self, nodes: dict[Node, Array], out: Array | None = None) -> Array:
        """Return the sum at the root of the tree, of which these nodes are known; in `out` if given."""
        level = (self.parallel.pieces - 1).bit_length()

        def at(node: Node, out: Array | None) -> Array | None:
            if node in nodes:
                return nodes[node]
            level, place = node
            if level == 0:
                return None
            left, right = at((level - 1, 2 * place), None), at((level - 1, 2 * place + 1), None)
            return left if right is None else right if left is None else np.add(left, right, out=out)

        root = at((level, 0), out)
        assert root is not None  # some piece weighs something
        if out is not None and root is not out:
            out[...] = root
        return root if out is None else out


class _Memory:
    """Room for the sums of pieces: this rank's, or that of all ranks, which they all see on one machine.

    A rank's segment holds how many nodes it has (-1: it has failed) and which; the losses of its pieces, 0
    for those of others; a row for each node; and its stretch of the whole sum.

    Attributes
    ----------
    rooms : list of arrays (rows, size)
    totals : list of arrays
        The stretches, numbers cuts[rank] to cuts[rank + 1] of each.
    """

    def __init__(self, parallel: DataParallel, size: int, dtype: Any) -> None:
        own = parallel.pieces // parallel.ranks + 1  # pieces of a rank, at most
        rows = min(own, 2 * own.bit_length())  # nodes left when they are added up, and one
        ranks, dtype = range(parallel.ranks), np.dtype(dtype)
        norms = _norms(parallel.trainer)
        widest = max((2 * norm.params["gamma"].size for norm in norms), default=0)
        self.rank = parallel.rank
        self.cuts = [size * rank // parallel.ranks for rank in (*ranks, parallel.ranks)]
        parts = [
            (np.int64, 1 + 2 * rows),
            (np.float64, parallel.pieces),
            (dtype, rows * size),
            (dtype, -(-size // parallel.ranks)),
            (dtype, 2 * own * widest),
            (np.int64, 2),
        ]
        starts = [0]
        for kind, count in parts:
            starts.append(-(-(starts[-1] + np.dtype(kind).itemsize * count) // 64) * 64)
        segments = parallel._segments(starts[-1])
        self.is_shared = len(segments) == parallel.ranks > 1
        views = [
            [
                np.frombuffer(segment, kind, count, start)
                for (kind, count), start in zip(parts, starts, strict=False)
            ]
            for segment in segments
        ]
        self.heads, self.by_piece, rooms, self.totals, self._turns, self._counts = (
            list(kind) for kind in zip(*views, strict=True)
        )
        self._said = 0
        self.rooms = [room.reshape(rows, size) for room in rooms]
        if self.is_shared:
            self.totals = [
                total[: b - a] for total, (a, b) in zip(self.totals, pairwise(self.cuts), strict=True)
            ]

    def own(self) -> Array:
        """Return this rank's rows."""
        room: Array = self.rooms[self.rank if self.is_shared else 0]
        return room

    def begin(self) -> None:
        """Say that this rank has begun a step, of which nothing has failed so far."""
        if self.is_shared:
            self.heads[self.rank][0] = 0

    def say(self, count: int) -> None:
        """Say how many rows this rank has: what the time before was said stays until all have come again."""
        self._said += 1
        self._counts[self.rank][self._said % 2] = count

    def said(self) -> list[int]:
        """Return what each rank has said."""
        return [int(own[self._said % 2]) for own in self._counts]

    def turns(self, rank: int, turn: int, shape: tuple[int, ...]) -> Array:
        """Return where a rank says what its pieces come to, in one turn or the other: all have read one when
        the next is over."""
        half = self._turns[rank].reshape(2, -1)[turn]
        return half[: shape[0] * shape[1]].reshape(shape)

    def tell(self, losses: dict[int, float], nodes: list[Node] | None) -> None:
        """Say what this rank has; no nodes at all: it has failed."""
        head, by_piece = self.heads[self.rank], self.by_piece[self.rank]
        by_piece[:] = 0
        for piece, loss in losses.items():
            by_piece[piece] = loss
        head[0] = -1 if nodes is None else len(nodes)
        for i, node in enumerate(nodes or ()):
            head[1 + 2 * i : 3 + 2 * i] = node

    def nodes(self, rank: int) -> list[Node]:
        """Return the nodes of a rank, in the order of its rows."""
        head = self.heads[rank].tolist()
        return [(head[1 + 2 * i], head[2 + 2 * i]) for i in range(head[0])]


class _Together:
    """This rank's pieces on their way through the layers side by side, for statistics of the whole batch.

    Each has layers of its own, which share their parameters.
    """

    def __init__(self, parallel: DataParallel, n: int, sums: _Exchange) -> None:
        self.parallel, self.n, self.sums = parallel, n, sums
        self.rows = parallel._rows_of_pieces(n)
        self.norms: list[Any] = []  # with what backward needs

    def run(self, parts: Iterable[Any]) -> None:
        """Pass these pieces, those that weigh nothing among them."""
        trainer, sums = self.parallel.trainer, self.sums
        pieces = list(parts)
        self.numbers = [piece for piece, *_ in pieces]
        layers = [tuple(map(_without_grads, trainer.net.layers)) for _ in pieces]
        for own, (piece, *_) in zip(layers, pieces, strict=True):
            for i, dropout in dropouts_among([layer for _, layer in each_layer(own)]):
                dropout.stream, dropout.first_row = i, sums.first_rows[piece]
                dropout.step = trainer.steps
                if not getattr(dropout, "seeded", True):
                    dropout.seed = trainer.seed
        outputs = self._forward(layers, [x for _, x, *_ in pieces])
        gradients, losses = [], []
        for y, (_, _, t, weight, share) in zip(outputs, pieces, strict=True):
            loss, dout = trainer._loss_and_gradient(y, t, weight, share) if share else (0.0, np.zeros_like(y))
            losses.append(loss)
            gradients.append(np.array(dout))
        self._backward(layers, gradients)
        sums.come_to_end(self.n)
        for own, (piece, *_, share), loss in zip(layers, pieces, losses, strict=True):
            if share:
                grads = {
                    f"{prefix}{name}": g
                    for prefix, layer in each_layer(own)
                    if not isinstance(layer, Residual)
                    for name, g in getattr(layer, "grads", {}).items()
                }
                sums.add(piece, loss, grads)

    def _forward(self, layers: list[tuple[Any, ...]], xs: list[Any]) -> list[Any]:
        for same in zip(*layers, strict=True):
            if isinstance(same[0], Residual):
                inner = self._forward([block.layers for block in same], xs)
                xs = [x + y for x, y in zip(xs, inner, strict=True)]
            elif hasattr(same[0], RUNNING[0]):
                xs = self._normalize(same, xs)
            else:
                xs = [layer.forward(x, True) for layer, x in zip(same, xs, strict=True)]
        return xs

    def _backward(self, layers: list[tuple[Any, ...]], ds: list[Any]) -> list[Any]:
        for same in reversed(list(zip(*layers, strict=True))):
            if isinstance(same[0], Residual):
                inner = self._backward([block.layers for block in same], ds)
                ds = [d + dx for d, dx in zip(ds, inner, strict=True)]
            elif hasattr(same[0], RUNNING[0]):
                ds = self._normalize_back(same, ds)
            else:
                ds = [layer.backward(d) for layer, d in zip(same, ds, strict=True)]
        return ds

    def _normalize(self, same: tuple[Any, ...], xs: list[Array]) -> list[Array]:
        gamma, beta = same[0].params["gamma"], same[0].params["beta"]
        shapes = [x.shape for x in xs]
        rows = [np.asarray(x, gamma.dtype).reshape(len(x), gamma.size) for x in xs]
        by_piece = np.zeros((len(self.rows), 2 * gamma.size), gamma.dtype)
        for piece, x in zip(self.numbers, rows, strict=True):
            mean = by_piece[piece, : gamma.size] = x.mean(axis=0)
            by_piece[piece, gamma.size :] = ((x - mean) ** 2).sum(axis=0)
        self.sums.share(by_piece)
        mean, var = _moments(by_piece, self.rows)
        self.sums.moments.append((mean, var))
        rstd = 1 / np.sqrt(var + gamma.dtype.type(same[0].eps))
        self.norms.append((rows, mean, rstd))
        return [
            ((x - mean) * (rstd * gamma) + beta).reshape(shape) for x, shape in zip(rows, shapes, strict=True)
        ]

    def _normalize_back(self, same: tuple[Any, ...], ds: list[Array]) -> list[Array]:
        rows, mean, rstd = self.norms.pop()
        gamma = same[0].params["gamma"]
        kind = gamma.dtype.type
        by_piece = np.zeros((len(self.rows), 2 * gamma.size), gamma.dtype)
        flat = [np.asarray(d, gamma.dtype).reshape(len(d), gamma.size) for d in ds]
        for piece, layer, x, d in zip(self.numbers, same, rows, flat, strict=True):
            layer.grads["gamma"] = (d * (x - mean)).sum(axis=0) * rstd
            layer.grads["beta"] = d.sum(axis=0)
            by_piece[piece] = np.concatenate([layer.grads["gamma"], layer.grads["beta"]])
        self.sums.share(by_piece)
        parts = [row if n else None for n, row in zip(self.rows, by_piece, strict=True)]
        dgamma, dbeta = np.split(_along_tree(parts, np.add), 2) / kind(self.n)
        return [
            (rstd * gamma * (d - ((x - mean) * (rstd * dgamma) + dbeta))).reshape(shape)
            for x, d, shape in zip(rows, flat, (d.shape for d in ds), strict=True)
        ]


def _moments(by_piece: Array, rows: list[int]) -> tuple[Array, Array]:
    """Return mean and variance of all rows, given each piece's mean and sum of squared deviations from it.

    As Chan, Golub & LeVeque 1979; subnormal numbers are 0, as in native code.
    """
    kind = by_piece.dtype.type

    def both(a: Any, b: Any) -> Any:
        (n, mean, squares), (others, other_mean, other_squares) = a, b
        share, d = kind(others) / kind(n + others), other_mean - mean
        return n + others, mean + d * share, squares + (other_squares + d * d * (kind(n) * share))

    moments = [(n, *np.split(row, 2)) if n else None for n, row in zip(rows, by_piece, strict=True)]
    n, mean, squares = _along_tree(moments, both)
    tiny = np.finfo(kind).tiny
    mean, var = (np.where(np.abs(a) < tiny, kind(0), a) for a in (mean, squares / kind(n)))
    return mean, var


def _along_tree(leaves: list[Any], both: Any) -> Any:
    """Return what the leaves of the tree come to, some of them None."""
    while len(leaves) > 1:
        pairs = zip(leaves[::2], [*leaves[1::2], None], strict=False)
        leaves = [b if a is None else a if b is None else both(a, b) for a, b in pairs]
    return leaves[0]


def _in_order(numbers: Iterable[float]) -> float:
    """Return their sum, each added to those before it (Python's own sum may compensate)."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _norms(trainer: Trainer) -> list[Any]:
    """Return the layers with running statistics."""
    return [layer for layer in layers_of(trainer.net) if hasattr(layer, RUNNING[0])]


def _each(flat: Array, arrays: list[Array], function: Any) -> None:
    """Have each array's stretch of a flat one become function(stretch, array)."""
    at = 0
    for g in arrays:
        stretch = flat[at : at + g.size]
        function(stretch, g, out=stretch)
        at += g.size


class _Shared:
    """Memory of one machine that all ranks of a communicator see: one window, which grows."""

    key: ClassVar[int | None] = None  # under which a communicator has it, as long as that lives

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._here = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self._window: Any = None
        self._size = 0
        self.is_whole = self._here.Get_size() == comm.Get_size()

    @classmethod
    def of(cls, comm: Any) -> _Shared:
        """Return that of a communicator; the first time all its ranks have to call this."""
        if cls.key is None:
            cls.key = type(comm).Create_keyval()
        own: _Shared | None = comm.Get_attr(cls.key)
        if own is None:
            own = cls(comm)
            comm.Set_attr(cls.key, own)
        return own

    def segments(self, size: int) -> list[Any]:
        """Return `size` bytes of each rank; all ranks have to call this."""
        from mpi4py import MPI

        if size > self._size:
            self._window = MPI.Win.Allocate_shared(size, 1, comm=self._here)
            self._size = size
        return [self._window.Shared_query(rank)[0] for rank in range(self._here.Get_size())]


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
