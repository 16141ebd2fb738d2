"""Files of named arrays with a description in JSON: what networks and trainers are saved in.

A name that ends in ".safetensors" is written in that format, by the package `safetensors` (the extra
fastnn-cpu[safetensors]), with the description in its metadata; one that ends in ".npz" or has no suffix is a
NumPy archive, with the description as a string in the entry "__fastnn__". A file that is open already, an
io.BytesIO say, holds an archive. Neither format ever holds a pickle.

Writing
    A file is written under another name beside its own, ".fastnn-....tmp", and then renamed: whoever reads
    the path finds the old file or the new one, never half of one. What a killed process has left under such a
    name goes when the same file is next written. Through a symbolic link its target is written. An existing
    file keeps its permissions and, as far as the system allows, its owner; one that its owner may not write
    (mode 0444) is refused, even to root. Other hard links to it keep the old content.
    Where a file cannot be replaced (its directory may not be written, or it is a mount by itself) it is
    written in place, and a crash in the middle of that leaves half a file. What is no regular file, such as a
    FIFO or a device, is written to directly.
Reading
    Names, shapes and dtypes come first, from the headers. No array is read, and no memory taken for one,
    before they are known to fit.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, suppress
from math import prod
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._checks import Array

    Path = str | os.PathLike[str] | IO[bytes]

__all__ = ["Contents", "Spec", "opened", "put", "read", "suffix_of", "write"]

ENTRY = "__fastnn__"
VERSION = 1
SUFFIXES = ("", ".npz", ".safetensors")
DESCRIPTION_BYTES = 1 << 24  # more is refused
IRREPLACEABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
DEFLATED_AT_MOST = 1032  # bytes that become one
DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BOOL": "?",
}  # of safetensors


class Spec(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Contents(Mapping[str, "Array"]):
    """The arrays of an open file by name, each read when it is asked for.

    Attributes
    ----------
    path : str
        For messages.
    meta : dict
        The description.
    specs : dict of str to Spec
        Shapes and dtypes by name, from the headers.
    """

    def __init__(
        self, path: str, meta: dict[str, Any], specs: dict[str, Spec], get: Callable[[str], Array]
    ) -> None:
        self.path = path
        self.meta = meta
        self.specs = specs
        self._get = get

    def __getitem__(self, name: str) -> Array:
        """Read an array."""
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.specs)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self.specs)


# Writing


def write(path: Path, kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write arrays and their description; see the module for how.

    Parameters
    ----------
    path : str, path or binary file
        ".safetensors" chooses that format, ".npz" or no suffix a NumPy archive.
    kind : str
        What it is: "network", "trainer".
    arrays : mapping of str to array
        Of numbers.
    meta : mapping
        The description, which JSON must be able to hold.

    Raises
    ------
    ValueError
        If the path has another suffix.
    PermissionError
        If the file's owner may not write it.
    ImportError
        If the path asks for safetensors and the package is missing.
    """
    import json

    name = _name(path, "write")
    suffix = "" if name is None else suffix_of(name)
    text = json.dumps({"format": "fastnn", "version": VERSION, "kind": kind, **meta}, allow_nan=False)
    arrays = {
        key: np.asarray(_checks.real_array(f"arrays[{key!r}]", array), order="C")
        for key, array in arrays.items()
    }
    save = _save_safetensors if suffix == ".safetensors" else _save_npz

    def fill(file: IO[bytes]) -> None:
        save(file, arrays, text)

    put(path, fill)


