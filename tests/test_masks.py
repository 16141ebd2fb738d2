"""Which places dropout drops: the same from run to run, in both tiers, and after a file."""

import copy
import json

import numpy as np
import pytest

import fastnn
from fastnn import checkpoint
from fastnn import reference as ref
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
X, T = np.ones((6, 8), np.float32), np.arange(6) % 2


def masks(net):
    """Return the masks of a forward in training."""
    net.forward(X, True)
    return [layer.mask.copy() for layer in net.layers if hasattr(layer, "mask")]


def assert_equal(masks, expected):
    assert all(np.array_equal(*pair) for pair in zip(masks, expected, strict=True))


def pair_of_one_seed(module):
    return [module.Dropout(seed=3), module.Affine.create(8, 8, seed=0), module.Dropout(seed=3)]


def test_the_seed_of_an_mlp_is_that_of_its_masks():
    sizes = [8, 64, 64, 2]
    found = []
    for module in (fastnn, ref):
        nets = [module.mlp(sizes, dropout=0.5, seed=seed) for seed in (0, 0, 1, np.random.default_rng(0))]
        assert not any(layer.seeded for layer in nets[0].layers if hasattr(layer, "seeded"))
        first, again, other, of_a_generator = map(masks, nets)
        assert_equal(again, first)
        assert_equal(of_a_generator, first)
        assert (other[0] != first[0]).any()
        assert (first[0] != first[1]).any()
        assert (masks(nets[0])[0] != first[0]).any()
        found.append(first)
    assert_equal(*found)


@BOTH
def test_an_mlp_without_a_seed_has_masks_of_its_own(module):
    first, other = (masks(module.mlp([8, 64, 2], dropout=0.5)) for _ in range(2))
    assert (first[0] != other[0]).any()


@BOTH
def test_masks_take_nothing_from_the_generator_of_the_weights(module):
    plain, dropping = np.random.default_rng(5), np.random.default_rng(5)
    net = module.mlp([8, 16, 2], seed=plain)
    other = module.mlp([8, 16, 2], dropout=0.5, seed=dropping)
    assert_same_bits(net.params["2.W"], other.params["3.W"])
    assert plain.random() == dropping.random()


@BOTH
def test_a_trainer_has_the_masks_of_its_own_seed(module):
    nets = [module.mlp([8, 64, 2], dropout=0.5, seed=seed) for seed in (0, None)]
    for net in nets:
        net.load_state_dict(nets[0].state_dict())
        module.Trainer(net, module.SoftmaxCrossEntropy(), module.SGD(0.1), seed=7).step(X, T)
    assert nets[0].layers[2].seed == 7
    assert_equal([nets[0].layers[2].mask], [nets[1].layers[2].mask])
    words = ref.philox.words(7, 0, 2, X.shape[0] * 64)
    assert_equal([nets[0].layers[2].mask.ravel()], [words >= ref.layers.dropout_threshold(0.5)])


def test_layers_of_one_seed_drop_different_places():
    found = []
    for module in (fastnn, ref):
        layers = pair_of_one_seed(module)
        assert [layers[0].stream, layers[2].stream] == [0, 0]
        first, second = masks(module.Sequential(layers))
        assert (first != second).any()
        assert [layers[0].stream, layers[2].stream] == [0, 2]
        found.append([first, second])
    assert_equal(*found)


@BOTH
def test_what_is_refused_moves_no_stream(module):
    layers = pair_of_one_seed(module)
    net = module.Sequential(layers)
    with pytest.raises(TypeError):
        net.layers = [layers[2], 3]
    assert [layers[0].stream, layers[2].stream] == [0, 2]
    net.layers = layers[1:]
    assert layers[2].stream == 1


@BOTH
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_file_brings_the_masks_back(module, suffix, trained, tmp_path):
    layers = [*module.mlp([8, 32, 8], dropout=0.5).layers, *pair_of_one_seed(module)]
    net = module.Sequential([*layers, module.Affine.create(8, 2, seed=1)])
    trainer = module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(), seed=9)
    if trained:
        trainer.step(X, T)
    masks(net)
    for name, write in (("net", net.save), ("trainer", trainer.save)):
        path = tmp_path / f"{name}.{suffix}"
        write(path)
        for other in (fastnn, ref):
            again, twin = other.Sequential.load(path), copy.deepcopy(net)
            for _ in range(2):
                assert_equal(masks(again), masks(twin))
            seeded = [layer.seeded for layer in again.layers if hasattr(layer, "seeded")]
            assert seeded == [False, True, True]


@BOTH
def test_a_file_without_masks_can_be_read(module, tmp_path):
    """As the first ones are."""
    net = module.mlp([8, 4, 2], dropout=0.5, seed=0)
    layers = net.architecture()
    assert json.loads(json.dumps(layers)) == layers
    del layers[2]["drawn"], layers[2]["step"]
    checkpoint.write(tmp_path / "a.npz", "network", net.state_dict(), {"layers": layers})
    dropout = module.Sequential.load(tmp_path / "a.npz").layers[2]
    assert (dropout.seeded, dropout.step, dropout.stream) == (False, 0, 2)
    for bad in ({"drawn": -1}, {"drawn": "1"}, {"step": 2**64}, {"step": None}, {"seed": 1, "drawn": 1}):
        layers[2] = net.architecture()[2] | bad
        checkpoint.write(tmp_path / "a.npz", "network", net.state_dict(), {"layers": layers})
        with pytest.raises(ValueError, match="does not describe a network"):
            module.Sequential.load(tmp_path / "a.npz")
