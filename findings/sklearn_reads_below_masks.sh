#!/usr/bin/env bash
# scikit-learn 1.9.1 with NumPy 2.4.6: what the mask of a masked array hides is trained on.
# Expected: masked numbers are left out, or refused as NaN is.
# Seen: fit takes them as they are below the mask, without a word; NumPy's own mean of the array leaves them out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression

y = np.ma.masked_equal([0.0, 1.0, 2.0, -999.0], -999)
x = np.ma.masked_equal([[0.0], [1.0], [2.0], [-999.0]], -999)
mean = DummyRegressor().fit(np.zeros((4, 1)), y).constant_.item()
slope = LinearRegression().fit(x, [0.0, 1.0, 2.0, 3.0]).coef_.item()
print(f"mean {y.mean()}, of the regressor {mean}; slope {slope:.4f}")
if mean != -249 or abs(slope) > 0.01:
    raise SystemExit("changed: the hidden numbers do not count any more")
PYTHON