def put(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Have a function fill the file of a path, or one that is open; see the module for how.

    Raises TypeError for what is neither, and PermissionError if the file's owner may not write it.
    """
    name = _name(path, "write")
    if name is None:
        fill(path)  # type: ignore[arg-type]
    else:
        _put(name, fill)


def suffix_of(path: str) -> str:
    """Return the suffix of a path, which says how it is written; ValueError if it is none of the formats'."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in .npz or .safetensors, got {path!r}")
    return suffix


def _name(path: Any, method: str) -> str | None:
    """Return a path as a string, None for a binary file with this method; TypeError for what is neither."""
    if isinstance(path, (str, os.PathLike)):
        return os.fsdecode(path)
    if isinstance(path, (type, io.TextIOBase)) or not callable(getattr(path, method, None)):
        raise TypeError(f"path must be a string or a path, or a binary file, got {_checks.shown(path)}")
    return None


def _put(path: str, fill: Callable[[IO[bytes]], object]) -> None:
    """Have a function fill the file of this path."""
    target = os.path.realpath(path)
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None:
        if not stat.S_ISREG(old.st_mode) or not os.path.exists(target):
            return _fill_in_place(path, fill)
        if not old.st_mode & stat.S_IWUSR:
            mode = stat.S_IMODE(old.st_mode)
            raise PermissionError(errno.EACCES, f"the file is read-only (mode {mode:04o})", path)
    try:
        _replace(target, old, fill)
    except OSError as error:
        if getattr(error, "filename", None) is None or error.errno not in IRREPLACEABLE:
            raise
        _fill_in_place(target, fill)


def _fill_in_place(path: str, fill: Callable[[IO[bytes]], object]) -> None:
    with open(path, "wb") as file:
        fill(file)


def _replace(target: str, old: os.stat_result | None, fill: Callable[[IO[bytes]], object]) -> None:
    """Fill a file under another name, then rename it.

    An OSError has a file name if it is one of making or renaming the file, none if it is one of filling it.
    """
    import zlib

    directory, name = os.path.split(target)
    prefix = f".fastnn-{zlib.crc32(os.fsencode(name)):08x}-"
    unfinished = os.path.join(directory, f"{prefix}{os.urandom(4).hex()}.tmp")
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode) & 0o777
    try:
        fd = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    except OSError as error:
        error.filename = target
        raise
    try:
        with open(fd, "w+b") as file:
            _lock(file)
            if not os.path.exists(unfinished):  # taken for an orphan in the moment before
                return _replace(target, old, fill)
            fill(file)
            if old is not None:
                _keep_owner_and_mode(file.fileno(), old)
            file.flush()
            os.replace(unfinished, target)  # while it is locked
    except BaseException:
        with suppress(OSError):
            os.remove(unfinished)
        raise
    _remove_orphans(directory, prefix)


def _keep_owner_and_mode(fd: int, old: os.stat_result) -> None:
    for owner in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(PermissionError):
            os.fchown(fd, *owner)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))


def _lock(file: IO[bytes], wait: bool = True) -> bool:
    """Lock a file until it is closed, be it by the end of the process; return whether that could be done."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another has it, or the file system knows no locks
        return False
    return True


def _remove_orphans(directory: str, prefix: str) -> None:
    """Remove the unfinished files of processes that are gone: those that can be locked."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(prefix) and name.endswith(".tmp"):
                path = os.path.join(directory, name)
                with suppress(OSError), open(path, "r+b") as file:
                    if _lock(file, wait=False):
                        os.remove(path)


def _save_npz(file: IO[bytes], arrays: Mapping[str, Array], text: str) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in {ENTRY: np.array(text), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _save_safetensors(file: IO[bytes], arrays: Mapping[str, Array], text: str) -> None:
    # Which writes the memory of an array as it lies: it must be C-contiguous.
    file.write(_safetensors().numpy.save(dict(arrays), metadata={ENTRY: text}))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "files of safetensors need the package safetensors: pip install fastnn-cpu[safetensors]"
        ) from None
    return safetensors


# Reading


