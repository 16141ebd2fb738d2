#!/usr/bin/env bash
# PyTorch 2.13.0: BatchNorm counts a batch before it looks whether it can be normalized, and averages by that count.
# Expected: a batch of one row, which is refused with ValueError, changes nothing; with momentum=None, the plain average of all
# batches, the running mean after the next batch, the first that counts, is that batch's mean.
# Seen: num_batches_tracked is 1 after the refused batch, and the running mean after the next half of its mean, for good.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

norm = torch.nn.BatchNorm1d(2, momentum=None)
batch = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
try:
    norm(batch[:1])
except ValueError as error:
    print("refused:", error)
counted = norm.num_batches_tracked.item()
norm(batch)
print(f"counted {counted} refused batch; mean of the batch after it {batch.mean(0).tolist()}, running {norm.running_mean.tolist()}")
if (counted, norm.running_mean.tolist()) != (1, [1.0, 10.0]):
    raise SystemExit("changed: a refused batch is not counted any more")
PYTHON
