"""Orders of rows, slices, IDX files."""

import gzip
import struct

import numpy as np
import pytest

import fastnn
from fastnn import _core, data
from fastnn.reference.philox import words


@pytest.mark.parametrize("n", [0, 1, 2, 33, 1000])
def test_permutation(n):
    order = data.permutation(n, 2**40 + 1, 3)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    w = words(2**40 + 1, 3, 0xFFFFFFFF, 2 * n).tolist()
    keys = [w[2 * i] << 32 | w[2 * i + 1] for i in range(n)]
    assert order.tolist() == sorted(range(n), key=lambda i: keys[i])


@pytest.mark.parametrize("n", [0, 1, 2, 17, 64, 1000, 4097])
def test_native_permutation(isa, team, n):
    for seed, epoch in ((0, 0), (2**64 - 1, 5), (7, 2**40)):
        np.testing.assert_array_equal(_core.permutation(n, seed, epoch), data.permutation(n, seed, epoch))


def test_permutation_depends_on_seed_and_epoch():
    base = data.permutation(100, 0, 0)
    assert (base != np.arange(100)).any()
    for other in ((1, 0), (0, 1), (2**32, 0), (0, 2**32)):
        assert (data.permutation(100, *other) != base).any()
    np.testing.assert_array_equal(data.permutation(100, 0, 0), base)


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (1, -1, 0), (1, 0, 2**64)])
def test_permutation_refuses(arguments):
    name = ("n", "seed", "epoch")[next(i for i, value in enumerate(arguments) if not 0 <= value < 2**64)]
    with pytest.raises(ValueError, match=f"^{name} must"):
        data.permutation(*arguments)


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (9, 3), (10, 3), (2, 100)])
def test_batches(n, size):
    slices = list(data.batches(n, size))
    rows = np.arange(n)
    assert [len(rows[s]) for s in slices] == [size] * (n // size) + [n % size] * (n % size > 0)
    np.testing.assert_array_equal(np.concatenate([rows[:0], *(rows[s] for s in slices)]), rows)
    assert all(s.stop <= n for s in slices)


# IDX


def idx(array, code=0x08):
    """Return the bytes of an IDX file."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(params=["plain", "gzip"])
def put(request, tmp_path):
    def put(content, name="file"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if request.param == "gzip" else content)
        return path

    return put


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (0x08, np.uint8),
        (0x09, np.int8),
        (0x0B, np.int16),
        (0x0C, np.int32),
        (0x0D, np.float32),
        (0x0E, np.float64),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3)])
def test_read_idx(put, code, dtype, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    result = data.read_idx(put(idx(array, code)))
    assert result.dtype == dtype
    assert result.dtype.isnative
    assert result.shape == shape
    np.testing.assert_array_equal(result, array)
    result[...] = 0  # it is the caller's own


IMAGES = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file: it starts with nothing"),
        (b"\x00\x00\x08", "is not an IDX file: it starts with 00 00 08"),
        (b"\x00\x01" + IMAGES[2:], "is not an IDX file: it starts with 00 01 08 03"),
        (b"\x00\x00\x07" + IMAGES[3:], "is not an IDX file: it starts with 00 00 07 03"),
        (b"PNG image", "is not an IDX file"),
        (IMAGES[:10], "is truncated: it ends within its header"),
        (IMAGES[:-1], r"is truncated: shape \(2, 3, 4\) takes 24 bytes, got 23"),
        (IMAGES[:16], "is truncated: .* got 0"),
        (IMAGES + b"\x00", r"is oversized: it goes on after the 24 bytes of shape \(2, 3, 4\)"),
        (b"\x00\x00\x08\x08" + b"\xff" * 32 + b"abc", "is truncated: .* got 3"),
    ],
)
def test_read_idx_refuses(put, content, message):
    with pytest.raises(ValueError, match=message):
        data.read_idx(put(content))


@pytest.mark.parametrize("cut", [3, 15, 30, -1])
def test_read_idx_of_a_damaged_gzip(tmp_path, cut):
    packed = gzip.compress(IMAGES)
    (tmp_path / "x.gz").write_bytes(packed[:cut])
    with pytest.raises(ValueError, match="is truncated or damaged"):
        data.read_idx(tmp_path / "x.gz")
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    (tmp_path / "x.gz").write_bytes(broken)
    with pytest.raises(ValueError, match=r"x.gz is"):
        data.read_idx(tmp_path / "x.gz")


def test_read_idx_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "nothing")


def mnist(put, mark, suffix="", train_labels=None):
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("t10k", 4)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        if part == "train" and train_labels is not None:
            labels = train_labels
        images = rng.integers(0, 255, (n, 28, 28)).astype(np.uint8)
        directory = put(idx(images), f"{part}-images{mark}idx3-ubyte{suffix}").parent
        put(idx(labels), f"{part}-labels{mark}idx1-ubyte{suffix}")
    return directory


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_load_mnist(put, mark, suffix):
    directory = mnist(put, mark, suffix)
    x_train, t_train, x_test, t_test = data.load_mnist(directory)
    assert x_train.shape == (6, 784)
    assert x_test.shape == (4, 784)
    assert x_train.dtype == x_test.dtype == np.uint8
    assert t_train.dtype == t_test.dtype == np.int64
    np.testing.assert_array_equal(t_train, range(6))
    np.testing.assert_array_equal(t_test, range(4))
    images = data.read_idx(directory / f"train-images{mark}idx3-ubyte{suffix}")
    np.testing.assert_array_equal(x_train.reshape(6, 28, 28), images)


def test_load_mnist_refuses(put, tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        data.load_mnist(tmp_path)
    mnist(put, "-", train_labels=np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match="has 6 train images and 5 labels"):
        data.load_mnist(tmp_path)
    mnist(put, "-", train_labels=np.zeros((6, 1), np.uint8))
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte must hold uint8 with 1 dimension"):
        data.load_mnist(tmp_path)


@pytest.mark.parametrize("file_name", ["{0}-{1}", "{0}.{1}"], ids=["same", "dot"])
@pytest.mark.parametrize("beside", [False, True])
def test_load_mnist_out_of_folders_that_have_the_names_of_files(put, tmp_path, file_name, beside):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for what, ndim, shape in (("images", 3, (5, 4, 4)), ("labels", 1, (5,))):
            name = f"{part}-{what}"
            folder = f"{name}-idx{ndim}-ubyte"
            (tmp_path / folder).mkdir()
            content = idx(rng.integers(0, 9, shape).astype(np.uint8))
            inner = file_name.format(name, f"idx{ndim}-ubyte")
            if not beside:
                put(content, f"{folder}/{inner}")
            else:
                put(content, f"{name}.idx{ndim}-ubyte")
    assert data.load_mnist(tmp_path)[0].shape == (5, 16)


def test_load_mnist_with_a_prefix(put, tmp_path):
    rng = np.random.default_rng(0)
    for prefix in ("emnist-letters-", "qmnist-"):
        for part in ("train", "test"):
            put(idx(rng.integers(0, 255, (5, 4, 4)).astype(np.uint8)), f"{prefix}{part}-images-idx3-ubyte")
    for part in ("train", "test"):
        put(idx(np.arange(5, dtype=np.uint8)), f"emnist-letters-{part}-labels-idx1-ubyte")
        labels = np.stack([np.arange(5), *[np.full(5, 99)] * 7], 1).astype(np.int32)
        put(idx(labels, 0x0C), f"qmnist-{part}-labels-idx2-int")
    for prefix in ("emnist-letters-", "qmnist-"):
        x, t, x_test, t_test = data.load_mnist(tmp_path, prefix)
        assert x.shape == x_test.shape == (5, 16)
        assert t.dtype == np.int64
        assert t.tolist() == t_test.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError, match="has none of train-images"):
        data.load_mnist(tmp_path)
    with pytest.raises(TypeError, match="prefix must be a string, got 3"):
        data.load_mnist(tmp_path, 3)


FRAMES = {
    "bool beside float32": lambda pd: pd.DataFrame({"a": np.arange(8, dtype="f"), "b": [True, False] * 4}),
    "Float32": lambda pd: pd.DataFrame({"a": np.arange(8.0), "b": np.arange(8) % 2}).astype("Float32"),
    "Int32 beside float32": lambda pd: pd.DataFrame(
        {"a": pd.array(range(8), dtype="Int32"), "b": np.arange(8, dtype="f") % 2}
    ),
}


@pytest.mark.parametrize("lib", [fastnn, fastnn.reference], ids=["native", "reference"])
@pytest.mark.parametrize("kind", FRAMES)
def test_frames_whose_columns_have_no_dtype_in_common(lib, kind):
    """Their arrays are of objects; what fit, step and predict take is what to_numpy gives as float64."""
    pd = pytest.importorskip("pandas", reason="the frames are pandas'")
    frame, t = FRAMES[kind](pd), np.arange(8) % 3
    trainers = [
        lib.Trainer(lib.mlp([2, 3], seed=0), lib.SoftmaxCrossEntropy(), lib.SGD(0.1)) for _ in range(2)
    ]
    for trainer, x in zip(trainers, (frame, frame.to_numpy(np.float64)), strict=True):
        trainer.fit(x, t, epochs=1, batch_size=4)
        trainer.step(x, t)
    np.testing.assert_array_equal(*(trainer.net.params["0.W"] for trainer in trainers))
    np.testing.assert_array_equal(*(trainers[0].net.predict(x) for x in (frame, frame.to_numpy(np.float64))))
    with pytest.raises(TypeError, match="x must hold real numbers"):
        trainers[0].fit(frame.astype(str), t)
