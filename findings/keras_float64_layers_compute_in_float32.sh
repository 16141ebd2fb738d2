#!/usr/bin/env bash
# Keras 3.15.1, on JAX: some layers of dtype float64 compute in float32, and tanh returns float32.
# Expected: float64, in which Dense computes, and the other activations; BatchNormalization's own comment says that it casts up to
# float32 what is of lower precision.
# Seen: the result type of float64 and float32 is float32 there, so that BatchNormalization and LayerNormalization cast float64 down,
# and the result back: their outputs are float64 with the errors of float32, 1e-7; and Activation("tanh") returns float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax JAX_ENABLE_X64=1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np
from keras import layers

x = np.linspace(0.1, 3, 8)[None]
deviations = (x - x.mean()) / np.sqrt(x.var() + 1e-3)
errors = {}
for layer, wanted in (
    (layers.Activation("sigmoid", dtype="float64"), 1 / (1 + np.exp(-x))),
    (layers.Activation("tanh", dtype="float64"), np.tanh(x)),
    (layers.BatchNormalization(dtype="float64"), x / np.sqrt(1 + 1e-3)),
    (layers.LayerNormalization(dtype="float64"), deviations),
):
    y = layer(x)
    errors[layer.name] = error = np.abs(np.asarray(y) - wanted).max()
    print(f"{layer.name}: computes in {layer.compute_dtype}, returns {y.dtype}, error {error:.0e}")
if max(errors.values()) < 1e-9:
    raise SystemExit("changed: all compute in float64")
PYTHON
