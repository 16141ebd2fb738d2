"""Files of ONNX: their parts, with nothing allocated for what a file only claims to hold."""

from __future__ import annotations

import math
import os
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from .. import _checks

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["FIELDS", "attributes", "dtype_name", "label", "read", "tensor"]

LARGEST = 2**31  # bytes of a message of protobuf
FIELDS: dict[int, tuple[str, str]] = {  # dtype, and the field of a tensor that has not raw bytes
    TensorProto.FLOAT: ("<f4", "float_data"),
    TensorProto.DOUBLE: ("<f8", "double_data"),
    TensorProto.INT32: ("<i4", "int32_data"),
    TensorProto.INT64: ("<i8", "int64_data"),
    TensorProto.BOOL: ("?", "int32_data"),
}


def dtype_name(data_type: int) -> str:
    """Return the name of a type of elements, "bfloat16", for messages."""
    names: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(data_type, f"type {data_type}").lower()


def label(i: int, node: Any) -> str:
    """Return the place of a node, "node '/0/Gemm' (Gemm)", for messages."""
    return f"node {node.name!r} ({node.op_type})" if node.name else f"node {i} ({node.op_type})"


def read(path: Any) -> tuple[Any, str | None]:
    """Return the model of a path, a binary file or a ModelProto, and the folder of the path.

    Raises OSError if it cannot be opened, ValueError if it holds no model or a damaged one.
    """
    if isinstance(path, onnx.ModelProto):
        model, folder, name = path, None, "the model"
    else:
        if isinstance(path, (str, os.PathLike)):
            name = os.fsdecode(path)
            with open(name, "rb") as file:
                content = _content(name, file)
            folder = os.path.dirname(os.path.abspath(name))
        elif not isinstance(path, type) and callable(getattr(path, "read", None)):
            name, folder = "the file", None
            content = _content(name, path)
        else:
            raise TypeError(
                "path must be a string, a path, a binary file or an onnx.ModelProto, got "
                f"{_checks.shown(path)}"
            )
        try:
            model = onnx.ModelProto.FromString(content)
        except (DecodeError, TypeError) as error:
            raise ValueError(f"{name} is not a file of ONNX, or is truncated: {error}") from None
    if not model.ir_version or not model.graph.node:
        raise ValueError(f"{name} is not a file of ONNX, or is truncated: it holds no graph")
    if folder is None:
        for t in model.graph.initializer:
            if t.data_location == TensorProto.EXTERNAL:
                raise ValueError(
                    f"initializer {t.name!r}: has its data in a file of its own: pass the model's path"
                )
    try:
        onnx.checker.check_model(model if folder is None else name)  # which looks there for such files, too
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{name} is not valid: {str(error).strip().splitlines()[0]}") from None
    return model, folder


def _content(name: str, file: IO[bytes]) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{name} is not a file of ONNX: it has more than {LARGEST} bytes")
    return content


def attributes(where: str, node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name; tensors are not read, strings are str."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise ValueError(f"{where}: attribute {attribute.name} must have a value")
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def tensor(where: str, proto: Any, folder: str | None) -> Array:
    """Return the values of a tensor.

    TypeError or ValueError, before anything is allocated, if it has another dtype than float32, float64,
    int32, int64 or bool, or not as many values as its shape says.
    """
    if proto.data_type not in FIELDS:
        raise TypeError(f"{where}: must be float32 or float64, got {dtype_name(proto.data_type)}")
    name, field = FIELDS[proto.data_type]
    dtype, shape = np.dtype(name), tuple(proto.dims)
    if any(n < 0 for n in shape) or proto.HasField("segment"):
        raise ValueError(f"{where}: must be a whole tensor with dimensions >= 0, got {shape}")
    count = math.prod(shape)
    if proto.data_location == TensorProto.EXTERNAL:
        return _external(where, proto, folder, dtype, count).reshape(shape)
    if proto.HasField("raw_data"):
        size, wanted = len(proto.raw_data), count * dtype.itemsize
        if size != wanted:
            raise ValueError(f"{where}: must hold {wanted} bytes for shape {shape}, got {size}")
        return np.frombuffer(proto.raw_data, dtype).reshape(shape)
    values = getattr(proto, field)
    if len(values) != count:
        raise ValueError(f"{where}: must hold {count} numbers for shape {shape}, got {len(values)}")
    return np.array(values, dtype).reshape(shape)


def _external(where: str, proto: Any, folder: str | None, dtype: np.dtype[Any], count: int) -> Array:
    """Return the values of a tensor that are in a file beside that of the model."""
    if folder is None:
        raise ValueError(f"{where}: has its data in a file of its own: pass the model's path")
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    path = os.path.realpath(os.path.join(folder, location))
    inside = os.path.commonpath([os.path.realpath(folder), path]) == os.path.realpath(folder)
    if not location or os.path.isabs(location) or not inside:
        raise ValueError(f"{where}: must have its data in the folder of the model, got {location!r}")
    if not os.path.isfile(path):
        raise ValueError(f"{where}: must have its data in a file, and {location!r} is none")
    size, wanted = os.path.getsize(path), count * dtype.itemsize
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", wanted))
    except ValueError:
        raise ValueError(f"{where}: offset and length must be integers") from None
    if length != wanted or offset < 0 or offset + length > size:
        raise ValueError(
            f"{where}: must have {wanted} bytes from byte {offset} on in {location!r}, which has {size}, "
            f"got a length of {length}"
        )
    return np.fromfile(path, dtype, count, offset=offset)
