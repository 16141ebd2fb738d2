"""Cross-validation: the folds trained side by side, the result scikit-learn's."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from numbers import Real
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn import model_selection
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from .. import _checks
from .base import MLP, placed
from .trainings import go_on, side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._checks import Array
    from .trainings import Ended, Training, Trainings

__all__ = ["cross_validate"]

PARAMS = next(  # "fit_params" before scikit-learn 1.4
    name
    for name in ("params", "fit_params")
    if name in inspect.signature(model_selection.cross_validate).parameters
)


def cross_validate(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    scoring: Any = None,
    cv: Any = None,
    verbose: int = 0,
    params: dict[str, Any] | None = None,
    return_train_score: bool = False,
    return_estimator: bool = False,
    return_indices: bool = False,
    error_score: Any = np.nan,
) -> dict[str, Any]:
    """Return scikit-learn's `cross_validate`, for which the networks of all folds are trained side by side.

    It has the same scores, errors and warnings, to the bit, at the speed of all processors: each network is
    one thread's, so that networks that are too small for several threads keep these busy, too. The rows of a
    fold are read in X, where they lie; pipelines transform each fold by itself, one after another, and keep
    what comes of it until all are trained. Then the scores are computed, fold by fold.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor, or Pipeline
        Of `fastnn.estimators`; a pipeline must end in one of them. It is cloned.
    X, y, groups, scoring, cv, verbose, params, return_train_score, return_estimator, return_indices
        As for `sklearn.model_selection.cross_validate`. Of `params`, callbacks are called for all folds in
        turns.
    error_score : "raise" or number
        Likewise: the score of a fold whose training fails, which then is a warning; where all fail it is an
        error. "raise": the first error is raised, when all have ended.

    Returns
    -------
    dict
        scikit-learn's. `fit_time` is the time from the beginning of a fold's training to its end, in which
        others were trained, too.

    Raises
    ------
    TypeError, ValueError
        If estimator is another: scikit-learn's function takes any. Otherwise as scikit-learn.
    """
    last = _last(estimator)
    if not isinstance(last, MLP):
        raise TypeError(
            "estimator must be an MLPClassifier or MLPRegressor of fastnn.estimators, or a Pipeline that "
            "ends in one (sklearn.model_selection.cross_validate takes others), got "
            f"{_checks.shown(estimator if last is estimator else last)}"
        )
    if error_score != "raise" and not isinstance(error_score, Real):
        raise ValueError(f"error_score must be 'raise' or a number, got {_checks.shown(error_score)}")
    splits = _Splits(check_cv(cv, y, classifier=is_classifier(estimator)), X, y)
    options = {"groups": groups, "scoring": scoring, "cv": splits, PARAMS: params, "n_jobs": 1}
    options |= {"return_train_score": return_train_score, "return_estimator": return_estimator}
    options |= {"return_indices": return_indices} if return_indices else {}

    def run(data: Any, made: Iterator[Any], **others: Any) -> dict[str, Any]:
        """Let scikit-learn do it with estimators that are given rather than cloned."""
        stand_in = copy.copy(estimator)
        stand_in.__sklearn_clone__ = lambda: next(made)
        result: dict[str, Any] = model_selection.cross_validate(stand_in, data, y, **options, **others)
        return result

    seen = _seen(estimator, X, y)
    folds: list[_Fold] = []
    try:
        try:
            run(X if seen is None else _numbers(X), _begun(estimator, X, seen, folds), error_score=0.0)
        except ValueError:  # that all have failed
            if len(folds) != splits.count or not all(fold.ready for fold in folds):
                raise
        if error_score != "raise" or all(fold.error is None for fold in folds):
            _train(folds)
        result = run(X, (fold.replayed() for fold in folds), verbose=verbose, error_score=error_score)
    finally:
        for fold in folds:
            fold.close()
    result["fit_time"] = np.array([fold.seconds for fold in folds])
    return result


class _Splits:
    """The splits of a `cv`, made once."""

    def __init__(self, cv: Any, X: Any, y: Any) -> None:
        self._cv, self._X, self._y = cv, X, y
        self._splits: list[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._cv, name)

    @property
    def count(self) -> int:
        """How many there are; 0 before they are made."""
        return len(self._splits or ())

    def split(self, X: Any, y: Any = None, groups: Any = None, **params: Any) -> Iterator[Any]:
        """Return the splits of the data that there are, whatever X and y are now."""
        if self._splits is None:
            self._splits = list(self._cv.split(self._X, self._y, groups, **params))
        return iter(self._splits)


class _Later(Exception):
    """What the fit of a fold raises when it has begun: it is trained, and scored, later."""


class _Fold:
    """The fit of one fold: begun, trained beside the others, and shown to scikit-learn at last.

    Attributes
    ----------
    ready : bool
        Whether it has begun, or failed to.
    trainings : list of Training
    error : Exception or None
        Why it has failed.
    seconds : float
    """

    def __init__(self, estimator: Any, X: Any, seen: _Seen | None) -> None:
        self.estimator, self._X, self._seen = estimator, X, seen
        self._fit: Trainings | None = None
        self.ready = False
        self.trainings: list[Training] = []
        self.error: Exception | None = None
        self.seconds = 0.0
        estimator.fit = self._begin

    def _begin(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Begin, in the place of the estimator's `fit`."""
        del self.estimator.fit
        begun, last = perf_counter(), _last(self.estimator)
        try:
            if last is not self.estimator:
                last.fit = partial(self._take, last)
                try:
                    self.estimator.fit(X, y, **params)
                finally:
                    del last.fit
            elif self._seen is None:
                self._take(last, X, y, **params)
            else:
                self._take_rows(last, X[:, 0], y, **params)
            self.trainings = next(self._fit, None) or []  # type: ignore[arg-type]
        except Exception as error:
            self.error = error
        self.ready, self.seconds = True, perf_counter() - begun
        raise _Later

    def _take(self, model: Any, *data: Any, **params: Any) -> Any:
        """Take a fit to be done later."""
        given = inspect.signature(type(model).fit).bind(model, *data, **params).arguments
        given.pop("self")
        self._fit = model._fitting(**given)
        return model

    def _take_rows(self, model: Any, rows: Array, y: Any, **params: Any) -> None:
        """Take a fit on rows of all data, where it knows the same classes as all, else on a copy of them."""
        seen = self._seen
        assert seen is not None
        if not seen.holds(rows):
            self._take(model, _safe_indexing(self._X, rows), y, **params)
            return
        weight = params.get("sample_weight")
        if weight is not None and not isinstance(weight, Real):
            weight = _checks.as_array("sample_weight", weight)
            if weight.shape == rows.shape:  # else it is refused
                params["sample_weight"] = placed(weight, rows, len(seen.X))
        inspect.signature(type(model).fit).bind(model, seen.X, seen.t, **params)
        self._fit = model._fitting(seen.X, seen.t, **params, rows=rows, seen_by=seen.model)

    def end(self, results: Sequence[Ended]) -> None:
        """Go on when the trainings have ended."""
        errors = [ended.result for ended in results if isinstance(ended.result, Exception)]
        self.seconds += max(ended.seconds for ended in results)
        assert self._fit is not None
        try:
            if errors:
                go_on(self._fit.throw, errors[0])
            else:
                go_on(self._fit.send, [ended.result for ended in results])
        except Exception as error:
            self.error = error

    def replayed(self) -> Any:
        """Return the estimator, whose `fit` only raises what the fit has raised."""
        self.estimator.fit = self._replay
        return self.estimator

    def _replay(self, *data: Any, **params: Any) -> Any:
        del self.estimator.fit
        if self.error is not None:
            raise self.error
        return self.estimator

    def close(self) -> None:
        """Forget what has not ended."""
        vars(self.estimator).pop("fit", None)
        if self._fit is not None:
            self._fit.close()


