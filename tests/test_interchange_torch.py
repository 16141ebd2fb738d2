"""Networks, optimizers and trainings from and to PyTorch: what is converted agrees, the rest is refused."""

import copy
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest

import fastnn
from fastnn import Group, reference
from fastnn.interchange import from_torch, to_torch, train_torch

torch = pytest.importorskip("torch", reason="the other side of the bridge is PyTorch")
from torch import nn  # noqa: E402

STEPS, BATCH = 200, 16
ROWS = 10 * BATCH
SGD, Adagrad, RMSprop = torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop
Adam, AdamW = torch.optim.Adam, torch.optim.AdamW


@pytest.fixture(autouse=True)
def _double():
    """Compute in float64, from the same random numbers."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def digits():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(ROWS, 6))), torch.from_numpy(rng.integers(0, 3, ROWS))


def module():
    """Return a module with a convention to convert in each layer; Mish and LayerNorm are smooth."""
    return nn.Sequential(
        nn.Linear(6, 8, bias=False),
        nn.BatchNorm1d(8, eps=1e-3, momentum=0.3),
        nn.GELU(),
        nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, eps=1e-2), nn.Identity(), nn.Mish()),
        nn.RMSNorm(8),
        nn.Linear(8, 3),
    )


def steps(m, optimizer, count, loss=None, scheduler=None):
    """Do steps of PyTorch, over the rows in their order."""
    x, t = digits()
    loss = loss or nn.CrossEntropyLoss()
    for i in range(count):
        rows = slice(i % 10 * BATCH, (i % 10 + 1) * BATCH)
        optimizer.zero_grad()
        loss(m(x[rows]), t[rows]).backward()
        optimizer.step()
        if scheduler is not None and i % 10 == 9:
            scheduler.step()


def twin(m, optimizer, **options):
    """Return a copy of a module, and one of its optimizer, which torch would have share its state."""
    other = copy.deepcopy(m)
    of = dict(zip(m.parameters(), other.parameters(), strict=True))
    groups = [group | {"params": [of[p] for p in group["params"]]} for group in optimizer.param_groups]
    their = type(optimizer)(groups, **options)
    their.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, their


def ours(net, optimizer, count, loss=None):
    x, t = (a.numpy() for a in digits())
    trainer = fastnn.Trainer(net, loss or fastnn.SoftmaxCrossEntropy(), optimizer)
    trainer.fit(x, t, epochs=count // 10, batch_size=BATCH, shuffle=False)


def assert_same(a, b, atol=1e-9):
    """Two modules have the same parameters and buffers."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_same_memory(a, b, atol=1e-9):
    a, b = a.state_dict(), b.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for i, entry in a["state"].items():
        assert entry.keys() == b["state"][i].keys()
        for key, value in entry.items():
            torch.testing.assert_close(value, b["state"][i][key], rtol=0, atol=atol, check_dtype=False)


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, 0.1, weight_decay=1e-2),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adagrad": lambda p: Adagrad(p, 0.05, initial_accumulator_value=0.1, eps=1e-2, weight_decay=1e-3),
    "rmsprop": lambda p: RMSprop(p, 0.01, alpha=0.9, eps=0.1, weight_decay=1e-3),  # eps outside the root
    "adam": lambda p: Adam(p, 0.01, (0.8, 0.99), eps=0.1, weight_decay=1e-2),  # eps after the correction
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.1),
    "fused": lambda p: Adam(p, 0.01, eps=1e-4, fused=True),
    "decoupled": lambda p: Adam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True),
}


def made(kind, parameters):
    try:
        return OPTIMIZERS[kind](parameters)
    except TypeError:
        pytest.skip("this torch's optimizers have no such option")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_200_further_steps_agree(kind):
    """From torch to fastnn, 200 steps there, and back: as 200 steps of torch."""
    m = module()
    optimizer = made(kind, m.parameters())
    steps(m, optimizer, 30)
    net, own = from_torch(m, optimizer)
    x, _ = digits()
    np.testing.assert_allclose(net.predict(x.numpy()), m.eval()(x).detach().numpy(), rtol=0, atol=1e-13)
    m.train()
    before = m[1].running_var.clone()
    steps(m, optimizer, STEPS)
    ours(net, own, STEPS)
    back, theirs = to_torch(net, own)
    flat = nn.Sequential(*m[:3], m[3][0], m[3][1], m[3][3], m[4], m[5])
    assert str(flat).replace("eps=None", f"eps={torch.finfo().eps}") == str(back)
    # What differs: the divisor of a batch's variance, which weighs 1 less what is left of those before.
    left = 0.7**STEPS * before
    factor = BATCH / (BATCH - 1)
    back[1].running_var.copy_(left + factor * (back[1].running_var - left))
    back[1].num_batches_tracked.fill_(230)
    assert_same(flat, back)
    assert_same_memory(optimizer, theirs)
    assert own.step == (0 if "momentum" in optimizer.defaults and kind != "rmsprop" else 30) + STEPS


