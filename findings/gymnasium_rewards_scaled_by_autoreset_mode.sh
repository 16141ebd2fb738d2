#!/usr/bin/env bash
# Gymnasium 1.4.0: the vector NormalizeReward scales the same rewards otherwise in one autoreset mode than in the other.
# Expected: a reward of 1 a step, in episodes truncated after ten, is scaled alike whenever the environment is reset.
# Seen: in SAME_STEP a return starts anew with each episode. In NEXT_STEP, the default, it runs on through truncation
# and hardly varies, so the scaled reward grows with the square root of the steps: 0.57 against 15.3 after 10,000 episodes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeReward


class Walk(gymnasium.Env):
    """Each step pays 1; the TimeLimit below ends it."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


def scaled(mode, episodes):
    """Return the reward of the last step of an episode, after so many."""
    env = SyncVectorEnv([lambda: gymnasium.wrappers.TimeLimit(Walk(), 10)], autoreset_mode=mode)
    env = NormalizeReward(env, gamma=0.9)
    env.reset(seed=0)
    ended = 0
    while ended < episodes:
        _, rewards, _, truncated, _ = env.step(np.zeros(1, int))
        ended += truncated[0]
    return rewards[0]


returns = (1 - 0.9 ** np.arange(1, 11)) / 0.1
print(f"1 / std of the returns: {1 / returns.std():.2f}")
seen = {}
for episodes in (100, 1000, 10000):
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        seen[episodes, mode.name] = scaled(mode, episodes)
        print(f"{episodes} episodes, {mode.name}: a reward of 1 became {seen[episodes, mode.name]:.2f}")
if not (seen[10000, "SAME_STEP"] < 0.6 and seen[10000, "NEXT_STEP"] > 15):
    raise SystemExit("changed: both modes scale alike now")
PYTHON
