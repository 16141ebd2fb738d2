"""The door to native code: it believes nothing that objects say of themselves, and what was changed acts."""

import contextlib
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnn
from fastnn import optimizers
from fastnn import reference as ref
from fastnn.sparse import RowSparse
from native import run_python
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
ROWS, BATCH = 40, 8


def data_set(rows=ROWS):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 6)).astype(np.float32), rng.integers(0, 3, rows)


def network(m=fastnn):
    return m.mlp([6, 5, 3], batch_norm=True, dropout=0.2, seed=0)


def trainer_for(m=fastnn, cls=None, net=None, loss=None, optimizer=None, **options):
    return (cls or m.Trainer)(
        net or network(m), loss or m.SoftmaxCrossEntropy(), optimizer or m.Adam(0.01), seed=1, **options
    )


def weights(trainer):
    return {name: p.copy() for name, p in trainer.net.params.items()}


def train(trainer, way):
    x, t = data_set()
    if way == "fit":
        return trainer.fit(x, t, epochs=2, batch_size=BATCH)
    return [trainer.step(x[:BATCH], t[:BATCH]) for _ in range(3)]


WAYS = pytest.mark.parametrize("way", ["step", "fit"])


# Attributes that are missing, or made by code


@BOTH
@WAYS
@pytest.mark.parametrize("name", ["loss", "optimizer", "net", "clip_norm", "nonfinite", "steps", "seed"])
def test_a_trainer_without_one_of_its_attributes(module, way, name):
    trainer = trainer_for(module)
    train(trainer, way)
    delattr(trainer, name)
    with pytest.raises(AttributeError, match=name):
        train(trainer, way)


@BOTH
@WAYS
@pytest.mark.parametrize("name", ["lr", "weight_decay", "state", "step", "beta1", "eps"])
def test_an_optimizer_without_one_of_its_attributes(module, way, name):
    trainer = trainer_for(module)
    train(trainer, way)
    before = weights(trainer)
    delattr(trainer.optimizer, name)
    with pytest.raises(AttributeError, match=name):
        train(trainer, way)
    if module is fastnn:
        assert_same_bits(weights(trainer), before)


@BOTH
@WAYS
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (0, "params"),
        (0, "grads"),
        (1, "momentum"),
        (1, "eps"),
        (1, "running_mean"),
        (3, "ratio"),
        (3, "inverted"),
    ],
)
def test_a_layer_without_one_of_its_attributes(module, way, place, name):
    trainer = trainer_for(module)
    train(trainer, way)
    delattr(trainer.net.layers[place], name)
    with pytest.raises(AttributeError, match=name):
        train(trainer, way)
    if name in ("params", "eps", "running_mean", "ratio"):
        with pytest.raises(AttributeError, match=name):
            trainer.net.predict(data_set()[0])


def with_property(name, value):
    """Return a subclass of Trainer that has its own idea of an attribute."""
    return type(
        "Own",
        (fastnn.Trainer,),
        {name: property(lambda self: value(self) if callable(value) else value, lambda self, v: None)},
    )


@WAYS
@pytest.mark.parametrize("name", ["loss", "optimizer", "clip_norm", "nonfinite", "seed"])
def test_a_property_of_a_subclass_is_what_counts(way, name):
    values = {
        "loss": fastnn.SoftmaxCrossEntropy(),
        "optimizer": fastnn.SGD(0.1),
        "clip_norm": 1e-3,
        "nonfinite": "ignore",
        "seed": 7,
    }
    own = trainer_for(cls=with_property(name, values[name]))
    plain = trainer_for()
    setattr(plain, name, copy.deepcopy(values[name]))
    plain._loss = plain._loss  # by layers, too
    train(own, way)
    train(plain, way)
    np.testing.assert_allclose(own.net.params["0.W"], plain.net.params["0.W"], rtol=1e-5)


def test_a_class_attribute_and_a_hook_are_what_counts():
    seen = []

    class Hooked(fastnn.Trainer):
        def __setattr__(self, name, value):
            seen.append(name)
            super().__setattr__(name, value)

    trainer = trainer_for(cls=Hooked)
    del seen[:]
    train(trainer, "step")
    assert seen.count("steps") == 3


# Rows out of range


