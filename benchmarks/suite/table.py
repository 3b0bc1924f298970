"""The ground-truth table: a CSV that only grows, so that a killed run goes on where it was."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "set", "encoder", "strategy", "seed", "size", "n_train", "n_val", "n_test", "classes", "steps", "rates_tried",
    "rate", "val_accuracy", "test_accuracy", "test_log_loss", "diverged", "seconds", "precision", "torch", "timm",
    "cpu", "status", "reason",
)  # fmt: skip
Key = tuple[str, str, str, int]


def append(path: Path, row: dict[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Add one row and force it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    torn = not new and not path.read_bytes().endswith(b"\n")  # killed in the middle of a row
    with path.open("a", newline="", encoding="utf-8") as file:
        if torn:
            file.write("\r\n")
        writer = csv.DictWriter(file, columns, restval="")
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[Key, dict[str, str]]:
    """The last row of each cell: a cell that failed once and worked later counts as done."""
    rows = whole_rows(path)
    return {(row["set"], row["encoder"], row["strategy"], int(row["seed"])): row for row in rows}


def whole_rows(path: Path) -> list[dict[str, str]]:
    """The rows of any table that ``append`` wrote, oldest first; none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["status"]]  # a torn last line has none