@pytest.mark.parametrize("kind", ["momentum", "adagrad", "adam"])
def test_a_module_trained_in_place(kind):
    m = module()
    optimizer = made(kind, m.parameters())
    steps(m, optimizer, 30)
    other, theirs = twin(m, optimizer)
    parameters = list(other.parameters())
    steps(m, optimizer, STEPS)
    x, t = digits()
    history = train_torch(
        other, nn.CrossEntropyLoss(), theirs, x, t, epochs=20, batch_size=BATCH, shuffle=False
    )
    assert history.steps == STEPS
    assert all(p is q for p, q in zip(parameters, other.parameters(), strict=True))
    assert_same(m, other)  # the running variance, too: all batches were of one size
    assert_same_memory(optimizer, theirs)


def test_batches_of_two_sizes_leave_almost_the_running_variance_of_torch():
    m = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    other = copy.deepcopy(m)
    x, t = digits()
    x = x * 3 + 1
    optimizer = SGD(m.parameters(), 0.0)
    for i in range(0, ROWS, 60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(m(x[i : i + 60]), t[i : i + 60]).backward()
        optimizer.step()
    train_torch(
        other,
        nn.CrossEntropyLoss(),
        SGD(other.parameters(), 0.0),
        x,
        t,
        epochs=1,
        batch_size=60,
        shuffle=False,
    )
    torch.testing.assert_close(other[0].running_var, m[0].running_var, rtol=1e-3, atol=0)
    torch.testing.assert_close(other[0].running_mean, m[0].running_mean, rtol=0, atol=1e-12)
    assert other[0].num_batches_tracked == 3


def test_groups_become_groups_both_ways():
    m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    m[2].bias.requires_grad_(False)
    groups = [
        {"params": [m[0].weight, m[4].weight], "lr": 0.02, "weight_decay": 0.1},
        {"params": [m[0].bias, m[2].bias], "lr": 0.01},
    ]
    optimizer = AdamW(groups, 0.03, weight_decay=0.0)  # of m[2].weight and m[4].bias it knows nothing
    steps(m, optimizer, 10)
    net, own = from_torch(m, optimizer)
    assert own.lr == 0.02
    assert own.groups == (
        Group("0.b", lr=0.5, decay=0.0),
        *(Group(name, frozen=True) for name in ("2.W", "2.b", "4.b")),
    )
    steps(m, optimizer, 50)
    ours(net, own, 50)
    back, theirs = to_torch(net, own)
    assert_same(m, back)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in theirs.param_groups] == [
        (0.02, 0.1, 2),
        (0.01, 0.0, 1),
    ]
    assert [p.requires_grad for p in back.parameters()] == [True, True, False, False, True, False]
    again = from_torch(back, theirs)[1]
    assert (again.lr, again.weight_decay, again.groups) == (own.lr, own.weight_decay, own.groups)


def test_what_a_module_does_not_have_stays_constant():
    m = nn.Sequential(
        nn.Linear(6, 6, bias=False),
        nn.BatchNorm1d(6, affine=False),
        nn.Tanh(),
        nn.LayerNorm(6, elementwise_affine=False),
        nn.LayerNorm(6, bias=False),
        nn.RMSNorm(6, elementwise_affine=False),
        nn.Linear(6, 3),
    )
    optimizer = Adam(m.parameters(), 0.01, weight_decay=0.1)
    net, own = from_torch(m, optimizer)
    steps(m, optimizer, STEPS)
    ours(net, own, STEPS)
    back, _ = to_torch(net, own)
    assert [type(p) for p in back] == [type(p) for p in m]
    for a, b in zip(m.parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert not net.params["0.b"].any()


def test_without_an_optimizer_a_network_in_training_needs_one_for_what_is_not_trained():
    m = nn.Sequential(nn.Linear(6, 3, bias=False))
    with pytest.raises(
        ValueError, match=r"^module 0 \(Linear\), bias: is not there.*Group\(\"0\.b\", frozen"
    ):
        from_torch(m)
    net = from_torch(m.eval())
    x, _ = digits()
    np.testing.assert_allclose(net.predict(x.numpy()), m(x).detach().numpy(), rtol=0, atol=1e-13)
    m = nn.Sequential(nn.Linear(6, 3))
    m[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^module 0 \(Linear\), weight: has requires_grad=False"):
        from_torch(m)


# What torch does, and what conversion makes of it


def test_a_velocity_holds_the_rate_and_torchs_buffer_does_not():
    m = nn.Linear(6, 3)
    optimizer = SGD(m.parameters(), 0.05, momentum=0.9)
    steps(m, optimizer, 10)
    _, own = from_torch(m, optimizer)
    buffer = optimizer.state[m.weight]["momentum_buffer"]
    np.testing.assert_allclose(own.state["v"]["0.W"], -0.05 * buffer.numpy().T, rtol=1e-15)


def test_a_scheduled_rate_agrees_between_trainings_and_not_within_one():
    m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = SGD(m.parameters(), 0.05, momentum=0.9)
    steps(m, optimizer, 20)
    other, theirs = twin(m, optimizer)
    net, own = from_torch(m, optimizer)
    for scheduled in (optimizer, theirs):
        for group in scheduled.param_groups:
            group["lr"] = 0.005
    own.lr = 0.005
    start = net.state_dict()["0.W"]
    steps(m, optimizer, 1)
    x, t = (a.numpy()[:BATCH] for a in digits())
    fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), own).step(x, t)
    theirs_moved = np.linalg.norm(m[0].weight.detach().numpy().T - start)
    assert np.linalg.norm(net.params["0.W"] - start) > 7 * theirs_moved
    train_torch(other, nn.CrossEntropyLoss(), theirs, x, t, epochs=1, batch_size=BATCH, shuffle=False)
    assert_same(m, other)


