#!/usr/bin/env bash
# polars 2.1.0 with scikit-learn 1.9.1: dates beside floats are trained on as numbers, in the unit of their dtype.
# Expected: what pandas' frame of the same columns gets, a refusal; or that a date is the same number whatever its precision.
# Seen: fit takes the frame, a date as days since 1970, and the same date as a Datetime in milliseconds or microseconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0 scikit-learn==1.9.1 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PYTHON'
from datetime import date

import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

frame = pl.DataFrame({"size": np.array([0, 1, 0, 1], "f"), "day": [date(2024, 1, d) for d in (1, 2, 3, 4)]})
y = np.arange(4.0)
try:
    LinearRegression().fit(frame.to_pandas(), y)
except TypeError as error:
    print("pandas:", type(error).__name__)
else:
    raise SystemExit("changed: pandas' frame is taken, too")
units = {"day": pl.Date, "ms": pl.Datetime("ms"), "us": pl.Datetime("us")}
seen = {}
for unit, dtype in units.items():
    cast = frame.with_columns(pl.col("day").cast(dtype))
    LinearRegression().fit(cast, y)
    seen[unit] = cast.to_numpy()[0, 1].item()
print("2024-01-01 is", seen)
if seen != {"day": 19723.0, "ms": 19723 * 86400e3, "us": 19723 * 86400e6}:
    raise SystemExit("changed: dates are other numbers now")
PYTHON
