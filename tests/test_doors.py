"""What a newcomer writes: rows, labels and layers in the forms in which they come; with both packages."""

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from tolerances import assert_same_bits

ROWS = 40


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


def data_set(several=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)), rng.integers(0, several, ROWS)


def build(module, outputs=3, **options):
    criterion = module.SoftmaxCrossEntropy(**options)
    return module.Trainer(module.mlp([4, 8, outputs], seed=0), criterion, module.SGD(0.1))


# Labels

FORMS = {
    "whole floats": lambda t: t.astype(np.float64),
    "float32": lambda t: t.astype(np.float32),
    "float16": lambda t: t.astype(np.float16),
    "column": lambda t: t[:, None],
    "column of floats": lambda t: t.astype(float)[:, None],
    "list of floats": lambda t: [float(label) for label in t],
    "strided": lambda t: np.repeat(t.astype(float), 2)[::2],
    "big-endian": lambda t: t.astype(">f8"),
}
BOOLEANS = {
    "booleans": lambda t: t.astype(bool),
    "column of booleans": lambda t: t.astype(bool)[:, None],
    "list of booleans": lambda t: [bool(label) for label in t],
    "strided booleans": lambda t: np.repeat(t.astype(bool), 2)[::2],
}
DOORS = {
    "step": lambda trainer, x, t: [trainer.step(x, t) for _ in range(2)],
    "step, weighted": lambda trainer, x, t: trainer.step(x, t, np.arange(len(x))),
    "fit": lambda trainer, x, t: trainer.fit(x, t, 2, 16, validation=(x, t), metrics=["f1"]),
    "fit, weighted": lambda trainer, x, t: trainer.fit(x, t, 2, 16, class_weight="balanced"),
    "fit, accumulated": lambda trainer, x, t: trainer.fit(x, t, 2, 8, accumulate=2),
    "fit, split": lambda trainer, x, t: trainer.fit(x, t, 2, 16, validation_split=0.5),
    "evaluate": lambda trainer, x, t: trainer.evaluate(x, t, batch_size=7, metrics=["auc"]),
    "loss": lambda trainer, x, t: trainer.loss.forward(trainer.predict(x), t),
    "correct": lambda trainer, x, t: trainer.loss.correct(trainer.predict(x), t).sum(),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", [*FORMS, *BOOLEANS])
def test_what_is_plainly_labels(module, form, door, smoothing):
    several = 2 if form in BOOLEANS else 3
    x, t = data_set(several)
    made = (FORMS | BOOLEANS)[form](t)
    trainer, other = (build(module, several, label_smoothing=smoothing) for _ in range(2))
    results = [DOORS[door](trainer, x, made), DOORS[door](other, x, t)]
    for i, result in enumerate(results):
        if isinstance(result, fastnn.History):
            results[i] = {name: result[name] for name in result.recorded}
    assert_same_bits(*results)
    assert_same_bits(trainer.net.state_dict(), other.net.state_dict())


@pytest.mark.parametrize("door", ["step", "fit", "evaluate", "loss"])
@pytest.mark.parametrize(
    ("t", "error"),
    [
        (np.full(ROWS, 0.5), TypeError),
        (np.full((ROWS, 1), 0.5), (TypeError, ValueError)),
        (np.full(ROWS, np.nan), TypeError),
        (np.full(ROWS, 1e300), (TypeError, ValueError)),
        (np.full(ROWS, np.inf), TypeError),
        (np.full(ROWS, 3.0), ValueError),
        (np.full(ROWS, -1.0), ValueError),
        (np.full((ROWS, 1), 3), ValueError),
        (np.zeros((ROWS, 1, 1)), ValueError),
        (np.zeros((ROWS, 2)), ValueError),
        (["1"] * ROWS, TypeError),
        ([None] * ROWS, TypeError),
    ],
)
def test_what_is_not(module, t, error, door):
    x, _ = data_set()
    trainer = build(module)
    before = trainer.net.state_dict()
    with pytest.raises(error, match=r"\bt must"):
        DOORS[door](trainer, x, t)
    assert trainer.steps == 0
    assert_same_bits(trainer.net.state_dict(), before)


def test_a_single_class(module):
    """A column is rows of probabilities there, as it was, or labels."""
    x = data_set()[0]
    for t in (np.ones((ROWS, 1)), np.zeros(ROWS, int), np.zeros(ROWS)):
        assert build(module, 1).evaluate(x, t) == {"loss": 0, "accuracy": 1}
        build(module, 1).fit(x, t, 1)


def test_targets_of_other_losses_are_theirs(module):
    x = data_set()[0]
    t = x[:, 0] > 0
    for loss in (module.SigmoidCrossEntropy(), module.MeanSquaredError()):
        losses = {
            module.Trainer(module.mlp([4, 1], seed=0), loss, module.SGD(0.1)).step(x, form)
            for form in (t, t[:, None], t.astype(float), t.astype(int))
        }
        assert len(losses) == 1
    seen = []

    def own(y, t):
        seen.append(t)
        return 0.0, np.zeros_like(y)

    module.Trainer(module.mlp([4, 1], seed=0), own, module.SGD(0.1)).step(x, t)
    assert seen[0] is t


# Rows and outputs


@pytest.mark.parametrize("kind", [np.array, list])
@pytest.mark.parametrize(
    "door",
    [
        lambda trainer, row: trainer.net.predict(row),
        lambda trainer, row: trainer.net(row),
        lambda trainer, row: trainer.net.forward(row),
        lambda trainer, row: trainer.predict(row),
        lambda trainer, row: trainer.predict_proba(row),
        lambda trainer, row: trainer.net.layers[0].forward(row),
    ],
)
def test_a_single_row_is_refused_with_what_to_write(module, door, kind):
    trainer = build(module)
    row = data_set()[0][0]
    with pytest.raises(ValueError, match=r"4 features a row, got shape \(4,\); a single row is x\[None\]$"):
        door(trainer, kind(row))
    with pytest.raises(ValueError, match=r"4 features a row, got shape \(3,\)$"):
        door(trainer, kind(row[:3]))
    assert door(trainer, row[None]).shape[0] == 1


def test_rows_of_one_feature(module):
    net = module.mlp([1, 2], seed=0)
    x = np.arange(3.0)
    assert_same_bits(net.predict(x), net.predict(x[:, None]))


@pytest.mark.parametrize("rows", [0, 1, ROWS, 33000])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"scale": 0.5}])
def test_outputs_into_an_array(module, rows, options):
    if rows == 33000 and options.get("batch_size"):
        options = {"batch_size": 7000}
    net = module.mlp([4, 8, 3], batch_norm=True, seed=0)
    x = np.random.default_rng(0).normal(size=(rows, 4))
    out = np.full((rows, 3), np.nan, np.float32)
    assert net.predict(x, out=out, **options) is out
    assert_same_bits(out, net.predict(x, **options))
    wide = np.zeros((rows, 6), np.float32)
    net.predict(x, out=wide[:, ::2], **options)
    assert_same_bits(wide[:, ::2].copy(), out)