def test_a_scheduler_steps_between_trainings():
    m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = SGD(m.parameters(), 0.1, momentum=0.9)
    other, theirs = twin(m, optimizer)
    steps(m, optimizer, 50, scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(theirs, 0.5)
    x, t = digits()
    for _ in range(5):
        train_torch(other, nn.CrossEntropyLoss(), theirs, x, t, epochs=1, batch_size=BATCH, shuffle=False)
        scheduler.step()  # without a warning of steps that it has not seen
    assert_same(m, other)
    assert theirs.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.1 / 32


def test_state_goes_by_parameter_and_has_its_shape():
    m = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    optimizer = Adam([*m[1].parameters(), *m[0].parameters()])
    steps(m, optimizer, 3)
    _, own = from_torch(m, optimizer)
    np.testing.assert_array_equal(own.state["m"]["1.W"], optimizer.state[m[1].weight]["exp_avg"].numpy().T)
    wrong = copy.deepcopy(optimizer.state_dict())
    wrong["state"][0]["exp_avg"] = torch.zeros(3, 7)
    optimizer.load_state_dict(wrong)  # torch looks at no shapes
    with pytest.raises(ValueError, match=r"^module 1 \(Linear\), weight, exp_avg .* \(3, 6\), got \(3, 7\)"):
        from_torch(m, optimizer)


def test_a_parameter_without_a_gradient_has_no_state():
    m = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    m[1].bias.requires_grad_(False)
    optimizer = Adam(m.parameters())
    steps(m, optimizer, 3)
    assert len(optimizer.state) == 3
    _, own = from_torch(m, optimizer)
    assert own.groups == (Group("1.b", frozen=True),)
    assert own.step == 3
    m[1].bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"equally often.* 0 updates of module 1 \(Linear\), bias and 3 of"):
        from_torch(m, optimizer)
    momentum = SGD(m.parameters(), 0.1, momentum=0.9)  # which counts nothing: no buffer is one of zeros
    momentum.state[m[0].bias]["momentum_buffer"] = torch.ones(6)
    assert from_torch(m, momentum)[1].state["v"].keys() == {"0.b"}


@pytest.mark.parametrize("kind", ["adagrad", "rmsprop", "adam", "fused", "momentum"])
def test_torch_goes_on_with_what_was_written_into_a_fresh_optimizer(kind):
    m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    other = copy.deepcopy(m)
    optimizer, theirs = made(kind, m.parameters()), made(kind, other.parameters())
    steps(m, optimizer, 20)
    x, t = digits()
    train_torch(other, nn.CrossEntropyLoss(), theirs, x, t, epochs=1, batch_size=BATCH, shuffle=False)
    steps(other, theirs, 10)
    assert_same(m, other)
    assert_same_memory(optimizer, theirs)


def test_steps_are_counted_in_a_tensor_of_float():
    m = nn.Linear(6, 3).float()
    optimizer = Adam(m.parameters())
    for p in m.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p in m.parameters():
        optimizer.state[p]["step"].fill_(2.0**24)
    assert from_torch(m, optimizer)[1].step == 2**24
    optimizer.state[m.bias]["step"] = torch.tensor(np.nan)
    with pytest.raises(
        ValueError, match=r"bias: the optimizer's step must be a whole number, got tensor\(nan"
    ):
        from_torch(m, optimizer)


