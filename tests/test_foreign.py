"""Arrays, frames and tables of other libraries at every door: what they hold, without a copy, or a clear no.

Small classes stand in for the libraries; those that are installed are there, too.
"""

import array
import warnings

import numpy as np
import pytest

import fastnn
from fastnn import _checks, _foreign
from fastnn import reference as ref

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
RNG = np.random.default_rng(0)
X = RNG.integers(0, 4, (8, 3)).astype(np.float32)
T = np.arange(8) % 3
Y = X[:, 0] + 1
W = np.arange(1.0, 9)
SOME_MISS = np.where(np.arange(8) == 2, None, T)  # objects


def trainer_of(module, loss="SoftmaxCrossEntropy"):
    outputs = 3 if loss == "SoftmaxCrossEntropy" else 1
    return module.Trainer(
        module.mlp([3, 4, outputs], seed=0), getattr(module, loss)(), module.SGD(0.1), seed=0
    )


def fitted(trainer, *data, **options):
    trainer.fit(*data, epochs=2, batch_size=3, **options)
    return trainer.net.params["0.W"].copy()


# What is given, by the name of the argument, to whom, and what comes of it.
DOORS = {
    "x": {
        "predict": lambda m, x: m.mlp([3, 4, 3], seed=0).predict(x),
        "forward": lambda m, x: m.mlp([3, 4, 3], seed=0).forward(x),
        "step": lambda m, x: trainer_of(m).step(x, T),
        "fit": lambda m, x: fitted(trainer_of(m), x, T),
        "validation": lambda m, x: fitted(trainer_of(m), X, T, validation=(x, T)),
        "evaluate": lambda m, x: trainer_of(m).evaluate(x, T)["loss"],
        "affine": lambda m, x: m.Affine.create(3, 2, rng=0).forward(x),
        "relu": lambda m, x: m.ReLU().forward(x),
        "loss": lambda m, x: m.SoftmaxCrossEntropy().forward(x, T),
    },
    "t": {
        "step": lambda m, t: trainer_of(m).step(X, t),
        "fit": lambda m, t: fitted(trainer_of(m), X, t),
        "validation": lambda m, t: fitted(trainer_of(m), X, T, validation=(X, t)),
        "evaluate": lambda m, t: trainer_of(m).evaluate(X, t)["loss"],
        "loss": lambda m, t: m.SoftmaxCrossEntropy().forward(X, t),
        "embedding": lambda m, x: m.Embedding.create(3, 2, rng=0).forward(x),
    },
    "sample_weight": {
        "step": lambda m, w: trainer_of(m).step(X, T, w),
        "fit": lambda m, w: fitted(trainer_of(m), X, T, sample_weight=w),
        "evaluate": lambda m, w: trainer_of(m).evaluate(X, T, w)["loss"],
        "loss": lambda m, w: m.SoftmaxCrossEntropy().forward(X, T, w),
    },
}
HELD = {"x": X, "t": T, "sample_weight": W}


def assert_taken(module, argument, given, plain=None):
    """Assert that all doors make the same of what is given as of a plain array."""
    plain = HELD[argument] if plain is None else plain
    for door, call in DOORS[argument].items():
        np.testing.assert_array_equal(call(module, given), call(module, plain), err_msg=door)


def assert_refused(module, argument, given, words):
    for door, call in DOORS[argument].items():
        with pytest.raises(TypeError, match=words):
            raise AssertionError(f"{door} took it: {call(module, given)}")


def assert_missing_named(module, x, t):
    """Assert that NaN in x and labels t (each once, in row 2) are refused by naming that row."""
    if x is not None:
        with pytest.raises(FloatingPointError, match="x has NaN in row 2 of the data"):
            fitted(trainer_of(module), x, T)
    for name, call in DOORS["t"].items():
        with pytest.raises(TypeError, match=r"has NaN in row 2$") as raised:
            raise AssertionError(f"{name} took it: {call(module, t)}")
        assert str(raised.value).startswith("validation t" if name == "validation" else ("t ", "x "))


# Protocols


class ByDLPack:
    """Has nothing of NumPy's."""

    device = "cpu"

    def __init__(self, of):
        self._of = of

    def __dlpack__(self, **options):
        return self._of.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._of.__dlpack_device__()


class ByInterface:
    def __init__(self, of):
        self._of, self.__array_interface__ = of, of.__array_interface__


class ByArray:
    def __init__(self, of):
        self._of = of

    def __array__(self, dtype=None, copy=None):
        return self._of


