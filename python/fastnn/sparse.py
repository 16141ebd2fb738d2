"""Arrays of which little is not zero: rows of few entries, and the gradient of a table that they touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from ._checks import Array

__all__ = ["CSR", "RowSparse"]


class CSR:
    """A matrix whose rows have few entries, as SciPy's CSR format has them, of parts that fit together.

    Parameters
    ----------
    values : array of real numbers, shape (n_entries,)
        Row after row.
    columns : array of int, shape (n_entries,)
        Where in its row each is: ascending in each row.
    starts : array of int64, shape (N + 1,)
        Entries `starts[i]` to `starts[i + 1]` are those of row i.
    width : int
        The number of columns.
    """

    __slots__ = ("columns", "shape", "starts", "values")
    ndim = 2

    def __init__(self, values: Array, columns: Array, starts: Array, width: int) -> None:
        self.values, self.columns, self.starts = values, columns, starts
        self.shape = (len(starts) - 1, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of `values`."""
        return self.values.dtype

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> CSR:
        """Return these rows, named by a slice of step 1 or an array of int."""
        if isinstance(rows, slice):
            begin, end, _ = rows.indices(len(self))
            starts = self.starts[begin : max(begin, end) + 1]
            whole = slice(starts[0], starts[-1])
            return CSR(self.values[whole], self.columns[whole], starts - starts[0], self.shape[1])
        counts = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate(([0], np.cumsum(counts)))
        entries = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return CSR(self.values[entries], self.columns[entries], starts, self.shape[1])

    def to_dense(self) -> Array:
        """Return the whole matrix, a new array."""
        dense = np.zeros(self.shape, self.dtype)
        dense[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.columns] = self.values
        return dense


class RowSparse:
    """A matrix of which only some rows are not zero.

    Parameters
    ----------
    rows : array of int, shape (k,)
        The rows that are present, sorted, each once.
    values : array of float32 or float64, shape (k, dim)
        Their contents. Kept as given, not copied.
    shape : (int, int)
        Shape (n, dim) of the whole matrix.

    Raises
    ------
    TypeError, ValueError
        If the parts do not fit together.
    """

    __slots__ = ("rows", "shape", "values")
    ndim = 2

    def __init__(self, rows: Any, values: Any, shape: Any) -> None:
        self.shape = _matrix_shape(shape)
        self.rows: Array = _checks.indices("rows", rows, self.shape[0]).astype(np.int64, copy=False)
        if self.rows.ndim != 1:
            raise ValueError(f"rows must have 1 dimension, got shape {self.rows.shape}")
        if (self.rows[1:] <= self.rows[:-1]).any():
            raise ValueError("rows must be sorted, each row once")
        self.values = _checks.parameter("values", values, 2, shape=(self.rows.size, self.shape[1]))

    @classmethod
    def from_tokens(cls, tokens: Any, values: Any, shape: Any) -> RowSparse:
        """Return the matrix in which row `tokens[i]` has got `values[i]` added, for every i.

        Parameters
        ----------
        tokens : array of int, any shape
            Rows, in any order, repeated or not.
        values : array of float32 or float64, shape tokens.shape + (dim,)
            What each adds. Repeated rows are summed in the order in which they occur.
        shape : (int, int)
            Shape (n, dim) of the whole matrix.
        """
        shape = _matrix_shape(shape)
        tokens = _checks.indices("tokens", tokens, shape[0])
        values = _checks.parameter("values", values, tokens.ndim + 1, shape=(*tokens.shape, shape[1]))
        rows, place = np.unique(tokens.ravel(), return_inverse=True)
        sums = np.zeros((rows.size, shape[1]), dtype=values.dtype)
        np.add.at(sums, place.ravel(), values.reshape(tokens.size, shape[1]))
        return cls(rows, sums, shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of `values`."""
        return self.values.dtype

    @classmethod
    def trusted(cls, rows: Array, values: Array, shape: tuple[int, int]) -> RowSparse:
        """Return the matrix of parts that are known to fit together, without checking them again."""
        matrix = cls.__new__(cls)
        matrix.rows, matrix.values, matrix.shape = rows, values, shape
        return matrix

    def to_dense(self) -> Array:
        """Return the whole matrix, a new array of shape `shape`."""
        dense = np.zeros(self.shape, dtype=self.dtype)
        dense[self.rows] = self.values
        return dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the whole matrix, for NumPy's functions."""
        if copy is False:
            raise ValueError("a RowSparse cannot become an array without a copy")
        dense = self.to_dense()
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def __repr__(self) -> str:
        """Return the number of rows present, the shape and the dtype."""
        return f"RowSparse({self.rows.size} of {self.shape[0]} rows, shape={self.shape}, dtype={self.dtype})"


def _matrix_shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ValueError(f"shape must be two integers (n, dim), got {_checks.shown(shape)}")
    return _checks.integer("shape[0]", shape[0], 0), _checks.integer("shape[1]", shape[1], 0)
