"""Few labels of a target that has none: which items to ask for, the answers read back, the choice made again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selector.core.atomic import write_atomic
from selector.core.contracts import UNLABELED, Target
from selector.core.errors import ConfigError, OptionError, did_you_mean
from selector.core.input_files import open_file, read_arrays
from selector.report.labels import render_page
from selector.report.ranking import Ranking
from selector.scan.adapting import LABELS, PREDICTIONS, read_labels
from selector.scan.previews import previewed
from selector.tuning.labeling import Labeling

QUESTIONS, PAGE = "label.csv", "label.html"
HEADER = ("item", "label", "id")
_MOST_BYTES = 2 << 30  # of predictions: a small archive may unpack to any size


@dataclass(frozen=True)
class Asked:
    """Items to label: where the table and the page lie, and how the candidates stand before their labels are known.

    Attributes:
        items: readable names, in the order of what they are expected to tell.
        standing: rows of model, strategy, expected accuracy and P(best), the best first.
    """

    table: Path
    page: Path
    items: tuple[str, ...]
    standing: tuple[tuple[str, str, float, float], ...]


def ask(ranking: Ranking, target: Target, count: int) -> Asked:
    """Write a CSV and a page of the items whose labels would best tell the leading candidates apart.

    Raises:
        ConfigError: the run has adapted nothing, or everything has a label already.
    """
    folder = _folder(ranking)
    section = ranking.confirmation["adaptation"]
    voted = section.get("labeled", {"voted": section["selected"]}).get("voted")
    keys, hashes, labeling = _labeling(folder, read_labels(folder), voted)
    if len(hashes) == len(labeling.labels):
        raise ConfigError(f"{folder}: every item of the target has a label by now; there is nothing to ask for.")
    place = {target.hashes[i]: int(i) for i in target.indices(UNLABELED)[::-1]}  # of copies the first
    chosen = [(hashes[i], place[hashes[i]]) for i in labeling.batch(count)]
    names = [str(target.names[i]) for _, i in chosen]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((_inert(name), "", value) for name, (value, _) in zip(names, chosen, strict=True))
    write_atomic(folder / QUESTIONS, text.getvalue().encode())
    shown = [{"id": value, "name": name, "index": i} for name, (value, i) in zip(names, chosen, strict=True)]
    page = render_page(ranking.target["name"], list(target.class_names), previewed(shown, target), HEADER)
    write_atomic(folder / PAGE, page.encode("utf-8", "backslashreplace"))
    return Asked(folder / QUESTIONS, folder / PAGE, tuple(names), labeling.standing().rows(keys))


def _inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, which could send away what stands beside it."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def take(ranking: Ranking, answers: Path) -> int:
    """Keep the labels of a filled-in table beside the run; returns how many are known now.

    Raises:
        OptionError: the file is no such table, or a label is no class; names the line.
    """
    folder = _folder(ranking)
    _, hashes, _ = _labeling(folder, {})
    found = _answers(answers, set(hashes), list(ranking.target["class_names"]))
    known = {**read_labels(folder), **found}
    write_atomic(folder / LABELS, json.dumps(known, indent=1).encode())
    return len(known)


def _labeling(
    folder: Path, known: Mapping[str, int], voted: Sequence[str] | None = None
) -> tuple[list[tuple[str, str]], list[str], Labeling]:
    """``voted``: (model, strategy) that was chosen without labels."""
    path = folder / PREDICTIONS
    try:
        keys, hashes, labeling = _read_predictions(path, voted)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder}: there is no readable {PREDICTIONS} ({error}); labels are asked for after a confirmation of a "
            "target without labels: 'selector confirm RUN'."
        ) from None
    for i, value in enumerate(hashes):
        if value in known:
            if not 0 <= known[value] < labeling.probabilities.shape[2]:
                raise ConfigError(
                    f"{folder / LABELS}: {value}: expected the number of a class, 0 to {labeling.probabilities.shape[2] - 1}, found "
                    f"{known[value]}; remove the file and hand the answers over again."
                )
            labeling.label(i, known[value])
    return keys, hashes, labeling


def _read_predictions(path: Path, voted: Sequence[str] | None) -> tuple[list[tuple[str, str]], list[str], Labeling]:
    """(model, strategy) of K candidates, M items by content, and what they say; ``ValueError`` where they are not."""
    kept = read_arrays(path, _MOST_BYTES)
    if isinstance(kept, np.ndarray):
        raise ValueError("it holds one array without a name")
    models, strategies, hashes = (kept[name].tolist() for name in ("models", "strategies", "hashes"))
    probabilities, merits = kept["probabilities"], kept["merits"]
    names = [*models, *strategies] if isinstance(models, list) and isinstance(strategies, list) else [None]
    if not all(isinstance(name, str) and name.isprintable() for name in names) or not isinstance(hashes, list):
        raise ValueError("models, strategies and hashes must be printable names")
    if probabilities.ndim != 3 or probabilities.shape[:2] != (len(models), len(hashes)) or not probabilities.size:
        raise ValueError(
            f"probabilities have shape {probabilities.shape}, expected ({len(models)}, {len(hashes)}, classes)"
        )
    if probabilities.dtype.kind != "f" or not ((probabilities >= 0) & (probabilities <= 1.001)).all():
        raise ValueError("probabilities must be numbers in the range [0, 1]")
    if merits.shape != (len(models),) or merits.dtype.kind != "f" or not np.isfinite(merits).all():
        raise ValueError("merits must be a finite number for each of the models")
    keys = list(zip(models, strategies, strict=True))
    first = next((k for k, key in enumerate(keys) if voted is not None and list(key) == list(voted)), None)
    return keys, hashes, Labeling(probabilities, merits, first=first, contents=hashes)


def _answers(path: Path, hashes: set[str], class_names: list[str]) -> dict[str, int]:
    try:
        with open_file(path) as file:
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no UTF-8, NUL in the name
        raise OptionError(
            f"answers: {path} cannot be read ({error}); give the filled-in {QUESTIONS}.", "answers"
        ) from None
    found: dict[str, int] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        where = f"answers: {path}:{line}"
        if not set(HEADER) <= set(row):
            raise OptionError(
                f"{where}: expected the columns {', '.join(HEADER)}. Got {', '.join(map(str, row))}.", "answers"
            )
        label = (row["label"] or "").strip()
        if label not in class_names and _inert(label[1:]) == label:
            label = label[1:]
        if not label:
            continue
        if row["id"] not in hashes:
            raise OptionError(f"{where}: '{row['item']}' is no item of this run's target (id {row['id']}).", "answers")
        if label not in class_names:
            raise OptionError(
                f"{where}: label must be one of {', '.join(class_names[:20])}{did_you_mean(label, class_names) or '.'} "
                f"Got '{label}'.",
                "answers",
            )
        code = class_names.index(label)
        if found.setdefault(row["id"], code) != code:
            raise OptionError(
                f"{where}: '{row['item']}' is '{label}', and '{class_names[found[row['id']]]}' in line {lines[row['id']]} (both "
                f"have the id {row['id']}, which is their content); expected one label for it. Remove the wrong line.",
                "answers",
            )
        lines.setdefault(row["id"], line)
    if not found:
        raise OptionError(f"answers: {path} holds no label; fill in the column 'label'.", "answers")
    return found


def _folder(ranking: Ranking) -> Path:
    adaptation: Any = ranking.confirmation.get("adaptation")
    if ranking.path is None or not adaptation:
        raise ConfigError(
            "this run has adapted nothing to a target without labels; scan with --source-domain, or 'selector confirm' it."
        )
    return ranking.path
