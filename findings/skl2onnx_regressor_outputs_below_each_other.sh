#!/usr/bin/env bash
# skl2onnx 1.20.0: an MLPRegressor with several outputs becomes a graph that puts the outputs of a row one below the other.
# Expected: the shape of predict, (rows, outputs).
# Seen: a last Reshape to (-1, 1): (rows * outputs, 1); for 4 rows with 2 outputs (8, 1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet skl2onnx==1.20.0 scikit-learn==1.9.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.neural_network import MLPRegressor

x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
regressor = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5, random_state=0).fit(x, x[:, :2])
session = onnxruntime.InferenceSession(to_onnx(regressor, x[:1]).SerializeToString())
(y,) = session.run(None, {"X": x[:4]})
wanted = regressor.predict(x[:4])
print(f"predict: {wanted.shape}, the graph: {y.shape}, the same numbers: {np.allclose(y.ravel(), wanted.ravel(), atol=1e-5)}")
if y.shape != (8, 1):
    raise SystemExit("changed: the shape is another")
PYTHON