def test_batches_that_were_refused_are_counted_by_torch_alone():
    norm = nn.BatchNorm1d(6)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.zeros(1, 6))
    assert norm.num_batches_tracked == 1
    m = nn.Sequential(norm, nn.Linear(6, 3))
    x, t = digits()
    optimizer = SGD(m.parameters(), 0.1)
    with pytest.raises(ValueError, match="at least 2 rows"):
        train_torch(m, nn.CrossEntropyLoss(), optimizer, x[:1], t[:1], epochs=1)
    assert norm.num_batches_tracked == 1
    train_torch(m, nn.CrossEntropyLoss(), optimizer, x, t, epochs=1, batch_size=BATCH)
    assert norm.num_batches_tracked == 11


def test_a_state_dict_is_no_module():
    """It has metadata, and is an OrderedDict, not a dict."""
    state = nn.Linear(2, 2).state_dict()
    assert type(state) is not dict
    assert state._metadata
    with pytest.raises(TypeError, match=r"^module must be a torch\.nn\.Module, got OrderedDict"):
        from_torch(state)


def test_rms_norm_without_eps_has_that_of_its_dtype():
    for dtype in (torch.float32, torch.float64):
        m = nn.RMSNorm(4).to(dtype)
        x = 1e-7 * torch.arange(8).reshape(2, 4).to(dtype)
        np.testing.assert_allclose(from_torch(m).predict(x.numpy()), m(x).detach().numpy(), rtol=1e-5)
        assert from_torch(m).layers[0].eps == torch.finfo(dtype).eps


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.3),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.SELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(inplace=True),
    nn.Softplus(),
    nn.Mish(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_have_the_values_and_slopes_of_torch(activation):
    x = torch.linspace(-25, 25, 401, requires_grad=True)  # with 0
    y = activation(x + 0)
    y.backward(torch.ones(401))
    net = from_torch(nn.Sequential(activation))
    np.testing.assert_allclose(net.forward(x.detach().numpy()[:, None])[:, 0], y.detach().numpy(), atol=3e-9)
    np.testing.assert_allclose(net.backward(np.ones((401, 1)))[:, 0], x.grad.numpy(), atol=3e-9)
    back = to_torch(net)[0]
    assert str(back) == str(activation).replace("inplace=True", "")


LOSSES = [
    (nn.CrossEntropyLoss(), "labels"),
    (nn.CrossEntropyLoss(label_smoothing=0.2), "labels"),
    (nn.CrossEntropyLoss(label_smoothing=0.2), "rows"),
    (nn.functional.cross_entropy, "rows"),
    (nn.BCEWithLogitsLoss(), "shares"),
    (nn.MSELoss(), "numbers"),
    (nn.L1Loss(), "numbers"),
    (nn.HuberLoss(delta=0.3), "numbers"),
    (nn.SmoothL1Loss(), "numbers"),
    (nn.functional.huber_loss, "numbers"),
]


@pytest.mark.parametrize(("loss", "kind"), LOSSES, ids=str)
def test_losses_are_those_of_torch(loss, kind):
    x, labels = digits()
    shares = torch.softmax(torch.randn(ROWS, 3), 1)
    t = {"labels": labels, "rows": shares, "shares": shares, "numbers": torch.randn(ROWS, 3)}[kind]
    m = nn.Linear(6, 3)
    other = copy.deepcopy(m)
    optimizer = SGD(m.parameters(), 0.1)
    figures = []
    for _ in range(10):
        optimizer.zero_grad()
        figure = loss(m(x), t)
        figure.backward()
        optimizer.step()
        figures.append(figure.item())
    theirs = SGD(other.parameters(), 0.1)
    history = train_torch(other, loss, theirs, x, t, epochs=10, batch_size=ROWS)
    np.testing.assert_allclose(history.loss, figures, rtol=1e-12)
    assert_same(m, other, atol=1e-12)


def test_weights_of_classes_are_weights_of_rows():
    """As the error for a loss with weights says."""
    x, t = digits()
    weight = torch.tensor([1.0, 5.0, 0.5])
    m = nn.Linear(6, 3)
    other = copy.deepcopy(m)
    optimizer = SGD(m.parameters(), 0.1)
    steps(m, optimizer, 20, nn.CrossEntropyLoss(weight))
    options = {"epochs": 2, "batch_size": BATCH, "shuffle": False, "sample_weight": weight[t]}
    train_torch(other, nn.CrossEntropyLoss(), SGD(other.parameters(), 0.1), x, t, **options)
    assert_same(m, other)


def test_an_embedding_gets_rows_and_is_flattened():
    m = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    x = torch.randint(9, (ROWS, 3))
    _, t = digits()
    for make in (lambda p: SGD(p, 0.5), lambda p: Adagrad(p, 0.1, initial_accumulator_value=0.1)):
        optimizer = make(m.parameters())
        other, theirs = twin(m, optimizer)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(m(x), t).backward()
            optimizer.step()
        train_torch(other, nn.CrossEntropyLoss(), theirs, x, t, epochs=5, batch_size=ROWS)
        assert_same(m, other)
    back = to_torch(from_torch(m))
    assert str(back) == str(m)
    torch.testing.assert_close(back(x), m(x))
    for optimizer in (
        Adam(m.parameters()),
        SGD(m.parameters(), 0.1, momentum=0.9),
        SGD(m.parameters(), 0.1, weight_decay=0.1),
    ):
        with pytest.raises(ValueError, match=r"^optimizer \(\w+\): .*rows of the embedding"):
            from_torch(m, optimizer)


def test_images_are_flattened_by_the_linear_that_takes_them():
    m = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(5, 3, 4)
    np.testing.assert_allclose(from_torch(m).predict(x.numpy()), m(x).detach().numpy(), atol=1e-14)


def test_dropout_and_names_and_classes_of_ones_own():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.add_module("fc", nn.Linear(6, 8))
            self.add_module("act", nn.ReLU())
            self.add_module("drop", nn.Dropout(0.25))
            self.add_module("out", nn.Linear(8, 3))

    m = Net()
    net = from_torch(m)
    assert net.layers[2].ratio == 0.25
    assert str(to_torch(net)[2]) == "Dropout(p=0.25, inplace=False)"
    m.drop.p = 1.0
    with pytest.raises(ValueError, match=r"^module drop \(Dropout\): ratio must be"):
        from_torch(m)


# Refusals


def hooked(m, where="register_forward_hook"):
    getattr(m, where)(lambda *a: None)
    return m


def tied():
    m = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    m[2].weight = m[0].weight
    return m


def views():
    m, memory = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(8)
    m[0].weight.data, m[1].weight.data = memory[:4].view(2, 2), memory[2:6].view(2, 2)
    return m


def mixed_modes():
    m = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    m[1].eval()
    return m


def expanded():
    m = nn.Linear(2, 2)
    m.weight.data = torch.zeros(1, 1).expand(2, 2)
    return m


def of_ones_own():
    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * 2

    return Own(nn.Linear(2, 2))


L, T, V = nn.Linear, TypeError, ValueError
REFUSED = [
    (lambda: nn.Linear, T, "module must be a torch.nn.Module"),
    (lambda: "net", T, "module must be a torch.nn.Module, got 'net'"),
    (of_ones_own, T, "module (Own): fastnn has no layer for"),
    (lambda: nn.Sequential(nn.Identity()), V, "module must hold at least one layer"),
    (lambda: nn.Sequential(L(2, 2), nn.Sequential(L(2, 2), nn.Conv1d(1, 1, 1))), T, "module 1.1 (Conv1d): "),
    (lambda: nn.Sequential(L(2, 2), nn.Softmax(1)), T, "module 1 (Softmax): cannot be converted: leave"),
    (lambda: nn.LazyLinear(2), T, "module (LazyLinear): cannot be converted: pass an input"),
    (lambda: nn.ELU(), T, "module (ELU): fastnn has no layer"),
    (lambda: nn.ReLU6(), T, "module (ReLU6): fastnn has no layer"),
    (lambda: nn.Softplus(2.0), V, "module (Softplus): beta and threshold must be 1 and 20"),
    (lambda: nn.LeakyReLU(-1.0), V, "module (LeakyReLU): alpha must be a number >= 0"),
    (lambda: L(2, 2).bfloat16(), T, "module (Linear), weight: must be float32 or float64, got torch.bf"),
    (lambda: L(2, 2).half(), T, "module (Linear), weight: must be float32 or float64, got torch.fl"),
    (lambda: L(2, 2, device="meta"), V, "module (Linear), weight: must be on the CPU, got meta"),
    (lambda: nn.Sequential(L(2, 2), L(2, 2).float()), T, "module 1 (Linear), weight: must have the dtype"),
    (lambda: hooked(L(2, 2)), V, "module (Linear): has forward hooks"),
    (lambda: nn.Sequential(hooked(nn.Sequential(L(2, 2)), "register_forward_pre_hook")), V, "module 0 (Seq"),
    (lambda: nn.utils.parametrizations.weight_norm(L(2, 2)), T, "module (ParametrizedLinear): is param"),
    (lambda: nn.utils.spectral_norm(L(2, 2)), V, "module (Linear): has forward pre hooks"),
    (tied, V, "module 2 (Linear), weight: must have memory of its own, but shares that of module 0"),
    (views, V, "module 1 (Linear), weight: must have memory of its own"),
    (expanded, V, "module (Linear), weight: must have memory for each element"),
    (mixed_modes, V, "module 1 (BatchNorm1d): must be in the training mode of the whole, got eval"),
    (lambda: nn.BatchNorm1d(2, momentum=None), V, "module (BatchNorm1d): momentum must be a number"),
    (lambda: nn.BatchNorm1d(2, momentum=1.5), V, "module (BatchNorm1d): momentum must be in [0, 1]"),
    (lambda: nn.BatchNorm1d(2, track_running_stats=False), V, "module (BatchNorm1d): track_running"),
    (lambda: nn.BatchNorm1d(2, eps=0.0), V, "module (BatchNorm1d): eps must be a number > 0"),
    (lambda: nn.BatchNorm2d(2), T, "module (BatchNorm2d): fastnn has no layer"),
    (lambda: nn.LayerNorm((2, 2)), V, "module (LayerNorm): normalized_shape must have one dimension"),
    (lambda: nn.Embedding(3, 2, padding_idx=0), V, "module (Embedding): padding_idx must be None"),
    (lambda: nn.Embedding(3, 2, max_norm=1.0), V, "module (Embedding): max_norm must be None"),
    (lambda: nn.Embedding(3, 2, scale_grad_by_freq=True), V, "module (Embedding): scale_grad_by_freq"),
    (lambda: nn.Sequential(L(2, 2), nn.Embedding(3, 2)), V, "module 1 (Embedding): must come first"),
    (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(4)), V, "module 0 (Flatten): must be followed"),
    (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), V, "module 0 (Flatten): must be followed"),
    (lambda: nn.Sequential(nn.Flatten(0), L(2, 2)), V, "module 0 (Flatten): start_dim and end_dim"),
]


