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
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import __version__, _checks
from .reference.network import RUNNING, layers_of
from .reference.trainer import Sums, added_rows, name_row
from .sparse import RowSparse
from .trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ._checks import Array
    from .reference.history import History

__all__ = ["DataParallel"]

LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID")  # set by an mpiexec
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
    exact : bool
        False: gradients are added up by MPI's own Allreduce, in whatever order it takes; the bits are then
        the same on all ranks of a run, and no more.
    timeout : float > 0
        Seconds that a rank waits for others before it raises RuntimeError.

    Batch normalization normalizes each piece by itself, with running statistics that take in the pieces in
    order. Masks of dropout are those of the pieces.

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
        exact: bool = True,
        timeout: float = 300.0,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a fastnn.Trainer, got {_checks.shown(trainer)}")
        self.trainer = trainer
        self.pieces = _checks.size("pieces", pieces)
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
        marks = self._share(_marks(trainer) | {"pieces": str(pieces), "exact": str(exact)})
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
        least = 2 if _norms(self.trainer) else 1
        pieces = max(1, min(self.pieces, n // least))
        return n * min(piece, pieces) // pieces

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
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight, np.float64)
            if x.ndim == 0 or t.ndim == 0 or len(x) != len(t) or len(x) == 0:
                raise ValueError(f"x and t must have as many rows, at least one, got {x.shape} and {t.shape}")
            own = (len(x), None if sample_weight is None else sample_weight.tolist())
        except Exception as error:
            failed = error
        told = self._share((failed, own))
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
        offset = sum(counts[: self.rank])
        return self._step(n, whole, lambda rows: (x[_moved(rows, offset)], t[_moved(rows, offset)]))

    def _step(self, n: int, weights: Array | None, take: Any) -> float:
        """Do a step on n rows; `take` returns x and t of a slice of them."""
        sums = _Exchange(self)
        trainer = self.trainer
        with ExitStack() as held:
            for lock in trainer._locks:
                held.enter_context(lock)
            try:
                pass_pieces = self._passed if self._passes_natively(weights) else self._parts
                return trainer._step_by_parts(pass_pieces(n, weights, take, sums), sums)
            except Exception as error:
                if not sums.told:
                    sums.fail(error)
                raise

    def _passes_natively(self, weights: Array | None) -> bool:
        """Return whether a rank's pieces are one native call, given all weights: on every rank alike."""
        trainer, net = self.trainer, self.trainer.net
        if weights is not None and ((weights > 0) & (weights < np.finfo(np.float64).tiny)).any():
            return False  # subnormal numbers would be flushed
        return (
            getattr(net, "_compiled", None) is not None
            and bool(_Exchange(self)._trained(net.params))
            and type(trainer.loss) in trainer.loss_classes.values()
            and not _norms(trainer)
            and not any(getattr(layer, "takes_indices", False) for layer in layers_of(net))
        )

    def _passed(self, n: int, weights: Array | None, take: Any, sums: _Exchange) -> Iterable[Any]:
        """Pass this rank's pieces natively; return those that are left for the trainer."""
        trainer, room = self.trainer, sums.room  # which all ranks make together
        pieces = [(p, self._begin(p, n), self._begin(p + 1, n)) for p in range(*self._pieces_of(self.rank))]
        pieces = [(p, a, b) for p, a, b in pieces if a < b and (weights is None or weights[a:b].any())]
        if not pieces:
            return ()
        first, last = pieces[0][1], pieces[-1][2]
        x, t = take(slice(first, last))
        numbers = np.array([p for p, _, _ in pieces])
        bounds = np.array([[a - first, b - first] for _, a, b in pieces]).reshape(-1)
        _, whole = self._whole(n, weights)
        own = None if weights is None else weights[first:last]
        result = trainer.net._compiled.pieces(trainer, x, t, own, 1.0, (bounds, numbers, whole, room))
        if result is None:
            return self._parts(n, weights, take, sums)
        losses, nodes = result
        if not isinstance(losses, list):
            trainer._check_loss(nodes)
        sums.losses = dict(zip(numbers.tolist(), losses, strict=True))
        sums.nodes = {node: room[i] for i, node in enumerate(nodes)}
        return ()

    def _parts(self, n: int, weights: Array | None, take: Any, sums: _Exchange) -> Iterator[Any]:
        """Yield this rank's pieces as a trainer takes them; note what each makes of running statistics."""
        norms = _norms(self.trainer)
        per_row, whole = self._whole(n, weights)
        for piece in range(*self._pieces_of(self.rank)):
            rows = slice(self._begin(piece, n), self._begin(piece + 1, n))
            if rows.start == rows.stop:
                continue
            own = None if weights is None else weights[rows]
            size = float(rows.stop - rows.start) if per_row else self._weight(piece, n, weights)
            share = size / whole if own is None or own.any() else 0.0
            with _Batch(norms) as statistics:
                yield piece, *take(rows), own, share
                if share:
                    sums.statistics[piece] = statistics()

    def _whole(self, n: int, weights: Array | None) -> tuple[bool, float]:
        """Return whether each of n rows counts alike, and what their losses are divided by."""
        if weights is None or self.trainer._per_row:
            return True, float(n)
        return False, sum(self._weight(p, n, weights) for p in range(self.pieces))

    def _weight(self, piece: int, n: int, weights: Any) -> float:
        return float(weights[self._begin(piece, n) : self._begin(piece + 1, n)].sum())

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
        for batch in trainer._batches(n, batch_size):
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
        self.statistics: dict[int, Any] = {}
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
        return float(sum(losses[p] for p in sorted(losses)))

    def _move_in_memory(self, memory: _Memory, grads: dict[str, Any]) -> float:
        """Do the same where each rank sees what the others have: each adds up a stretch of the numbers."""
        parallel = self.parallel
        for row, node in zip(memory.own(), self.nodes.values(), strict=False):
            if not np.may_share_memory(row, node):  # what Python has passed lies elsewhere
                row[...] = node
        memory.tell(self.losses, list(self.nodes))
        parallel._wait(parallel.comm.Ibarrier())
        if any(head[0] < 0 for head in memory.heads):
            told = parallel.comm.allgather((None, None))
            parallel._raise(None, [error for error, _ in told])
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
        return float(sum(losses))

    def _move_statistics(self, by_piece: dict[int, Any]) -> None:
        norms = _norms(self.parallel.trainer)
        for piece in sorted(by_piece):
            for norm, batch in zip(norms, by_piece[piece], strict=True):
                for name, own in zip(RUNNING, batch, strict=True):
                    running = getattr(norm, name)
                    share = running.dtype.type(norm.momentum)
                    running[...] = share * running + (1 - share) * own

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
        self.rank = parallel.rank
        self.cuts = [size * rank // parallel.ranks for rank in (*ranks, parallel.ranks)]
        parts = [
            (np.int64, 1 + 2 * rows),
            (np.float64, parallel.pieces),
            (dtype, rows * size),
            (dtype, -(-size // parallel.ranks)),
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
        self.heads, self.by_piece, rooms, self.totals = (list(kind) for kind in zip(*views, strict=True))
        self.rooms = [room.reshape(rows, size) for room in rooms]
        if self.is_shared:
            self.totals = [
                total[: b - a] for total, (a, b) in zip(self.totals, pairwise(self.cuts), strict=True)
            ]

    def own(self) -> Array:
        """Return this rank's rows."""
        room: Array = self.rooms[self.rank if self.is_shared else 0]
        return room

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
