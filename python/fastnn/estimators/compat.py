"""scikit-learn's checks, where its versions since 1.3 have them, of more data and with more words."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.utils.validation import _check_sample_weight

from .. import _checks
from .._foreign import is_foreign
from ..sparse import CSR

try:
    from sklearn.utils.validation import validate_data as _validate_data
except ImportError:  # before 1.6 it was a method

    def _validate_data(estimator: Any, *args: Any, **options: Any) -> Any:
        return estimator._validate_data(*args, **options)


if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._checks import Array

__all__ = ["validate_data", "validate_weights", "warn"]


def warn(message: str, category: type[Warning]) -> None:
    """Warn the caller of this package."""
    own = __package__.partition(".")[0]
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == own:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def validate_data(estimator: Any, *data: Any, **options: Any) -> Any:
    """Return X, or X and y, checked; a sparse X becomes a `CSR`."""
    data = tuple(_plain(name, values) for name, values in zip("Xy", data, strict=False))
    if hasattr(data[0], "check_format"):
        data[0].check_format(full_check=True)  # what nobody has looked at since it was made
    with _row_named("Xy", data):
        checked = _validate_data(estimator, *data, accept_sparse="csr", **options)
    return _rows(checked) if len(data) == 1 else (_rows(checked[0]), *checked[1:])


def _rows(X: Any) -> Any:
    """Return X, or the rows of a sparse matrix in order, entries for the same place added up."""
    if not issparse(X):
        return X
    follows = X.indices[1:] > X.indices[:-1]
    first = X.indptr[1:-1]
    follows[first[(first > 0) & (first < X.nnz)] - 1] = True
    if not follows.all():
        X = csr_matrix((X.data, X.indices, X.indptr), X.shape, copy=True)
        X.sum_duplicates()
    return CSR(X.data, X.indices, X.indptr.astype(np.int64), X.shape[1])


def validate_weights(weights: Any, X: Array) -> Array:
    """Return weights of the rows of X, checked."""
    weights = _plain("sample_weight", weights)
    with _row_named(["sample_weight"], [weights]):
        checked: Array = _check_sample_weight(weights, X)
    return checked


def _plain(name: str, values: Any) -> Any:
    """Return an array of another library as NumPy's, whatever scikit-learn makes of it; the rest as it is."""
    return _checks.as_array(name, values) if is_foreign(values) else values


@contextmanager
def _row_named(names: Any, data: Any) -> Iterator[None]:
    """Add to the first line of an error about NaN or infinity the first row that has it."""
    try:
        yield
    except ValueError as error:
        line, end, rest = str(error).partition("\n")
        for name, values in zip(names, data, strict=False):
            for what in ("NaN", "infinity"):
                if line.startswith(f"Input {name} contains {what}"):
                    row = _first_row(what, name, values)
                    if row is not None:
                        error.args = (f"{line.rstrip('.')}, first in row {row}.{end}{rest}",)
        raise


def _first_row(what: str, name: str, values: Any) -> int | None:
    if issparse(values):
        rows = values.tocsr()
        entry = _checks.first_row(what, rows.data)
        return None if entry is None else int(np.searchsorted(rows.indptr, entry, "right")) - 1
    try:
        if hasattr(values, "to_numpy"):  # a frame, which may have objects that are numbers
            with suppress(TypeError):
                return _checks.first_row(what, _checks.real_array(name, values))
            return _checks.first_row(what, values.to_numpy(dtype=np.float64, na_value=np.nan))
        array = _checks.as_array(name, values)
        return _checks.first_row(what, array if array.dtype.kind == "f" else array.astype(np.float64))
    except (TypeError, ValueError):
        return None
