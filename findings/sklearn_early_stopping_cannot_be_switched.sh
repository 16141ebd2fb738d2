#!/usr/bin/env bash
# scikit-learn 1.9.1: a fitted MLP whose early_stopping is switched by set_params cannot be trained on.
# Expected: partial_fit, or fit with warm_start, goes on from the parameters, with early_stopping as it is set.
# Seen: after an epoch both fail, switched off with a TypeError, switched on with an AttributeError of None, and the weights have
# moved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from sklearn.neural_network import MLPRegressor

rng = np.random.default_rng(0)
x = rng.normal(size=(100, 3))
y = x[:, 0]
seen = []
for before, method in ((True, "partial_fit"), (True, "fit"), (False, "fit")):
    model = MLPRegressor(hidden_layer_sizes=(5,), early_stopping=before, warm_start=True, max_iter=3)
    model.fit(x, y)
    weights = model.coefs_[0].copy()
    model.set_params(early_stopping=not before)
    try:
        getattr(model, method)(x, y)
        seen.append("trained")
    except Exception as error:
        seen.append(type(error).__name__)
        moved = not np.array_equal(model.coefs_[0], weights)
        print(f"early_stopping {before}, then {not before}, {method}: {type(error).__name__}: {error}; weights moved: {moved}")
if seen != ["TypeError", "TypeError", "AttributeError"]:
    raise SystemExit(f"changed: {seen}")
PYTHON
