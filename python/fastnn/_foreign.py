"""Objects of other libraries as arrays, by the protocols that they have and what they say of themselves.

Nothing is imported for it. What has `__array__`, `__array_interface__`, the buffer protocol or `__dlpack__`
becomes an array that shares its memory where that can be. Frames and tables of pandas, polars and Arrow must
have columns of numbers; these become one array of the dtype that NumPy promotes theirs to. What is missing
becomes NaN, and integers among which some are missing become float64; nothing else is made of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

SLICE_BYTES = 2**23  # read together of what is not an array
ON_HOST = (1, 3, 11, 13)  # of DLPack's devices: kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged
OF_NUMPY = ("__array__", "__array_interface__", "__array_struct__")
NUMBERS = "fiub"


def array_of(name: str, value: Any) -> Array:
    """Return `value`, which is no array or one with a mask, as an array of whatever dtype.

    What has `shape`, `dtype`, `__len__` and `__getitem__`, and nothing that makes it an array at once, is
    read in slices of some MiB along its first axis, each once, and so are the columns of an Arrow table;
    what slices raise propagates.

    Raises
    ------
    TypeError
        If that cannot be, or hides what one has to know of: a gradient, a device, a column of dates.
    """
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(value)
    _check_place(name, value)
    form = _form(value)
    if form is not None:
        return _read(name, value, *form)
    columns = _columns(name, value)
    try:
        array = _converted(value, columns)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        how = "; pass its .float()" if str(getattr(value, "dtype", "")) == "torch.bfloat16" else ""
        raise TypeError(f"{name} must be an array, got {_a(value)}: {error}{how}") from error
    if array.dtype == object and array.ndim == 0:
        how = ": pass its .toarray()" if hasattr(value, "toarray") else ""
        raise TypeError(f"{name} must be an array, got {_a(value)}{how}")
    return array


def is_foreign(value: Any) -> bool:
    """Return whether `value` is an array of another library, or one with a mask; frames and lists are not."""
    if isinstance(value, (np.ndarray, np.generic)):
        return isinstance(value, np.ma.MaskedArray)
    if hasattr(value, "toarray") or any(hasattr(value, name) for name in ("columns", "iloc", "column_names")):
        return False
    protocols = any(hasattr(value, name) for name in (*OF_NUMPY, "__dlpack__"))
    return protocols or _has_buffer(value) or _form(value) is not None


def _a(value: Any) -> str:
    return f"a {type(value).__name__}"


def _unmasked(value: np.ma.MaskedArray[Any, Any]) -> Array:
    """Return the array below a mask, NaN where that hides something."""
    mask = np.ma.getmaskarray(value) if value.mask is not np.ma.nomask else None
    if mask is None or not mask.any() or value.dtype.kind not in NUMBERS:
        return np.asarray(value.data)
    array: Array = np.array(value.data, value.dtype if value.dtype.kind == "f" else np.float64)
    array[mask] = np.nan
    return array


def _check_place(name: str, value: Any) -> None:
    """Refuse what has a gradient to follow, or is not in the memory of the CPU: TypeError."""
    if getattr(value, "requires_grad", False) is True:
        raise TypeError(f"{name} must not require a gradient, got {_a(value)}: pass its .detach()")
    try:
        device, _ = value.__dlpack_device__()
    except Exception:  # there is none, or none that DLPack knows: its `__array__` will tell
        return
    if device not in ON_HOST:
        where = getattr(value, "device", device)
        raise TypeError(
            f"{name} must lie in the memory of the CPU, got {_a(value)} on {where}: "
            f"pass its .cpu(), or what its library has to copy it there"
        )


def _form(value: Any) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Return shape and dtype of what is read in slices; None of anything else."""
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "dtype"):
        return None
    if any(hasattr(value, name) for name in (*OF_NUMPY, "__dlpack__")):
        return None
    if not all(hasattr(value, name) for name in ("shape", "__len__", "__getitem__")):
        return None
    if _has_buffer(value):
        return None
    try:
        shape, dtype, rows = tuple(map(int, value.shape)), np.dtype(value.dtype), len(value)
    except (TypeError, ValueError):  # of a sparse matrix, say, which has no length
        return None
    return (shape, dtype) if shape[:1] == (rows,) else None


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _slices(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[slice]:
    """Return slices of rows, of some MiB each."""
    rows = max(1, SLICE_BYTES // max(1, dtype.itemsize * math.prod(shape[1:])))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def _read(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what `_form` has found, read in slices.

    ValueError if a slice has not the shape that it should have, TypeError if its dtype does not fit.
    """
    array = np.empty(shape, dtype)
    for rows in _slices(shape, dtype):
        part = np.asarray(value[rows])
        what = f"{name}[{rows.start}:{rows.stop}]"
        if part.shape != array[rows].shape:
            raise ValueError(f"{what} must have shape {array[rows].shape}, got {part.shape}")
        if not np.can_cast(part.dtype, dtype, "same_kind"):
            raise TypeError(f"{what} must have dtype {dtype}, got {part.dtype}")
        array[rows] = part
    return array


def _columns(name: str, value: Any) -> Sequence[Any]:
    """Return the dtypes of the columns of a frame or table, none of anything else.

    TypeError if a column holds no numbers.
    """
    cls = type(value)
    if hasattr(cls, "dtypes") and hasattr(cls, "columns") and hasattr(cls, "__array__"):
        named = list(zip(value.columns, value.dtypes, strict=True))
    elif hasattr(cls, "schema") and hasattr(cls, "column_names"):
        named = list(zip(value.column_names, value.schema.types, strict=True))
    else:
        return ()
    for column, dtype in named:
        if not _is_number(dtype):
            raise TypeError(f"{name} must hold real numbers, but its column {column!r} has dtype {dtype}")
    return [dtype for _, dtype in named]


def _is_number(dtype: Any) -> bool:
    """Return whether a dtype of NumPy, pandas, polars or Arrow is one of floats, integers or bool."""
    if isinstance(getattr(dtype, "kind", None), str):
        return dtype.kind in NUMBERS
    if hasattr(dtype, "is_numeric"):
        return str(dtype) == "Boolean" or (dtype.is_numeric() and not dtype.is_decimal())
    try:
        return np.dtype(dtype.to_pandas_dtype()).kind in NUMBERS
    except (AttributeError, NotImplementedError):
        return False


def _converted(value: Any, dtypes: Sequence[Any]) -> Array:
    """Return an array of an object, or of a frame or table with columns of these dtypes."""
    if not any(hasattr(value, name) for name in OF_NUMPY) and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    own = getattr(value, "dtype", getattr(value, "type", None))
    if hasattr(own, "list_size") or hasattr(own, "permutation"):
        return _of_lists(value)
    if hasattr(value, "isna") and hasattr(value, "to_numpy") and (dtypes or _is_number(own)):
        return _of_pandas(value, dtypes or [own])
    if dtypes and hasattr(value, "column_names"):
        return _of_columns(value.columns)
    array = np.asarray(value)
    if array.dtype == object and array.ndim and (dtypes or _is_number(own)):  # what is missing is None
        return _of_columns(value.get_columns()) if dtypes else array.astype(np.float64)
    return array


def _of_lists(value: Any) -> Array:
    """Return the rows of an Arrow array of lists of one length, or of tensors."""
    parts = []
    for chunk in getattr(value, "chunks", [value]):
        if chunk.null_count:
            raise TypeError("rows are missing")
        if hasattr(chunk, "to_numpy_ndarray"):
            parts.append(chunk.to_numpy_ndarray())
        else:
            numbers = _converted(chunk.flatten(), ())
            parts.append(numbers.reshape(len(chunk), chunk.type.list_size, *numbers.shape[1:]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _of_pandas(value: Any, dtypes: Sequence[Any]) -> Array:
    """Return the numbers of a frame or series of pandas, or of one of its arrays."""
    of_numpy = [np.dtype(getattr(d, "numpy_dtype", getattr(d, "subtype", d))) for d in dtypes]
    dtype = np.result_type(*of_numpy)
    if all(isinstance(d, np.dtype) for d in dtypes):
        return np.asarray(value.to_numpy(dtype=dtype))
    if dtype.kind != "f":
        if not np.asarray(value.isna()).any():
            return np.asarray(value.to_numpy(dtype=dtype))
        dtype = np.dtype(np.float64)
    return np.asarray(value.to_numpy(dtype=dtype, na_value=np.nan))


def _of_columns(columns: Sequence[Any]) -> Array:
    """Return columns of Arrow or polars side by side, read in slices."""
    if len(columns) == 1:
        return _converted(columns[0], ())[:, None]
    dtype = np.result_type(*(np.asarray(column[:0]).dtype for column in columns))
    if dtype.kind != "f" and any(map(_misses, columns)):
        dtype = np.dtype(np.float64)
    array = np.empty((len(columns[0]), len(columns)), dtype)
    for rows in _slices(array.shape, dtype):
        for j, column in enumerate(columns):
            array[rows, j] = np.asarray(column[rows])
    return array


def _misses(column: Any) -> bool:
    count = column.null_count
    return bool(count() if callable(count) else count)