@pytest.mark.filterwarnings("ignore:.*(weight_norm|spectral_norm|Lazy modules)")
@pytest.mark.parametrize(("make", "error", "text"), REFUSED, ids=[text[:60] for *_, text in REFUSED])
def test_modules_that_are_refused(make, error, text):
    with pytest.raises(error, match="^" + re.escape(text)):
        from_torch(make())


def hooked_optimizer(m):
    optimizer = SGD(m.parameters(), 0.1)
    optimizer.register_step_post_hook(lambda *a: None)
    return optimizer


def per_group(m):
    return Adam([{"params": m.weight, "eps": 1e-3}, {"params": m.bias}])


REFUSED_OPTIMIZERS = [
    (lambda m: Adam, T, "optimizer must be a torch.optim.Optimizer"),
    (lambda m: fastnn.SGD(), T, "optimizer must be a torch.optim.Optimizer"),
    (lambda m: torch.optim.NAdam(m.parameters()), T, "optimizer (NAdam): must be one of SGD, Adagrad"),
    (lambda m: torch.optim.LBFGS(m.parameters()), T, "optimizer (LBFGS): must be one of SGD, Adagrad"),
    (
        lambda m: SGD(m.parameters(), 0.1, momentum=0.9, dampening=0.1),
        V,
        "optimizer (SGD), group 0: dampening must be 0, got 0.1",
    ),
    (lambda m: SGD(m.parameters(), 0.1, maximize=True), V, "optimizer (SGD), group 0: maximize must be"),
    (lambda m: SGD(m.parameters(), 0.0, momentum=0.9), V, "optimizer (SGD), group 0: lr must be > 0"),
    (lambda m: SGD(m.parameters(), 0.1, momentum=1.5), V, "optimizer (SGD): momentum must be a number"),
    (lambda m: Adagrad(m.parameters(), lr_decay=0.1), V, "optimizer (Adagrad), group 0: lr_decay must be"),
    (lambda m: RMSprop(m.parameters(), centered=True), V, "optimizer (RMSprop), group 0: centered must be"),
    (lambda m: RMSprop(m.parameters(), momentum=0.9), V, "optimizer (RMSprop), group 0: momentum must be"),
    (lambda m: Adam(m.parameters(), amsgrad=True), V, "optimizer (Adam), group 0: amsgrad must be False"),
    (lambda m: Adam(m.parameters(), eps=0.0), V, "optimizer (Adam): eps must be a number > 0"),
    (per_group, V, "optimizer (Adam): groups may differ in lr and weight_decay only"),
    (hooked_optimizer, V, "optimizer (SGD): has hooks"),
    (
        lambda m: SGD(L(5, 5).parameters(), 0.1),
        V,
        "optimizer (SGD), group 0: must have parameters of the module only, got one of shape (5, 5)",
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "text"), REFUSED_OPTIMIZERS, ids=[text[:60] for *_, text in REFUSED_OPTIMIZERS]
)
def test_optimizers_that_are_refused(make, error, text):
    m = nn.Linear(6, 3)
    with pytest.raises(error, match="^" + re.escape(text)):
        from_torch(m, make(m))


