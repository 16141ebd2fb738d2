"""Training: steps, epochs, evaluation and checkpoints.

`Trainer` drives any network, loss and optimizer with the methods of this package's. What a subclass may do in
its own way stands in small methods: `step`, `_run_epoch` (the steps of an epoch), `_inputs`, `_gather` and
`_clip`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator
from contextlib import nullcontext, suppress
from itertools import islice, repeat
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, TypeVar
from warnings import warn

import numpy as np

from .. import _checks, _progress, checkpoint, data
from .._interrupts import Interrupts, look
from ..callbacks import EarlyStopping, Told, entered, in_order, left, packed, take_up, tell, unpacked
from ..metrics import Metric, resolved
from ..sparse import CSR, RowSparse
from . import losses as _losses
from . import optimizers as _optimizers
from .history import History
from .layers import each_layer, place_of
from .network import (
    AVERAGE,
    OPTIMIZER,
    RUNNING,
    Sequential,
    dropouts_among,
    input_scale,
    layers_of,
    passes_kept,
    scaled,
)
from .optimizers import l2_norm, sum_of_squares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from .._checks import Array
    from ..checkpoint import Path

    _Slice = tuple[Sequence[float], Sequence[float], int]  # losses and shares of steps, rows so far

__all__ = ["History", "Trainer", "Work", "done", "turn"]

R = TypeVar("R")
Work: TypeAlias = Generator["Callable[[], Any]", Any, R]

LABEL_ROWS = 65536  # of targets looked at together
OF_A_FIT = ("_per_row", "_part", "_serving", "_lately")  # attributes that a trainer has within it


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Sequential
    loss : loss or callable
        An object with `forward` and `backward`, or a function (y, t) or (y, t, sample_weight) that returns
        the loss, a number, of outputs y (N, ...) for targets t and its gradient with respect to y, an array
        in the shape of y. The function is given the targets as they are, and weights, or None, if it takes
        them; if not, the training takes none.
    optimizer : optimizer
    clip_norm : float > 0 or None
        Where the L2 norm of all gradients together exceeds it, they are scaled down to it (Pascanu, Mikolov,
        Bengio 2013).
    seed : int in [0, 2**64)
        Governs the order of the rows in `fit` and the masks of every Dropout that was made without a seed of
        its own.
    average : float in (0, 1) or None
        Keeps, in `averaged`, an exponential moving average of parameters and running statistics: after each
        step a <- average a + (1 - average) p (Polyak, Juditsky 1992). It is what `predict` and `evaluate`
        use, and the validation of `fit`.
    nonfinite : "raise" or "ignore"
        What a step does whose loss, or with `clip_norm` the norm of whose gradients, is infinite or NaN, or
        that would make running statistics or the squares that an optimizer remembers infinite: raise
        FloatingPointError and leave all but gradients as the step before has left it, or go on. (A native
        step that finds squares to be infinite while its loss is small, below 1e16, says that it has left
        those elements alone, which do not move then with "ignore" either, and updated the others.)

    Attributes
    ----------
    net, loss, optimizer, clip_norm, seed, average, nonfinite
        As given.
    averaged : Sequential or None
        The average, a network of its own; it begins as a copy.
    steps, epochs : int
        What was done so far, by all calls.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    network_class: ClassVar[type[Sequential]] = Sequential
    loss_classes: ClassVar[Mapping[str, Any]] = {
        name: getattr(_losses, name) for name in _losses.__all__ if name not in ("Loss", "FunctionLoss")
    }
    optimizer_classes: ClassVar[Mapping[str, Any]] = _optimizers.CLASSES
    _per_row = (
        False  # within a fit: whether a batch's losses are divided by their number, not by their weights
    )

    _part: int | None = None  # within a fit: rows that are passed together, where a step takes more
    _lately: tuple[int, Sequence[float] | Array] = (0, ())  # steps before the last ones, losses of these
    _serving: tuple[Any, ...] | None = None  # within a fit: its callbacks
    _told: Sequence[Told] = ()  # what a file has told of those of the fit that it was written in

    def __init__(
        self,
        net: Any,
        loss: Any,
        optimizer: Any,
        clip_norm: float | None = None,
        seed: int = 0,
        average: float | None = None,
        *,
        nonfinite: str = "raise",
    ) -> None:
        for name, value, methods, function in (
            ("net", net, ("forward", "backward"), ""),
            ("loss", loss, ("forward", "backward"), ", or a function (y, t)"),
            ("optimizer", optimizer, ("update",), ""),
        ):
            has_all = all(callable(getattr(value, method, None)) for method in methods)
            if isinstance(value, type) or not (has_all or (function and callable(value))):
                raise TypeError(
                    f"{name} must be an object with {' and '.join(methods)}{function}, "
                    f"got {_checks.shown(value)}"
                )
        _check_layers(net)
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.clip_norm = (
            None if clip_norm is None else _checks.real_number("clip_norm", clip_norm, 0, None, "(]")
        )
        self.seed = _checks.seed64("seed", seed)
        self.nonfinite = _checks.choice("nonfinite", nonfinite, ("raise", "ignore"))
        self.average = None if average is None else _checks.real_number("average", average, 0, 1, "()")
        if average is not None and not (hasattr(net, "copy") and hasattr(net, "blend")):
            raise TypeError(f"average needs a network with copy and blend, got {_checks.shown(net)}")
        self.averaged = None if average is None else net.copy()
        self.steps = 0
        self.epochs = 0

    @property
    def _dropouts(self) -> list[tuple[int, Any]]:
        """The places and layers of dropout, of the network as it is now."""
        return dropouts_among(layers_of(self.net))

    @property
    def _running(self) -> list[tuple[Any, str]]:
        """The layers and names of running statistics."""
        return [(layer, name) for layer in layers_of(self.net) for name in RUNNING if hasattr(layer, name)]

    # One step

    def step(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        """Do one step: forward, backward, update.

        Parameters
        ----------
        x : array, shape (N, ...)
        t : array
            Targets, as the loss takes them.
        sample_weight : array, shape (N,), or None

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; then parameters, statistics, counters and the optimizer are as they
            were.
        FloatingPointError
            If the loss, the norm that `clip_norm` limits, or what the step would remember is infinite or
            NaN, unless `nonfinite` is "ignore"; then likewise.
        """
        return self._step_by_parts([(0, x, t, sample_weight, 1.0)], _Whole())

    def _step_by_parts(self, parts: Iterable[tuple[int, Any, Any, Any, float]], sums: Sums) -> float:
        """Do one step on (number, x, t, sample_weight, share of the whole) of each part of a batch."""
        _check_trainable(self.net)
        with passes_kept(self.net):
            return self._do_step(parts, sums)

    def _do_step(self, parts: Iterable[tuple[int, Any, Any, Any, float]], sums: Sums) -> float:
        undo = self._snapshot()
        try:
            for part, x, t, sample_weight, share in parts:
                if share == 0:
                    continue
                self._place_masks(self._dropouts, *sums.place(part))
                y = self.net.forward(x, True)
                loss, dout = self._loss_and_gradient(y, t, sample_weight, share)
                getattr(self.net, "backward_params", self.net.backward)(dout)
                sums.add(part, loss, self.net.grads)
            params, grads = self.net.params, self.net.grads
            loss = sums.move_to(grads)
            self._check_loss(loss)
            for i, dropout in self._dropouts:
                dropout.stream, dropout.first_row = i, 0
            if getattr(self.optimizer, "groups", ()):
                grads = self.optimizer.trained(params, grads)
            if self.clip_norm is not None:
                self._clip(grads, self.clip_norm)
            self._check_state(grads)
            self._check_average()
            arrays = dict(params)
            updates, before = getattr(self.optimizer, "step", None), self.steps
            self._lately = before, (loss,)
        except BaseException:
            undo()
            raise
        try:
            self.steps += 1
            self.optimizer.update(params, grads)
            _check_in_place(arrays, params, self.net.params)
        except BaseException as error:
            undone = updates is not None and self.optimizer.step == updates
            if undone or isinstance(error, Exception):  # Ctrl-C may come when the update is done
                self.steps = before
                undo()
            raise
        if self.averaged is not None and self.average is not None:
            self.averaged.blend(self.net, 1 - self.average)
            averaged = dropouts_among(layers_of(self.averaged))
            for (_, dropout), (_, of_average) in zip(self._dropouts, averaged, strict=False):
                of_average.step = dropout.step
        return loss

    def _place_masks(self, dropouts: Iterable[tuple[int, Any]], stream: int, first_row: int) -> None:
        """Have layers of dropout, by their places, draw the masks of this step for rows from the first on."""
        for i, dropout in dropouts:
            dropout.stream, dropout.first_row = i + stream, first_row
            dropout.step = self.steps
            if not getattr(dropout, "seeded", True):
                dropout.seed = self.seed

    @property
    def _criterion(self) -> Any:
        """The loss, as an object."""
        if hasattr(self.loss, "forward"):
            return self.loss
        own = self.__dict__.get("_function_loss")
        if own is None or own.function is not self.loss:
            own = self._function_loss = _losses.FunctionLoss(self.loss)
        return own

    def _loss_and_gradient(self, y: Any, t: Any, sample_weight: Any, share: float = 1.0) -> tuple[float, Any]:
        """Return the loss of these outputs, checked, and its gradient, both times a share of the step."""
        if sample_weight is not None:
            _checks.sample_weights("sample_weight", sample_weight, len(y))
        share *= self._share(sample_weight)
        loss = share * self._loss(y, t, sample_weight)
        self._check_loss(loss)
        criterion = self._criterion
        dout = criterion.backward() if share == 1 else criterion.backward(share)
        if criterion is not self.loss:
            self._check_finite("gradient that the loss returns", float(np.abs(dout).max(initial=0)))
        return loss, dout

    def _share(self, sample_weight: Any) -> float:
        """Return what the weighted average of a batch's losses is multiplied by."""
        return float(np.mean(sample_weight)) if self._per_row and sample_weight is not None else 1.0

    def _loss(self, y: Any, t: Any, sample_weight: Any) -> float:
        """Return the loss; one that knows no weights is not given any."""
        if sample_weight is None:
            return float(self._criterion.forward(y, t))
        return float(self._criterion.forward(y, t, sample_weight))

    def _check_loss(self, loss: float) -> None:
        """Raise FloatingPointError, unless that is to be ignored, if the loss of this step is not finite."""
        self._check_finite("loss", loss)

    def _check_finite(self, what: str, value: float) -> None:
        if self.nonfinite == "raise" and not math.isfinite(value):
            raise FloatingPointError(
                f"the {what} of step {self.steps} is {value}: parameters and optimizer are as before it; "
                'a trainer with nonfinite="ignore" goes on'
            )

    def _check_state(self, grads: dict[str, Any]) -> None:
        """Raise FloatingPointError where a step would make statistics or the optimizer's memory infinite."""
        if self.nonfinite != "raise":
            return
        found = next(
            (name for layer, name in self._running if not np.isfinite(getattr(layer, name)).all()), None
        )
        if getattr(self.optimizer, "squares", False):
            for name, g in grads.items():
                values = np.asarray(g.values if isinstance(g, RowSparse) else g)
                largest = np.maximum(values.max(initial=0), -values.min(initial=0))
                if not largest <= math.sqrt(np.finfo(values.dtype).max):
                    found = f"square of a gradient of {name}"
        if found is not None:
            raise FloatingPointError(
                f"the {found} is not finite in step {self.steps}: parameters and optimizer are as before it; "
                'scale the data or limit the norm with clip_norm; a trainer with nonfinite="ignore" goes on'
            )

    def _check_average(self) -> None:
        """Raise TypeError or ValueError where the average cannot follow the network."""
        if self.averaged is None or self.average is None:
            return
        _checks.real_number("average", self.average, 0, 1, "()")
        if isinstance(self.averaged, Sequential):
            self.averaged._pairs(self.net)

    def _snapshot(self) -> Callable[[], None]:
        """Return a function that undoes what a step that fails before its update has changed."""
        statistics = [(layer, name, getattr(layer, name).copy()) for layer, name in self._running]
        counters = [(layer, layer.seed, layer.stream, layer.step) for _, layer in self._dropouts]

        def undo() -> None:
            for layer, name, array in statistics:
                getattr(layer, name)[...] = array
            for layer, seed, stream, step in counters:
                layer.seed, layer.stream, layer.step = seed, stream, step
                layer.first_row = 0

        return undo

    def _clip(self, grads: dict[str, Any], limit: float) -> None:
        """Scale all gradients by limit / norm, in place, where their common L2 norm exceeds the limit."""
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        norm = l2_norm(arrays, sum_of_squares)
        self._check_finite("norm of the gradients", norm)
        if norm > limit:
            for a in arrays:
                a *= limit / norm

    # Many steps

    def fit(
        self,
        x: Any,
        t: Any,
        epochs: int = 10,
        batch_size: int = 128,
        shuffle: bool = True,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, History], Any]] = (),
        progress: bool | str | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        scale: float = 1.0,
        *,
        weight_mean: str | float = "batch",
        resume: bool = True,
        accumulate: int = 1,
        validation_split: float = 0.0,
        metrics: Any = (),
    ) -> History:
        """Train on a data set.

        Parameters
        ----------
        x : array, shape (N, ...)
            Of any real dtype; may be a memory map, or what becomes an array: a tensor on the CPU, a frame or
            table of numbers, where what is missing is NaN. Rows are read, and converted to the network's
            dtype, a batch at a time. An object that has no memory to share, but shape, dtype, `__len__` and
            `__getitem__`, is read whole, once, in slices. So are t and weights.
        t : array, N rows
        epochs : int >= 0
            How often every row is used. The last batch of an epoch is smaller where `batch_size` does not
            divide N; but where the network has batch normalization, which learns nothing from a single row,
            a last single row joins the batch before it.
        batch_size : int >= 1
        shuffle : bool
            True: the rows come in the order `fastnn.data.permutation(N, seed, epochs done so far)`.
        validation : (x, t) or (x, t, sample_weight) or None
            Evaluated after each epoch.
        callbacks : iterable of functions (trainer, history)
            Called after each epoch; True ends the training. Objects may be called at other times as
            well, see `fastnn.callbacks`.
        progress : bool, "epochs" or None
            Whether to show a bar, with the loss, the samples a second and the figures of the last epoch,
            which takes the package tqdm (the extra fastnn-cpu[progress]); None: if tqdm is there and this is
            a notebook, or standard error a terminal. "epochs": a line with the figures of each epoch, on
            standard output.
        sample_weight : array, shape (N,), or None
            Finite, >= 0. A batch the weights of which are all 0 is passed over.
        class_weight : dict of label: weight, array, shape (C,), "balanced" or None
            Multiplies the weight of each row by that of its class: a number >= 0; 1 for a class that the dict
            does not name. "balanced": n / (k * count) for a class of `count` of the n rows, where k classes
            occur (as in scikit-learn). Targets must be labels or one-hot rows, or 0 and 1 for one output of
            SigmoidCrossEntropy. The validation is not weighted. `weight_mean` is "data" then, unless it is a
            number.
        scale : float
            Multiplies x, and that of the validation, once a batch has the network's dtype: 1 / 255 for pixels
            that are bytes. Must be 1 where the network takes indices.
        weight_mean : "batch", "data" or float > 0
            Whose mean weight a batch's mean weighted loss is divided by: the batch's, so that its loss is the
            weighted average of its rows'; or that of the data set, so that a row of twice the weight moves
            the parameters twice as far in whatever batch it comes, a small one, too. A number is that mean
            where this data set is a part of another, a row of a stream say; 1.0: weights count as they are.
        resume : bool
            Matters to the first `fit` of a trainer that was loaded from a file, if this was written in the
            middle of a `fit`, by a Checkpoint say. True: a callback of `fastnn.callbacks` goes on with the
            state (the best figure and its parameters, epochs waited, time taken) that one of its class and
            arguments had then, the first of a class with the first's, and so on; the rest of the epochs then
            end as they would have. Where that EarlyStopping had ended the training it ends it here, too,
            before the first step. False, or other arguments: callbacks start afresh.
        accumulate : int >= 1
            How many batches make a step: their gradients are added up, so that it is the step of a batch of
            `accumulate * batch_size` rows in the memory of one of `batch_size`. But batch normalization
            takes each batch by itself, and dropout's masks are others. Losses, schedules and counts of steps
            are those of the larger batch. (A network with an embedding, and a loss of your own, are then
            trained layer by layer.)
        validation_split : float in [0, 1)
            In the place of `validation`: the share of the rows, with their weights, that are held out of the
            training and evaluated after each epoch. As in Keras they are the last rows as the data come,
            before any shuffling: shuffle data that are sorted, by class say, and leave those in time.
        metrics : list of str, function (y_true, y_pred) or pair (name, function), or dict of these pairs
            Figures of the validation beside its loss, recorded as "val_" and their name, which callbacks may
            watch. Names are those of `fastnn.metrics`: "accuracy", "f1", "auc", "r2", "mse", "rmse", "mae",
            and "top_3" or ("top_k", 3), of any number. A function is recorded by its own name and is given
            the targets and the predictions of all rows, to which the loss's link is applied: probabilities,
            see `predict_proba` (outputs, of a loss of your own without `predictions`); and weights of the
            validation if it has an argument `sample_weight`.

        Returns
        -------
        History
            Also after Ctrl-C, which ends the training, if it comes in the main thread: after the slice of
            steps, in the reference the step, during which it comes, or in the middle of a validation. What
            was learned is kept, and an epoch that was not done to its end does not count.

        Raises
        ------
        KeyboardInterrupt
            At a second Ctrl-C within a second, be the first of the same `fit` or of one before, or while the
            first is still waiting for its slice to end; at Ctrl-C in a callback, but one that is
            `uninterrupted`, see `fastnn.callbacks`; and from the error, where one of those below leaves `fit`
            in the slice in which Ctrl-C came.
        TypeError, ValueError
            If an argument does not fit.
        FloatingPointError
            If the loss of a step is not finite, see `step`; the steps before it stay done. It names the first
            row of x or t that has NaN or infinity, if one of that step has.
        ImportError
            For progress=True without tqdm.
        """
        arguments = (x, t, epochs, batch_size, shuffle, validation, callbacks, progress, sample_weight)
        options = (class_weight, scale, weight_mean, resume, accumulate, validation_split, metrics)
        return self._done(self._fitting(*arguments, *options))

    def _done(self, work: Work[History]) -> History:
        """Do a training of this trainer."""
        return done(work)

    def _fitting(
        self,
        x: Any,
        t: Any,
        epochs: int = 10,
        batch_size: int = 128,
        shuffle: bool = True,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, History], Any]] = (),
        progress: bool | str | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        scale: float = 1.0,
        weight_mean: str | float = "batch",
        resume: bool = True,
        accumulate: int = 1,
        validation_split: float = 0.0,
        metrics: Any = (),
        rows: Array | None = None,
        interrupts: Interrupts | None = None,
    ) -> Work[History]:
        """Yield what `fit` has to have done, and is sent its results; return the history.

        `rows`: numbers of the rows that are the data set, each as often as it is named; None: all, once.
        `interrupts`: what looks at Ctrl-C, if it is not this training's own.
        """
        looked_at = Interrupts() if interrupts is None else nullcontext(interrupts)
        with looked_at as interrupts:  # also while the arguments are looked at
            x, t, sample_weight = _data_set("", x, t, sample_weight)
            epochs = _checks.integer("epochs", epochs, 0)
            batch_size = _checks.integer("batch_size", batch_size, 1)
            shuffle = _checks.flag("shuffle", shuffle)
            validation = _validation(validation)
            split = _checks.real_number("validation_split", validation_split, 0, 1, "[)")
            if split and validation is not None:
                raise ValueError("validation_split must be 0 where validation is given")
            if split:
                (x, t, sample_weight), validation = _split(x, t, sample_weight, split)
            size = len(x) if rows is None else len(rows)
            judged = resolved(metrics)
            if judged and validation is None:
                raise ValueError("metrics need validation data: give validation or validation_split")
            judged = self._beside_the_loss(judged)
            callbacks = _callbacks(callbacks)
            _progress.check(progress)
            scale = input_scale(self.net, scale)
            y = self._check_fit("", x, t, scale)
            t = self._plain_targets(y, t)
            validation = self._check_validation(validation, judged, scale)
            if not isinstance(weight_mean, str):
                weight_mean = _checks.real_number("weight_mean", weight_mean, 0, None, "(]")
            else:
                _checks.choice("weight_mean", weight_mean, ("batch", "data"))
            if class_weight is not None:
                sample_weight = self._weigh_classes(class_weight, t, sample_weight, y, rows)
                weight_mean = "data" if weight_mean == "batch" else weight_mean
            per_row = sample_weight is not None and weight_mean != "batch"
            if per_row:
                sample_weight = _over_mean(sample_weight, weight_mean, rows)
            resume = _checks.flag("resume", resume)
            accumulate = _checks.integer("accumulate", accumulate, 1)
            part, batch_size = batch_size, min(batch_size * accumulate, max(size, 1))
            steps = -(-size // batch_size) - self._joins(size, batch_size)

            def epoch(history: History, bar: Any) -> Work[tuple[bool, bool]]:
                order = self._order(size, *(() if rows is None else (rows,))) if shuffle else rows
                batches = x, t, sample_weight, order, batch_size, scale
                return self._fit_epoch(batches, callbacks, history, bar, interrupts)

            within: dict[str, Any] = {"_per_row": True} if per_row else {}
            within |= {"_part": part} if part < batch_size else {}
            judge = _Judge(validation, judged, scale)
            show = progress, epochs * steps
            yield nothing  # until here nothing has changed
            train = self._train(epoch, epochs, judge, callbacks, show, resume, within, interrupts)
            history = yield from train
        history.interrupted |= interrupts.noted  # if too late to end anything
        return history

    def fit_batches(
        self,
        batches: Iterable[Any],
        steps: int | None = None,
        epochs: int = 1,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, History], Any]] = (),
        progress: bool | str | None = None,
        scale: float = 1.0,
        *,
        metrics: Any = (),
        resume: bool = True,
    ) -> History:
        """Train on batches as they come: of a generator, or anything else that yields them.

        Each is a step, as `step` does it; history, callbacks and Ctrl-C are as in `fit`. A slice is a step.

        Parameters
        ----------
        batches : iterable of (x, t) or (x, t, sample_weight)
            As for `step`. A batch the weights of which are all 0 is passed over.
        steps : int >= 1 or None
            Batches an epoch: of a generator the next ones; what can begin again, a list say, goes on where
            the epoch before has ended, and begins again at its end. None: an epoch is all batches, and more
            than one epoch needs what can begin again.
        epochs : int >= 0
        validation, callbacks, progress, scale, metrics, resume
            As for `fit`.

        Returns
        -------
        History
            Where a generator ends before the last epoch does, the training ends, the epoch counts as far as
            it came, and a UserWarning says so.

        Raises
        ------
        KeyboardInterrupt, FloatingPointError, ImportError
            As from `fit`.
        TypeError, ValueError
            If an argument does not fit, or a batch; the steps before it stay done.
        """
        with Interrupts() as interrupts:
            epochs = _checks.integer("epochs", epochs, 0)
            stream = _Stream(batches, steps, epochs)
            validation = _validation(validation)
            judged = resolved(metrics)
            if judged and validation is None:
                raise ValueError("metrics need validation data")
            judged = self._beside_the_loss(judged)
            callbacks = _callbacks(callbacks)
            _progress.check(progress)
            scale = input_scale(self.net, scale)
            resume = _checks.flag("resume", resume)
            if epochs:
                x, t = stream.look()[:2]
                if type(self.loss) in self.loss_classes.values():
                    self._check_fit("", *_data_set("", x, t)[:2], scale)
            validation = self._check_validation(validation, judged, scale)

            def epoch(history: History, bar: Any) -> Work[tuple[bool, bool]]:
                if not stream.begin():
                    return True, False
                slices = self._steps_of(stream.epoch(), scale)
                stop, whole = yield from self._fit_slices(
                    slices, stream.rest, callbacks, history, bar, interrupts
                )
                return stop or stream.ended, whole

            judge = _Judge(validation, judged, scale)
            show = progress, None if stream.size is None else epochs * stream.size
            history = done(self._train(epoch, epochs, judge, callbacks, show, resume, {}, interrupts))
        history.interrupted |= interrupts.noted  # if too late to end anything
        if stream.ended:
            warn(
                f"batches ended after {stream.done} steps of epoch {stream.begun} of {epochs}: the "
                "training has ended there",
                stacklevel=2,
            )
        return history

    def _steps_of(self, batches: Iterable[Any], scale: float) -> Generator[_Slice, Any, None]:
        """Do the steps of batches; yield each as a slice."""
        rows = 0
        for x, t, sample_weight in batches:
            if sample_weight is not None and not np.any(sample_weight):
                continue
            loss = self.step(scaled(x, scale, getattr(self.net, "dtype", None)), t, sample_weight)
            rows += len(x)
            yield [loss], [len(x) if sample_weight is None else float(np.sum(sample_weight))], rows

    def _train(
        self,
        epoch: Callable[[History, Any], Work[tuple[bool, bool]]],
        epochs: int,
        judge: _Judge,
        callbacks: tuple[Any, ...],
        show: tuple[Any, int | None],
        resume: bool,
        within: Mapping[str, Any],
        interrupts: Interrupts,
    ) -> Work[History]:
        """Do epochs, with what comes before, between and after them; see `fit`.

        `epoch` does the steps of one and returns whether the training is to end and whether all were done;
        `show` is the argument `progress` and the number of steps, and `within` what the trainer has as
        attributes meanwhile.
        """
        validation, judged, scale = judge
        history = History([*self._recorded(validation), *(f"val_{metric.name}" for metric in judged)])
        own = entered(callbacks, history)
        bar, begun = None, self.steps
        outer = {name: value for name, value in self.__dict__.items() if name in OF_A_FIT}
        try:
            try:
                bar = _progress.shown(*show, epochs)
                for name in outer:  # of a fit in a callback of which this is one
                    del self.__dict__[name]
                self.__dict__.update(within)
                self._begin(callbacks, history, interrupts, resume)
                after_epochs = tuple(sorted(callbacks, key=in_order))
                begun = self.steps
                stop = interrupts.noted or any(c.stopped for c in own if type(c) is EarlyStopping)
                while history.epochs < epochs and not stop:
                    if bar is not None:
                        bar.begin_epoch(history.epochs + 1)
                    stop, whole = yield from epoch(history, bar)
                    if not whole or interrupts.noted:
                        break
                    if validation is not None:
                        x, t, sample_weight = validation
                        options: dict[str, Any] = {"metrics": judged} if judged else {}
                        figures = self.evaluate(x, t, sample_weight, scale=scale, **options)
                        history.extend(**{f"val_{name}": [figure] for name, figure in figures.items()})
                    yield turn
                    ends = _call(after_epochs, "__call__", self, history, interrupts)
                    if bar is not None:
                        bar.end_epoch(history)
                    stop = ends or stop or interrupts.noted
            except KeyboardInterrupt:
                if interrupts.leaves:
                    raise
                history.interrupted = True
                self._catch_up(history, begun)
            finally:
                for name in OF_A_FIT:
                    self.__dict__.pop(name, None)
                self.__dict__.update(outer)
                if bar is not None:
                    bar.close()
            history.interrupted |= interrupts.noted
            _call(callbacks, "on_fit_end", self, history, interrupts)
        finally:
            left(own, history)
        return history

    def _begin(
        self, callbacks: tuple[Any, ...], history: History, interrupts: Interrupts, resume: bool
    ) -> None:
        """Have callbacks begin, with what a file has told of them if that is wanted."""
        taken = take_up(callbacks, self._told) if resume else []
        try:
            _call(callbacks, "on_fit_begin", self, history, interrupts)
        except BaseException:
            for callback in taken:
                callback._loaded = False
            raise
        self.__dict__.pop("_told", None)
        self._serving = callbacks

    def _catch_up(self, history: History, begun: int) -> None:
        """Add the losses of steps that were counted when KeyboardInterrupt kept them from the history."""
        before, losses = self._lately
        first = begun + history.steps - before
        if first >= 0:
            history.extend(loss=map(float, losses[first : self.steps - before]))

    def _recorded(self, validation: Any) -> list[str]:
        """Return the names of the figures that a training records."""
        if validation is None:
            return ["loss"]
        return ["loss", "val_loss", *(["val_accuracy"] if hasattr(self.loss, "correct") else [])]

    def _fit_epoch(
        self,
        batches: tuple[Any, ...],
        callbacks: tuple[Any, ...],
        history: History,
        bar: Any,
        interrupts: Interrupts,
    ) -> Work[tuple[bool, bool]]:
        """Do the steps of an epoch; return whether a callback says to stop and whether all were done."""
        x, _, sample_weight, order, batch_size, _ = batches
        size = len(x) if order is None else len(order)

        def shares() -> Iterator[float]:
            return self._shares(size, sample_weight, order, batch_size)

        def slices() -> Generator[Any, Any, None]:
            steps, result, of_steps, rows = self._run_epoch(*batches), None, shares(), 0
            while True:
                try:
                    losses = steps.send(result) if isinstance(steps, Generator) else next(steps)
                except StopIteration:
                    return
                if callable(losses):
                    result = yield losses
                    continue
                result = None
                rows = min(rows + len(losses) * batch_size, size)
                yield losses, list(islice(of_steps, len(losses))), rows

        def rest(done: int) -> bool:
            return done < sum(1 for _ in shares())

        return (yield from self._fit_slices(slices(), rest, callbacks, history, bar, interrupts))

    def _fit_slices(
        self,
        slices: Generator[Any, Any, None],
        rest: Callable[[int], bool],
        callbacks: tuple[Any, ...],
        history: History,
        bar: Any,
        interrupts: Interrupts,
    ) -> Work[tuple[bool, bool]]:
        """Do the slices of an epoch, of which `rest` says whether any is left after so many steps.

        Return whether a callback says to stop and whether all were done.
        """
        begun, first, stop, result = perf_counter(), history.steps, False, None
        while True:
            try:
                one = slices.send(result)
            except StopIteration:
                break
            if callable(one):
                result = yield one
                continue
            result = None
            losses, shares, samples = one
            history.extend(loss=losses)
            history.weigh(shares)
            if bar is not None and losses:
                loss = history.mean_loss(history.steps - len(losses))
                bar.steps(len(losses), loss, samples / (perf_counter() - begun))
            stop = _call(callbacks, "on_slice", self, history, interrupts)
            if stop or interrupts.noted:
                break
        seconds = perf_counter() - begun
        done = history.steps - first
        if (stop or interrupts.noted) and rest(done):
            return stop, False
        self.epochs += 1
        history.end_epoch(seconds)
        return stop, True

    def _check_fit(self, prefix: str, x: Array, t: Array, scale: float) -> Array:
        """Pass the first row through network and loss, so that data that do not fit are refused at once.

        Returns the outputs, (1, ...).
        """
        try:
            y: Array = self._predict(self._inputs(x, slice(1), scale))
            if self._criterion is self.loss:  # what a function makes of a single row only its author knows
                self.loss.forward(y, self._gather(t, slice(1)))
            if hasattr(self.loss, "check_labels"):
                self.loss.check_labels(y, t)
        except (TypeError, ValueError) as error:
            message = str(error)
            if isinstance(error, TypeError):  # targets that are no integers, since some are missing, say
                message = message.removesuffix(_checks.nan_named("t", t[:1])) + _checks.nan_named("t", t)
            raise type(error)(f"{prefix}{message}") from None
        return y

    def _check_validation(
        self, validation: tuple[Any, ...] | None, metrics: list[Metric], scale: float
    ) -> tuple[Any, ...] | None:
        """Refuse validation data that do not fit; return them with targets that the loss takes at no cost."""
        if validation is None:
            return None
        x, t, sample_weight = validation
        y = self._check_fit("validation ", x, t, scale)
        t = self._plain_targets(y, t)
        self._check_metrics(metrics, y, t, sample_weight)
        return x, t, sample_weight

    def _check_metrics(self, metrics: list[Metric], y: Array, t: Array, sample_weight: Array | None) -> None:
        """Refuse metrics for which these validation data, whose first outputs are y, will not do."""
        for metric in metrics:
            if sample_weight is not None and not metric.weighs:
                raise ValueError(f"metrics: {metric.name} takes no sample_weight, which the validation has")
            if metric.own:  # what a function makes of a single row only its author knows
                continue
            try:
                metric.value(self._gather(t, slice(1)), self._predictions(y), None)
            except (TypeError, ValueError) as error:
                raise type(error)(f"metrics: {error}") from None

    def _plain_targets(self, y: Any, t: Array) -> Array:
        """Return targets for outputs y in the form that the loss takes at no cost."""
        plain = getattr(self.loss, "plain_targets", None)
        return t if plain is None else plain(y, t)

    def _beside_the_loss(self, metrics: list[Metric]) -> list[Metric]:
        """Return metrics but for an accuracy, which this loss may have itself."""
        if not hasattr(self.loss, "correct"):
            return metrics
        for metric in metrics:
            if metric.name == "accuracy" and metric.own:
                raise ValueError('metrics: the loss has an "accuracy" itself, give yours another name')
        return [metric for metric in metrics if metric.name != "accuracy"]

    def _predictions(self, y: Any) -> Any:
        """Return what the loss makes of outputs, and of a loss that does not say these."""
        predictions = getattr(self._criterion, "predictions", None)
        return y if predictions is None else predictions(y)

    def _weigh_classes(
        self, class_weight: Any, t: Array, sample_weight: Array | None, y: Array, rows: Array | None
    ) -> Array:
        """Return the weights of the rows times those of their classes, as many as there are outputs y."""
        if not hasattr(self.loss, "labels"):
            raise ValueError(
                f"class_weight must be None for a loss that is not one of classes, {_checks.shown(self.loss)}"
            )
        try:
            parts = [self.loss.labels(self._gather(t, rows)) for rows in data.batches(len(t), LABEL_ROWS)]
        except ValueError as error:
            raise ValueError(f"class_weight: {error}") from None
        labels = np.concatenate(parts).astype(np.int64, copy=False)
        counted = labels if rows is None else labels[rows]
        weights = _class_weights(class_weight, counted, 2 if y.size == 1 else y.shape[1])[labels]
        if sample_weight is not None:
            weights *= sample_weight
        return _checks.sample_weights("class_weight, times sample_weight,", weights, len(t))[0]

    def _predict(self, x: Any) -> Any:
        """Return the outputs without training, of the average if there is one."""
        net = self.net if self.averaged is None else self.averaged
        return net.predict(x) if hasattr(net, "predict") else net.forward(x, False)

    def predict(self, x: Any, batch_size: int | None = None, scale: float = 1.0) -> Array:
        """Return the outputs for x, computed with `train=False`, of the average if there is one.

        For a loss of classes they are logits: see `predict_proba`.

        Parameters
        ----------
        x : array, shape (N, ...)
        batch_size : int >= 1 or None
        scale : float
            As for `Sequential.predict`.
        """
        net = self.net if self.averaged is None else self.averaged
        y: Array = net.predict(x, batch_size, scale)
        return y

    def predict_proba(self, x: Any, batch_size: int | None = None, scale: float = 1.0) -> Array:
        """Return what the loss makes of the outputs for x, its `y`.

        The softmax for SoftmaxCrossEntropy and the sigmoid for SigmoidCrossEntropy, probabilities; exp for
        Poisson, means; otherwise the outputs themselves.

        Parameters
        ----------
        x : array, shape (N, ...)
        batch_size : int >= 1 or None
        scale : float
            As for `Sequential.predict`.

        Raises
        ------
        TypeError
            For a loss of your own, which does not say what it makes of outputs: without `predictions(y)`.
        """
        if not hasattr(self.loss, "predictions"):
            raise TypeError(
                "predict_proba needs a loss that has predictions(y), what it makes of outputs; "
                f"predict returns these, got {_checks.shown(self.loss)}"
            )
        y: Array = self.loss.predictions(self.predict(x, batch_size, scale))
        return y

    def _order(self, n: int, rows: Array | None = None) -> Any:
        """Return the n rows of the next epoch, these or all, in the order of their use."""
        order = data.permutation(n, self.seed, self.epochs)
        return order if rows is None else rows[order]

    def _run_epoch(
        self,
        x: Array,
        t: Array,
        sample_weight: Array | None,
        order: Array | None,
        batch_size: int,
        scale: float,
    ) -> Iterator[Any]:
        """Do the steps of one epoch; yield the losses of the steps done since the last yield.

        A generator may yield functions, too, and is sent what they return. At a yield of losses callbacks may
        use the trainer, change the optimizer's lr or end the training.
        """
        n = len(x) if order is None else len(order)
        for batch in self._batches(n, batch_size):
            rows = batch if order is None else order[batch]
            weights = None if sample_weight is None else sample_weight[rows]
            if weights is None or weights.any():  # a batch that weighs nothing is passed over
                try:
                    if self._part is None:
                        loss = self.step(self._inputs(x, rows, scale), self._gather(t, rows), weights)
                    else:
                        loss = self._step_by_parts(self._parts(x, t, weights, rows, scale), Sums())
                except FloatingPointError as error:
                    name_row(error, x, t, rows)
                    raise
                yield [loss]

    def _parts(
        self, x: Array, t: Array, weights: Array | None, rows: Array | slice, scale: float
    ) -> Iterator[tuple[int, Any, Any, Any, float]]:
        """Yield number, x, t, weights and share of the parts of a step on these rows, given their weights."""
        order = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        whole = len(order) if weights is None or self._per_row else float(weights.sum())
        for i, part in enumerate(self._batches(len(order), self._part or len(order))):
            own = None if weights is None else weights[part]
            weighs = own is None or bool(own.any())
            size = part.stop - part.start if own is None or self._per_row else float(own.sum())
            share = size / whole if weighs else 0.0
            few = order[part]
            yield i, self._inputs(x, few, scale), self._gather(t, few), own, share

    def _joins(self, n: int, batch_size: int) -> bool:
        """Return whether the last of n rows joins the batch before it: it cannot be normalized alone."""
        return 1 < batch_size < n and n % batch_size == 1 and bool(self._running)

    def _batches(self, n: int, batch_size: int) -> Iterator[slice]:
        """Yield the batches of n rows."""
        last = n - batch_size - 1 if self._joins(n, batch_size) else n
        yield from data.batches(last, batch_size)
        if last < n:
            yield slice(last, n)

    def _shares(
        self, n: int, sample_weight: Array | None, order: Array | None, batch_size: int
    ) -> Iterator[float]:
        """Yield what each step of an epoch counts in its loss: rows, or the sum of their weights."""
        if sample_weight is None:
            joined = self._joins(n, batch_size)
            yield from repeat(float(batch_size), n // batch_size - joined)
            if n % batch_size:
                yield float(n % batch_size + joined * batch_size)
            return
        unit = sample_weight.max() or 1.0  # so that sums are finite
        for batch in self._batches(n, batch_size):
            rows = float(batch.stop - batch.start)
            if weight := float((sample_weight[batch if order is None else order[batch]] / unit).sum()):
                yield rows if self._per_row else weight

    def _inputs(self, x: Array, rows: Array | slice, scale: float) -> Array:
        """Return these rows of x, scaled, for the network."""
        batch: Array = scaled(self._gather(x, rows), scale, getattr(self.net, "dtype", None))
        return batch

    def _gather(self, a: Array, rows: Array | slice) -> Array:
        """Return these rows of an array."""
        return a[rows]

    def evaluate(
        self,
        x: Any,
        t: Any,
        sample_weight: Any = None,
        batch_size: int = 1024,
        scale: float = 1.0,
        *,
        metrics: Any = (),
    ) -> dict[str, float]:
        """Return the loss over a data set and, for classification, the accuracy.

        Parameters
        ----------
        x, t, sample_weight, scale
            As for `fit`.
        batch_size : int >= 1
            Rows at a time; the result is that of all rows at once.
        metrics : list
            As for `fit`.

        Returns
        -------
        dict
            "loss", where the loss is one of classification "accuracy", in [0, 1], and the metrics.
        """
        x, t, sample_weight = _data_set("", x, t, sample_weight)
        batch_size = _checks.integer("batch_size", batch_size, 1)
        scale = input_scale(self.net, scale)
        judged, outputs = self._beside_the_loss(resolved(metrics)), []
        reader = copy.copy(self)  # so that what backward needs stays
        criterion = reader.loss = copy.copy(self._criterion)
        correct = getattr(criterion, "correct", None)
        loss = hits = total = 0.0
        for rows in data.batches(len(x), batch_size):
            weights = None if sample_weight is None else sample_weight[rows]
            share = rows.stop - rows.start if weights is None else float(weights.sum())
            if share == 0 and not judged:
                continue
            look()
            y = self._predict(self._inputs(x, rows, scale))
            if rows.start == 0:
                t = self._plain_targets(y, t)
            labels = self._gather(t, rows)
            if judged:
                outputs.append(reader._predictions(y))
            if share == 0:
                continue
            loss += share * reader._loss(y, labels, weights)
            if correct is not None:
                right = correct(criterion.y, labels)
                hits += float(right.sum() if weights is None else weights @ right)
            total += share
        figures = {"loss": loss / total} | ({} if correct is None else {"accuracy": hits / total})
        if judged:
            predicted, t = np.concatenate(outputs), t.view()
            t.flags.writeable = False  # it is the caller's
            figures |= {metric.name: metric.value(t, predicted, sample_weight) for metric in judged}
        return figures

    # Files

    def save(self, path: Path) -> None:
        """Write network, optimizer, loss and counters to a file, .npz or .safetensors by its name.

        `path` may be a binary file, or an io.BytesIO, which holds a .npz. ValueError for any other suffix.
        Training resumes from it to the same bits; within a `fit` the file tells of its callbacks as they are
        then, see `resume` there. Raises TypeError, and writes nothing, if a layer, the loss, the optimizer
        or its schedule is not one of fastnn's own.
        """
        meta = self.description()
        memory = self.optimizer.state_dict()
        arrays = self.net.state_dict()
        for slot, state in memory["state"].items():
            arrays |= {f"{OPTIMIZER}{slot}.{name}": array for name, array in state.items()}
        if self.averaged is not None:
            arrays |= {AVERAGE + name: array for name, array in self.averaged.state_dict().items()}
        told, of_callbacks = packed(self._told if self._serving is None else tell(self._serving))
        if told:
            meta["callbacks"] = told
            arrays |= of_callbacks
        checkpoint.write(path, "trainer", arrays, meta)

    def description(self) -> dict[str, Any]:
        """Return what `save` writes beside the arrays, fit for JSON; TypeError if it cannot be saved."""
        for name, value, classes in (
            ("net", self.net, {self.network_class.__name__: self.network_class}),
            ("loss", self.loss, self.loss_classes),
            ("optimizer", self.optimizer, self.optimizer_classes),
        ):
            if classes.get(type(value).__name__) is not type(value):
                raise TypeError(
                    f"{name}, a {type(value).__name__}, is not one of fastnn's own and cannot be saved"
                )
        return {
            "layers": self.net.architecture(),
            "loss": type(self.loss).__name__,
            "loss_options": self.loss.config(),
            "optimizer": self.optimizer.config(),
            "updates": self.optimizer.step,
            "clip_norm": self.clip_norm,
            "seed": self.seed,
            "nonfinite": self.nonfinite,
            "average": self.average,
            "steps": self.steps,
            "epochs": self.epochs,
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the trainer of a file that `save` has written.

        Raises OSError if it cannot be opened and ValueError, which says why, if it holds no trainer.
        """
        with checkpoint.opened(path, "trainer") as contents:
            return cls._from_file(contents)

    @classmethod
    def _from_file(cls, contents: checkpoint.Contents) -> Self:
        meta, specs = contents.meta, contents.specs
        net = cls.network_class._from_file(contents)
        try:
            optimizer = _optimizers.from_config(meta["optimizer"], cls.optimizer_classes)
            state: dict[str, dict[str, Array]] = {slot: {} for slot in optimizer.state_dict()["state"]}
            params = net.params
            for name, spec in specs.items():
                if name.startswith(OPTIMIZER):
                    slot, param = name[len(OPTIMIZER) :].split(".", 1)
                    if spec != (params[param].shape, params[param].dtype):
                        raise ValueError(f"{name} must be as its parameter, got {spec.dtype} of {spec.shape}")
                    memory = state[slot]
                    memory[param] = contents[name]
            optimizer.load_state_dict(
                {"optimizer": type(optimizer).__name__, "step": meta["updates"], "state": state}
            )
            trainer = cls(
                net,
                cls.loss_classes[meta["loss"]](**meta.get("loss_options", {})),  # as old files had none
                optimizer,
                meta["clip_norm"],
                meta["seed"],
                meta.get("average"),  # of which the first files, as of the next, tell nothing
                nonfinite=meta.get("nonfinite", "raise"),
            )
            of_average = {name.removeprefix(AVERAGE) for name in specs if name.startswith(AVERAGE)}
            if trainer.averaged is not None:
                trainer.averaged.load_state_dict({name: contents[AVERAGE + name] for name in of_average})
            elif of_average:
                raise ValueError("there is an average, but no share of it")
            trainer.steps = _checks.integer("steps", meta["steps"], 0)
            trainer.epochs = _checks.integer("epochs", meta["epochs"], 0)
            told = unpacked(meta.get("callbacks", []), contents, net.state_dict())
            if told:
                trainer._told = told
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{contents.path} does not describe a trainer: {type(error).__name__}: {error}"
            ) from None
        return trainer

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which no `fit` trains."""
        return {name: value for name, value in self.__dict__.items() if name not in OF_A_FIT}

    def _repr_html_(self) -> str:
        """Return the parts and what was done as a table, for notebooks."""
        from .. import _html

        options = ("loss", "optimizer", "clip_norm", "seed", "average", "nonfinite", "epochs", "steps")
        rows = [(name, str(getattr(self, name))) for name in options]
        net = getattr(self.net, "_repr_html_", None)
        return _html.table(("Trainer", ""), rows) + ("" if net is None else net())

    def __repr__(self) -> str:
        """Return the parts and what was done."""
        return (
            f"Trainer({self.net!r}, {self.loss!r}, {self.optimizer!r}, clip_norm={self.clip_norm}, "
            f"seed={self.seed}, average={self.average}, nonfinite={self.nonfinite!r}) "
            f"after {self.epochs} epochs, {self.steps} steps"
        )


def done(work: Work[R]) -> R:
    """Do what is yielded, one after the other, and send back what it returns or raises; return the result."""
    error: BaseException | None = None
    while True:
        try:
            task = next(work) if error is None else work.throw(error)
            while True:
                task = work.send(task())
        except BaseException as raised:
            if getattr(work, "gi_frame", None) is None:  # it has ended
                if isinstance(raised, StopIteration):
                    return raised.value  # type: ignore[no-any-return]
                raise
            error = raised  # of a task, or KeyboardInterrupt in between: it is the work's to look at


def nothing() -> None:
    """Do nothing."""


def turn() -> None:
    """Do nothing: an epoch is done, and what callbacks make of it may be told after what others do."""


def name_row(error: FloatingPointError, x: Array, t: Array, rows: Array | slice) -> None:
    """Add to the error of a step on these rows which of them, the first one, has NaN or infinity."""
    for name, a in (("x", x), ("t", t)):
        if isinstance(a, CSR):
            continue
        for what in ("NaN", "infinity"):
            row = _checks.first_row(what, a[rows])
            if row is not None:
                number = np.arange(len(a))[rows][row]
                error.args = (f"{error}; {name} has {what} in row {number} of the data",)
                return


def _check_trainable(net: Any) -> None:
    """Refuse a network of which a layer, or the whole, is not to be trained: ValueError."""
    _checks.trainable("net.trainable", getattr(net, "trainable", True))
    for name, layer in each_layer(getattr(net, "layers", ())):
        _checks.trainable(f"{place_of(name)}.trainable", getattr(layer, "trainable", True))


def _check_layers(net: Any) -> None:
    """Refuse layers that would not be trained: frozen ones, and those that keep W and dW but no `params`."""
    _check_trainable(net)
    for prefix, layer in each_layer(getattr(net, "layers", ())):
        own = {} if hasattr(layer, "params") else getattr(layer, "__dict__", {})
        for name, value in own.items():
            passed = name in ("x", "y", "out")  # of the last forward
            is_float = isinstance(value, np.ndarray) and value.dtype in _checks.FLOATS
            if is_float and f"d{name}" in own and not passed:
                raise TypeError(
                    f"{place_of(prefix)} must have dicts params and grads for its {name} and d{name} to be "
                    f"trained, got a {type(layer).__name__} without params"
                )


def _check_in_place(before: dict[str, Any], params: dict[str, Any], live: dict[str, Any]) -> None:
    """Refuse an update that has put new arrays into `params`, which the network does not know: TypeError."""
    for name, array in before.items():
        if params.get(name) is not array and live[name] is array:
            raise TypeError(
                f"the optimizer must change the array params[{name!r}] in place, and has put in its place "
                f"{_checks.shown(params.get(name))}"
            )


def _ends(result: Any) -> bool:
    """Return whether a callback's result ends the training: True, and nothing else that is true."""
    return isinstance(result, (bool, np.bool_)) and bool(result)


class Sums:
    """Loss and gradients of the parts of a step, added up."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.grads: dict[str, Any] = {}

    def place(self, part: int) -> tuple[int, int]:
        """Return the stream and the first row of the masks of a part."""
        return part << 16, 0

    def add(self, part: int, loss: float, grads: Mapping[str, Any]) -> None:
        """Add those of a part; the gradients may be overwritten then."""
        self.loss += loss
        for name, g in grads.items():
            before = self.grads.get(name)
            if before is None:
                self.grads[name] = copy.deepcopy(g)
            elif isinstance(g, RowSparse):
                self.grads[name] = added_rows([before, g])
            else:
                before += g

    def move_to(self, grads: dict[str, Any]) -> float:
        """Put the sums in the place of the last part's, in its arrays where it has some; return the loss."""
        for name, total in self.grads.items():
            if isinstance(total, RowSparse):
                grads[name] = total
            else:
                grads[name][...] = total
        return self.loss


class _Whole(Sums):
    """Those of a step that is one part: they lie where they are wanted."""

    def add(self, part: int, loss: float, grads: Mapping[str, Any]) -> None:
        self.loss = loss


def added_rows(sparse: Sequence[RowSparse]) -> RowSparse:
    """Return the sum of row-sparse gradients of one table, each row's in their order."""
    rows, values = ([getattr(g, part) for g in sparse] for part in ("rows", "values"))
    return RowSparse.from_tokens(np.concatenate(rows), np.concatenate(values), sparse[0].shape)


class _Judge(NamedTuple):
    """What is judged after each epoch, and how."""

    validation: tuple[Any, ...] | None
    metrics: list[Metric]
    scale: float


class _Stream:
    """Batches, an epoch after another.

    Attributes
    ----------
    size : int or None
        The batches of an epoch, if that is known.
    ended : bool
        Whether there are no more.
    begun, done : int
        The epoch that was begun last, and its batches so far.
    """

    def __init__(self, batches: Any, steps: Any, epochs: int) -> None:
        try:
            self._iterator = iter(batches)
        except TypeError:
            raise TypeError(
                "batches must be an iterable of (x, t) or (x, t, sample_weight), "
                f"got {_checks.shown(batches)}"
            ) from None
        self._batches = batches
        self._once = self._iterator is batches
        self._looked: list[Any] = []
        self._steps = self.size = None if steps is None else _checks.integer("steps", steps, 1)
        if steps is None:
            if epochs > 1 and self._once:
                raise ValueError(
                    f"steps must be given for {epochs} epochs of batches that cannot begin again, "
                    f"{_checks.shown(batches)}"
                )
            with suppress(TypeError):
                self.size = len(batches)
        self.ended = False
        self.begun = self.done = 0

    def look(self) -> Any:
        """Return the first batch, which comes again; ValueError if there is none."""
        if not self._found():
            raise ValueError("batches must yield at least one batch, got none")
        return _batch(self._looked[0])

    def _found(self) -> bool:
        """Look at the next batch; return whether there is one."""
        self._looked = self._looked or list(islice(self._iterator, 1))
        return bool(self._looked)

    def begin(self) -> bool:
        """Begin the next epoch; return whether it has a batch."""
        self.begun += 1
        self.done = 0
        if self._steps is None and self.begun > 1:
            self._iterator = iter(self._batches)
        return self._goes_on()

    def _goes_on(self) -> bool:
        """Look at the next batch, of the first pass or another; return whether there is one."""
        if not self._found() and not self._once:
            self._iterator = iter(self._batches)
        self.ended = not self._found()
        return not self.ended

    def epoch(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the batches of the epoch begun."""
        if self._steps is None:
            while self._found():
                yield self._next()
        else:
            while self.done < self._steps and self._goes_on():
                yield self._next()

    def _next(self) -> tuple[Any, Any, Any]:
        self.done += 1
        return _batch(self._looked.pop())

    def rest(self, _: int) -> bool:
        """Return whether the epoch has, or may have, batches left."""
        return not self.ended and (self.size is None or self.done < self.size)


def _batch(batch: Any) -> tuple[Any, Any, Any]:
    """Return x, t and weights or None; TypeError if it is no batch."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise TypeError(f"batches must yield (x, t) or (x, t, sample_weight), got {_checks.shown(batch)}")
    return batch[0], batch[1], batch[2] if len(batch) == 3 else None


def _validation(validation: Any) -> tuple[Array, Array, Array | None] | None:
    """Return validation data, or None, as they are given to `fit`; TypeError or ValueError for others."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError(
            f"validation must be (x, t) or (x, t, sample_weight), got {_checks.shown(validation)}"
        )
    return _data_set("validation ", *validation)


def _data_set(prefix: str, x: Any, t: Any, sample_weight: Any = None) -> tuple[Array, Array, Array | None]:
    """Return a data set as arrays, not copied; TypeError or ValueError if they do not fit together."""
    x = x if isinstance(x, CSR) else _checks.real_array(f"{prefix}x", x)
    t = _checks.real_array(f"{prefix}t", t)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{prefix}x must have shape (N, ...) with N >= 1, got shape {x.shape}")
    if t.ndim == 0 or len(t) != len(x):
        raise ValueError(f"{prefix}t must have as many rows as {prefix}x, {len(x)}, got shape {t.shape}")
    if sample_weight is not None:
        sample_weight = _checks.sample_weights(f"{prefix}sample_weight", sample_weight, len(x))[0]
    return x, t, sample_weight


def _split(
    x: Array, t: Array, sample_weight: Array | None, share: float
) -> tuple[tuple[Array, Array, Array | None], tuple[Array, Array, Array | None]]:
    """Return a data set without the last share of its rows, and these; ValueError if either is empty."""
    kept = math.floor(len(x) * (1 - share) + 1e-6)  # what 1 - share lacks is no row
    if not 0 < kept < len(x):
        raise ValueError(f"validation_split must leave rows on both sides, got {share} of {len(x)} rows")
    first, last = (
        _data_set(prefix, x[rows], t[rows], None if sample_weight is None else sample_weight[rows])
        for prefix, rows in (("", slice(kept)), ("validation ", slice(kept, None)))
    )
    return first, last


def _callbacks(callbacks: Any) -> tuple[Any, ...]:
    """Return callbacks as a tuple; TypeError if one cannot be called as it should."""
    try:
        callbacks = tuple(callbacks)
    except TypeError:
        raise TypeError(
            f"callbacks must be an iterable of functions, got {_checks.shown(callbacks)}"
        ) from None
    for i, callback in enumerate(callbacks):
        _checks.function(f"callbacks[{i}]", callback)
        if isinstance(callback, type):
            raise TypeError(f"callbacks[{i}] must be an object, got the class {callback.__name__}")
        for name in ("on_fit_begin", "on_slice", "on_fit_end"):
            if hasattr(callback, name):
                _checks.function(f"callbacks[{i}].{name}", getattr(callback, name))
    return tuple(callbacks)


def _call(
    callbacks: tuple[Any, ...], name: str, trainer: Trainer, history: History, interrupts: Interrupts
) -> bool:
    """Call this method of all callbacks that have it; return whether one of the results is True."""
    results = []
    for callback in callbacks:
        if hasattr(callback, name):
            method = getattr(callback, name)
            if getattr(callback, "uninterrupted", False):
                results.append(method(trainer, history))
            else:
                results.append(interrupts.call(method, trainer, history))
    return any(map(_ends, results))


def _over_mean(weights: Array, mean: str | float, rows: Array | None) -> Array:
    """Return weights over their mean, of these rows, or over a number; ValueError if that cannot be."""
    if isinstance(mean, str):
        own = weights if rows is None else weights[rows]
        if not own.any():
            raise ValueError("sample_weight must not be 0 for all rows of a data set")
        weights = weights / own.max()  # whose sum is finite
        return np.asarray(weights / (weights if rows is None else weights[rows]).mean())
    with np.errstate(over="ignore", under="ignore"):
        return _checks.sample_weights("sample_weight over weight_mean", weights / mean, len(weights))[0]


def _class_weights(class_weight: Any, labels: Array, classes: int) -> Array:
    """Return the weight of each class, float64 (classes,); TypeError or ValueError if they are not right."""
    if isinstance(class_weight, str):
        _checks.choice("class_weight", class_weight, ("balanced",))
        counts = np.bincount(labels, minlength=classes)
        return np.asarray(len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)))
    if isinstance(class_weight, dict):
        weights = np.ones(classes)
        for label, weight in class_weight.items():
            c = _checks.integer("a label of class_weight", label, 0, classes - 1)
            weights[c] = _checks.real_number(f"class_weight[{label!r}]", weight, 0)
        return weights
    weights = _checks.float_array("class_weight", class_weight, _checks.FLOATS[1])
    if weights.shape != (classes,):
        raise ValueError(
            f'class_weight must be a dict, "balanced" or an array of shape ({classes},), got {weights.shape}'
        )
    if not ((weights >= 0) & (weights < math.inf)).all():
        raise ValueError("class_weight must hold finite numbers >= 0")
    return weights
