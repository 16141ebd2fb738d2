"""What a newcomer types first works, or its error says what does."""

import inspect

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from native import run_python
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])


@BOTH
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [("Affine", (784, 100)), ("Affine", (784,)), ("BatchNorm", (100,)), ("Embedding", (50, 8))],
)
def test_sizes_in_the_place_of_arrays_name_create(module, layer, sizes):
    text = ", ".join(map(str, sizes))
    with pytest.raises(TypeError, match=rf"{layer}\.create\({text}\)"):
        getattr(module, layer)(*sizes)


@BOTH
def test_a_subclass_may_take_sizes(module):
    class Dense(module.Affine):
        def __init__(self, n_in, n_out):
            super().__init__(np.zeros((n_in, n_out), np.float32), np.zeros(n_out, np.float32))

    assert Dense(3, 2).W.shape == (3, 2)


@BOTH
def test_constructors_keep_their_signatures(module):
    assert list(inspect.signature(module.Affine).parameters) == ["W", "b"]
    assert list(inspect.signature(module.SGD).parameters) == ["lr", "weight_decay", "groups"]


@BOTH
@pytest.mark.parametrize(
    "draw",
    [
        lambda m, **o: m.Affine.create(4, 3, **o).W,
        lambda m, **o: m.Embedding.create(4, 3, **o).W,
        lambda m, **o: m.mlp([4, 3], **o)[0].W,
    ],
)
def test_seed_and_rng_are_one(module, draw):
    assert_same_bits(draw(module, seed=5), draw(module, rng=5))
    assert_same_bits(draw(module, seed=5), draw(module, rng=np.random.default_rng(5)))
    with pytest.raises(TypeError, match="rng must be None where seed is given"):
        draw(module, seed=5, rng=5)
    for word in ("seed", "rng"):
        with pytest.raises(TypeError, match=f"{word} must be None, an integer"):
            draw(module, **{word: "a"})


@BOTH
@pytest.mark.parametrize("name", sorted(ref.Trainer.optimizer_classes))
def test_learning_rate_is_called_lr(module, name):
    with pytest.raises(TypeError, match=rf"{name} calls the learning rate lr"):
        getattr(module, name)(learning_rate=0.1)


@BOTH
def test_an_activation_by_its_class(module):
    x = np.ones((2, 4), np.float32)
    by_class, by_name = (module.mlp([4, 5, 3], activation=a, seed=0) for a in (module.GELU, "gelu"))
    assert_same_bits(by_class.predict(x), by_name.predict(x))
    with pytest.raises(TypeError, match=r"^activation must be the class of a layer, got <class 'dict'>"):
        module.mlp([4, 5, 3], activation=dict)


@BOTH
def test_a_network_as_function_and_as_sequence(module):
    net = module.mlp([4, 5, 3], batch_norm=True, seed=0)
    x = np.ones((2, 4), np.float32)
    assert_same_bits(net(x), net.predict(x))
    assert len(net) == len(net.layers)
    assert net[0] is net.layers[0]
    assert net[-1] is net.layers[-1]
    assert net[1:] == net.layers[1:]


@pytest.mark.parametrize("name", ["demo", "estimators", "experiments"])
def test_the_other_modules_load_on_first_use(name):
    code = f"""
        import sys, fastnn
        assert "fastnn.{name}" not in sys.modules and "{name}" in dir(fastnn)
        print(fastnn.{name}.__name__)
    """
    assert run_python(code).strip() == f"fastnn.{name}"


def test_no_other_name_is_found():
    with pytest.raises(AttributeError, match="no attribute 'estimator'"):
        fastnn.estimator  # noqa: B018
