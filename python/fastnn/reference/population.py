"""Many networks trained side by side: folds, bootstrap samples, ensembles, seeds, searches."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from .. import _checks, _progress
from .._interrupts import Interrupts
from ..callbacks import Callback
from .trainer import Trainer, done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Self

    from .._checks import Array
    from .history import History
    from .trainer import Work

__all__ = ["Population"]

R = TypeVar("R")
OF_AN_OPTIMIZER = ("lr", "weight_decay")
OPTIONS = ("shuffle", "sample_weight", "class_weight", "scale", "weight_mean", "accumulate", "metrics")


class Population:
    """Trainers that train side by side, each to the bits that it comes to by itself.

    Parameters
    ----------
    trainers : iterable of Trainer
        At least one, of any networks, losses, optimizers and seeds. No two share a network, a layer, an
        array of parameters, their averages' neither, a loss or an optimizer.

    Attributes
    ----------
    trainers : tuple of Trainer
        `population[i]` is one of them: an ordinary trainer.

    Raises
    ------
    TypeError, ValueError
        If `trainers` is anything else.
    """

    trainer_class: ClassVar[type[Trainer]] = Trainer

    def __init__(self, trainers: Iterable[Trainer]) -> None:
        try:
            self.trainers = tuple(trainers)
        except TypeError:
            raise TypeError(f"trainers must be an iterable, got {_checks.shown(trainers)}") from None
        if not self.trainers:
            raise ValueError("trainers must hold at least one")
        parts: dict[int, str] = {}
        arrays: list[tuple[int, int, int, str]] = []
        for i, trainer in enumerate(self.trainers):
            if not isinstance(trainer, self.trainer_class):
                raise TypeError(
                    f"trainers[{i}] must be a {self.trainer_class.__module__}.Trainer, "
                    f"got {_checks.shown(trainer)}"
                )
            nets = (trainer.net, trainer.averaged)
            layers = [layer for net in nets for layer in getattr(net, "_every", ())]
            for part in (trainer, *nets, trainer.loss, trainer.optimizer, *layers):
                if part is None:
                    continue
                if id(part) in parts:
                    raise ValueError(
                        f"{parts[id(part)]} and trainers[{i}] must not share a {type(part).__name__}"
                    )
                parts[id(part)] = f"trainers[{i}]"
            for net in nets:
                for name, array in getattr(net, "params", {}).items():
                    if array.size:
                        first = array.__array_interface__["data"][0]
                        arrays.append((first, first + array.nbytes, i, f"{name} of trainers[{i}]"))
        _check_apart(arrays)

    @classmethod
    def of(
        cls,
        sizes: Sequence[int],
        n: int,
        *,
        loss: Any = None,
        optimizer: str = "Adam",
        lr: Any = None,
        weight_decay: Any = 0.0,
        seed: Any = 0,
        clip_norm: Any = None,
        average: Any = None,
        **options: Any,
    ) -> Self:
        """Return a population of n networks of dense layers.

        Parameters
        ----------
        sizes : sequence of int >= 1
            Of each network, as for `mlp`.
        n : int >= 1
            How many.
        loss : function or None
            Returns a member's loss, a class for instance; None: SoftmaxCrossEntropy.
        optimizer : str
            The name of a class, "Adam".
        lr, weight_decay, clip_norm, average : number or None, or a sequence of n of them
            Of each member's optimizer (lr None: its own default) and trainer.
        seed : int or sequence of n of them
            One: member i has seed + i. It seeds a member's weights and its trainer.
        **options
            As for `mlp`, for each a value or a list or array of n.

        Raises
        ------
        TypeError, ValueError
            If an argument is none of these.
        """
        n = _checks.size("n", n)
        make = cls.trainer_class
        optimizer_class = make.optimizer_classes[
            _checks.choice("optimizer", optimizer, tuple(make.optimizer_classes))
        ]
        if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
            first = _checks.seed64("seed", seed)
            seed = [first + i for i in range(n)]
        of_members = {
            name: _each(name, value, n)
            for name, value in {
                "lr": lr,
                "weight_decay": weight_decay,
                "seed": seed,
                "clip_norm": clip_norm,
                "average": average,
                **options,
            }.items()
        }
        loss_class = make.loss_classes["SoftmaxCrossEntropy"] if loss is None else loss
        if not callable(loss_class):
            raise TypeError(f"loss must be a function that returns a loss, got {_checks.shown(loss)}")
        trainers = []
        for values in zip(*of_members.values(), strict=True):
            own = dict(zip(of_members, values, strict=True))
            rates = {name: own.pop(name) for name in OF_AN_OPTIMIZER}
            if rates["lr"] is None:
                del rates["lr"]
            trained = {name: own.pop(name) for name in ("clip_norm", "average")}
            member_seed = own.pop("seed")
            net = make.network_class.from_sizes(sizes, seed=member_seed, **own)
            trainers.append(make(net, loss_class(), optimizer_class(**rates), seed=member_seed, **trained))
        return cls(trainers)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.trainers)

    def __getitem__(self, index: Any) -> Any:
        """Return a member, or a tuple of members for a slice."""
        return self.trainers[index]

    def __iter__(self) -> Iterator[Trainer]:
        """Iterate over the members."""
        return iter(self.trainers)

    def step(self, x: Any, t: Any, sample_weight: Any = None) -> Array:
        """Do one step of each member; return their losses, float64 (members,).

        Parameters
        ----------
        x : array, shape (N, ...), or (members, N, ...)
            One batch for all, or one for each: as many numbers in a row as the networks take say which.
        t, sample_weight : array
            Likewise, as `Trainer.step` takes them; sample_weight may be None.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `Trainer.step`, with the number of the member; the others may have done their steps.
        """
        return np.array(self._each_step(self._own_batches(x, t, sample_weight)))

    def _own_batches(self, x: Any, t: Any, sample_weight: Any) -> list[tuple[Any, Any, Any]]:
        x = _checks.real_array("x", x)
        if not _is_own(x, len(self), self.trainers[0].net):
            return [(x, t, sample_weight)] * len(self)
        if len(t) != len(self):
            raise ValueError(f"t must have a batch for each of {len(self)} members, as x, got {len(t)}")
        if sample_weight is not None and len(sample_weight) != len(self):
            given = len(sample_weight)
            raise ValueError(f"sample_weight must have a row for each of {len(self)} members, got {given}")
        weights = [None] * len(self) if sample_weight is None else sample_weight
        return list(zip(x, t, weights, strict=True))

    def _each_step(self, batches: list[tuple[Any, Any, Any]]) -> list[float]:
        pairs = enumerate(zip(self.trainers, batches, strict=True))
        return [self._of_member(i, trainer.step, *batch) for i, (trainer, batch) in pairs]

    def fit(
        self,
        x: Any,
        t: Any,
        epochs: int = 10,
        batch_size: int = 128,
        rows: Any = None,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, History], Any]] = (),
        progress: bool | None = None,
        **options: Any,
    ) -> list[History]:
        """Train all members on a data set.

        Parameters
        ----------
        x, t, epochs, batch_size, validation
            As for `Trainer.fit`.
        rows : None, array of int (n,), or sequence of members of these
            The numbers of the rows that are the data set of all members, or of each: those of a fold, or of a
            bootstrap sample, in which a row may come more than once. None: all rows.
        callbacks : iterable of functions (trainer, history)
            As for `Trainer.fit`, for each member: those of `fastnn.callbacks` are copied for it. One that
            returns True ends that member's training.
        progress : bool or None
            Whether to show a bar, which counts the epochs of all members, see `Trainer.fit`.
        **options
            shuffle, sample_weight, class_weight, scale, weight_mean, accumulate and metrics, as for
            `Trainer.fit`.

        Returns
        -------
        list of History
            One a member, as its own `fit` on those rows would return.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; then nothing has changed.
        FloatingPointError and others
            As `Trainer.fit`, with the number of the member. It ends the training of all, in the middle of an
            epoch: the steps that were done stay done, in every member, as its `steps` says, and no history
            tells of them.
        """
        callbacks = _items("callbacks", callbacks)
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            raise TypeError(f"fit takes {', '.join(OPTIONS)} besides, got {unknown[0]!r}")
        x, t = (_checks.as_array(name, value) for name, value in (("x", x), ("t", t)))
        epochs = _checks.integer("epochs", epochs, 0)
        _progress.check(progress)
        own_rows = self._rows(rows, len(x))
        with Interrupts() as interrupts:
            bar = _progress.shown(progress, epochs * len(self), epochs, "epoch")
            fits = [
                trainer._fitting(
                    x,
                    t,
                    epochs,
                    batch_size,
                    validation=validation,
                    callbacks=[*_own_callbacks(callbacks), *_shown_on(bar)],
                    progress=False,
                    rows=few,
                    interrupts=interrupts,
                    **options,
                )
                for trainer, few in zip(self.trainers, own_rows, strict=True)
            ]
            try:
                return self._run(fits, callbacks)
            finally:
                for fit in fits:
                    fit.close()
                if bar is not None:
                    bar.close()

    def _rows(self, rows: Any, n: int) -> list[Array | None]:
        """Return the rows of each member, checked."""
        if rows is None:
            return [None] * len(self)
        if isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype != object:
            return [_rows_of("rows", rows, n) for _ in self.trainers]
        rows = _items("rows", rows)
        if len(rows) != len(self):
            expected = f"rows must be an array, or one for each of {len(self)} members"
            raise ValueError(f"{expected}, got {len(rows)}")
        return [None if few is None else _rows_of(f"rows[{i}]", few, n) for i, few in enumerate(rows)]

    def _run(self, fits: list[Work[History]], callbacks: tuple[Any, ...]) -> list[History]:
        """Do what the trainings of all members ask for; `callbacks` are those of each, as given to `fit`."""
        for i, fit in enumerate(fits):
            self._of_member(i, next, fit)  # arguments are looked at
        return [self._of_member(i, done, fit) for i, fit in enumerate(fits)]

    def _of_member(self, i: int, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function returns; an error that it raises is told with the member's number."""
        try:
            return function(*arguments)
        except Exception as error:
            raise _checks.told_of(f"member {i}", error) from error

    def predict(self, x: Any, batch_size: int | None = None, scale: float = 1.0) -> Array:
        """Return the outputs of all members, (members, N, outputs), as `Trainer.predict`.

        ValueError if they have not the same shape.
        """
        outputs = [trainer.predict(x, batch_size, scale) for trainer in self.trainers]
        odd = next((i for i, y in enumerate(outputs) if y.shape != outputs[0].shape), None)
        if odd is not None:
            raise ValueError(
                f"the outputs of all members must have one shape, got {outputs[0].shape} of member 0 and "
                f"{outputs[odd].shape} of member {odd}"
            )
        return np.stack(outputs)

    def mean(self, x: Any, batch_size: int | None = None, scale: float = 1.0) -> Array:
        """Return the mean of the members' outputs, (N, outputs)."""
        y: Array = self.predict(x, batch_size, scale).mean(axis=0)
        return y

    def spread(self, x: Any, batch_size: int | None = None, scale: float = 1.0) -> Array:
        """Return the standard deviation of the members' outputs, (N, outputs); of one member: zeros."""
        y: Array = self.predict(x, batch_size, scale).std(axis=0)
        return y

    def __repr__(self) -> str:
        """Return the number of members and the first of them."""
        return f"Population of {len(self)}, the first: {self.trainers[0]!r}"


