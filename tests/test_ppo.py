"""PPO of the experiments: its gradient, its advantages, what ends an episode and how, and that it learns."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fastnn
from fastnn.experiments import ppo

QUICK = ppo.Settings(n_steps=64, batch_size=32, n_epochs=2)


def network(*sizes, lib=fastnn, seed=0):
    return lib.mlp(sizes, activation="tanh", seed=seed, dtype=np.float64)


def batch(n, actions, features=4, seed=0):
    """Return a random batch, and logits of other policies than that which has taken its actions."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, actions))
    taken = rng.integers(0, actions, n)
    before = ppo.log_softmax(logits + 0.5 * rng.standard_normal((n, actions)))[np.arange(n), taken]
    x = rng.standard_normal((n, features))
    return ppo.Batch(x, taken, before, 3 * rng.standard_normal(n) + 1, rng.standard_normal(n)), logits


def written_out(logits, values, batch, settings):
    """Return the loss, a row at a time."""
    n = len(logits)
    mean = sum(batch.advantages) / n
    std = math.sqrt(sum((a - mean) ** 2 for a in batch.advantages) / (n - 1))
    total = 0.0
    for z, (v,), action, log_prob, a, r in zip(logits, values, *batch[1:], strict=True):
        p = [math.exp(y) / sum(map(math.exp, z)) for y in z]
        ratio, advantage = p[action] / math.exp(log_prob), (a - mean) / (std + 1e-8)
        low, high = 1 - settings.clip_range, 1 + settings.clip_range
        total -= min(ratio * advantage, min(max(ratio, low), high) * advantage)
        total += settings.vf_coef * (v - r) ** 2
        total += settings.ent_coef * sum(q * math.log(q) for q in p)
    return total / n


# The loss


def test_the_loss_and_its_gradients_against_finite_differences():
    settings = ppo.Settings(ent_coef=0.03)
    b, logits = batch(40, 3)
    values = np.random.default_rng(1).standard_normal((40, 1))
    total, dlogits, dvalues = ppo.loss(logits, values, b, settings)
    assert total == pytest.approx(written_out(logits, values, b, settings), rel=1e-12)
    ratio = np.exp(ppo.log_softmax(logits)[np.arange(40), b.actions] - b.log_probs)
    better = b.advantages > b.advantages.mean()
    for outside in (ratio < 0.8, ratio > 1.2):
        assert (outside & better).any()
        assert (outside & ~better).any()
    assert np.abs(np.abs(ratio - 1) - 0.2).min() > 1e-4, "at a kink there is no derivative"

    def slope(array, i, h=1e-6):
        ends = []
        for step in (h, -h):
            old, array[i] = array[i], array[i] + step
            ends.append(written_out(logits, values, b, settings))
            array[i] = old
        return (ends[0] - ends[1]) / (2 * h)

    for array, gradient in ((logits, dlogits), (values, dvalues)):
        expected = [slope(array, i) for i in np.ndindex(array.shape)]
        np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lib", [fastnn, fastnn.reference], ids=["native", "reference"])
def test_the_gradients_of_the_parameters(lib):
    settings = ppo.Settings(ent_coef=0.03)
    b, _ = batch(40, 3)
    actor, critic = network(4, 8, 8, 3, lib=lib), network(4, 8, 8, 1, lib=lib, seed=1)
    joint = lib.Joint({"actor": actor, "critic": critic})

    def loss():
        return ppo.loss(actor.forward(b.observations), critic.forward(b.observations), b, settings)

    _, dlogits, dvalues = loss()
    actor.backward_params(dlogits)
    critic.backward_params(dvalues)
    grads = {name: grad.copy() for name, grad in joint.grads.items()}
    rng = np.random.default_rng(2)
    for name, param in joint.params.items():
        direction, h = rng.standard_normal(param.shape), 1e-6
        param += h * direction
        above = loss()[0]
        param -= 2 * h * direction
        below = loss()[0]
        param += h * direction
        assert (above - below) / (2 * h) == pytest.approx((grads[name] * direction).sum(), rel=1e-5), name


