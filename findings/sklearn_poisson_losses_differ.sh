#!/usr/bin/env bash
# scikit-learn 1.9.1: the Poisson loss of two estimators differs by the terms of the targets alone.
# Expected: loss="poisson" is half of the Poisson deviance for each, and so >= 0: loss_ of MLPRegressor, and the negative of
# train_score_ of HistGradientBoostingRegressor.
# Seen: the loss of MLPRegressor is; that of HistGradientBoostingRegressor leaves t log t - t out, and its scores are above 0, so
# that the figures of the two cannot be compared, nor a score with what a perfect model has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_poisson_deviance
from sklearn.neural_network import MLPRegressor

rng = np.random.default_rng(0)
x = rng.normal(size=(400, 2))
t = rng.poisson(np.exp(1 + 0.3 * x[:, 0])) * 1.0
boosted = HistGradientBoostingRegressor(loss="poisson", max_iter=20, early_stopping=True, validation_fraction=None).fit(x, t)
half = mean_poisson_deviance(t, boosted.predict(x)) / 2
print(f"boosted: half of the deviance {half:.3f}, last score {boosted.train_score_[-1]:.3f}")
network = MLPRegressor(loss="poisson", alpha=0, learning_rate_init=1e-12, max_iter=1, random_state=0).fit(x, t)
of_network = mean_poisson_deviance(t, network.predict(x)) / 2
print(f"network: half of the deviance {of_network:.3f}, loss {network.loss_:.3f}")
same = np.isclose(network.loss_, of_network, rtol=1e-3)
if not (same and boosted.train_score_[-1] > 0 and half > 0):
    raise SystemExit("changed: both losses are deviances now, or neither is")
PYTHON