def _begun(estimator: Any, X: Any, seen: _Seen | None, folds: list[_Fold]) -> Iterator[Any]:
    """Yield the estimator of each fold, which begins when it is fitted."""
    while True:
        folds.append(_Fold(clone(estimator), X, seen))
        yield folds[-1].estimator


def _train(folds: list[_Fold]) -> None:
    """Train all folds."""
    waiting = [fold for fold in folds if fold.trainings]
    ends = iter(side_by_side([training for fold in waiting for training in fold.trainings]))
    for fold in waiting:
        fold.end([next(ends) for _ in fold.trainings])


class _Seen(NamedTuple):
    """All data, looked at once by a model, for folds that read their rows where they lie."""

    model: Any
    X: Any
    t: Array

    def holds(self, rows: Array) -> bool:
        """Return whether what the model knows of all data is what it would know of some rows."""
        if len(rows) == 0:
            return False
        if not hasattr(self.model, "classes_") or self.model._multilabel:
            return True
        return len(np.unique(self.t[rows])) == len(self.model.classes_)


def _seen(estimator: Any, X: Any, y: Any) -> _Seen | None:
    """Return the data for a model that is no pipeline; None where only some rows may do."""
    if not isinstance(estimator, MLP):
        return None
    model = clone(estimator)
    try:
        model._check_parameters()
        return _Seen(model, *model._checked(X, y, True, False))
    except Exception:  # each fold has an error of its own, or none
        return None


def _numbers(X: Any) -> Array:
    """Return the numbers of the rows, as a column."""
    return np.arange(X.shape[0] if hasattr(X, "shape") else len(X))[:, None]


def _last(estimator: Any) -> Any:
    """Return the last step of a pipeline, or of one in it; an estimator itself."""
    while isinstance(estimator, Pipeline) and estimator.steps:
        estimator = estimator.steps[-1][1]
    return estimator