REFUSED_LOSSES = [
    (nn.CrossEntropyLoss(weight=torch.ones(3)), V, "loss (CrossEntropyLoss): weight must be None"),
    (nn.CrossEntropyLoss(reduction="sum"), V, "loss (CrossEntropyLoss): reduction must be mean"),
    (nn.CrossEntropyLoss(ignore_index=0), V, "loss (CrossEntropyLoss): ignore_index must be < 0"),
    (
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
        ValueError,
        "loss (BCEWithLogitsLoss): pos_weight must be",
    ),
    (nn.SmoothL1Loss(beta=0.5), V, "loss (SmoothL1Loss): beta must be 1, got 0.5"),
    (nn.PoissonNLLLoss(), T, "loss (PoissonNLLLoss): fastnn.Poisson() has its gradient"),
    (nn.GaussianNLLLoss(), T, "loss (GaussianNLLLoss): fastnn.GaussianNLL() takes means and"),
    (nn.NLLLoss(), T, "loss (NLLLoss): leave LogSoftmax out"),
    (nn.KLDivLoss(), T, "loss (KLDivLoss): must be one of CrossEntropyLoss"),
    (nn.functional.kl_div, T, "loss must be one of cross_entropy"),
    (nn.CrossEntropyLoss, T, "loss must be an object with forward and backward"),
    ("loss", T, "loss must be an object with forward and backward"),
]