@BOTH
@pytest.mark.parametrize("given", [ByDLPack, ByInterface, ByArray, memoryview])
def test_protocols(module, given):
    for argument, plain in HELD.items():
        assert_taken(module, argument, given(plain))
        assert np.shares_memory(_checks.real_array(argument, given(plain)), plain)


@BOTH
def test_arrays_of_the_standard_library(module):
    assert_taken(module, "t", array.array("q", T.tolist()))
    assert_taken(module, "sample_weight", array.array("d", W.tolist()))


def test_read_only_memory_is_shared():
    plain = X.copy()
    plain.flags.writeable = False
    assert np.shares_memory(_checks.real_array("x", memoryview(plain)), plain)
    assert_taken(fastnn, "x", memoryview(plain))


class Following(ByArray):
    requires_grad = True


class OnDevice(ByDLPack):
    device = "cuda:0"

    def __dlpack_device__(self):
        return 2, 0

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("a copy from the device was made")


class Unknown(ByArray):
    """On a device that DLPack has no number for."""

    def __dlpack_device__(self):
        raise ValueError("Unknown device type meta for Dlpack")

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("use .cpu()")


class Shapeless:
    def toarray(self):
        raise AssertionError


REFUSED = {
    "gradient": (Following, r"must not require a gradient, got a Following: pass its \.detach\(\)"),
    "device": (OnDevice, r"must lie in the memory of the CPU, got a OnDevice on cuda:0: pass its \.cpu\(\)"),
    "unknown": (Unknown, r"must be an array, got a Unknown: use \.cpu\(\)"),
    "sparse": (lambda plain: Shapeless(), r"must be an array, got a Shapeless: pass its \.toarray\(\)"),
    "none": (lambda plain: (i for i in plain), "must be an array, got a generator"),
}


@BOTH
@pytest.mark.parametrize("case", REFUSED)
def test_refused(module, case):
    make, words = REFUSED[case]
    for argument, plain in HELD.items():
        assert_refused(module, argument, make(plain), words)


def test_what_a_file_raises_propagates():
    class Lost(ByArray):
        def __array__(self, dtype=None, copy=None):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fastnn.mlp([3, 2]).predict(Lost(X))


def test_estimators():
    estimators = pytest.importorskip("fastnn.estimators")
    options = {"hidden_layer_sizes": 4, "max_iter": 3, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make, y in ((estimators.MLPRegressor, Y), (estimators.MLPClassifier, T)):
            plain = make(**options).fit(X, y, W)
            for given in (ByDLPack, ByInterface, ByArray, memoryview):
                model = make(**options).fit(given(X), given(y), given(W))
                np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])
                np.testing.assert_array_equal(model.predict(given(X)), plain.predict(X))
            for bad, words in (
                (Following, "must not require a gradient"),
                (OnDevice, "must lie in the memory of the CPU"),
            ):
                for data, name in (((bad(X), y), "X"), ((X, bad(y)), "y"), ((X, y, bad(W)), "sample_weight")):
                    with pytest.raises(TypeError, match=f"^{name} {words}"):
                        make(**options).fit(*data)
            hidden = np.ma.masked_array(X, mask=np.arange(24).reshape(8, 3) == 7)
            with pytest.raises(ValueError, match="Input X contains NaN, first in row 2"):
                make(**options).fit(hidden, y)


@BOTH
def test_masked_arrays(module):
    """What a mask hides is missing."""
    hidden = np.ma.masked_array(X, mask=np.arange(24).reshape(8, 3) == 7)
    assert_missing_named(module, hidden, np.ma.masked_array(T, mask=np.arange(8) == 2))
    y = module.mlp([3, 2], seed=0).predict(hidden)
    assert np.isnan(y).any(axis=1).tolist() == [row == 2 for row in range(8)]
    for argument, plain in HELD.items():
        for mask in (False, np.zeros(plain.shape, bool)):
            whole = np.ma.masked_array(plain, mask=mask)
            assert_taken(module, argument, whole)
            assert np.shares_memory(_checks.real_array(argument, whole), plain)


# Frames and tables


class NumberType:
    """A dtype as those of polars."""

    def __init__(self, name):
        self._name = name

    def __str__(self):
        return self._name

    def is_numeric(self):
        return self._name in ("Int8", "Float32", "Decimal")

    def is_decimal(self):
        return self._name == "Decimal"


