"""What would train nothing, or not what was meant, acts or is said."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
X, T = np.eye(6, dtype=np.float32), np.arange(6) % 3


def trainer_for(module, net=None, optimizer=None):
    return module.Trainer(
        net or module.mlp([6, 5, 3], seed=0), module.SoftmaxCrossEntropy(), optimizer or module.SGD(0.1)
    )


class Scale:
    def __init__(self):
        self.params = {"w": np.ones(6, np.float32)}
        self.grads = {}

    def forward(self, x, train):
        self.x = x
        return x * self.params["w"]

    def backward(self, dout):
        self.grads["w"] = (dout * self.x).sum(axis=0)
        return dout * self.params["w"]


@BOTH
def test_a_frozen_layer_is_refused(module):
    net = module.mlp([6, 5, 3])
    with pytest.raises(ValueError, match=r"Affine\.trainable must be True"):
        net[0].trainable = False
    net[0].trainable = True
    assert net[0].trainable
    own = Scale()
    trainer = trainer_for(module, module.Sequential([own, *net.layers]))
    own.trainable = False
    before = trainer.net.state_dict()
    for train in (
        lambda: trainer.step(X, T),
        lambda: trainer.fit(X, T),
        lambda: trainer_for(module, trainer.net),
    ):
        with pytest.raises(ValueError, match=r"layers\[0\].trainable must be True"):
            train()
    assert_same_bits(trainer.net.state_dict(), before)


@BOTH
def test_what_is_assigned_to_params_acts(module):
    net = module.mlp([6, 5, 3], seed=0)
    W, new = net[0].W, np.full((6, 5), 2.0)
    net.params["0.W"] = new
    assert net[0].W is W
    assert (W == 2).all()
    params = net.params
    params.update({"0.W": new + 1})
    assert (W == 3).all()
    params |= {"0.W": new + 2}
    assert (W == 4).all()
    for bad, error in ((np.zeros(5), ValueError), (np.zeros((6, 5), int), TypeError), ("a", TypeError)):
        with pytest.raises(error, match="params"):
            net.params["0.W"] = bad
    with pytest.raises(ValueError, match="must keep its names"):
        net.params["W"] = new
    assert (W == 4).all()


@BOTH
def test_a_copy_of_params_is_a_plain_dict(module):
    params = module.mlp([6, 3], seed=0).params
    assert isinstance(params, dict)
    for made in (
        params.copy(),
        dict(params),
        copy.copy(params),
        copy.deepcopy(params),
        pickle.loads(pickle.dumps(params)),
        params | {},
    ):
        assert type(made) is dict
        assert_same_bits(made, dict(params))


class Rebinding:
    def update(self, params, grads):
        for name in params:
            params[name] = params[name] - 0.1 * grads[name]


class Popping:
    def update(self, params, grads):
        for name in list(params):
            params.pop(name)


@BOTH
def test_an_optimizer_that_rebinds_trains_as_one_in_place(module):
    rebinding, in_place = trainer_for(module, optimizer=Rebinding()), trainer_for(module)
    for trainer in (rebinding, in_place):
        trainer.fit(X, T, epochs=3, batch_size=4)
    for name, p in in_place.net.params.items():
        np.testing.assert_allclose(rebinding.net.params[name], p, rtol=1e-5, atol=1e-6)


class OwnNet:
    def __init__(self, net):
        self._net = net
        self.forward, self.backward = net.forward, net.backward

    params = property(lambda self: dict(self._net.params))
    grads = property(lambda self: self._net.grads)


@BOTH
@pytest.mark.parametrize("optimizer", [Rebinding(), Popping()])
def test_an_optimizer_whose_new_arrays_go_nowhere_is_refused(module, optimizer):
    trainer = trainer_for(module, OwnNet(module.mlp([6, 5, 3], seed=0)), optimizer)
    with pytest.raises(TypeError, match=r"must change the array params\['0.W'\] in place"):
        trainer.step(X, T)
    assert trainer.steps == 0


@BOTH
def test_a_layer_with_W_and_dW_but_no_params_is_refused(module):
    class Text:
        def __init__(self):
            self.W, self.dW, self.out = np.ones((6, 3), np.float32), None, None

        def forward(self, x, train):
            return x @ self.W

        def backward(self, dout):
            return dout @ self.W.T

    with pytest.raises(TypeError, match=r"layers\[0\] must have dicts params and grads for its W and dW"):
        trainer_for(module, module.Sequential([Text()]))


@BOTH
@pytest.mark.parametrize(
    ("result", "epochs"), [(True, 1), (np.True_, 1), (1, 3), ("done", 3), (np.ones(2), 3)]
)
def test_only_True_ends_the_training(module, result, epochs):
    assert (
        trainer_for(module).fit(X, T, epochs=3, callbacks=[lambda trainer, history: result]).epochs == epochs
    )