@pytest.mark.parametrize(
    ("loss", "error", "text"), REFUSED_LOSSES, ids=[text[:60] for *_, text in REFUSED_LOSSES]
)
def test_losses_that_are_refused(loss, error, text):
    m = nn.Linear(6, 3)
    with pytest.raises(error, match="^" + re.escape(text)):
        train_torch(m, loss, SGD(m.parameters(), 0.1), *digits())


def test_an_error_changes_nothing():
    m = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = Adam(m.parameters())
    steps(m, optimizer, 3)
    other, theirs = copy.deepcopy((m, optimizer.state_dict()))
    x, t = digits()
    gone = x.clone()
    gone[100, 2] = torch.inf

    def stop(trainer, history):
        raise KeyError("a callback's")

    bad = [
        (FloatingPointError, "x has infinity in row 100", {"x": gone}),
        (ValueError, "t must hold integers", {"t": t - 1}),
        (ValueError, "^x must have 6 numbers a row", {"x": x[:, :5]}),
        (TypeError, "unexpected keyword argument 'epoch'", {"epoch": 3}),
        (ValueError, "^seed must be", {"seed": -1}),
        (KeyError, "a callback's", {"callbacks": [stop]}),
        (TypeError, "^x must be a tensor that NumPy can read", {"x": x.bfloat16()}),
        (ValueError, "^x must be on the CPU", {"x": x.to("meta")}),
        (ValueError, "^validation.1. must be on the CPU", {"validation": (x, t.to("meta"))}),
    ]
    for error, text, options in bad:
        with pytest.raises(error, match=text):
            train_torch(m, nn.CrossEntropyLoss(), optimizer, **{"x": x, "t": t, "epochs": 2} | options)
    assert_same(m, other, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), theirs, rtol=0, atol=0)
    m.eval()
    with pytest.raises(
        ValueError, match=r"^module must be in training mode for its BatchNorm: call module\.train"
    ):
        train_torch(m, nn.CrossEntropyLoss(), optimizer, x, t)
    with torch.inference_mode():
        made = nn.Linear(6, 3)
    with pytest.raises(ValueError, match="inference mode"):
        train_torch(made, nn.CrossEntropyLoss(), SGD(made.parameters(), 0.1), x, t)


def test_options_of_fit_and_seeds():
    """Without a seed it is torch's random state that says the order of the rows."""
    x, t = digits()
    results = []
    for seeds in ((1, None), (1, None), (2, None), (3, 7), (4, 7)):
        torch.manual_seed(0)
        m = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        torch.manual_seed(seeds[0])
        history = train_torch(
            m,
            fastnn.SoftmaxCrossEntropy(),
            Adam(m.parameters(), 0.01),
            x,
            t.tolist(),
            epochs=2,
            seed=seeds[1],
            clip_norm=1.0,
            validation=(x, t),
            sample_weight=torch.ones(ROWS),
            class_weight=torch.ones(3),
        )
        assert len(history.val_accuracy) == 2
        results.append(m[0].weight.detach().numpy().copy())
    same = [np.array_equal(a, b) for a, b in pairwise(results)]
    assert same == [True, False, False, True]


def test_what_was_learned_is_kept_where_a_callback_ends_the_training():
    m = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    other = copy.deepcopy(m)
    optimizer, theirs = Adam(m.parameters()), Adam(other.parameters(), torch.tensor(1e-3))
    steps(m, optimizer, 10)
    options = {
        "epochs": 5,
        "batch_size": BATCH,
        "shuffle": False,
        "callbacks": [lambda trainer, history: True],
    }
    train_torch(other, nn.CrossEntropyLoss(), theirs, *digits(), **options)
    assert_same(m, other)
    train_torch(other, nn.CrossEntropyLoss(), theirs, *digits(), epochs=0)
    assert_same(m, other)


