#!/usr/bin/env bash
# scikit-learn 1.9.1: partial_fit of MLPClassifier and MLPRegressor goes on with the solver and the rate of the first call.
# Expected: a learning_rate_init (or solver, momentum ...) that set_params has changed holds for the partial_fit after it, as alpha
# does, or is refused.
# Seen: the steps are the same, bit by bit, whatever has been set, and nothing says so; get_params shows the new value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.neural_network import MLPRegressor

rng = np.random.default_rng(0)
x = rng.normal(size=(50, 3))


def moved(**changed):
    """Return how far the weights move in a call after these parameters were set."""
    model = MLPRegressor(hidden_layer_sizes=(5,), learning_rate_init=0.01, random_state=0).partial_fit(x, x[:, 0])
    before = model.coefs_[0].copy()
    model.set_params(**changed).partial_fit(x, x[:, 0])
    return float(np.abs(model.coefs_[0] - before).max())


as_before, tiny, other = moved(), moved(learning_rate_init=1e-9), moved(solver="sgd", learning_rate_init=1e-9)
print(f"moved by {as_before:.6f} with the rate as it was, {tiny:.6f} with 1e-9, {other:.6f} with 1e-9 and another solver")
print(f"and by {moved(alpha=100.0):.6f} with another alpha")
if not as_before == tiny == other > 0 or moved(alpha=100.0) == as_before:
    raise SystemExit("changed: partial_fit takes the parameters that are set")
PYTHON