class ArrowType:
    def __init__(self, numpy):
        self._numpy = numpy

    def __repr__(self):
        return f"arrow[{self._numpy}]"

    def to_pandas_dtype(self):
        if self._numpy is None:
            raise NotImplementedError
        return self._numpy


class Column:
    """Numbers of which None are missing; integers become floats then, and bools objects, as in polars."""

    longest = 0

    def __init__(self, values, dtype):
        self._values, self._dtype = values, np.dtype(dtype)

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        assert type(rows) is slice
        part = self._values[rows]
        Column.longest = max(Column.longest, len(part))
        return Column(part, self._dtype)

    @property
    def null_count(self):
        return sum(v is None for v in self._values)

    def __array__(self, dtype=None, copy=None):
        if not self.null_count:
            return np.array(self._values, self._dtype)
        return np.array(self._values, object if self._dtype.kind == "b" else np.float64)


class CountedColumn(Column):
    def null_count(self):
        return Column.null_count.fget(self)


class Frame:
    """A table as those of polars: of one array at once, which may be of objects."""

    def __init__(self, columns, dtypes):
        self._columns, self._dtypes = columns, dtypes

    @property
    def columns(self):
        return list("abcdefgh")[: len(self._columns)]

    @property
    def dtypes(self):
        return [NumberType(name) for name in self._dtypes]

    def get_columns(self):
        return self._columns

    def __array__(self, dtype=None, copy=None):
        return np.stack([np.asarray(column[:]) for column in self._columns], axis=1)


class Table:
    """A table as those of Arrow."""

    class Schema:
        def __init__(self, types):
            self.types = types

    def __init__(self, columns, types=None):
        self._columns = columns
        self._types = types or [ArrowType(column._dtype.type) for column in columns]

    @property
    def schema(self):
        return self.Schema(self._types)

    @property
    def column_names(self):
        return list("abcdefgh")[: len(self._columns)]

    @property
    def columns(self):
        return self._columns


def columns_of(x, dtypes=("f4", "f4", "f4")):
    return [Column(x[:, j].tolist(), dtype) for j, dtype in enumerate(dtypes)]


@BOTH
def test_frames_and_tables(module):
    for given in (Frame(columns_of(X), ["Float32"] * 3), Table(columns_of(X))):
        assert_taken(module, "x", given)
    mixed = np.stack([T, T > 1, T], axis=1)
    assert_taken(module, "x", Table(columns_of(mixed, "i?f")), mixed.astype(np.float64))


@BOTH
@pytest.mark.parametrize(
    ("given", "column", "dtype"),
    [
        (Frame(columns_of(X), ["Float32", "Date", "Float32"]), "b", "Date"),
        (Frame(columns_of(X), ["Int8", "Float32", "Decimal"]), "c", "Decimal"),
        (
            Table(columns_of(X), [ArrowType("f4"), ArrowType("M8[s]"), ArrowType("f4")]),
            "b",
            r"arrow\[M8\[s\]\]",
        ),
        (Table(columns_of(X), [ArrowType(None)] * 3), "a", r"arrow\[None\]"),
    ],
)
def test_columns_without_numbers_are_named(module, given, column, dtype):
    words = f"x must hold real numbers, but its column '{column}' has dtype {dtype}$"
    assert_refused(module, "x", given, words)


@BOTH
def test_missing_numbers_are_nan(module):
    bools = [None if v is None else v > 0 for v in SOME_MISS]
    for given in (
        Frame(
            [CountedColumn(T.tolist(), "i1"), CountedColumn(bools, "?"), *columns_of(X)[:1]],
            ["Int8", "Boolean", "Int8"],
        ),
        Table([Column(bools, "?"), Column(SOME_MISS.tolist(), "i8"), Column(Y.tolist(), "f4")]),
    ):
        assert_missing_named(module, given, Column(SOME_MISS.tolist(), "i8"))
        x = _checks.real_array("x", given)
        assert np.isnan(x).any(axis=1).tolist() == [row == 2 for row in range(8)]


def test_tables_are_read_in_slices(monkeypatch):
    monkeypatch.setattr(_foreign, "SLICE_BYTES", 60)
    monkeypatch.setattr(Column, "longest", 0)
    np.testing.assert_array_equal(_checks.real_array("x", Table(columns_of(X))), X)
    assert Column.longest == 5  # of rows of 12 bytes


