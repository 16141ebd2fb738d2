"""Event files of TensorBoard, with scalars.

A file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h),

    length: uint64    crc(length): uint32    data: length bytes    crc(data): uint32        little-endian

where crc is CRC-32C (Castagnoli), rotated right by 15 bits, plus 0xa282ead8. The data of each are an `Event`
of tensorflow/core/util/event.proto in the wire format of protocol buffers: wall_time = 1 (double), step = 2
(int64), file_version = 3 (string), which the first event has, and summary = 5, a message of repeated
value = 1, each a message of tag = 1 (string) and simple_value = 2 (float).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["record", "scalars", "version"]

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # types on the wire


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """Return data as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def version(wall_time: float) -> bytes:
    """Return the event that a file begins with."""
    return _field(1, DOUBLE, struct.pack("<d", wall_time)) + _text(3, b"brain.Event:2")


def scalars(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return the event of numbers, by tag, in a step."""
    with np.errstate(over="ignore"):
        singles = {tag: np.float32(value).astype("<f4").tobytes() for tag, value in values.items()}
    summary = b"".join(
        _text(1, _text(1, tag.encode()) + _field(2, FLOAT, single)) for tag, single in singles.items()
    )
    return (
        _field(1, DOUBLE, struct.pack("<d", wall_time)) + _field(2, VARINT, _varint(step)) + _text(5, summary)
    )


def _field(number: int, kind: int, data: bytes) -> bytes:
    return _varint(number << 3 | kind) + data


def _text(number: int, data: bytes) -> bytes:
    return _field(number, BYTES, _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    """Return a number >= 0 in groups of seven bits, the lowest first."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