def test_large_logits_stay_finite():
    b, logits = batch(8, 3)
    for result in ppo.loss(1e4 * logits, np.zeros((8, 1)), b, ppo.Settings(ent_coef=0.1))[1:]:
        assert np.isfinite(result).all()


# Advantages, and the ends of episodes


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_advantages_are_sums_to_the_end_of_the_episode(gae_lambda):
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.standard_normal((3, 30))
    ended = rng.random(30) < 0.2
    assert 2 < ended.sum() < 10
    delta = rewards + 0.8 * next_values - values
    expected = []
    for i in range(30):
        total = 0.0
        for k in range(30 - i):
            total += (0.8 * gae_lambda) ** k * delta[i + k]
            if ended[i + k]:
                break
        expected.append(total)
    actual = ppo.gae(rewards, values, next_values, ended, 0.8, gae_lambda)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


class Corridor:
    """Observations count the steps since reset, 0 to `length`, where the episode ends; each step pays 1."""

    def __init__(self, length, terminated, truncated, actions=2):
        self.length, self.ends = length, (terminated, truncated)
        self.action_space = SimpleNamespace(n=actions)

    def reset(self, seed=None):
        self.at = 0
        return np.array([0.0]), {}

    def step(self, action):
        assert type(action) is int
        self.at += 1
        ends = self.ends if self.at == self.length else (False, False)
        return np.array([float(self.at)]), 1.0, *ends, {}


def rollout(env, n_steps, actor=None):
    return next(ppo.rollouts(env, actor or network(1, 8, 2), n_steps, np.random.default_rng(0), 0))


