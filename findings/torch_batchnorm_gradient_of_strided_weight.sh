#!/usr/bin/env bash
# PyTorch 2.13.0, CPU: the gradient of batch_norm with respect to its input is wrong for a weight whose elements do not lie beside
# each other, such as a column of a table.
# Expected: the gradient that a contiguous copy of the same weight gives, and that gradcheck finds.
# Seen: the output and the gradients of weight and bias are right; that of the input takes the numbers that follow the weight's first
# one in memory, whatever they are, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import batch_norm

torch.manual_seed(0)
x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
table = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)  # a column of weights, one of biases
weight, bias = table[:, 0], table[:, 1]
towards = torch.randn(8, 3, dtype=torch.float64)


def passes(weight):
    y = batch_norm(x, None, None, weight, bias, training=True)
    (gradient,) = torch.autograd.grad(y, x, towards)
    return y.detach(), gradient


(y, strided), (same, contiguous) = passes(weight), passes(weight.contiguous())
_, of_neighbours = passes(table.flatten()[:3])  # 1, 0, 2
right = torch.autograd.gradcheck(lambda x: batch_norm(x, None, None, weight, bias, training=True), x, raise_exception=False)
print(f"outputs differ by {(y - same).abs().max():.0e}, gradients of the input by {(strided - contiguous).abs().max():.2f}")
print(f"from the gradient with the neighbours in memory by {(strided - of_neighbours).abs().max():.0e}; gradcheck: {right}")
if right or torch.allclose(strided, contiguous) or not torch.allclose(y, same):
    raise SystemExit("changed: the gradient takes the weight's own numbers")
PYTHON
