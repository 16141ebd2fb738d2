"""Orders and slices of data sets, and readers of the MNIST files.

Everything works on row numbers: a data set, which may be a memory map larger than memory, is only ever read a
batch at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks
from .reference.philox import words

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from ._checks import Array

__all__ = ["batches", "load_mnist", "permutation", "read_idx"]

SHUFFLE_STREAM = 0xFFFFFFFF  # layers take the streams from 0 up
IMAGES = {"idx3-ubyte": (3, "uint8")}  # the ends of names, and what such files hold
LABELS = {"idx1-ubyte": (1, "uint8"), "idx2-int": (2, "int32")}  # the second in QMNIST
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def permutation(n: int, seed: int, epoch: int) -> Array:
    """Return the order in which an epoch visits `n` rows.

    Each row draws a 64-bit key, w[2i] * 2**32 + w[2i + 1] of the Philox words w of (seed, epoch), and the
    rows are sorted by their keys.

    Parameters
    ----------
    n : int, 0 <= n <= 2**33
    seed, epoch : int in [0, 2**64)

    Returns
    -------
    array of int64, shape (n,)
    """
    n = _checks.integer("n", n, 0, 2**33)
    w = words(_checks.seed64("seed", seed), _checks.seed64("epoch", epoch), SHUFFLE_STREAM, 2 * n).astype(
        np.uint64
    )
    return np.argsort(w[0::2] << np.uint64(32) | w[1::2], kind="stable").astype(np.int64, copy=False)


def batches(n: int, batch_size: int) -> Iterator[slice]:
    """Yield slices of `batch_size` rows that cover rows 0 to n - 1 in order; the last may be smaller."""
    for start in range(0, n, batch_size):
        yield slice(start, min(start + batch_size, n))


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Read one file of the IDX format, in which MNIST comes, gzipped or not.

    The format (Y. LeCun, http://yann.lecun.com/exdb/mnist/): two zero bytes, a byte for the type of the
    elements, a byte for the number of dimensions, each dimension as a big-endian 32-bit integer, then the
    elements, big-endian.

    Returns
    -------
    array of the file's shape and dtype (uint8 for MNIST), in the machine's byte order

    Raises
    ------
    ValueError
        If the file is not of that format, is truncated, or goes on after its last element.
    """
    import gzip
    import zlib
    from math import prod

    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES:
                raise ValueError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}")
            sizes = file.read(4 * magic[3])
            if len(sizes) < 4 * magic[3]:
                raise ValueError(f"{path} is truncated: it ends within its header")
            dtype = np.dtype(IDX_DTYPES[magic[2]])
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            expected = prod(shape) * dtype.itemsize
            body = bytearray()
            while piece := file.read(min(expected + 1 - len(body), 1 << 20)):
                body += piece
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is truncated or damaged: {error}") from None
    if len(body) < expected:
        raise ValueError(f"{path} is truncated: shape {shape} takes {expected} bytes, got {len(body)}")
    if len(body) > expected:
        raise ValueError(f"{path} is oversized: it goes on after the {expected} bytes of shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def load_mnist(directory: str | os.PathLike[str], prefix: str = "") -> tuple[Array, Array, Array, Array]:
    """Read the four original files of MNIST, or of a data set in its form.

    Parameters
    ----------
    directory
        Holds train-images, train-labels, t10k-images and t10k-labels, named with "-idx3-ubyte" or
        ".idx3-ubyte" ("idx1" for labels), each gzipped (".gz") or not. "test" may stand for "t10k".
        A file may also lie in a folder of its own name, as some archives are unpacked.
    prefix : str
        Begins all names: "" for MNIST, Fashion-MNIST and KMNIST, "qmnist-" for QMNIST, "emnist-letters-" (or
        another part) for EMNIST, the images of which are transposed.

    Returns
    -------
    x_train, t_train, x_test, t_test
        Images as uint8 (n, pixels), pixels from 0 to 255, 28 * 28 of them in MNIST, and labels as int64 (n,).
        Of QMNIST's eight labels it is the first, the digit.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, or images and labels do not match in number, or the images in size.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {_checks.shown(prefix)}")
    result = []
    for parts in (("train",), ("t10k", "test")):
        images = _read_part(directory, [f"{prefix}{part}-images" for part in parts], IMAGES)
        labels = _read_part(directory, [f"{prefix}{part}-labels" for part in parts], LABELS)
        if len(images) != len(labels):
            raise ValueError(f"{directory} has {len(images)} {parts[0]} images and {len(labels)} labels")
        if labels.ndim == 2:
            labels = labels[:, 0]
        result += [images.reshape(len(images), images.shape[1] * images.shape[2]), labels.astype(np.int64)]
    x_train, t_train, x_test, t_test = result
    if x_train.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"{directory} has train images of {x_train.shape[1]} pixels and t10k images of {x_test.shape[1]}"
        )
    return x_train, t_train, x_test, t_test


def _read_part(
    directory: str | os.PathLike[str], names: list[str], kinds: dict[str, tuple[int, str]]
) -> Array:
    """Read the file that has one of these names and is of one of these kinds."""
    import os

    candidates = {
        f"{name}{mark}{kind}{suffix}": kind
        for name in names
        for kind in kinds
        for mark in "-."
        for suffix in ("", ".gz")
    }
    for folder in ("", *candidates):
        for name, kind in candidates.items():
            path = os.path.join(directory, folder, name)
            if os.path.isfile(path):
                array = read_idx(path)
                ndim, dtype = kinds[kind]
                if array.ndim != ndim or array.dtype != dtype:
                    raise ValueError(
                        f"{path} must hold {dtype} with {ndim} dimensions, got {_checks.shown(array)}"
                    )
                return array
    raise FileNotFoundError(f"{os.fspath(directory)} has none of {', '.join(candidates)}")
