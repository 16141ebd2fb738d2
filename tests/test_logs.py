"""Callbacks that write down a training: a table, and event files for TensorBoard, read by their formats."""

import csv
import math
import struct

import numpy as np
import pytest

import fastnn
from fastnn import _events
from fastnn import callbacks as cb
from fastnn import reference as ref

ROWS, BATCH = 40, 16  # three steps


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


def data_set():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS)


def build(module):
    return module.Trainer(module.mlp([4, 3], seed=0), module.SoftmaxCrossEntropy(), module.SGD(0.1))


def fit(trainer, *callbacks, epochs=3, **options):
    return trainer.fit(
        *data_set(), epochs, BATCH, validation=data_set(), metrics=["f1"], callbacks=callbacks, **options
    )


class Late:
    """Records a figure from the second epoch on."""

    def __call__(self, trainer, history):
        if history.epochs > 1:
            history.extend(late=history.epochs / 3)


# A table


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_table(module, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("of old\n")
    trainer = build(module)
    lengths = []
    history = fit(trainer, lambda *_: lengths.append(len(table(path))), cb.CSVLogger(path))
    head, *rows = table(path)
    assert head == ["epoch", "loss", "val_loss", "val_accuracy", "val_f1", "seconds"]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    for j, figure in enumerate((history.epoch_loss, history.val_loss, history.val_accuracy, history.val_f1)):
        assert [float(row[j + 1]) for row in rows] == figure.tolist()
    assert [float(row[5]) for row in rows] == history.seconds.tolist()
    assert lengths == [0, 2, 3]  # as soon as an epoch is done
    assert path.read_bytes().endswith(b"\n")
    pd = pytest.importorskip("pandas")
    np.testing.assert_allclose(pd.read_csv(path).val_loss, history.val_loss, rtol=1e-12)


def test_figures_that_come_later(module, tmp_path):
    path = tmp_path / "log.csv"
    for callbacks in ((Late(), cb.CSVLogger(path)), (cb.CSVLogger(path), Late())):
        fit(build(module), *callbacks)
        head, *rows = table(path)
        assert head == ["epoch", "loss", "val_loss", "val_accuracy", "val_f1", "late", "seconds"]
        assert [row[5] for row in rows] == ["", repr(2 / 3), "1.0"]


def test_rows_that_stay(module, tmp_path):
    path = tmp_path / "log.csv"
    trainer = build(module)
    fit(trainer, cb.CSVLogger(path, append=True), epochs=2)
    first = table(path)
    path.write_text(path.read_text().rstrip())
    trainer.fit(*data_set(), 1, BATCH, callbacks=[cb.CSVLogger(path, append=True)])
    assert table(path)[:3] == first
    assert table(path)[3][0] == "3"
    assert table(path)[3][2:5] == ["", "", ""]
    fit(trainer, Late(), cb.CSVLogger(path, append=True), epochs=2)
    assert [row[0] for row in table(path)] == ["epoch", "1", "2", "3", "4", "5"]
    assert [row[5] for row in table(path)] == ["late", "", "", "", "", repr(2 / 3)]
    fit(trainer, cb.CSVLogger(path), epochs=1)
    assert [row[0] for row in table(path)] == ["epoch", "6"]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "epoch,loss\n1,2\n", "epoch,seconds\n1\n", "epoch,seconds\n1,2,3\n"]
)
def test_what_is_no_such_table(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    trainer = build(ref)
    with pytest.raises(ValueError, match=r"log.csv must be a table of CSVLogger to be gone on with$"):
        fit(trainer, cb.CSVLogger(path, append=True))
    assert trainer.steps == 0
    assert path.read_text() == text


# Event files


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def fields(data):
    """Return the fields of a message, [(number, value)], bytes for what has a length."""
    found, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            form = {1: "<d", 5: "<f"}[key & 7]
            value = struct.unpack_from(form, data, at)[0]
            at += struct.calcsize(form)
        found.append((key >> 3, value))
    assert at == len(data)
    return found


def checksum(data):
    """Return the masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def events(path):
    """Return the events of a file, {number of field: value}."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        (of_size,) = struct.unpack_from("<I", data, at + 8)
        body = data[at + 12 : at + 12 + size]
        (of_body,) = struct.unpack_from("<I", data, at + 12 + size)
        assert of_size == checksum(data[at : at + 8])
        assert of_body == checksum(body)
        found.append(dict(fields(body)))
        at += 16 + size
    return found


def curves(path):
    """Return {tag: [(step, value)]}."""
    first, *rest = events(path)
    assert first[3] == b"brain.Event:2"
    found = {}
    for event in rest:
        for number, value in fields(event[5]):
            assert number == 1
            scalar = dict(fields(value))
            found.setdefault(scalar[1].decode(), []).append((event.get(2, 0), scalar[2]))
    return found


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next from RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum(data, crc):
    assert _events.crc32c(data) == crc


def test_curves(module, tmp_path):
    board = cb.TensorBoard(tmp_path / "logs" / "a")
    trainer = build(module)
    history = fit(trainer, board, Late())
    (path,) = (tmp_path / "logs" / "a").iterdir()
    assert board.path == str(path)
    assert path.name.startswith("events.out.tfevents.")
    found = curves(path)
    assert list(found) == ["loss", "val_loss", "val_accuracy", "val_f1", "late"]
    expected = {name: history[name] for name in history.recorded} | {"loss": history.epoch_loss}
    for name, curve in found.items():
        first = 2 if name == "late" else 1
        assert [step for step, _ in curve] == list(range(first, 4))
        assert [value for _, value in curve] == expected[name].astype(np.float32).tolist()
    walls = [event[1] for event in events(path)]
    assert walls == sorted(walls)
    fit(trainer, board)  # goes on in a file of its own
    assert board.path != str(path)
    assert [step for step, _ in curves(type(path)(board.path))["loss"]] == [4, 5, 6]


def test_the_loss_of_steps(module, tmp_path):
    trainer = build(module)
    fit(trainer, epochs=1)
    history = fit(trainer, cb.TensorBoard(tmp_path, steps=True), epochs=2)
    (path,) = tmp_path.iterdir()
    steps, values = zip(*curves(path)["step_loss"], strict=True)
    assert steps == (4, 5, 6, 7, 8, 9)
    assert list(values) == history.loss.astype(np.float32).tolist()


@pytest.mark.filterwarnings("error")
def test_odd_numbers_and_names(tmp_path):
    path = tmp_path / "events"
    values = {"größe": 1e300, "nan": math.nan, "x" * 300: -math.inf, "tiny": 1e-320}
    data = [_events.version(1.5), _events.scalars(2.5, 2**40, values)]
    path.write_bytes(b"".join(map(_events.record, data)))
    found = curves(path)
    assert list(found) == list(values)
    assert found["größe"] == [(2**40, math.inf)]
    assert math.isnan(found["nan"][0][1])
    assert found["x" * 300] == [(2**40, -math.inf)]
    assert found["tiny"] == [(2**40, 0)]


# Both


@pytest.mark.parametrize("make", [lambda d: cb.CSVLogger(d / "log.csv"), cb.TensorBoard])
def test_an_object_serves_a_fit_at_a_time(tmp_path, make):
    log = make(tmp_path)
    with pytest.raises(RuntimeError, match=f"^this {type(log).__name__} is in use"):
        fit(build(ref), log, log)
    fit(build(ref), log)


def test_logs_and_checkpoints(module, tmp_path):
    """A trainer that a file brings back does not need its logs; they come before the checkpoint."""
    save = cb.Checkpoint(tmp_path / "run.npz")
    fit(build(module), save, cb.CSVLogger(tmp_path / "log.csv"), cb.TensorBoard(tmp_path))
    trainer = module.Trainer.load(tmp_path / "run.npz")
    fit(trainer, cb.CSVLogger(tmp_path / "log.csv", append=True), epochs=1)
    assert [row[0] for row in table(tmp_path / "log.csv")[1:]] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: cb.CSVLogger(3), TypeError, "^path must be a string or a path, got 3"),
        (lambda d: cb.CSVLogger("x.csv", append="w"), TypeError, "^append must be"),
        (lambda d: cb.TensorBoard(None), TypeError, "^logdir must be a string or a path, got None"),
        (lambda d: cb.TensorBoard("x", steps=5), TypeError, "^steps must be"),
        (lambda d: cb.CSVLogger(d / "no" / "x.csv"), FileNotFoundError, "^path must be in a directory that"),
        (lambda d: cb.CSVLogger(d), OSError, ""),
        (lambda d: cb.TensorBoard(d / "file"), OSError, ""),
    ],
)
def test_what_is_refused(tmp_path, make, error, message):
    (tmp_path / "file").write_text("")
    trainer = build(ref)
    with pytest.raises(error, match=message or None):
        fit(trainer, make(tmp_path))
    assert trainer.steps == 0