@pytest.mark.parametrize(
    ("terminated", "truncated", "beyond"), [(True, False, 0), (False, True, 1), (True, True, 0)]
)
def test_what_follows_an_end(terminated, truncated, beyond):
    """There is value beyond the end of a truncated episode, and none beyond one that has terminated."""
    played = rollout(Corridor(3, terminated, truncated), 8)
    np.testing.assert_array_equal(played.observations[:, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(played.following[:, 0], [1, 2, 3, 1, 2, 3, 1, 2])
    assert played.finished == [3.0, 3.0]
    critic = network(1, 1)
    critic.layers[0].W[...] = 10  # the value of an observation is ten times what it is, plus 1
    critic.layers[0].b[...] = 1
    settings = ppo.Settings(gamma=0.5, gae_lambda=1.0)
    b = ppo.judged(played, network(1, 8, 2), critic, settings)
    whole = [1 + 0.5 + 0.25 + 0.125 * 31 * beyond, 1 + 0.5 + 0.25 * 31 * beyond, 1 + 0.5 * 31 * beyond]
    cut = [1 + 0.5 + 0.25 * 21, 1 + 0.5 * 21]  # by the end of the rollout
    np.testing.assert_allclose(b.returns, [*whole, *whole, *cut], rtol=1e-12)
    np.testing.assert_allclose(b.advantages, b.returns - (10 * played.observations[:, 0] + 1), rtol=1e-12)


def test_an_episode_goes_on_in_the_next_rollout():
    played = ppo.rollouts(Corridor(5, True, False), network(1, 8, 2), 3, np.random.default_rng(0), 0)
    four = [next(played) for _ in range(4)]
    assert [r.observations[:, 0].tolist() for r in four] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert [r.finished for r in four] == [[], [5.0], [], [5.0]]


def test_actions_are_drawn_by_their_probabilities():
    actor = network(1, 3)
    actor.layers[0].W[...] = 0
    actor.layers[0].b[...] = np.log([0.6, 0.3, 0.1])
    played = rollout(Corridor(9, True, False, actions=3), 4000, actor)
    shares = np.bincount(played.actions, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=4 * math.sqrt(0.25 / 4000))
    log_probs = ppo.judged(played, actor, network(1, 1), ppo.DEFAULTS).log_probs
    np.testing.assert_allclose(np.exp(log_probs), np.array([0.6, 0.3, 0.1])[played.actions], rtol=1e-12)


# Training


def test_networks_start_orthogonal():
    net = ppo.network(fastnn, [4, 64, 64, 2], 0.01, np.random.default_rng(0), np.float64)
    for i, gain in ((2, math.sqrt(2)), (4, 0.01)):
        W = net.layers[i].W
        np.testing.assert_allclose(W.T @ W, gain**2 * np.eye(W.shape[1]), atol=1e-12)
        assert (net.layers[i].b == 0).all()


def train(lib=fastnn, steps=192, settings=QUICK, **options):
    gymnasium = pytest.importorskip("gymnasium")
    with gymnasium.make("CartPole-v1") as env:
        return ppo.train(env, steps, settings, lib=lib, **options)


def test_native_and_reference_agree():
    """In float64 rounding is all that can differ, and actions are the same."""
    (native, returns), (reference, expected) = (
        train(lib, dtype=np.float64) for lib in (fastnn, fastnn.reference)
    )
    assert returns == expected
    for name, param in native.params.items():
        np.testing.assert_allclose(param, reference.params[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_seed_is_a_training():
    (a, _), (b, _), (c, _) = train(seed=1), train(seed=1), train(seed=2)
    for name, param in a.params.items():
        np.testing.assert_array_equal(param, b.params[name])
    assert (a.params["actor.0.W"] != c.params["actor.0.W"]).all()


def test_it_learns():
    _, returns = train(steps=20_000, settings=ppo.DEFAULTS)
    assert len(returns) == 10
    assert returns[0] < 40
    assert returns[-1] > 120


# The experiment


@pytest.mark.parametrize("environment", ["Acrobot-v1", "MountainCar-v0"])
def test_other_environments(environment):
    pytest.importorskip("gymnasium")
    results = ppo.run(environment=environment, steps=600, seeds=1, settings=QUICK, peer=False)
    assert results.steps.tolist() == [64 * i for i in range(1, 11)]
    returns = results.runs[ppo.OWN].returns
    assert np.isnan(returns[0, 0]), "no episode has ended"
    assert -500 <= returns[0, -1] < -100
    assert ppo.finding(results).startswith("Return -")


@pytest.mark.parametrize("environment", ["CartPole-v99", "Pendulum-v1", "FrozenLake-v1", "nothing"])
def test_an_environment_that_does_not_fit(environment):
    pytest.importorskip("gymnasium")
    with pytest.raises(ValueError, match=f"^environment must .*, got '{environment}'"):
        ppo.run(environment=environment, peer=False)


def test_missing_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"gymnasium: pip install 'fastnn-cpu\[rl\]'"):
        ppo.run(peer=False)


@pytest.fixture
def peer(monkeypatch):
    """Put something in the place of Stable-Baselines3; return its options, and the threads of torch."""
    seen = SimpleNamespace(options=[], threads=[])

    class PPO:
        def __init__(self, policy, env, **options):
            assert policy == "MlpPolicy"
            seen.options.append(options)
            self.ep_info_buffer = []

        def learn(self, steps, reset_num_timesteps):
            assert not reset_num_timesteps
            self.ep_info_buffer.append({"r": steps})

    torch = SimpleNamespace(get_num_threads=lambda: 2, set_num_threads=seen.threads.append)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "stable_baselines3", SimpleNamespace(PPO=PPO))
    return seen


def test_beside_stable_baselines3(peer):
    pytest.importorskip("gymnasium")
    results = ppo.run(steps=128, seeds=2, settings=QUICK)
    assert [options["seed"] for options in peer.options] == [0, 1]
    for options in peer.options:
        assert {name: options[name] for name in ppo.Settings._fields} == QUICK._asdict()
    assert peer.threads == [1, 2, 1, 2], "as it was found"
    assert (results.runs[ppo.PEER].returns == 64).all()
    assert "Stable-Baselines3 64 at" in ppo.finding(results)


def test_without_stable_baselines3(monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setitem(sys.modules, "torch", None)
    results = ppo.run(steps=128, seeds=1, settings=QUICK)
    assert set(results.runs) == {ppo.OWN}
    assert ppo.finding(results).endswith("stable_baselines3 is not installed")
