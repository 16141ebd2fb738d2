#!/usr/bin/env bash
# PyTorch 2.13.0: torch.onnx.export of a module in training mode writes its Dropout for training, its BatchNorm for inference.
# Expected: what the module computes; the documentation of the argument training says to set the model's mode before exporting. So the
# outputs of BatchNorm1d, normalized by the batch, have mean 0 and, with half of them dropped, the kept ones standard deviation 2.
# Seen: BatchNormalization without training_mode, by the running statistics of a new module, which are 0 and 1, before a Dropout with
# its training_mode: half of the outputs are dropped at random, and those kept have the mean and the deviation of the data, twice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import onnxruntime
import torch

torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
module.train()
x = torch.randn(1000, 3) * 5 + 2
torch.onnx.export(module, (x,), "module.onnx", dynamo=True, verbose=False)
session = onnxruntime.InferenceSession("module.onnx")
outputs = {
    "the file": torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]),
    "the module": module(x).detach(),
}
kept = {}
for name, y in outputs.items():
    kept[name] = y[y != 0]
    print(f"{name}: dropped {(y == 0).float().mean():.2f}, kept of mean {kept[name].mean():.2f}, deviation {kept[name].std():.2f}")
if kept["the file"].std() < 9 or kept["the module"].std() > 2.1:
    print("changed: the two agree")
    raise SystemExit(1)
PYTHON
