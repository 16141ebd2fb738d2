"""Data that are like arrays but are none, as those in a file of HDF5 may be: read once, in slices."""

import numpy as np
import pytest

import fastnn
from fastnn import _checks, _foreign
from fastnn import reference as ref
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3


class Stored:
    """An array that gives slices of itself only, and counts the rows that it has given."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.reads = np.zeros(len(array), int)
        self.longest = 0

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert type(rows) is slice
        self.reads[rows] += 1
        self.longest = max(self.longest, rows.stop - rows.start)
        return self._array[rows]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(_foreign, "SLICE_BYTES", 400)


def assert_read_once(*stored):
    for s in stored:
        assert (s.reads == 1).all()


def trainer_of(module, loss=None):
    return module.Trainer(
        module.mlp([5, 4, 3], seed=0), loss or module.SoftmaxCrossEntropy(), module.SGD(0.1)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, ">f8", np.float16, np.int64])
@pytest.mark.parametrize("shape", [(60, 5), (7,), (0, 3), (5, 0), (1, 300)])
def test_it_becomes_an_array_of_its_own_dtype(shape, dtype):
    stored = Stored(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    array = _checks.as_array("x", stored)
    np.testing.assert_array_equal(array, stored._array)
    assert array.dtype == stored.dtype
    assert_read_once(stored)
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(shape[1:])))
    assert stored.longest <= max(1, 400 // row_bytes)


@BOTH
@pytest.mark.parametrize("targets", ["labels", "probabilities", "numbers"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_trainers(module, targets, dtype):
    x = (10 * np.abs(X)).astype(dtype)
    t = {"labels": T, "probabilities": np.eye(3)[T], "numbers": X[:, :3].astype(np.float64)}[targets]
    loss = module.MeanSquaredError() if targets == "numbers" else None
    expected, trainer = trainer_of(module, loss), trainer_of(module, loss)
    for method, options in (
        ("step", {}),
        ("fit", {"epochs": 2, "batch_size": 16, "validation": (x, t)}),
        ("evaluate", {}),
    ):
        data = Stored(x), Stored(t)
        held = (Stored(x), Stored(t)) if options else ()
        mine = options | ({"validation": held} if held else {})
        result = getattr(trainer, method)(*data, **mine)
        plain = getattr(expected, method)(x, t, **options)
        if method != "fit":
            assert result == pytest.approx(plain)
        assert_read_once(*data, *held)
    for name, array in expected.net.state_dict().items():
        np.testing.assert_allclose(trainer.net.state_dict()[name], array, rtol=1e-4, atol=1e-5)


@BOTH
def test_networks(module):
    net = module.mlp([5, 4, 3], seed=0)
    tokens = module.Sequential([module.Embedding.create(3, 4, rng=0), module.Affine.create(4, 2, rng=0)])
    for network, x in ((net, X), (tokens, T[:, None])):
        for method in ("predict", "forward"):
            stored = Stored(x)
            assert_same_bits({"y": getattr(network, method)(stored)}, {"y": getattr(network, method)(x)})
            assert_read_once(stored)


@pytest.mark.filterwarnings("ignore:Stochastic")
def test_estimators():
    estimators = pytest.importorskip("fastnn.estimators")
    y, w = X[:, 0] + 1, np.linspace(1, 2, 60)
    for make, t in ((estimators.MLPRegressor, y), (estimators.MLPClassifier, T)):
        plain = make(hidden_layer_sizes=4, max_iter=3, random_state=0).fit(X, t, w)
        stored = Stored(X), Stored(t), Stored(w)
        model = make(hidden_layer_sizes=4, max_iter=3, random_state=0).fit(*stored)
        assert_read_once(*stored)
        np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])
        again = Stored(X)
        np.testing.assert_array_equal(model.predict(again), plain.predict(X))
        assert_read_once(again)


@BOTH
def test_what_it_raises_propagates(module):
    class Broken(Stored):
        def __getitem__(self, rows):
            raise ValueError("the file is closed")

    trainer = trainer_of(module)
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        for data in ((Broken(X), T), (X, Broken(T))):
            with pytest.raises(ValueError, match="the file is closed"):
                call(*data)
    with pytest.raises(ValueError, match="the file is closed"):
        trainer.net.predict(Broken(X))
    assert trainer.steps == 0


def test_slices_of_another_form_are_refused():
    class Other(Stored):
        def __getitem__(self, rows):
            return self.answer

    other = Other(X)
    other.answer = X[:3, :2]
    with pytest.raises(ValueError, match=r"x\[0:20\] must have shape \(20, 5\), got \(3, 2\)"):
        fastnn.mlp([5, 3]).predict(other)
    other.answer = X[:20].astype(complex)
    with pytest.raises(TypeError, match=r"x\[0:20\] must have dtype float32, got complex128"):
        fastnn.mlp([5, 3]).predict(other)


def test_what_makes_an_array_of_itself_does():
    class Made(Stored):
        def __array__(self, dtype=None, copy=None):
            return self._array

    made = Made(X)
    assert_same_bits(
        {"y": fastnn.mlp([5, 3], seed=0).predict(made)}, {"y": fastnn.mlp([5, 3], seed=0).predict(X)}
    )
    assert not made.reads.any()