def read(path: Path, *kinds: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the description of a file, all of it; see `opened`."""
    with opened(path, *kinds) as contents:
        return dict(contents), contents.meta


@contextmanager
def opened(path: Path, *kinds: str) -> Iterator[Contents]:
    """Open a file to look at what it holds, and then to read it.

    Parameters
    ----------
    path : str, path or binary file
        As for `write`; without the suffix ".safetensors" it is a NumPy archive.
    kinds : str
        What it may be.

    Yields
    ------
    Contents

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is truncated, damaged, of another format, version or kind.
    ImportError
        If the path asks for safetensors and the package is missing.
    """
    name = _name(path, "read")
    shown = "the file" if name is None else name
    if name is not None and name.lower().endswith(".safetensors"):
        with _open_safetensors(name) as (text, specs, get):
            yield Contents(name, _description(name, text, kinds), specs(), get)
        return
    source = nullcontext(path) if name is None else open(name, "rb")  # noqa: SIM115
    with source as file, _open_npz(shown, file) as (text, specs, get):  # type: ignore[arg-type]
        yield Contents(shown, _description(shown, text, kinds), specs(), get)


def _description(path: str, text: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return the description in JSON as a dict; ValueError if it is none of these kinds."""
    import json

    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or meta.get("format") != "fastnn":
        raise ValueError(f"{path} is not a file of fastnn: it has no description")
    if meta.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {_checks.shown(meta.get('version'))}, this fastnn reads version {VERSION}"
        )
    if meta.get("kind") not in kinds:
        raise ValueError(f"{path} must hold a {' or '.join(kinds)}, got {_checks.shown(meta.get('kind'))}")
    return meta


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Make a ValueError of what damaged bytes make zipfile, NumPy and safetensors raise, almost anything."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}") from None


Parts = tuple[str, "Callable[[], dict[str, Spec]]", "Callable[[str], Array]"]


@contextmanager
def _open_npz(path: str, file: IO[bytes]) -> Iterator[Parts]:
    """Yield the description of an archive, and what returns the specs and what reads an array."""
    import zipfile

    if not zipfile.is_zipfile(file):
        raise ValueError(f"{path} is not a NumPy archive, or is truncated")
    with _reading(path):
        archive = zipfile.ZipFile(file)
        size = file.seek(0, os.SEEK_END)
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}

    def spec(name: str, kinds: str) -> Spec:
        entry = entries[name]
        with _reading(path), archive.open(entry) as content:
            if np.lib.format.read_magic(content) != (1, 0):
                raise ValueError(f"{name!r} has a header of another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(content)
            if dtype.kind not in kinds:
                raise ValueError(f"{name!r} holds no real numbers but dtype {dtype}")
            inflated = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATED_AT_MOST}
            most = min(entry.compress_size, size) * inflated.get(entry.compress_type, 0)
            if not content.tell() + prod(shape) * dtype.itemsize == entry.file_size <= most:
                raise ValueError(f"{name!r} is not of the size that its header tells")
        return Spec(shape, dtype)

    def get(name: str) -> Array:
        with _reading(path), archive.open(entries[name]) as content:
            array: Array = np.lib.format.read_array(content, allow_pickle=False)
            content.read(1)  # at the end its checksum is looked at
            return array

    def specs() -> dict[str, Spec]:
        return {name: spec(name, "fiub") for name in entries if name != ENTRY}

    text = ""
    if all(entry.filename.endswith(".npy") for entry in archive.infolist()) and ENTRY in entries:
        shape, dtype = spec(ENTRY, "fiubU")
        if shape == () and dtype.kind == "U" and dtype.itemsize <= DESCRIPTION_BYTES:
            text = _text(path, get(ENTRY))
    with archive:
        yield text, specs, get


def _text(path: str, array: Array) -> str:
    """Return a string of NumPy; ValueError where it holds no character, which for `str` is a SystemError."""
    codes = array.astype(array.dtype.newbyteorder("<")).tobytes()
    with _reading(path):
        return codes.decode("utf-32-le").rstrip("\0")


@contextmanager
def _open_safetensors(path: str) -> Iterator[Parts]:
    """Yield the same of a file of safetensors."""
    safetensors = _safetensors()
    with open(path, "rb"):  # the usual errors for a file that is not there
        pass
    with _reading(path):
        file = safetensors.safe_open(path, framework="np").__enter__()
        text = (file.metadata() or {}).get(ENTRY, "")
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for name, part in parts.items():
        if part.get_dtype() not in DTYPES:
            raise ValueError(f"{path} holds {name!r} of dtype {part.get_dtype()}, which NumPy does not have")

    def get(name: str) -> Array:
        with _reading(path):
            array: Array = file.get_tensor(name)
            return array

    def specs() -> dict[str, Spec]:
        return {
            name: Spec(tuple(part.get_shape()), np.dtype(DTYPES[part.get_dtype()]))
            for name, part in parts.items()
        }

    yield text, specs, get
