"""Files of named arrays with a description in JSON: what networks and trainers are saved in.

A path that ends in ".safetensors" is written in that format, by the package `safetensors` (the extra
fastnn[safetensors]), with the description in its metadata; any other is a NumPy archive (.npz), with the
description as a string in the entry "__fastnn__". Neither ever holds a pickle. A file is written under
another name first and then renamed: whoever reads the path finds the old file or the new one, never half of
one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._checks import Array

    Path = str | os.PathLike[str]

__all__ = ["read", "write"]

ENTRY = "__fastnn__"
VERSION = 1


def write(path: Path, kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write arrays and their description.

    Parameters
    ----------
    path : str or path
        ".safetensors" chooses that format, all else .npz.
    kind : str
        What it is: "network", "trainer".
    arrays : mapping of str to array
        Of numbers.
    meta : mapping
        The description, which JSON must be able to hold.

    Raises
    ------
    ImportError
        If the path asks for safetensors and the package is missing.
    """
    import json

    path = _path(path)
    text = json.dumps({"format": "fastnn", "version": VERSION, "kind": kind, **meta}, allow_nan=False)
    arrays = {
        name: np.asarray(_checks.real_array(f"arrays[{name!r}]", array), order="C")
        for name, array in arrays.items()
    }
    save = _save_safetensors if path.endswith(".safetensors") else _save_npz
    unfinished = f"{path}.{os.urandom(4).hex()}.tmp"
    try:
        save(unfinished, arrays, text)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise


def read(path: Path, *kinds: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the description of a file.

    Parameters
    ----------
    path : str or path
        As for `write`.
    kinds : str
        What it may be.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is truncated, damaged, of another format, version or kind.
    ImportError
        If the path asks for safetensors and the package is missing.
    """
    import json

    path = _path(path)
    load = _load_safetensors if path.endswith(".safetensors") else _load_npz
    text, arrays = load(path)
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
    return arrays, meta


def _path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a path, got {_checks.shown(path)}")
    return os.fsdecode(path)


def _save_npz(path: str, arrays: Mapping[str, Array], text: str) -> None:
    import zipfile

    with zipfile.ZipFile(path, "x", allowZip64=True) as archive:
        for name, array in {ENTRY: np.array(text), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _load_npz(path: str) -> tuple[str, dict[str, Array]]:
    import zipfile

    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is not a NumPy archive, or is truncated")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # damaged bytes make zipfile and NumPy raise almost anything
            raise ValueError(f"{path} is damaged: {error}") from None
    entry = arrays.pop(ENTRY, None)
    return (str(entry) if isinstance(entry, np.ndarray) and entry.dtype.kind == "U" else ""), arrays


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "files of safetensors need the package safetensors: pip install fastnn[safetensors]"
        ) from None
    return safetensors


def _save_safetensors(path: str, arrays: Mapping[str, Array], text: str) -> None:
    content = _safetensors().numpy.save(dict(arrays), metadata={ENTRY: text})
    with open(path, "xb") as file:
        file.write(content)


def _load_safetensors(path: str) -> tuple[str, dict[str, Array]]:
    safetensors = _safetensors()
    with open(path, "rb"):  # the usual errors for a file that is not there
        pass
    try:
        with safetensors.safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(ENTRY, "")
            return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None
