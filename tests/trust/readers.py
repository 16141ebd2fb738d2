"""The readers of files, each as a function of bytes that a fuzzer may call: python -m tests.trust readers.

A reader returns True where it accepts, False where it refuses in one of the documented ways (REFUSALS), and
raises at anything else: another exception, or an answer that is wrong. What it accepts is looked at again: a
network or trainer must come to the same bits through a file of its own and through `fastnn.reference`, an
array of IDX be what the format says.
"""

from __future__ import annotations

import atexit
import gzip
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from functools import cache
from math import prod

import numpy as np

import fastnn
from fastnn import checkpoint, data
from fastnn import reference as ref

REFUSALS = (ValueError, TypeError, OSError)
RAW, REPAIRED, DESCRIBED = range(3)  # what the rest of an input for an archive is, by its first byte


@cache
def scratch():
    """Return a directory in memory, if there is any, that goes with the process."""
    memory = "/dev/shm"
    directory = tempfile.mkdtemp(prefix="fastnn-readers-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def place(suffix):
    """Return the path of a file, and a descriptor that stays open."""
    path = os.path.join(scratch(), f"file.{suffix}")
    return path, os.open(path, os.O_CREAT | os.O_RDWR)


def stored(content, suffix):
    """Return the path of a file with this content."""
    path, file = place(suffix)
    os.ftruncate(file, 0)
    os.pwrite(file, content, 0)
    return path


def refused(call, *arguments):
    """Return (result, None), or (None, error) where it is one of REFUSALS."""
    try:
        return call(*arguments), None
    except REFUSALS as error:
        return None, error


def must(condition, text):
    if not condition:
        raise AssertionError(text)


# Archives of NumPy and safetensors: networks and trainers


def networks():
    """Return a few small networks."""
    block = fastnn.Residual([fastnn.LayerNorm.create(2), fastnn.GELU()])
    parts = [fastnn.BatchNorm.create(2), fastnn.ReLU(), fastnn.Dropout(0.3, seed=1), block]
    return [
        fastnn.Sequential([fastnn.Affine.create(1, 1, seed=0)]),
        fastnn.Sequential([*parts, fastnn.RMSNorm.create(2)]),
        fastnn.Sequential(
            [fastnn.Embedding.create(3, 2, seed=0), fastnn.Affine.create(2, 1, seed=0, dtype="f4")]
        ),
    ]


def trainers():
    """Return a few small trainers that have done a step."""
    rate = fastnn.schedules.WarmUp(fastnn.schedules.CosineDecay(0.1, 9), 2)
    plain, wide, words = networks()
    made = [
        fastnn.Trainer(plain, fastnn.Huber(0.5), fastnn.SGD(0.1)),
        fastnn.Trainer(wide, fastnn.SoftmaxCrossEntropy(), fastnn.AdamW(rate), 1.0, average=0.9),
        fastnn.Trainer(words, fastnn.MeanSquaredError(), fastnn.Muon(0.1, groups=[fastnn.Group("*.b", 0.5)])),
    ]
    made[0].step(np.ones((2, 1)), np.ones((2, 1)))
    stopping = fastnn.callbacks.EarlyStopping("loss", 2)
    made[1].fit(np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1]), 2, 2, callbacks=[stopping])
    made[2].step(np.array([[0], [2]]), np.ones((2, 1)))
    return made


def content_of(thing, suffix="npz"):
    if suffix == "npz":
        file = io.BytesIO()
        thing.save(file)
        return file.getvalue()
    path = os.path.join(scratch(), f"made.{suffix}")
    thing.save(path)
    with open(path, "rb") as file:
        return file.read()


def description_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("__fastnn__.npy") as entry:
        return str(np.lib.format.read_array(entry))


def archive_seeds(things, suffix):
    """Return inputs of all three kinds: an archive, one whose sums are mended, and descriptions."""
    contents = [content_of(thing, suffix) for thing in things]
    whole = [bytes([way]) + content for way in (RAW, REPAIRED) for content in contents]
    texts = [description_of(content_of(thing)).encode() for thing in things]
    return whole + [bytes([DESCRIBED, i]) + text for i, text in enumerate(texts)]