def test_a_single_column_is_not_copied():
    class Whole(Table):
        @property
        def columns(self):
            return [ByArray(Y)]

    x = _checks.real_array("x", Whole([Y], [ArrowType("f4")]))
    assert x.shape == (8, 1)
    assert np.shares_memory(x, Y)


# The libraries themselves


@pytest.fixture
def library(request):
    return pytest.importorskip(request.param, reason="the objects are this package's")


def of(name):
    return pytest.mark.parametrize("library", [name], indirect=True)


@BOTH
@of("pandas")
def test_pandas(library, module):
    pd = library
    frame = pd.DataFrame(X, columns=list("abc"))
    for dtype in ("float32", "Float32", "Float64", "Int64"):
        assert_taken(module, "x", frame.astype(dtype), X.astype(dtype.lower()))
    assert_taken(module, "x", frame.assign(a=T > 1, b=pd.array(T, dtype="Int32")), np.c_[T > 1, T, X[:, 2]])
    for dtype in ("int64", "Int64", "UInt8"):
        assert_taken(module, "t", pd.Series(T).astype(dtype))
    for dtype in ("float64", "Float64"):
        assert_taken(module, "sample_weight", pd.Series(W).astype(dtype))
    one = frame.mask(frame.index.to_series() == 2).astype("Float32")
    labels = pd.Series([None if v is None else int(v) for v in SOME_MISS], dtype="Int64")
    assert_missing_named(module, one, labels)
    assert_refused(module, "x", frame.assign(b=pd.Timestamp(0)), "column 'b' has dtype datetime64")


@of("pandas")
def test_pandas_without_copies(library):
    pd = library
    frame = pd.DataFrame(X)
    for given in (frame, pd.Series(Y), pd.Series(Y, dtype="Float32"), pd.array(T, dtype="Int64")):
        x = _checks.real_array("x", given)
        assert x.dtype == (np.int64 if len(x.shape) == 1 and x.dtype.kind == "i" else np.float32)
        assert np.shares_memory(x, _checks.real_array("x", given))


@of("pandas")
def test_pandas_keeps_dtypes_and_large_integers(library):
    pd = library
    large = pd.DataFrame({"a": pd.array([2**60 + 1, 1], dtype="Int64"), "b": [3, 4]})
    np.testing.assert_array_equal(_checks.real_array("x", large), [[2**60 + 1, 3], [1, 4]])
    missing = pd.DataFrame({"a": pd.array([1, None], dtype="Float32"), "b": pd.array([True, False])})
    x = _checks.real_array("x", missing)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 1], [np.nan, 0]])
    for none in (pd.DataFrame(index=range(4)), pd.DataFrame({"a": pd.Series([], dtype="Int64")})):
        assert _checks.real_array("x", none).shape == none.shape


@BOTH
@of("torch")
def test_torch(library, module):
    torch = library
    for argument, plain in HELD.items():
        given = torch.tensor(plain)
        assert_taken(module, argument, given)
        assert np.shares_memory(_checks.real_array(argument, given), given.numpy())
    assert_refused(module, "x", torch.tensor(X, requires_grad=True), r"pass its \.detach\(\)")
    assert_refused(module, "x", torch.tensor(X).bfloat16(), r"pass its \.float\(\)")
    assert_refused(module, "x", torch.tensor(X, device="meta"), r"must be an array, got a Tensor: .*cpu\(\)")
    assert_refused(
        module, "x", torch.tensor(X).to_sparse(), r"must be an array, got a Tensor: .*to_dense\(\)"
    )


@BOTH
@of("jax.numpy")
def test_jax(library, module):
    jnp = library
    for argument, plain in HELD.items():
        given = jnp.asarray(plain)
        assert_taken(module, argument, given, np.asarray(given))
        assert np.shares_memory(_checks.real_array(argument, given), np.asarray(given))
    assert_taken(module, "x", jnp.asarray(X, dtype=jnp.bfloat16), X)  # small integers, which it holds
    with pytest.raises(FloatingPointError, match="x has NaN in row 2 of the data"):
        fitted(trainer_of(module), jnp.asarray(X, dtype=jnp.bfloat16).at[2, 1].set(np.nan), T)