def test_outputs_into_a_file(module, tmp_path):
    net = module.mlp([4, 3], seed=0)
    x = data_set()[0]
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (ROWS, 3))
    net.predict(x, out=out)
    del out
    assert_same_bits(np.load(tmp_path / "y.npy"), net.predict(x))


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((ROWS, 3)), TypeError, "^out must be an array of dtype float32, got an array of"),
        ([[0.0] * 3] * ROWS, TypeError, "^out must be an array of dtype float32"),
        (np.zeros((ROWS, 2), np.float32), ValueError, r"^out must have shape \(40, 3\), got \(40, 2\)"),
        (np.broadcast_to(np.float32(0), (ROWS, 3)), ValueError, "^out must be writeable"),
    ],
)
def test_what_outputs_do_not_go_into(module, out, error, message):
    before = np.array(out)
    with pytest.raises(error, match=message):
        module.mlp([4, 3], seed=0).predict(data_set()[0], out=out)
    assert_same_bits(np.array(out), before)


def test_outputs_do_not_go_into_the_data(module):
    x = np.ones((ROWS, 3), np.float32)
    with pytest.raises(ValueError, match=r"^out must be writeable and share no memory with x"):
        module.mlp([3, 3], seed=0).predict(x, out=x)
    assert (x == 1).all()


# Biases


def test_an_affine_of_weights_alone(module):
    for dtype in (np.float32, np.float64):
        W = np.ones((4, 3), dtype)
        layer = module.Affine(W)
        assert layer.W is W
        assert layer.b.dtype == dtype
        assert layer.b.tolist() == [0, 0, 0]
    assert module.Affine(W, None).b.shape == (3,)
    with pytest.raises(TypeError, match=r"made by Affine.create\(4\)"):
        module.Affine(4)
    with pytest.raises(ValueError, match=r"^W must have 2 dimensions"):
        module.Affine(np.ones(3))


def test_no_affine_is_without_a_bias(module):
    assert module.Affine.create(4, 3, bias=True).b.shape == (3,)
    with pytest.raises(ValueError, match=r'^bias must be True: .*groups=\[Group\("0.b", frozen=True\)\]'):
        module.Affine.create(4, 3, bias=False)
    with pytest.raises(TypeError, match=r"^bias must be"):
        module.Affine.create(4, 3, bias=0)
    x, t = data_set()
    optimizer = module.Adam(groups=[module.Group("0.b", frozen=True)])
    trainer = module.Trainer(module.mlp([4, 8, 3], seed=0), module.SoftmaxCrossEntropy(), optimizer)
    trainer.fit(x, t, 2)
    assert not trainer.net.params["0.b"].any()
    assert trainer.net.params["2.b"].any()