def with_sums(content):
    """Return an archive of which each entry that can be found has the checksum of what it holds now."""
    content = bytearray(content)
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0 and at + 46 <= len(content):
        size, local = (
            struct.unpack_from("<I", content, at + 20)[0],
            struct.unpack_from("<I", content, at + 42)[0],
        )
        if local + 30 <= len(content):
            start = local + 30 + sum(struct.unpack_from("<HH", content, local + 26))
            sum32 = zlib.crc32(content[start : start + size])
            for place in (at + 16, local + 14):
                struct.pack_into("<I", content, place, sum32)
        at += 4
    return bytes(content)


def with_length(content):
    """Return a file of safetensors whose first number is where its header ends."""
    end = content.rfind(b"}}", 8) + 2
    while end > 8 and content[end : end + 1] == b" ":
        end += 1
    return struct.pack("<Q", max(end - 8, 0)) + content[8:]


@cache
def arrays_of(kind, i):
    thing = (networks if kind == "network" else trainers)()[i]
    return checkpoint.read(io.BytesIO(content_of(thing)), kind)[0]


@cache
def archive_of(kind, i):
    """Return the arrays of a seed in an archive without a description."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays_of(kind, i).items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def described(kind, suffix, which, text):
    """Return an archive with the arrays of a seed, and this text as the description."""
    text = text.decode("utf-8", "replace").rstrip("\0")
    if suffix == "npz":
        file = io.BytesIO(archive_of(kind, which % 3))
        with (
            zipfile.ZipFile(file, "a") as archive,
            archive.open(f"{checkpoint.ENTRY}.npy", "w") as entry,
        ):
            np.lib.format.write_array(entry, np.array(text), allow_pickle=False)
        return file.getvalue()
    import safetensors.numpy

    return safetensors.numpy.save(dict(arrays_of(kind, which % 3)), {checkpoint.ENTRY: text})


def archives(kind, suffix):
    """Return the reader of the files of networks or trainers."""

    def read(content):
        way, rest = content[0] % 3 if content else RAW, content[1:]
        if way == DESCRIBED:
            rest = described(kind, suffix, rest[0] if rest else 0, rest[1:])
        elif way == REPAIRED:
            rest = (with_sums if suffix == "npz" else with_length)(rest)
        given = io.BytesIO(rest) if suffix == "npz" else stored(rest, suffix)
        name = "Sequential" if kind == "network" else "Trainer"
        found, error = refused(getattr(fastnn, name).load, given)
        if error is not None:
            return False
        given = io.BytesIO(rest) if suffix == "npz" else given
        again, other = type(found).load(io.BytesIO(content_of(found))), getattr(ref, name).load(given)
        must(all_of(again) == all_of(found), "a file of its own brings back something else")
        must(all_of(other, False) == all_of(found, False), "the reference brings back something else")
        return True

    return read


def all_of(thing, drawn=True):
    """Return what a network or a trainer is, with the bytes of its arrays.

    On demand without the seeds that dropout draws where a description tells none: each reader draws its own.
    """
    net = getattr(thing, "net", thing)
    what = [net.architecture()]
    arrays = dict(net.state_dict())
    if net is not thing:
        what.append(thing.description())
        for slot, memory in thing.optimizer.state_dict()["state"].items():
            arrays |= {f"{slot} {name}": array for name, array in memory.items()}
        if thing.averaged is not None:
            arrays |= {f"average {name}": array for name, array in thing.averaged.state_dict().items()}
    bits = {name: (str(a.dtype), a.shape, np.asarray(a).tobytes()) for name, a in arrays.items()}
    text = json.dumps(what, sort_keys=True)
    return text if drawn else re.sub(r'"drawn": \d+', '"drawn": 0', text), bits


# IDX


def idx_seeds():
    numbers = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    shapes = [(2, 2, 3), (3,), (), (0, 4), (1,) * 5]
    made = [
        bytes([0, 0, code, len(shape)])
        + struct.pack(f">{len(shape)}I", *shape)
        + np.zeros(shape, dtype).tobytes()
        for (code, dtype), shape in zip(numbers.items(), [*shapes, (2,)], strict=True)
    ]
    return made + [gzip.compress(content, mtime=0) for content in made[:2]]


def read_idx(content):
    found, error = refused(data.read_idx, stored(content, "idx"))
    if error is not None:
        return False
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    shape = struct.unpack_from(f">{plain[3]}I", plain, 4)
    must(found.shape == shape, f"shape {found.shape}, the header says {shape}")
    must(found.size == prod(shape), "another number of elements")
    big = found.astype(found.dtype.newbyteorder(">"))
    must(big.tobytes() == plain[4 + 4 * plain[3] :], "other elements")
    return True


# Tables


def table_seeds():
    rows = "".join(f"{i},{i % 3}.5,{'ab'[i % 2]},2020-01-0{i % 9 + 1},{i % 2}\n" for i in range(12))
    return [
        b"n,x,word,day,y\n" + rows.encode(),
        b'\xef\xbb\xbfa;b\n1;2,5\n;3\n"x;y";1e400\n',
        b"a\tb\n1\t2\n\n3\tNaN\ninf\ttrue\n",
    ]


def read_table(content):
    from fastnn import table

    frame, error = refused(table.read, stored(content, "csv"))
    if error is not None:
        return False
    columns, error = refused(table.learn, frame, lambda _: None)
    if error is not None:
        return False
    x = table.encode(frame, columns, lambda _: None)
    must(x.dtype == np.float32 and len(x) == len(frame), f"rows {x.shape} of {x.dtype}")
    must(np.isfinite(x).all(), "inputs that are no numbers")
    must(json.loads(json.dumps(columns)) == columns, "columns that no file can hold")
    return True


# ONNX and Keras


def onnx_seeds():
    made = []
    for net in networks()[:2]:
        file = io.BytesIO()
        fastnn.interchange.to_onnx(net, file)
        made.append(file.getvalue())
    return made


def read_onnx(content):
    net, error = refused(fastnn.interchange.from_onnx, io.BytesIO(content))
    return error is None and used(net)


def used(net):
    """Use a network that a file has brought on a row, where its first parameters say of how many numbers."""
    first = next(iter(net.params.values()), None)
    if first is not None and not isinstance(net.layers[0], fastnn.Embedding):
        y, _ = refused(net.predict, np.ones((2, len(first)), net.dtype))
        must(y is None or len(y) == 2, "rows that are lost")
    return True


@cache
def keras_parts():
    """Return the configuration and the weights of a small model."""
    import test_interchange_keras as made  # which writes them without Keras

    norm = made.entry(
        "BatchNormalization", "n", axis=-1, momentum=0.99, epsilon=1e-3, center=True, scale=True
    )
    parts = [made.dense("a"), norm, made.entry("Activation", activation="relu"), made.dense("b")]
    model = made.sequential(made.start(6), *parts)
    arrays = {"a": [made.W, made.B], "n": [made.G, made.B, made.B, made.G], "b": [made.V, made.B]}
    with zipfile.ZipFile(made.stored(model, arrays)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def keras_seeds():
    return [keras_parts()["config.json"]]


def read_keras(content):
    """Read a file with this configuration; the weights are well, since HDF5's own library reads them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in {**keras_parts(), "config.json": content}.items():
            archive.writestr(name, part)
    path = stored(file.getvalue(), "keras")
    net, error = refused(fastnn.interchange.from_keras, path)
    return error is None and used(net)


READERS = {
    "network.npz": (lambda: archive_seeds(networks(), "npz"), archives("network", "npz")),
    "trainer.npz": (lambda: archive_seeds(trainers(), "npz"), archives("trainer", "npz")),
    "network.safetensors": (
        lambda: archive_seeds(networks(), "safetensors"),
        archives("network", "safetensors"),
    ),
    "trainer.safetensors": (
        lambda: archive_seeds(trainers(), "safetensors"),
        archives("trainer", "safetensors"),
    ),
    "idx": (idx_seeds, read_idx),
    "csv": (table_seeds, read_table),
    "onnx": (onnx_seeds, read_onnx),
    "keras": (keras_seeds, read_keras),
}
