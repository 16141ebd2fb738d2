#!/usr/bin/env bash
# Keras 3.15.1, on PyTorch 2.13.0: a model with LayerNormalization or RMSNormalization cannot be exported to ONNX.
# Expected: model.export(path, format="onnx") writes the file, as it does for BatchNormalization; ONNX has nodes for both.
# Seen: LayerNormalization asks torch for the size of its input while it is traced, which PyTorch's older exporter, that Keras calls,
# refuses as not constant (SymbolicValueError); RMSNormalization is an operator that that exporter does not know
# (UnsupportedOperatorError).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=torch "$folder/venv/bin/python" -W ignore - 2> /dev/null <<'PYTHON' | grep -aE '^(changed|[a-z_]+ (exported|[A-Za-z]+Error)$)'
import keras
import numpy as np
from keras import layers

refused = []
for layer in (layers.BatchNormalization(), layers.LayerNormalization(), layers.RMSNormalization()):
    model = keras.Sequential([keras.Input((4,)), layer])
    model(np.ones((2, 4), np.float32))
    try:
        model.export("model.onnx", format="onnx", verbose=False)
        print(layer.name, "exported")
    except Exception as error:
        refused.append(layer.name)
        print(layer.name, type(error).__name__)
if refused != ["layer_normalization", "rms_normalization"]:
    print("changed: others can be exported")
    raise SystemExit(1)
PYTHON