@WAYS
@pytest.mark.parametrize(
    "order",
    [
        lambda n: np.arange(n) + 1,
        lambda n: np.arange(n) - n - 1,
        lambda n: np.full(n, 2**62),
        lambda n: np.full(n, -(2**63)),
    ],
)
def test_an_order_of_ones_own_is_checked(way, order):
    class Own(fastnn.Trainer):
        def _order(self, n):
            return order(n)

    trainer = trainer_for(cls=Own)
    x, t = data_set()
    with pytest.raises(IndexError, match="out of bounds"):
        trainer.fit(x, t, epochs=1, batch_size=BATCH)


@pytest.mark.parametrize(
    "order",
    [
        lambda n: np.arange(n)[::-1],
        lambda n: list(range(n)),
        lambda n: np.arange(n, dtype=np.int32),
        lambda n: np.arange(n) - n,
        lambda n: np.arange(n // 2),
        lambda n: np.zeros(3 * n, int),
        lambda n: np.arange(n).view(type("Own", (np.ndarray,), {"shape": (10**9,)})),
    ],
    ids=["backwards", "list", "int32", "negative", "half", "thrice", "lying"],
)
def test_an_order_that_numpy_takes_is_taken(order):
    def own(m):
        return type("Own", (m.Trainer,), {"_order": lambda self, n: order(n)})

    trainers = [trainer_for(m, own(m), optimizer=m.SGD(0.1)) for m in (fastnn, ref)]
    x, t = data_set()
    for trainer in trainers:
        trainer.fit(x, t, epochs=2, batch_size=BATCH)
    np.testing.assert_allclose(
        trainers[0].net.params["0.W"], trainers[1].net.params["0.W"], rtol=1e-3, atol=1e-6
    )


def test_an_order_that_is_written_to_meanwhile():
    class Own(fastnn.Trainer):
        def _order(self, n):
            self.order = super()._order(n).rows
            return self.order

    trainer = trainer_for(cls=Own, net=fastnn.mlp([6, 5, 3], seed=0))
    x, t = data_set(20_000)
    done = threading.Event()

    def spoil():
        while not done.is_set():
            order = getattr(trainer, "order", None)
            if order is not None:
                order[:] = 2**60

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(spoil)
        try:
            for _ in range(20):
                try:
                    trainer.fit(x, t, epochs=1, batch_size=BATCH)
                except IndexError:
                    trainer.order = None
        finally:
            done.set()
        running.result(60)


# Arrays that lie


class Lying(np.ndarray):
    """Says that it is another array."""

    shape = property(lambda self: (1000, 1000), lambda self, value: None)
    ndim = property(lambda self: 2)
    size = property(lambda self: 10**6)
    dtype = property(lambda self: np.dtype(np.int8), lambda self, value: None)

    def copy(self, *_):
        return np.zeros(1, np.int8)

    def astype(self, *_, **__):
        return None

    def view(self, *_):
        return np.zeros(1, np.int8)

    def __array_finalize__(self, other):
        pass

    def __setitem__(self, key, value):
        raise AssertionError("not asked")


def lying(a):
    return np.ndarray.view(np.array(a), Lying)


def shape_of(a):
    return np.ndarray.shape.__get__(a)


@pytest.mark.parametrize("kind", optimizers.CLASSES)
@pytest.mark.parametrize("part", ["parameter", "gradient", "both", "strided"])
def test_an_update_goes_by_what_an_array_is(kind, part):
    rng = np.random.default_rng(0)
    p, g = (rng.normal(size=(7, 3)).astype(np.float32) for _ in range(2))
    plain, liar = (optimizers.CLASSES[kind]() for _ in range(2))
    expected, params = {"w": p.copy()}, {"w": lying(p) if part != "gradient" else p.copy()}
    if part == "strided":
        params["w"] = np.ndarray.view(np.asfortranarray(p), Lying)
    for _ in range(3):
        plain.update(expected, {"w": g})
        liar.update(params, {"w": lying(g) if part != "parameter" else g})
    assert_same_bits(np.asarray(params["w"]), expected["w"])
    for slot, memory in liar.state.items():
        assert_same_bits(memory, plain.state[slot])


@pytest.mark.parametrize("rows", [[0, 2**40], [-1, 2], [2, 2], [0, 1, 2, 3]])
def test_row_sparse_gradients_that_lie(rows):
    params = {"w": np.zeros((5, 2), np.float32)}
    grad = RowSparse.trusted(np.array(rows), np.ones((2, 2), np.float32), (5, 2))
    with pytest.raises(ValueError, match=r"grads\['w'\]"):
        fastnn.Adam().update(params, {"w": grad})
    grad = RowSparse.trusted(lying(np.array([0, 2])), lying(np.ones((2, 2), np.float32)), (5, 2))
    fastnn.SGD(1.0).update(params, {"w": grad})
    np.testing.assert_array_equal(params["w"][:, 0], [-1, 0, -1, 0, 0])


@WAYS
@pytest.mark.parametrize("where", ["params", "grads", "state", "running_mean", "x", "t"])
def test_training_goes_by_what_an_array_is(way, where):
    def trained(dress):
        x, t = data_set()
        trainer = trainer_for(net=fastnn.mlp([6, 5, 3], batch_norm=True, seed=0))
        trainer.step(x, t)
        layer = trainer.net.layers[0]
        if where in ("params", "grads"):
            getattr(layer, where)["W"] = dress(getattr(layer, where)["W"])
        elif where == "state":
            trainer.optimizer.state["m"]["0.W"] = dress(trainer.optimizer.state["m"]["0.W"])
        elif where == "running_mean":
            trainer.net.layers[1].running_mean = dress(trainer.net.layers[1].running_mean)
        x, t = dress(x) if where == "x" else x, dress(t) if where == "t" else t
        if way == "step":
            losses = [trainer.step(x, t) for _ in range(3)]
        else:
            losses = trainer.fit(x, t, epochs=2, batch_size=BATCH).loss
        return losses, {name: np.array(p) for name, p in trainer.net.params.items()}

    losses, params = trained(lambda a: a)
    found, others = trained(lying)
    assert_same_bits(np.array(found), np.array(losses))
    assert_same_bits(others, params)


@pytest.mark.parametrize("name", ["x", "W", "gamma", "running_var"])
def test_passes_go_by_what_an_array_is(name):
    x, _ = data_set()
    net = fastnn.mlp([6, 5, 3], batch_norm=True, seed=0)
    expected = net.predict(x)
    layer = net.layers[name in ("gamma", "running_var")]
    if name in ("W", "gamma"):
        layer.params[name] = lying(layer.params[name])
    elif name != "x":
        setattr(layer, name, lying(getattr(layer, name)))
    assert_same_bits(net.predict(lying(x) if name == "x" else x), expected)


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"])
def test_losses_go_by_what_an_array_is(loss):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    t = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    plain, liar = (getattr(fastnn, loss)() for _ in range(2))
    assert plain.forward(x, t) == liar.forward(lying(x), lying(t))
    assert_same_bits(liar.backward(), plain.backward())


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"])
@pytest.mark.parametrize("junk", [None, "junk", np.zeros(1), np.full(4, 2**40), np.zeros((0, 3), np.float32)])
def test_what_a_loss_saved_may_be_junk(loss, which, junk):
    layer = getattr(fastnn, loss)()
    x = np.ones((4, 3), np.float32)
    layer.forward(x, np.array([0, 1, 2, 0]) if loss.startswith("Soft") else x, np.ones(4))
    saved = list(layer._saved)
    saved[which] = junk
    layer._saved = saved
    if which == 2 and junk is None:
        layer.backward()  # no weights
    else:
        with pytest.raises((TypeError, ValueError)):
            layer.backward()


def test_what_layers_saved_may_be_junk():
    x = np.ones((4, 6), np.float32)
    for layer in (
        fastnn.Affine.create(6, 3, rng=0),
        fastnn.BatchNorm.create(6),
        fastnn.Dropout(0.5, seed=0),
        fastnn.ReLU(),
        fastnn.GELU(),
        fastnn.Embedding.create(5, 2, rng=0),
    ):
        y = layer.forward(np.ones((4, 6), int) if isinstance(layer, fastnn.Embedding) else x)
        saved = layer._saved
        for junk in (None, "junk", 3, np.zeros(1), np.zeros((4, 6), np.int8), np.full((2, 2), 2**40)):
            if not isinstance(saved, tuple):
                layer._saved = junk
                with pytest.raises((TypeError, ValueError, RuntimeError)):
                    layer.backward(y)
                continue
            for i in range(len(saved)):
                layer._saved = (*saved[:i], junk, *saved[i + 1 :])
                with contextlib.suppress(ValueError, TypeError, AttributeError, IndexError, RuntimeError):
                    layer.backward(y)


# Dicts and classes that are not what they seem


class Dict(dict):
    """Says that it has no keys."""

    def __getitem__(self, key):
        raise KeyError(key)

    def items(self):
        return ()


@WAYS
@pytest.mark.parametrize("attribute", ["params", "grads"])
def test_a_dict_of_ones_own_is_pythons_to_read(way, attribute):
    trainer = trainer_for()
    train(trainer, way)
    layer = trainer.net.layers[0]
    setattr(layer, attribute, Dict(getattr(layer, attribute)))
    before = weights(trainer)
    if attribute == "params":
        with pytest.raises(KeyError, match="W"):
            train(trainer, way)
        with pytest.raises(KeyError, match="W"):
            trainer.net.predict(data_set()[0])
    else:
        with pytest.raises((KeyError, ValueError)):
            train(trainer, way)
    assert_same_bits(weights(trainer), before)


@BOTH
@WAYS
def test_a_surplus_parameter_is_refused(module, way):
    trainer = trainer_for(module)
    train(trainer, way)
    trainer.net.layers[0].params["U"] = np.ones(3, np.float32)
    before = weights(trainer)
    with pytest.raises(ValueError, match=r"0\.U"):
        train(trainer, way)
    assert_same_bits(weights(trainer), before)


@BOTH
@WAYS
def test_a_loss_of_ones_own_is_not_taken_for_a_native_one(module, way):
    class Seven:
        _kind = 0

        def forward(self, x, t, sample_weight=None):
            self.x = x
            return 7.0

        def backward(self, dout=1.0):
            return np.zeros_like(self.x)

    trainer = trainer_for(module, loss=Seven())
    losses = train(trainer, way)
    assert set(losses if way == "step" else losses.loss) == {7.0}
    assert trainer.evaluate(*data_set()) == {"loss": 7.0}


@BOTH
@WAYS
def test_an_optimizer_of_ones_own_is_not_taken_for_a_native_one(module, way):
    class Still:
        _kind, _betas, step = 0, (), 0
        lr = 0.1

        def update(self, params, grads):
            self.step += 1

    trainer = trainer_for(module, optimizer=Still())
    before = weights(trainer)
    train(trainer, way)
    assert_same_bits(weights(trainer), before)
    assert trainer.optimizer.step in (3, 10)


def doubled(method):
    def forward(self, x, *args, **options):
        return 2 * method(self, x, *args, **options)

    return forward


@WAYS
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (fastnn.Affine, "forward"),
        (fastnn.layers.ReLU, "forward"),
        (fastnn.layers._Activation, "forward"),
        (fastnn.BatchNorm, "forward"),
        (fastnn.Dropout, "forward"),
        (fastnn.Sequential, "forward"),
        (fastnn.SoftmaxCrossEntropy, "forward"),
        (fastnn.Trainer, "_loss"),
        (ref.Trainer, "_loss"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_method_that_is_replaced_on_a_class_acts(monkeypatch, way, owner, name):
    batch_norm = owner is fastnn.BatchNorm
    net = fastnn.mlp([6, 5, 3], dropout=0.2, batch_norm=batch_norm, seed=0)
    trainer = trainer_for(net=net, optimizer=fastnn.SGD(0.0))
    x, _ = data_set()

    def losses():
        trainer.steps = trainer.epochs = 0
        done = train(trainer, way)
        return np.array(done if way == "step" else done.loss)

    before, once = net.predict(x), losses()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, doubled(getattr(owner, name)))
        if owner in (fastnn.SoftmaxCrossEntropy, fastnn.Trainer, ref.Trainer):
            np.testing.assert_allclose(losses(), 2 * once, rtol=1e-5)
        else:
            assert np.abs(net.predict(x) - before).max() > 1e-3
            assert np.abs(losses() - once).max() > 1e-3
    if not batch_norm:  # whose statistics have moved
        assert_same_bits(net.predict(x), before)
        assert_same_bits(losses(), once)


@pytest.mark.parametrize("name", ["forward", "backward", "backward_params"])
def test_a_method_of_an_objects_own_acts_though_its_dict_has_not_grown(name):
    trainer = trainer_for(net=fastnn.mlp([6, 5, 3], seed=0))
    x, t = data_set()
    layer = trainer.net.layers[-1 if name == "backward" else 0]
    layer.note = 1
    trainer.step(x, t)
    called = []
    original = getattr(layer, name)
    del layer.note
    setattr(layer, name, lambda *args: called.append(name) or original(*args))
    trainer.step(x, t)
    assert called == [name]


@WAYS
def test_a_class_that_is_changed_acts(way):
    class Half(fastnn.Affine):
        def forward(self, x, train=True):
            return super().forward(x, train) / 2

    trainer = trainer_for(net=fastnn.mlp([6, 5, 3], seed=0), optimizer=fastnn.SGD(0.0))
    x, t = data_set()
    train(trainer, way)
    before = trainer.net.predict(x)
    trainer.net.layers[-1].__class__ = Half
    assert_same_bits(trainer.net.predict(x), before / 2)
    loss = trainer.step(x, t)
    assert loss == pytest.approx(fastnn.SoftmaxCrossEntropy().forward(before / 2, t), rel=1e-6)


def test_the_dict_of_an_object_may_be_another():
    trainer = trainer_for(net=fastnn.mlp([6, 5, 3], seed=0))
    x, t = data_set()
    trainer.step(x, t)
    for layer in trainer.net.layers:
        layer.__dict__ = copy.deepcopy(layer.__dict__)
    trainer.step(x, t)
    other = trainer_for(net=fastnn.mlp([6, 5, 3], seed=0))
    for _ in range(2):
        other.step(x, t)
    assert_same_bits(weights(trainer), weights(other))


def test_the_optimizers_memory_goes_by_its_names():
    trainer, plain = trainer_for(), trainer_for()
    train(trainer, "step")
    train(plain, "step")
    trainer.optimizer.state = dict(reversed(trainer.optimizer.state.items()))
    train(trainer, "step")
    train(plain, "step")
    assert_same_bits(weights(trainer), weights(plain))
    g = {name: np.ones_like(p) for name, p in plain.net.params.items()}
    for each in (trainer, plain):
        each.optimizer.update(each.net.params, g)
    assert_same_bits(weights(trainer), weights(plain))


@BOTH
def test_layers_may_be_replaced(module, tmp_path):
    """What trains, what is saved and what is shown are the same layers."""
    x, t = data_set()
    trainer, other = trainer_for(module), module.mlp([6, 4, 3], seed=5)
    trainer.step(x, t)
    trainer.net.predict(x)
    trainer.net.layers = other.layers
    trainer.optimizer = module.SGD(0.1)
    assert trainer.net.params.keys() == other.params.keys()
    assert_same_bits(trainer.net.predict(x), other.predict(x))
    before = other.layers[0].W.copy()
    trainer.step(x, t)
    assert (other.layers[0].W != before).any()
    trainer.net.save(tmp_path / "net.npz")
    assert_same_bits(module.Sequential.load(tmp_path / "net.npz").predict(x), other.predict(x))
    layers = trainer.net.layers
    for bad in ([], [3], layers[0], [layers[0], layers[0]]):
        with pytest.raises((TypeError, ValueError), match="layers"):
            trainer.net.layers = bad
        assert trainer.net.layers == layers


@BOTH
def test_a_network_may_be_replaced(module):
    """Dropouts, statistics and locks are those of the network that trains."""
    x, t = data_set()
    trainer, plain = (
        trainer_for(module),
        trainer_for(module, net=module.mlp([6, 4, 4, 3], dropout=0.5, seed=2)),
    )
    trainer.step(x, t)
    trainer.net, trainer.steps, trainer.optimizer = copy.deepcopy(plain.net), 0, module.Adam(0.01)
    trainer._loss = trainer._loss  # by layers
    plain._loss = plain._loss
    for each in (trainer, plain):
        each.step(x, t)
    assert_same_bits(weights(trainer), weights(plain))


# Plain numbers


@BOTH
@pytest.mark.parametrize("where", ["params", "grads"])
def test_nan_is_not_a_number(module, where):
    given = {"params": {"a": 1.0}, "grads": {"a": 1.0}}
    given[where]["a"] = float("nan")
    optimizer = module.Adam()
    with pytest.raises(ValueError, match=rf"{where}\['a'\] must be a number.*nan"):
        optimizer.update(**given)
    assert optimizer.step == 0


@pytest.mark.parametrize("kind", ["AdaGrad", "RMSProp", "Adam", "AdamW", "Muon"])
@BOTH
@pytest.mark.parametrize("eps", [1e-50, 1e-40, 5e-324])
def test_an_eps_that_is_nothing_in_single_precision(module, kind, eps):
    params = {"w": np.ones(3, np.float32)}
    optimizer = getattr(module, kind)(0.1, eps=eps)
    for _ in range(3):
        optimizer.update(params, {"w": np.array([0, 1, -1], np.float32)})
    assert np.isfinite(params["w"]).all()
    layer = module.BatchNorm.create(2, eps=eps)
    y = layer.forward(np.array([[1, 0], [1, 1]], np.float32))
    assert np.isfinite(y).all()
    assert np.isfinite(layer.backward(y)).all()


@BOTH
@WAYS
def test_weights_however_large(module, way):
    x, t = data_set(BATCH)
    plain, huge = (
        trainer_for(module, optimizer=module.SGD(0.1)),
        trainer_for(module, optimizer=module.SGD(0.1)),
    )
    w = np.linspace(1, 2, BATCH)
    for trainer, scale in ((plain, 1.0), (huge, 1e307)):
        if way == "fit":
            trainer.fit(x, t, epochs=2, batch_size=BATCH, sample_weight=w * scale, shuffle=False)
        else:
            trainer.step(x, t, w * scale)
    np.testing.assert_allclose(huge.net.params["0.W"], plain.net.params["0.W"], rtol=1e-5)


@BOTH
@pytest.mark.parametrize("way", ["step", "step by layers"])
def test_a_norm_whose_square_overflows_is_clipped(module, way):
    x, t = data_set(BATCH)
    x = x.astype(np.float64)
    x[0, 0] = 1e160
    W = np.random.default_rng(0).normal(size=(6, 3))
    W[0] = 0
    net = module.Sequential([module.Affine(W, np.zeros(3))])
    trainer = trainer_for(module, net=net, optimizer=module.SGD(1.0), clip_norm=1.0)
    if way != "step":
        trainer._loss = trainer._loss
    before = W.copy()
    trainer.step(x, t)
    assert np.linalg.norm(W - before) == pytest.approx(1.0)


def test_counters_do_not_wrap():
    params = {"w": np.ones(3, np.float32)}
    for module in (fastnn, ref):
        optimizer = module.Adam(0.1)
        optimizer.step = 2**63 - 1
        optimizer.update(params, {"w": np.ones(3, np.float32)})
        assert optimizer.step == 2**63
        optimizer.update(params, {"w": np.ones(3, np.float32)})
        assert optimizer.step == 2**63 + 1
        trainer = trainer_for(module, net=module.mlp([6, 3], seed=0), optimizer=optimizer)
        optimizer.state = {"m": {}, "v": {}}
        trainer.steps = 2**63 - 1
        train(trainer, "step")
        assert trainer.steps == 2**63 + 2
        assert optimizer.step == 2**63 + 4


def test_a_constant_batchnorm_passes_on_no_nan():
    """dgamma overflows; dx does not ask for it where the statistics are constants."""
    for module in (fastnn, ref):
        layer = module.BatchNorm.create(2)
        layer.forward(np.full((4, 2), 1e30, np.float32), False)
        with np.errstate(over="ignore"):
            dx = layer.backward(np.full((4, 2), 1e10, np.float32))
        np.testing.assert_allclose(dx, 1e10, rtol=1e-4)


# Whatever is done to the objects


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("seed", range(2))
def test_no_object_crashes_the_process(seed, threads):
    run_python(f"import attack; attack.run({seed}, 300, {threads})", timeout=300)


# Overflow


def squaring(module, **options):
    kinds = ("AdaGrad", "RMSProp", "Adam", "AdamW")
    return [*(getattr(module, kind)(0.01, **options) for kind in kinds), module.Muon(1.0, **options)]


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_element_whose_square_overflows_moves_on(module, dtype):
    """It is left as it was by the one update, and goes on with the next."""
    large = 1e20 if dtype is np.float32 else 1e200
    for optimizer, plain in zip(squaring(module), squaring(module), strict=True):
        params, expected = ({"w": np.linspace(1, 2, 21).astype(dtype)} for _ in range(2))
        g = np.linspace(-1, 1, 21).astype(dtype)
        bad = g.copy()
        bad[[3, 20]] = large, -large
        for grad in (g, bad, g):
            optimizer.update(params, {"w": grad})
        for _ in range(3):
            plain.update(expected, {"w": g})
        others = np.delete(np.arange(21), [3, 20])
        assert_same_bits(params["w"][others], expected["w"][others])
        assert (np.abs(params["w"] - np.linspace(1, 2, 21))[[3, 20]] > 1e-3).all()
        assert all(np.isfinite(memory["w"]).all() for memory in optimizer.state.values())
        rows = RowSparse(np.array([1]), np.array([[large, 1]], dtype), (3, 2))
        sparse = {"w": np.ones((3, 2), dtype)}
        type(optimizer)(0.1).update(sparse, {"w": rows})
        assert sparse["w"][1, 0] == 1
        assert sparse["w"][1, 1] < 1


OVERFLOWS = {
    "a column of 1e10": lambda x: x * [1, 1e10, 1, 1, 1, 1],
    "a number of 1e12": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, 1e12, x),
}