def _check_apart(arrays: list[tuple[int, int, int, str]]) -> None:
    """Refuse (first byte, end, trainer, name) of arrays that two trainers share: ValueError."""
    farthest: dict[int, tuple[int, str]] = {}  # ends of a trainer's arrays that are not passed yet
    for first, end, trainer, name in sorted(arrays):
        for other, (reached, other_name) in [*farthest.items()]:
            if reached <= first:
                del farthest[other]
            elif other != trainer:
                raise ValueError(f"{other_name} and {name} must not share memory")
        farthest[trainer] = max(farthest.get(trainer, (0, "")), (end, name))


def _each(name: str, value: Any, n: int) -> list[Any]:
    """Return n values: those of a list, tuple or array, or one of them n times."""
    if not isinstance(value, (list, tuple, np.ndarray)) or np.ndim(value) == 0:
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name} must be one value, or one for each of {n} members, got {len(value)}")
    return list(value)


def _is_own(x: Array, members: int, net: Any) -> bool:
    """Return whether x is a batch for each member: (members, N, ...)."""
    if x.ndim < 3 or len(x) != members:
        return False
    features = _features(net)
    return features is None or int(np.prod(x.shape[2:])) == features or int(np.prod(x.shape[1:])) != features


def _features(net: Any) -> int | None:
    """Return how many numbers a row has for a network; None if it does not say."""
    for layer in getattr(net, "layers", ()):
        if getattr(layer, "takes_indices", False):
            return None
        for p in getattr(layer, "params", {}).values():
            return len(p)
    return None


def _rows_of(name: str, rows: Any, n: int) -> Array:
    rows = _checks.indices(name, rows, n)
    if rows.ndim != 1 or not rows.size:
        raise ValueError(f"{name} must have shape (n,) with at least one row, got {rows.shape}")
    return np.ascontiguousarray(rows, np.int64)


def _own_callbacks(callbacks: tuple[Any, ...]) -> list[Any]:
    """Return callbacks for a member: copies of those that remember something."""
    return [copy.deepcopy(c) if isinstance(c, Callback) else c for c in callbacks]


def _shown_on(bar: Any) -> list[Any]:
    """Return what shows each epoch of a member on a bar, if there is one."""
    if bar is None:
        return []

    def show(_: Any, history: History) -> None:
        bar.member_epoch(history)

    return [show]


def _items(name: str, value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be an iterable, got {_checks.shown(value)}") from None
