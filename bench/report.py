"""Tables on the screen, and the same rows in a file."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    head = list(rows[0])
    cells = [head] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of the same keys to a .json file, or to any other as CSV."""
    with path.open("w", newline="") as file:
        if path.suffix == ".json":
            json.dump(list(rows), file, indent=1)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
