"""What processes that train one network tell each other of a step: losses, gradients, statistics."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .reference.network import RUNNING, layers_of
from .reference.trainer import Sums, added_rows
from .sparse import RowSparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._checks import Array
    from .trainer import Trainer

DIRECTLY = 3  # ranks of one machine, at most, of which each adds up all of what all have
BOARD = 3
Node = tuple[int, int]  # level and place in the tree of pieces


class Exchange(Sums):
    """Loss and gradients of all ranks' pieces, added up along the tree."""

    def __init__(self, parallel: Any) -> None:
        super().__init__()
        self.parallel = parallel
        self._memory: Memory | None = None
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
        norms = norms_of(parallel.trainer)
        while self.shares < len(norms):
            gamma = norms[self.shares].params["gamma"]
            by_piece = np.zeros((parallel.pieces, 2 * gamma.size), gamma.dtype)
            self.share(by_piece)
            self.moments.append(moments_of(by_piece, parallel._rows_of_pieces(n)))
        while self.shares < 2 * len(norms):
            self.share(None)

    def _meet(self, memory: Memory) -> None:
        """Wait for all ranks; raise what one of them has met with."""
        parallel = self.parallel
        parallel._wait(parallel.comm.Ibarrier())
        if memory.has_failed():
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
        return self._memory.own()

    def fail(self, error: Exception) -> None:
        """Tell the others that this rank cannot go on."""
        self.told = True
        if self._memory is not None and self._memory.is_shared:
            self._memory.fail()
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
        return in_order(losses[p] for p in sorted(losses))

    def _move_in_memory(self, memory: Memory, grads: dict[str, Any]) -> float:
        """Do the same where each rank sees what the others have: each adds up a stretch of the numbers."""
        parallel = self.parallel
        for row, node in zip(memory.own(), self.nodes.values(), strict=False):
            if not np.may_share_memory(row, node):  # what Python has passed lies elsewhere
                row[...] = node
        memory.tell(self.losses, list(self.nodes))
        self._meet(memory)
        self._have_all(grads)
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
            return in_order(losses)
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
        return in_order(losses)

    def _move_statistics(self, by_piece: dict[int, Any]) -> None:
        norms = norms_of(self.parallel.trainer)
        for batches in [self.moments, *(by_piece[piece] for piece in sorted(by_piece))]:
            for norm, batch in zip(norms, batches, strict=False):
                for name, own in zip(RUNNING, batch, strict=True):
                    running = getattr(norm, name)
                    kind = running.dtype.type
                    running[...] = kind(norm.momentum) * running + kind(1 - norm.momentum) * own

    def _have_all(self, grads: dict[str, Any]) -> None:
        """Give a rank that has had no rows so far places for gradients."""
        for prefix, layer in self.parallel.trainer.net._with_params:
            for name, p in layer.params.items():
                if name not in layer.grads and not getattr(layer, "takes_indices", False):
                    grads[prefix + name] = layer.grads[name] = np.zeros_like(p)

    def _move_dense(self, grads: dict[str, Any], nodes: list[list[Node]]) -> None:
        self._have_all(grads)
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


