#!/usr/bin/env bash
# scikit-learn 1.9.1: class weights by text labels are looked up as numbers.
# Expected: {"0": 1.0, "1": 5.0} weighs the classes "0" and "1".
# Seen: compute_class_weight refuses labels of which each has an entry, and takes the entry 1 for the label "01".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.utils.class_weight import compute_class_weight

labels = np.array(["0", "1"])
try:
    compute_class_weight({"0": 1.0, "1": 5.0}, classes=labels, y=labels)
except ValueError as error:
    print("text labels, each with a weight:", error)
else:
    raise SystemExit("changed: text labels have their weights now")
other = np.array(["01", "b"])
weights = compute_class_weight({1: 7.0, "b": 2.0}, classes=other, y=other)
print("the number 1 for the label '01':", weights)
if weights.tolist() != [7.0, 2.0]:
    raise SystemExit("changed: '01' is no longer taken for 1")
PYTHON