@BOTH
@pytest.mark.parametrize("kind", ["AdaGrad", "RMSProp", "Adam", "AdamW", "Muon"])
@pytest.mark.parametrize("way", ["step", "fit", "step by layers"])
@pytest.mark.parametrize("case", OVERFLOWS)
@pytest.mark.parametrize("clip_norm", [None, 1e30])
def test_a_step_whose_gradients_overflow_when_squared_is_refused(module, kind, way, case, clip_norm):
    net = module.mlp([6, 5, 3], seed=0)
    trainer = trainer_for(
        module,
        net=net,
        loss=module.MeanSquaredError(),
        optimizer=getattr(module, kind)(),
        clip_norm=clip_norm,
    )
    x, t = data_set()[0], np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
    bad = OVERFLOWS[case](x).astype(np.float32)
    if way == "step by layers":
        trainer._loss = trainer._loss
    trainer.step(x, t)
    before = weights(trainer) | {slot: copy.deepcopy(m) for slot, m in trainer.optimizer.state.items()}
    train = trainer.step if way != "fit" else lambda x, t: trainer.fit(x, t, epochs=1, batch_size=ROWS)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"square.*step 1.*clip_norm"):
        train(bad, t)
    after = weights(trainer) | trainer.optimizer.state
    for name, value in before.items():
        assert_same_bits(after[name], value)
    assert trainer.steps == trainer.optimizer.step == 1
    trainer.step(x, t)
    if clip_norm is not None:
        trainer.clip_norm = 1.0  # does what the message says
        with np.errstate(all="ignore"):
            trainer.step(bad, t)
        assert all(np.isfinite(p).all() for p in weights(trainer).values())