def test_batches_of_one_row_and_what_is_all_frozen():
    m = nn.Linear(6, 3)
    other = copy.deepcopy(m)
    train_torch(m, nn.CrossEntropyLoss(), SGD(m.parameters(), 0.1), *digits(), epochs=1, batch_size=1)
    assert not torch.equal(m.weight, other.weight)
    optimizer = Adam(other.parameters())
    before = copy.deepcopy(other.requires_grad_(False))
    train_torch(other, nn.CrossEntropyLoss(), optimizer, *digits(), epochs=1)
    assert_same(before, other, atol=0)
    assert not optimizer.state
    optimizer.param_groups.clear()
    with pytest.raises(ValueError, match=r"^optimizer \(Adam\): must have a group"):
        from_torch(other, optimizer)


def test_tensors_are_read_where_they_are():
    """In train_torch only the first row, and batches, are converted: bytes stay bytes."""
    x = torch.randint(256, (ROWS, 6), dtype=torch.uint8)
    _, t = digits()
    m = nn.Linear(6, 3).float()
    seen = []
    fit = fastnn.Trainer.fit

    def note(self, x, t, **options):
        seen.extend([x, t])
        return fit(self, x, t, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastnn.Trainer, "fit", note)
        train_torch(m, nn.CrossEntropyLoss(), SGD(m.parameters(), 0.1), x, t, epochs=1, scale=1 / 255)
    assert np.shares_memory(seen[0], x.numpy())
    assert np.shares_memory(seen[1], t.numpy())


# To torch


def test_networks_of_the_reference_and_random_state():
    net = reference.mlp([6, 8, 3], batch_norm=True, dropout=0.1, activation="leaky_relu", seed=0)
    before = torch.get_rng_state()
    m = to_torch(net)
    assert torch.equal(before, torch.get_rng_state())
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(m.eval()(torch.from_numpy(x)), net.predict(x), rtol=1e-5, atol=1e-6)
    assert m[1].momentum == 0.1
    own = reference.Adam(groups=[Group("vectors", decay=0.0)], weight_decay=0.1)
    _, theirs = to_torch(net, own)
    assert [(len(g["params"]), g["weight_decay"]) for g in theirs.param_groups] == [(2, 0.1), (4, 0.0)]
    assert not theirs.state


def embedding(*others):
    return fastnn.Sequential([fastnn.Embedding.create(5, 2), *others])


def classic():
    return fastnn.Sequential([fastnn.Dropout(0.5, inverted=False)])


def normed():
    return embedding(fastnn.BatchNorm.create(4))


class OwnLayer(fastnn.ReLU):
    pass


def of_other():
    net, optimizer = fastnn.mlp([2, 3, 2]), fastnn.Adam()
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), optimizer)
    trainer.step(np.zeros((2, 2)), np.zeros(2, int))
    return fastnn.mlp([2, 4, 2]), optimizer


def net():
    return fastnn.mlp([2, 3, 2])


REFUSED_NETWORKS = [
    (lambda: ("net",), T, "net must be a Sequential of fastnn, got 'net'"),
    (lambda: (fastnn.ReLU(),), T, "net must be a Sequential of fastnn, got ReLU()"),
    (lambda: (fastnn.Sequential([OwnLayer()]),), T, "layers[0] must be a layer of fastnn that torch has"),
    (lambda: (classic(),), V, "layers[0] (Dropout): inverted must be True"),
    (lambda: (normed(),), V, "layers[1] (BatchNorm): must be followed by an Affine"),
    (lambda: (net(), "adam"), T, "optimizer must be one of fastnn, got 'adam'"),
    (lambda: (net(), SGD(L(2, 2).parameters(), 0.1)), T, "optimizer must be one of fastnn"),
    (lambda: (net(), fastnn.Adam(fastnn.schedules.CosineDecay(0.1, 3))), V, "lr of the optimizer must be a"),
    (lambda: (net(), fastnn.Momentum(0.0)), V, "lr of the optimizer must be > 0 with momentum"),
    (lambda: (net(), fastnn.Adam(groups=[Group("*", frozen=True)])), V, "optimizer must train a param"),
    (lambda: (net(), fastnn.Adam(groups=[Group("9.*")])), V, "groups: the pattern '9.*' must fit"),
    (of_other, V, "optimizer must be that of the network, got an array of shape (2, 3)"),
    (lambda: (embedding(fastnn.Affine.create(2, 2)), fastnn.Adam()), V, "optimizer (Adam): in torch"),
]


@pytest.mark.parametrize(
    ("make", "error", "text"), REFUSED_NETWORKS, ids=[text[:60] for *_, text in REFUSED_NETWORKS]
)
def test_networks_that_are_refused(make, error, text):
    with pytest.raises(error, match="^" + re.escape(text)):
        to_torch(*make())


def test_no_door_warns_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m = nn.Sequential(nn.Linear(6, 3))
        to_torch(*from_torch(m, Adam(m.parameters())))