class Memory:
    """Room for the sums of pieces: this rank's, or that of all ranks, which they all see on one machine.

    A rank's segment begins with its board (`Shared`). Then come how many nodes it has, and which; the losses
    of its pieces, 0 for those of others; a row for each node; its stretch of the whole sum; and, twice, a row
    for each of its pieces, of what layers share in the middle of a pass.

    Attributes
    ----------
    rooms : list of arrays (rows, size)
    totals : list of arrays
        The stretches, numbers cuts[rank] to cuts[rank + 1] of each.
    """

    def __init__(self, parallel: Any, size: int, dtype: Any) -> None:
        own = parallel.pieces // parallel.ranks + 1  # pieces of a rank, at most
        rows = min(own, 2 * own.bit_length())  # nodes left when they are added up, and one
        ranks, dtype = range(parallel.ranks), np.dtype(dtype)
        norms = norms_of(parallel.trainer)
        widest = max((2 * norm.params["gamma"].size for norm in norms), default=0)
        self.rank = parallel.rank
        self.cuts = [size * rank // parallel.ranks for rank in (*ranks, parallel.ranks)]
        parts = [
            (np.int64, BOARD),
            (np.int64, 1 + 2 * rows),
            (np.float64, parallel.pieces),
            (dtype, rows * size),
            (dtype, -(-size // parallel.ranks)),
            (dtype, 2 * own * widest),
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
        self._boards, self.heads, self.by_piece, rooms, self.totals, self._turns = (
            list(kind) for kind in zip(*views, strict=True)
        )
        self._shared: Any = Shared.of(parallel.comm) if self.is_shared else None
        self.rooms = [room.reshape(rows, size) for room in rooms]
        if self.is_shared:
            self.totals = [
                total[: b - a] for total, (a, b) in zip(self.totals, pairwise(self.cuts), strict=True)
            ]

    def own(self) -> Array:
        """Return this rank's rows."""
        room: Array = self.rooms[self.rank if self.is_shared else 0]
        return room

    def fail(self) -> None:
        """Say, before the ranks meet the next time, that this one has failed."""
        self._shared.meetings += 1
        self._boards[self.rank][0] = self._shared.meetings

    def has_failed(self) -> bool:
        """Return, when they have met, whether one had failed before; later ones meet again."""
        self._shared.meetings += 1
        return any(int(board[0]) == self._shared.meetings for board in self._boards)

    def say(self, count: int) -> None:
        """Say how many rows this rank has: what the time before was said stays until all have come again."""
        self._shared.said += 1
        self._boards[self.rank][1 + self._shared.said % 2] = count

    def said(self) -> list[int]:
        """Return what each rank has said."""
        return [int(board[1 + self._shared.said % 2]) for board in self._boards]

    def turns(self, rank: int, turn: int, shape: tuple[int, ...]) -> Array:
        """Return where a rank says what its pieces come to, in one turn or the other.

        All have read one when the next is over.
        """
        half: Array = self._turns[rank].reshape(2, -1)[turn]
        return half[: shape[0] * shape[1]].reshape(shape)

    def tell(self, losses: dict[int, float], nodes: list[Node]) -> None:
        """Say what this rank has."""
        head, by_piece = self.heads[self.rank], self.by_piece[self.rank]
        by_piece[:] = 0
        for piece, loss in losses.items():
            by_piece[piece] = loss
        head[0] = len(nodes)
        for i, node in enumerate(nodes):
            head[1 + 2 * i : 3 + 2 * i] = node

    def nodes(self, rank: int) -> list[Node]:
        """Return the nodes of a rank, in the order of its rows."""
        head = self.heads[rank].tolist()
        return [(head[1 + 2 * i], head[2 + 2 * i]) for i in range(head[0])]


class Shared:
    """Memory of one machine that all ranks of a communicator see: one window, which grows.

    Each rank's segment begins with a board of BOARD numbers: the meeting of the ranks before which it has
    failed, and, in turns, how many rows it has. Meetings and turns are counted by all ranks alike.
    """

    key: ClassVar[int | None] = None  # under which a communicator has it, as long as that lives

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._here = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self._window: Any = None
        self._size = self.meetings = self.said = 0
        self.is_whole = self._here.Get_size() == comm.Get_size()

    @classmethod
    def of(cls, comm: Any) -> Shared:
        """Return that of a communicator; the first time all its ranks have to call this."""
        if cls.key is None:
            cls.key = type(comm).Create_keyval()
        own: Shared | None = comm.Get_attr(cls.key)
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
            np.frombuffer(self._window.Shared_query(self._here.Get_rank())[0], np.int64, BOARD)[...] = 0
        return [self._window.Shared_query(rank)[0] for rank in range(self._here.Get_size())]


def _each(flat: Array, arrays: list[Array], function: Any) -> None:
    """Have each array's stretch of a flat one become function(stretch, array)."""
    at = 0
    for g in arrays:
        stretch = flat[at : at + g.size]
        function(stretch, g, out=stretch)
        at += g.size


def moments_of(by_piece: Array, rows: list[int]) -> tuple[Array, Array]:
    """Return mean and variance of all rows, given each piece's mean and sum of squared deviations from it.

    As Chan, Golub & LeVeque 1979; subnormal numbers are 0, as in native code.
    """
    kind = by_piece.dtype.type

    def both(a: Any, b: Any) -> Any:
        (n, mean, squares), (others, other_mean, other_squares) = a, b
        share, d = kind(others) / kind(n + others), other_mean - mean
        return n + others, mean + d * share, squares + (other_squares + d * d * (kind(n) * share))

    moments = [(n, *np.split(row, 2)) if n else None for n, row in zip(rows, by_piece, strict=True)]
    n, mean, squares = along_tree(moments, both)
    tiny = np.finfo(kind).tiny
    mean, var = (np.where(np.abs(a) < tiny, kind(0), a) for a in (mean, squares / kind(n)))
    return mean, var


def along_tree(leaves: list[Any], both: Any) -> Any:
    """Return what the leaves of the tree come to, some of them None."""
    while len(leaves) > 1:
        pairs = zip(leaves[::2], [*leaves[1::2], None], strict=False)
        leaves = [b if a is None else a if b is None else both(a, b) for a, b in pairs]
    return leaves[0]


def in_order(numbers: Iterable[float]) -> float:
    """Return their sum, each added to those before it (Python's own sum may compensate)."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def norms_of(trainer: Trainer) -> list[Any]:
    """Return the layers with running statistics."""
    return [layer for layer in layers_of(trainer.net) if hasattr(layer, RUNNING[0])]
