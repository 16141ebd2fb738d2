"""Results: tables on the screen, and the same rows in files."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Rows = Sequence[dict[str, Any]]


class Report(NamedTuple):
    """What a benchmark found: rows of the same keys, what they come to, and which of them to print."""

    rows: Rows
    summary: Sequence[str] = ()
    shown: Rows | None = None  # None: all


def show(report: Report) -> None:
    """Print the rows as a table, and the summary below."""
    rows = report.rows if report.shown is None else report.shown
    if rows:
        cells = [list(rows[0])] + [[_text(value) for value in row.values()] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for texts in cells:
            print("  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True)))
    for line in report.summary:
        print(line)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_csv(report: Report, path: Path) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(report.rows[0]))
        writer.writeheader()
        writer.writerows(report.rows)


def write_json(report: Report, setting: dict[str, str], path: Path) -> None:
    """Write the rows, the summary and where they were measured as JSON."""
    content = {"setting": setting, "summary": list(report.summary), "rows": list(report.rows)}
    path.write_text(json.dumps(content, indent=1) + "\n")
