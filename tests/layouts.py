"""The same numbers lying in memory in every way that NumPy knows. What lies between them is NaN."""

import ctypes
import mmap

import numpy as np


def _hole(shape, dtype):
    return np.full(shape, np.nan if dtype.kind == "f" else -1, dtype)


def fortran(a):
    return np.asfortranarray(a)


def every_other_row(a):
    view = _hole((2 * a.shape[0], a.shape[1]), a.dtype)[::2]
    view[...] = a
    return view


def every_other_column(a):
    view = _hole((a.shape[0], 2 * a.shape[1]), a.dtype)[:, ::2]
    view[...] = a
    return view


def in_a_wider_array(a):
    view = _hole((a.shape[0] + 2, a.shape[1] + 3), a.dtype)[1:-1, 2:-1]
    view[...] = a
    return view


def columns_of_a_wider_array(a):
    return in_a_wider_array(a.T).T


def reversed_rows(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def reversed_both(a):
    return np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]


def pages_apart(a):
    """Rows a multiple of 4096 bytes apart, which share one set of the first-level cache."""
    columns = 4096 // a.itemsize
    view = _hole((a.shape[0], -(-max(a.shape[1], 1) // columns) * columns), a.dtype)[:, : a.shape[1]]
    view[...] = a
    return view


def unaligned(a):
    raw = np.zeros(a.nbytes + a.itemsize + 1, np.uint8)
    start = (1 - raw.ctypes.data) % a.itemsize
    view = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def off_by_one_element(a):
    """Aligned to the element, not to a vector."""
    view = np.zeros(a.size + 33, a.dtype)
    start = (view.ctypes.data // a.itemsize + 1) % 2 + 1
    view = view[start : start + a.size].reshape(a.shape)
    view[...] = a
    return view


def _between_guards(a, offset):
    room = -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    for guard in (start, start + mmap.PAGESIZE + room):
        assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    numbers = np.frombuffer(memory, a.dtype, a.size, mmap.PAGESIZE + offset(room))
    view = numbers.reshape(a.shape, order="F" if a.flags.f_contiguous else "C")
    view[...] = a
    return view


def ends_at_a_guard(a):
    """Behind the last number lies a page that may be neither read nor written."""
    return _between_guards(a, lambda room: room - a.nbytes)


def begins_at_a_guard(a):
    """Such a page lies before the first number."""
    return _between_guards(a, lambda room: 0)


def equal_rows(a):
    """Row stride 0; the numbers are those of the first row."""
    return np.broadcast_to(a[:1], a.shape)


def equal_columns(a):
    """Column stride 0; the numbers are those of the first column."""
    return np.broadcast_to(a[:, :1], a.shape)


VIEWS = [
    fortran,
    every_other_row,
    every_other_column,
    in_a_wider_array,
    columns_of_a_wider_array,
    reversed_rows,
    reversed_both,
    pages_apart,
    unaligned,
    off_by_one_element,
]
CONSTANT_VIEWS = [equal_rows, equal_columns]