@BOTH
@WAYS
def test_a_loss_that_is_small_hides_no_overflow(module, way):
    """Weights of 0 before an input of 1e20: what has overflowed is said, and does not move."""
    net = module.Sequential([module.Affine(np.zeros((2, 1), np.float32), np.zeros(1, np.float32))])
    trainer = trainer_for(module, net=net, loss=module.MeanSquaredError())
    x, t = np.array([[1e20, 1]], np.float32), np.ones((1, 1), np.float32)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"square.*step 0.*clip_norm"):
        trainer.fit(x, t, epochs=5) if way == "fit" else trainer.step(x, t)
    assert net.params["0.W"][0] == 0
    assert all(np.isfinite(m).all() for memory in trainer.optimizer.state.values() for m in memory.values())
    x[0, 0] = 1
    for _ in range(3):
        trainer.step(x, t)
    assert net.params["0.W"][0] > 0


@BOTH
@WAYS
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_statistics_that_would_be_infinite_are_refused(module, way, optimizer):
    net = module.Sequential([module.BatchNorm.create(6), module.Affine.create(6, 3, rng=0)])
    trainer = trainer_for(module, net=net, optimizer=getattr(module, optimizer)(0.01))
    x, t = data_set()
    trainer.step(x, t)
    before = net.state_dict()
    bad = x.copy()
    bad[::2, 2] = 1e20
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"running_var.*step 1.*scale"):
        trainer.fit(bad, t, epochs=1, batch_size=ROWS) if way == "fit" else trainer.step(bad, t)
    assert_same_bits(net.state_dict(), before)
    trainer.step(x, t)


@BOTH
def test_what_overflows_may_be_ignored(module):
    net = module.mlp([6, 5, 3], seed=0)
    trainer = trainer_for(module, net=net, loss=module.MeanSquaredError(), nonfinite="ignore")
    x, t = data_set()[0], np.ones((ROWS, 3), np.float32)
    bad = x * np.array([1, 1e10, 1, 1, 1, 1], np.float32)
    with np.errstate(all="ignore"):
        for _ in range(3):
            trainer.step(bad, t)
    assert trainer.steps == 3
    assert all(np.isfinite(p).all() for p in weights(trainer).values())
