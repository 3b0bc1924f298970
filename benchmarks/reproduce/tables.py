"""The published fact tables as arrays; ``tables/README.md`` names their sources."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "tables"
ACCURACY_TABLES = {
    "sfda_cnn_11x11": ("SFDA, supervised CNNs", 1),
    "sfda_selfsup_12x11": ("SFDA, self-supervised", 1),
    "emms_vit_13x11": ("EMMS, vision transformers", 1),
    "logme_10x8": ("LogME", 1),
    "tmlr_10x11": ("Back to the Basics", 100),
    "rept_head_11x11": ("SFDA's CNNs, head only", 1),
    "transfergraph_111x13": ("TransferGraph, hub images", 100),
    "shift_image_231x16": ("SHiFT, hub images", 100),
    "shift_text_158x11": ("SHiFT, hub texts", 100),
}
"""name -> title, and the factor that makes points of the file's values."""

CLASSES = {
    "Aircraft": 100,
    "Caltech101": 102,  # with the background class: the wider bound
    "CIFAR10": 10,
    "CIFAR100": 100,
    "DTD": 47,
    "OxfordIIITPets": 37,
    "StanfordCars": 196,
    "SUN397": 397,
}
Scores = dict[tuple[str, str], dict[str, str]]
"""(dataset, method) -> model -> value as printed, so that its last digit is known."""


@dataclass(frozen=True)
class AccuracyTable:
    """Test accuracy in points, (models, sets); ``printed`` holds the same cells as text."""

    name: str
    title: str
    models: tuple[str, ...]
    sets: tuple[str, ...]
    accuracy: np.ndarray
    printed: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> dict[str, str]:
        """One set: model -> value as printed."""
        at = self.sets.index(name)
        return {model: row[at] for model, row in zip(self.models, self.printed, strict=True)}


def accuracies(name: str) -> AccuracyTable:
    """One of ``ACCURACY_TABLES``."""
    title, factor = ACCURACY_TABLES[name]
    header, *rows = _read(name)
    cells = tuple(tuple(row[1:]) for row in rows)
    values = np.array(cells, dtype=float) * factor
    return AccuracyTable(name, title, tuple(row[0] for row in rows), tuple(header[1:]), values, cells)


def facts(table: str, column: str) -> dict[str, float]:
    """A column of ``models.csv`` for the models of one table; empty where nothing is known of them."""
    header, *rows = _read("models")
    at = header.index(column)
    return {row[1]: float(row[at]) for row in rows if row[0] == table}


def scores(name: str) -> Scores:
    """``logme_scores`` or ``spider_scores``."""
    header, *rows = _read(name)
    found: Scores = {}
    for row in rows:
        for method, value in zip(header[2:], row[2:], strict=True):
            found.setdefault((row[0], method), {})[row[1]] = value
    return found


def printed_taus(name: str) -> dict[str, dict[str, float]]:
    """``sfda_tau`` or ``spider_tau``: method -> set (and ``mean``) -> weighted tau."""
    header, *rows = _read(name)
    return {row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True)) for row in rows}


def printed_correlations() -> dict[tuple[str, str, str], float]:
    """(set, method, measure) -> figure of the LogME README."""
    header, *rows = _read("logme_correlations")
    return {
        (row[0], method, row[1]): float(value)
        for row in rows
        for method, value in zip(header[2:], row[2:], strict=True)
    }


def other_hscores() -> dict[str, tuple[int, dict[str, float]]]:
    """The H-scores of the TMLR benchmark: set -> classes and model -> value."""
    header, *rows = _read("tmlr_hscores")
    return {row[0]: (int(row[1]), dict(zip(header[2:], map(float, row[2:]), strict=True))) for row in rows}


def _read(name: str) -> list[list[str]]:
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
