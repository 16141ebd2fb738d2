"""Proximal policy optimization (PPO) of a classic control problem, beside Stable-Baselines3's.

    with gymnasium.make("CartPole-v1") as env:
        joint, returns = ppo.train(env, 100_000)
    action = joint.parts["actor"].predict(observation[None])[0].argmax()

What learns stands above, what compares and draws below.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from .style import BLUE, RED, curves, frame, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

EPISODES = 20  # the return of a moment is the mean over that many, the last ones
OWN, PEER = "fastnn", "Stable-Baselines3"


class Settings(NamedTuple):
    """Names and values are those of Stable-Baselines3's PPO."""

    learning_rate: float = 3e-4
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


DEFAULTS = Settings()


class Rollout(NamedTuple):
    """Some steps, N, of an environment, and the returns of the episodes that ended among them.

    `observations` (N, features) are those before the steps, `following` those after; the last one of an
    episode is there, too. `terminated` and `truncated` say whether it ended with a step, and how.
    """

    observations: Array
    following: Array
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    finished: list[float]


class Batch(NamedTuple):
    """What the loss takes; all (N, ...). `log_probs` are those of the actions when they were taken."""

    observations: Array
    actions: Array
    log_probs: Array
    advantages: Array
    returns: Array


# The algorithm


def train(
    env: Any,
    steps: int,
    settings: Settings = DEFAULTS,
    seed: int = 0,
    lib: ModuleType = fastnn,
    dtype: Any = np.float32,
) -> tuple[Any, list[float]]:
    """Return the joint of actor and critic, and the return at the end of each rollout.

    A return is the mean over the last episodes, and NaN before the first has ended. Whole rollouts are
    played, as many as `steps` takes.
    """
    rng = np.random.default_rng(seed)
    (features,) = env.observation_space.shape
    actor = network(lib, [features, 64, 64, int(env.action_space.n)], 0.01, rng, dtype)
    critic = network(lib, [features, 64, 64, 1], 1.0, rng, dtype)
    joint = lib.Joint({"actor": actor, "critic": critic})
    optimizer = lib.Adam(settings.learning_rate, eps=1e-5)
    finished: list[float] = []
    returns = []
    played = rollouts(env, actor, settings.n_steps, rng, seed)
    for rollout in islice(played, -(-steps // settings.n_steps)):
        finished += rollout.finished
        returns.append(float(np.mean(finished[-EPISODES:])) if finished else math.nan)
        improve(joint, optimizer, judged(rollout, actor, critic, settings), settings, rng)
    return joint, returns


def network(lib: ModuleType, sizes: list[int], gain: float, rng: Any, dtype: Any) -> Any:
    """Return a network with tanh between orthogonal weights, the last times `gain`, the others sqrt(2)."""
    init = lib.init.orthogonal(math.sqrt(2))
    net = lib.mlp(sizes, activation="tanh", init=init, rng=rng, dtype=dtype)
    net.layers[-1].W *= gain / math.sqrt(2)
    return net


def rollouts(env: Any, actor: Any, n_steps: int, rng: Any, seed: int) -> Iterator[Rollout]:
    """Play on and on, by the probabilities of the actor of the moment, and yield each `n_steps` steps."""
    observation, _ = env.reset(seed=seed)
    total = 0.0
    while True:
        # To add Gumbel noise and take the largest is to draw from the softmax.
        noise = rng.gumbel(size=(n_steps, env.action_space.n))
        before, after = np.empty((2, n_steps, len(observation)), actor.dtype)
        actions, rewards = np.empty(n_steps, int), np.empty(n_steps)
        terminated, truncated = np.empty((2, n_steps), bool)
        finished = []
        for i in range(n_steps):
            before[i] = observation
            actions[i] = action = int((actor.predict(before[i : i + 1])[0] + noise[i]).argmax())
            observation, rewards[i], terminated[i], truncated[i], _ = env.step(action)
            after[i] = observation
            total += rewards[i]
            if terminated[i] or truncated[i]:
                finished.append(float(total))
                total = 0.0
                observation, _ = env.reset()
        yield Rollout(before, after, actions, rewards, terminated, truncated, finished)


def judged(rollout: Rollout, actor: Any, critic: Any, settings: Settings) -> Batch:
    """Return what there is to learn from a rollout.

    Nothing follows where an episode has terminated; where it was truncated there would have been more.
    """
    x = rollout.observations
    values = critic.predict(x)[:, 0].astype(float)
    next_values = np.where(rollout.terminated, 0, critic.predict(rollout.following)[:, 0])
    ended = rollout.terminated | rollout.truncated
    advantages = gae(rollout.rewards, values, next_values, ended, settings.gamma, settings.gae_lambda)
    log_probs = log_softmax(actor.predict(x))[np.arange(len(x)), rollout.actions]
    return Batch(x, rollout.actions, log_probs, advantages, advantages + values)


def gae(
    rewards: Array, values: Array, next_values: Array, ended: Array, gamma: float, gae_lambda: float
) -> Array:
    """Return generalized advantage estimates, sums of (gamma gae_lambda)^k delta[i + k] to the episode's end.

    delta = rewards + gamma next_values - values (Schulman et al. 2016).
    """
    advantages = rewards + gamma * next_values - values
    kept = gamma * gae_lambda * ~ended
    for i in reversed(range(len(advantages) - 1)):
        advantages[i] += kept[i] * advantages[i + 1]
    return advantages


def improve(joint: Any, optimizer: Any, batch: Batch, settings: Settings, rng: Any) -> None:
    """Do `n_epochs` of updates by minibatches."""
    actor, critic = joint.parts["actor"], joint.parts["critic"]
    n = len(batch.actions)
    for _ in range(settings.n_epochs):
        order = rng.permutation(n)
        shuffled = [array[order] for array in batch]
        for i in range(0, n, settings.batch_size):
            part = Batch(*(array[i : i + settings.batch_size] for array in shuffled))
            x = part.observations
            _, dlogits, dvalues = loss(actor.forward(x), critic.forward(x), part, settings)
            actor.backward_params(dlogits)
            critic.backward_params(dvalues)
            joint.update(optimizer, clip_norm=settings.max_grad_norm)


def loss(logits: Array, values: Array, batch: Batch, settings: Settings) -> tuple[float, Array, Array]:
    """Return PPO's loss and its gradients with respect to `logits` (N, actions) and `values` (N, 1).

    The clipped surrogate -mean(min(r A, clip(r) A)), r the ratio of the probabilities of an action now and
    when it was taken, A its normalized advantage; plus vf_coef times the squared error of the values, minus
    ent_coef times the entropy (Schulman et al. 2017).
    """
    n, rows = len(logits), np.arange(len(logits))
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    ratio = np.exp(log_p[rows, batch.actions] - batch.log_probs)
    advantages = batch.advantages - batch.advantages.mean()
    advantages /= advantages.std(ddof=1) + 1e-8
    free = ratio * advantages
    near = np.clip(ratio, 1 - settings.clip_range, 1 + settings.clip_range)
    surrogate = np.minimum(free, near * advantages)
    entropy = -(p * log_p).sum(axis=1, keepdims=True)
    error = values[:, 0] - batch.returns

    slope = np.where(surrogate < free, 0, -free / n)  # with respect to the logarithm of the probability
    dlogits = settings.ent_coef / n * p * (log_p + entropy) - slope[:, None] * p
    dlogits[rows, batch.actions] += slope
    dvalues = (2 * settings.vf_coef / n * error)[:, None]
    total = -surrogate.mean() - settings.ent_coef * entropy.mean() + settings.vf_coef * np.mean(error**2)
    return float(total), dlogits, dvalues


def log_softmax(logits: Array) -> Array:
    """Return the logarithms of the probabilities, rows of (N, actions)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


# The experiment


class Runs(NamedTuple):
    """Returns after each rollout, (seeds, rollouts), and the seconds that each run took, (seeds,)."""

    returns: Array
    seconds: Array


class Results(NamedTuple):
    """The steps to the end of each rollout, (rollouts,), and the runs of fastnn and Stable-Baselines3."""

    environment: str
    steps: Array
    runs: dict[str, Runs]


def run(
    lib: ModuleType = fastnn,
    environment: str = "CartPole-v1",
    steps: int = 100_000,
    seeds: int = 5,
    settings: Settings = DEFAULTS,
    peer: bool = True,
    dtype: Any = np.float32,
) -> Results:
    """Train with each seed; by turns with Stable-Baselines3, if it is installed and unless `peer` is False.

    ImportError without gymnasium. ValueError if it has no such environment, or one whose observations are
    not vectors or whose actions are not numbers from 0.
    """
    trainers: dict[str, Callable[..., tuple[Any, list[float]]]] = {OWN: partial(train, lib=lib, dtype=dtype)}
    if peer and (found := stable_baselines3()):
        trainers[PEER] = found
    measured: dict[str, list[tuple[list[float], float]]] = {name: [] for name in trainers}
    for seed in range(seeds):
        for name, trainer in trainers.items():
            with made(environment) as env:
                start = perf_counter()
                _, returns = trainer(env, steps, settings, seed)
                measured[name].append((returns, perf_counter() - start))
    runs = {name: Runs(*map(np.array, zip(*pairs, strict=True))) for name, pairs in measured.items()}
    return Results(environment, settings.n_steps * np.arange(1, runs[OWN].returns.shape[1] + 1), runs)


def made(environment: str) -> Any:
    """Return the environment; errors as `run`."""
    try:
        import gymnasium
    except ImportError:
        raise ImportError("the environments need gymnasium: pip install 'fastnn-cpu[rl]'") from None
    try:
        env = gymnasium.make(environment)
    except gymnasium.error.Error as error:
        raise ValueError(f"environment must be one of gymnasium's, got {environment!r}: {error}") from None
    x, actions = env.observation_space, env.action_space
    vectors = isinstance(x, gymnasium.spaces.Box) and len(x.shape) == 1
    if not vectors or not isinstance(actions, gymnasium.spaces.Discrete) or actions.start != 0:
        raise ValueError(
            "environment must have vectors as observations and actions that are numbers from 0, "
            f"got {environment!r} with {x} and {actions}"
        )
    return env


def stable_baselines3() -> Callable[..., tuple[Any, list[float]]] | None:
    """Return a function like `train` with Stable-Baselines3's PPO, None if that is not installed."""
    try:
        import torch
        from stable_baselines3 import PPO
    except ImportError:
        return None

    def train(env: Any, steps: int, settings: Settings, seed: int) -> tuple[Any, list[float]]:
        model = PPO(
            "MlpPolicy", env, seed=seed, device="cpu", stats_window_size=EPISODES, **settings._asdict()
        )
        returns, threads = [], torch.get_num_threads()
        torch.set_num_threads(1)  # with which networks of this size are faster than with two
        for _ in range(-(-steps // settings.n_steps)):
            model.learn(settings.n_steps, reset_num_timesteps=False)
            finished = [episode["r"] for episode in model.ep_info_buffer]
            returns.append(float(np.mean(finished)) if finished else math.nan)
        torch.set_num_threads(threads)
        return model, returns

    return train


def rate(results: Results, name: str) -> float:
    """Return the steps a second, all runs together and all of the program."""
    seconds = results.runs[name].seconds
    return float(results.steps[-1] * len(seconds) / seconds.sum())


def finding(results: Results) -> str:
    """Return what was found."""
    ends = {name: f"{runs.returns[:, -1].mean():.0f}" for name, runs in results.runs.items()}
    own = f"Return {ends[OWN]} at {rate(results, OWN):,.0f} steps a second"
    if PEER not in ends:
        return f"{own}; stable_baselines3 is not installed"
    return f"{own}; {PEER} {ends[PEER]} at {rate(results, PEER):,.0f}"


@styled
def draw(results: Results) -> Figure:
    """Draw the returns over steps of the environment, and over seconds."""
    environment, steps, runs = results
    seeds = len(runs[OWN].seconds)
    made_by = f"PPO of {environment}, {PEER}'s defaults"
    note = f"{made_by}; means of {EPISODES} episodes, mean and span of {seeds} seeds"
    figure, ((by_steps, by_seconds),) = frame(finding(results), note, 1, 2, 4.6, sharey=True)
    for (name, (returns, seconds)), colour in zip(runs.items(), (BLUE, RED), strict=False):
        curves(by_steps, steps, returns, color=colour, label=name)
        curves(by_seconds, steps / steps[-1] * seconds.mean(), returns, color=colour)
    by_steps.set(xlabel="steps of the environment", ylabel="return")
    by_seconds.set(xscale="log", xlabel="seconds")
    by_steps.margins(x=0)
    by_steps.legend(loc="lower right")
    return figure