@BOTH
@of("pyarrow")
def test_arrow(library, module):
    pa = library
    table = pa.table({name: pa.array(X[:, j]) for j, name in enumerate("abc")})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    for given in (table, table.to_batches()[0], pa.concat_tables([table[:3], table[3:]]), lists):
        assert_taken(module, "x", given)
    assert_taken(module, "x", pa.chunked_array([lists[:3], lists[3:]]))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    for given in (tensors, pa.chunked_array([tensors]), pa.Tensor.from_numpy(X)):
        assert_taken(module, "x", given)
    for given in (pa.array(T), pa.chunked_array([T[:3], T[3:]]), pa.array(T).dictionary_encode()):
        assert_taken(module, "t", given)
    assert_taken(module, "sample_weight", pa.array(W))
    labels = pa.array([None if v is None else int(v) for v in SOME_MISS])
    for column in (labels, labels.cast(pa.bool_()), labels.cast(pa.float32())):
        assert_missing_named(module, table.set_column(1, "b", column), labels)
    days = table.set_column(1, "b", pa.array(T, pa.int32()).cast(pa.date32()))
    assert_refused(module, "x", days, r"column 'b' has dtype date32\[day\]")
    assert_refused(module, "x", pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), "rows are missing")
    for shared in (pa.array(Y), lists, tensors, pa.table({"a": Y})):
        assert np.shares_memory(_checks.real_array("x", shared), _checks.real_array("x", shared))


@of("pyarrow")
def test_arrow_in_files(library, tmp_path):
    """A table of many chunks in a file that is mapped into memory."""
    pa = library
    x = RNG.normal(size=(1000, 3)).astype(np.float32)
    table = pa.table({name: x[:, j] for j, name in enumerate("abc")})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table, max_chunksize=64)
    mapped = pa.ipc.open_file(pa.memory_map(str(tmp_path / "x.arrow"))).read_all()
    assert mapped.column(0).num_chunks > 10
    np.testing.assert_array_equal(_checks.real_array("x", mapped), x)


@BOTH
@of("pyarrow")
def test_pandas_of_arrow(library, module):
    pd = pytest.importorskip("pandas", reason="the frames are pandas'")
    frame = pd.DataFrame(X, columns=list("abc"))
    for dtype in ("float32", "int64"):
        assert_taken(module, "x", frame.astype(f"{dtype}[pyarrow]"), X.astype(dtype))
    assert_taken(module, "t", pd.Series(T, dtype="int64[pyarrow]"))
    missing = frame.astype("float32[pyarrow]").mask(frame.index.to_series() == 2)
    labels = pd.Series([None if v is None else int(v) for v in SOME_MISS], dtype="int64[pyarrow]")
    assert_missing_named(module, missing, labels)
    assert _checks.real_array("x", missing).dtype == np.float32
    decimals = frame.astype({"c": pd.ArrowDtype(library.decimal128(5, 2))})
    assert_refused(module, "x", decimals, "column 'c' has dtype decimal")


@BOTH
@of("polars")
def test_polars(library, module):
    pl = library
    frame = pl.DataFrame(X, schema=list("abc"))
    assert_taken(module, "x", frame)
    assert_taken(module, "x", pl.Series(X.tolist(), dtype=pl.Array(pl.Float32, 3)))
    assert_taken(
        module, "x", frame.with_columns(a=pl.Series(T), b=pl.Series(T > 1)), np.c_[T, T > 1, X[:, 2]]
    )
    assert_taken(module, "t", pl.Series(T))
    assert_taken(module, "sample_weight", pl.Series(W))
    labels = pl.Series([None if v is None else int(v) for v in SOME_MISS])
    for dtype in (pl.Int8, pl.Float32, pl.Boolean):
        assert_missing_named(module, frame.with_columns(b=labels.cast(dtype)), labels)
    bools = pl.DataFrame({"a": labels.cast(pl.Boolean), "b": T, "c": T})  # an array of objects to polars
    assert_missing_named(module, bools, labels)
    assert_refused(module, "x", frame.with_columns(b=pl.date(2000, 1, 1)), "column 'b' has dtype Date")
    assert_refused(module, "x", frame.lazy(), "must be an array, got a LazyFrame")
    for shared in (pl.Series(Y), pl.DataFrame(np.asfortranarray(X))):
        assert np.shares_memory(_checks.real_array("x", shared), _checks.real_array("x", shared))


@BOTH
@of("xarray")
def test_xarray(library, module):
    for argument, plain in HELD.items():
        given = library.DataArray(plain)
        assert_taken(module, argument, given)
        assert np.shares_memory(_checks.real_array(argument, given), plain)
    assert_refused(
        module, "x", library.Dataset({"a": ("r", Y)}), "must be an array, got a Dataset: .*DataArray"
    )
