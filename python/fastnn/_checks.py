"""Checks of arguments, shared by the native tier and the reference.

Each takes the argument's name first and returns the value in the form that the code goes on with. An error
names the argument, says what was expected and shows what came. `bool` is not a number here, and neither is
NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._foreign import NUMBERS, array_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
LONGEST = 2**40  # a dimension; a matrix of two such is for NumPy to refuse


def shown(value: object) -> str:
    """Return a short text of a value for an error message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _range(low: float | None, high: float | None, ends: str) -> str:
    """Return the words for an interval: " in [0, 1)", " >= 1", "" ..."""
    if low is not None and high is not None:
        return f" in {ends[0]}{low}, {high}{ends[1]}"
    if low is not None:
        return f" >{'=' * (ends[0] == '[')} {low}"
    if high is not None:
        return f" <{'=' * (ends[1] == ']')} {high}"
    return ""


def real_number(
    name: str, value: Any, low: float | None = None, high: float | None = None, ends: str = "[]"
) -> float:
    """Return `value` as a float.

    Parameters
    ----------
    name
        The argument's name, for the message.
    value
        A Python or NumPy number.
    low, high
        The bounds; None: any finite number. A bound of infinity that is closed admits infinity itself.
    ends
        "[" or "(", then "]" or ")": closed or open ends, as in mathematics.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN or outside the interval.
    """
    expected = f"{name} must be a number{_range(low, high, ends)}"
    if isinstance(value, bool) or not isinstance(value, (float, int, np.floating, np.integer)):
        raise TypeError(f"{expected}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    above = number > -math.inf if low is None else (number >= low if ends[0] == "[" else number > low)
    below = number < math.inf if high is None else (number <= high if ends[1] == "]" else number < high)
    if not (above and below):
        raise ValueError(f"{expected}, got {shown(value)}")
    return number


def scheduled(name: str, value: Any, step: int, high: float | None = None, ends: str = "[]") -> float:
    """Return a number >= 0, or what a schedule says of a step; errors are those of `real_number`."""
    return real_number(name, value(step) if callable(value) else value, 0, high, ends)


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int, low <= value <= high (None: no bound).

    Raises TypeError if it is not a Python or NumPy integer, ValueError if it is out of bounds.
    """
    expected = f"{name} must be an integer{_range(low, high, '[]')}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{expected}, got {shown(value)}")
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{expected}, got {shown(value)}")
    return number


def size(name: str, value: Any) -> int:
    """Return `value`, a dimension of an array, as an int >= 1; TypeError or ValueError otherwise."""
    number = integer(name, value, 1)
    if number > LONGEST:
        raise ValueError(f"{name} must be an integer that arrays can have as a dimension, got {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; TypeError unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def seed64(name: str, value: Any) -> int:
    """Return `value` as a seed, an int in [0, 2**64); TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer in [0, 2**64), got {shown(value)}")
    number = int(value)
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must be an integer in [0, 2**64), got {shown(value)}")
    return number


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """Return `value`, one of the strings `options`; TypeError or ValueError otherwise."""
    expected = f"{name} must be one of {', '.join(options)}"
    if not isinstance(value, str):
        raise TypeError(f"{expected}, got {shown(value)}")
    if value not in options:
        raise ValueError(f"{expected}, got {shown(value)}")
    return value


def trainable(name: str, value: Any) -> None:
    """Refuse whatever says that a layer is not to be trained: ValueError."""
    if not value:
        raise ValueError(f"{name} must be True: there are no frozen layers, got {shown(value)}")


def function(name: str, value: Any) -> Callable[..., Any]:
    """Return `value`; TypeError unless it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {shown(value)}")
    return value  # type: ignore[no-any-return]


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Return `value` as a NumPy dtype; TypeError unless it is float32 or float64."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):  # the last of ",float32", for NumPy a list of fields
        dtype = np.dtype(object)
    if value is None or dtype not in FLOATS:  # NumPy takes None for float64
        raise TypeError(f"{name} must be float32 or float64, got {shown(value)}")
    return dtype


def generator(name: str, value: Any) -> np.random.Generator:
    """Return a NumPy generator from None (fresh entropy), a seed (int >= 0) or a generator."""
    if isinstance(value, np.random.Generator):
        return value
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise TypeError(
            f"{name} must be None, an integer >= 0 or a numpy.random.Generator, got {shown(value)}"
        )
    return np.random.default_rng(None if value is None else integer(name, value, 0))


def seeded(seed: Any, rng: Any) -> np.random.Generator:
    """Return the generator that `seed`, or `rng`, its other name, stands for; TypeError if both are given."""
    if rng is None:
        return generator("seed", seed)
    if seed is not None:
        raise TypeError(f"rng must be None where seed is given, got {shown(rng)}")
    return generator("rng", rng)


def first_row(what: str, array: Array) -> int | None:
    """Return the first row in which an array (N, ...) has "NaN" or "infinity"; None if there is none."""
    if array.dtype.kind not in NUMBERS and np.can_cast(array.dtype, np.float32):  # bfloat16
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or not array.size:
        return None
    has = (np.isnan if what == "NaN" else np.isinf)(array).reshape(len(array), -1).any(axis=1)
    return int(has.argmax()) if has.any() else None


def told_of(who: str, error: Exception) -> Exception:
    """Return an error of the same class that says whose it is; RuntimeError if the class takes no text."""
    try:
        return type(error)(f"{who}: {error}")
    except Exception:
        return RuntimeError(f"{who}: {type(error).__name__}: {error}")


def nan_named(name: str, array: Array) -> str:
    """Return the end of an error of an array: "; x has NaN in row 3", or "" if it has none."""
    row = first_row("NaN", array) if array.ndim else None
    return "" if row is None else f"; {name} has NaN in row {row}"


def as_array(name: str, value: Any) -> Array:
    """Return `value` as an array of whatever dtype; TypeError if that cannot be.

    What is missing in it is NaN; see `_foreign` for what is no array.
    """
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value)
    return array_of(name, value)


def real_array(name: str, value: Any) -> Array:
    """Return `value` as an array of real numbers of its own dtype; TypeError if it holds anything else."""
    array = as_array(name, value)
    if array.dtype.kind not in NUMBERS and not np.can_cast(array.dtype, np.float32):  # as bfloat16 can be
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def float_array(name: str, value: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """Return `value` as a float array: data at the door of a layer.

    With `dtype` it is converted to that; without, float32 and float64 stay as they are and other real dtypes
    become float32. Nothing is copied that is right already.
    """
    array = real_array(name, value)
    if dtype is None:
        own = array.dtype.newbyteorder("=")
        dtype = own if own in FLOATS else FLOATS[0]
    return array.astype(dtype, copy=False)


def parameter(
    name: str, value: Any, ndim: int, like: Array | None = None, shape: tuple[int, ...] | None = None
) -> Array:
    """Return `value`, a parameter of a layer: the same array, not a copy.

    It must be float32 or float64 with `ndim` dimensions; `like` fixes the dtype and `shape` the shape.
    TypeError or ValueError otherwise.
    """
    array = as_array(name, value)
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} must be a float32 or float64 array, got dtype {array.dtype}")
    if like is not None and array.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype}, got {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}, got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def copy_state(what: str, state: Mapping[str, Array], d: Any) -> None:
    """Copy the arrays of `d` into those of a state.

    `d` must have exactly its names and shapes; TypeError or ValueError, and no change, if it has not.
    """
    if not hasattr(d, "keys"):
        raise TypeError(f"d must be a dict of arrays, got {shown(d)}")
    if state.keys() != set(d.keys()):
        missing, surplus = sorted(state.keys() - d.keys()), sorted(map(str, d.keys() - state.keys()))
        raise ValueError(f"d must have the names of {what}: missing {missing}, not expected {surplus}")
    given = {
        name: parameter(f"d[{name!r}]", d[name], array.ndim, shape=array.shape)
        for name, array in state.items()
    }
    for name, array in state.items():
        if not array.flags.writeable:
            raise ValueError(f"the array {name} of {what} must be writeable")
    for name, array in state.items():
        array[...] = given[name]


def indices(name: str, value: Any, count: int) -> Array:
    """Return `value` as an array of integers, each in [0, count); TypeError or ValueError otherwise."""
    array = as_array(name, value)
    if not array.size:  # NumPy makes float64 of an empty list
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must hold integers in [0, {count}), got dtype {array.dtype}{nan_named(name, array)}"
        )
    if array.size:
        low, high = array.min(), array.max()
        if low < 0 or high >= count:
            raise ValueError(
                f"{name} must hold integers in [0, {count}), got {int(low if low < 0 else high)}"
            )
    return array


def as_labels(t: Array) -> Array:
    """Return targets that are plainly labels as integers (N,), and others as they are.

    Such are booleans, whole floats and a column (N, 1). Only floats are copied.
    """
    column = t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t
    if column.ndim != 1 or column.dtype.kind in "iu":
        return column if column.ndim == 1 else t
    if column.dtype.kind == "b":
        return column.view(np.uint8)
    if column.dtype.kind == "f":
        wide = column.astype(FLOATS[1], copy=False)  # in float16 the bound is infinity
        if (np.abs(wide) < LONGEST).all():
            whole = wide.astype(np.int64)
            return whole if (whole == wide).all() else t
    return t


def other_labels(t: Any) -> Array | None:
    """Return targets that are plainly labels, but no integers (N,), as such; None for anything else."""
    try:
        array = as_array("t", t)
    except TypeError:
        return None
    labels = as_labels(array)
    return None if labels is array else labels


def sample_weights(name: str, value: Any, rows: int) -> tuple[Array, float]:
    """Return the weights of the samples as float64 (rows,) and their sum.

    They must be finite, not negative, and their sum positive; TypeError or ValueError otherwise.
    """
    weights = float_array(name, value, FLOATS[1])
    if weights.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), got {weights.shape}")
    total = float(weights.sum())
    if not ((weights >= 0).all() and 0 < total < math.inf):
        raise ValueError(
            f"{name} must hold finite numbers >= 0 with a sum > 0, got a sum of {total}"
            f"{nan_named(name, weights)}"
        )
    return weights, total
