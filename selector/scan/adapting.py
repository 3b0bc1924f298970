"""Adapts the leading models to a target without labels, and asks for the few labels that tell them apart best."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selector import tasks
from selector.config import ConfirmConfig
from selector.core.atomic import write_atomic
from selector.core.contracts import UNLABELED, Target
from selector.core.documents import plain, read_json
from selector.core.errors import ConfigError, OptionError, did_you_mean
from selector.core.input_files import open_file, read_arrays
from selector.core.units import inert
from selector.report.html import render_label_page
from selector.report.ranking import Ranking
from selector.results import BEST
from selector.run.worker import working_on
from selector.scan.checks import save_run
from selector.scan.confirmation import leading
from selector.scan.dataset_view import illustrated, ordered, previewed
from selector.scan.extraction import Extraction
from selector.tasks.adaptation import Adaptation
from selector.tuning.labeling import Labeling
from selector.zoo import ModelSpec

if TYPE_CHECKING:
    from selector.tuning.adapt import AdaptationResult
    from selector.tuning.workbench import Workbench

PREDICTIONS, LABELS = "target_predictions.npz", "labels.json"
"""Of a run's folder: what candidates say of the target, and labels that a person gave (class numbers by content)."""


def adapt_leading(
    ranking: Ranking,
    extraction: Extraction,
    specs: Sequence[ModelSpec],
    config: ConfirmConfig,
    top_k: int,
    spent: float = 0.0,
) -> Ranking:
    """The saved ranking with its first ``top_k`` models adapted by every strategy; ``best`` holds the saved one."""
    from selector.deploy import save_model
    from selector.tuning import TuningCandidate
    from selector.tuning.adapt import run_adaptation

    started = time.perf_counter()
    folder, target = ranking.path, extraction.target
    assert folder is not None
    by_name = {spec.name: spec for spec in leading(ranking, specs, top_k)}
    if not by_name:
        return ranking
    task = tasks.task_of(target)
    assert isinstance(task, Adaptation)
    usual = type(config).model_fields["strategies"].default
    names = task.strategies if tuple(config.strategies) == usual else config.strategies
    result = run_adaptation(
        [
            TuningCandidate(name, load=partial(extraction.load, spec), identity=spec.feature_settings())
            for name, spec in by_name.items()
        ],
        target,
        task,
        lambda name, indices: extraction.features(by_name[name], indices),
        names=names,
        bench=_bench(extraction, task, by_name),
        budget_seconds=None if config.seconds is None else max(1.0, config.seconds - spent),
        max_steps=config.max_steps,
        labels=read_labels(folder),
        seed=config.seed or 0,
        progress=extraction.notify,
    )
    before = ranking.confirmation.get("adaptation", {}).get("notes", ())  # of a choice that this one replaces
    measured = {name: illustrated(found, target) for name, found in result.measurements.items()}
    adapted = replace(
        ranking,
        models=ordered(
            [replace(m, measurements=measured.get(m.name, m.measurements)) for m in ranking],
            first=None if result.chosen is None else result.chosen.name[0],
        ),
        warnings=tuple(dict.fromkeys((*(text for text in ranking.warnings if text not in before), *result.notes))),
        seconds={**ranking.seconds, "confirm": time.perf_counter() - started},
        settings={**ranking.settings, "confirm": {**config.training_record(), "top_k": top_k, "strategies": names}},
        confirmation=plain(
            {
                "metric": task.default_metric,
                "seconds": dict(result.seconds),
                "adaptation": {
                    **result.section,
                    "uncertain": previewed(result.section.get("uncertain", ()), target),
                    "notes": result.notes,
                },
            }
        ),
    )
    if result.best is not None:
        best = adapted[result.best.name]
        with working_on(best.name):
            save_model(folder / BEST, result.best, adapted.target, best.measurements, best.spec)
    if len(result.keys):
        hashes = [target.hashes[i] for i in target.indices(UNLABELED)]
        write_predictions(folder / PREDICTIONS, result, hashes)
    return save_run(adapted, folder)


def _bench(extraction: Extraction, task: Adaptation, by_name: Mapping[str, ModelSpec]) -> Workbench:
    """What trains the networks."""
    from selector.tuning.journal import Journal
    from selector.tuning.workbench import Workbench, device_of

    return Workbench(
        extraction.target,
        task,
        extraction.inputs,
        Journal(extraction.store.trainings_folder, task.stats_type),
        device_of(extraction.settings["device"]),
        task.batch_size,
        augment="light",
        features_for=lambda name, indices: extraction.features(by_name[name], indices),
        notify=extraction.notify,
        given_up=extraction.given_up,
    )


def read_labels(folder: Path) -> dict[str, int]:
    """Class numbers by content that a person gave; none at first.

    Raises:
        ConfigError: the file is no such table.
    """
    path = folder / LABELS
    if not path.is_file():
        return {}
    try:
        return {str(key): int(value) for key, value in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it and give the answers again.") from None


def write_predictions(path: Path, result: AdaptationResult, hashes: Sequence[str]) -> None:
    """What every candidate says of the target's items, for ``selector label``: probabilities (K, M, C) by content."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, models=[key[0] for key in result.keys], strategies=[key[1] for key in result.keys], hashes=list(hashes),
        probabilities=result.probabilities, merits=result.merits,
    )  # fmt: skip
    write_atomic(path, buffer.getvalue())


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
    writer.writerows((inert(name), "", value) for name, (value, _) in zip(names, chosen, strict=True))
    write_atomic(folder / QUESTIONS, text.getvalue().encode())
    shown = [{"id": value, "name": name, "index": i} for name, (value, i) in zip(names, chosen, strict=True)]
    page = render_label_page(ranking.target["name"], list(target.class_names), previewed(shown, target), HEADER)
    write_atomic(folder / PAGE, page.encode("utf-8", "backslashreplace"))
    return Asked(folder / QUESTIONS, folder / PAGE, tuple(names), labeling.standing().rows(keys))


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
        if label not in class_names and inert(label[1:]) == label:
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
    adaptation: object = ranking.confirmation.get("adaptation")
    if ranking.path is None or not adaptation:
        raise ConfigError(
            "this run has adapted nothing to a target without labels; scan with --source-domain, or 'selector confirm' it."
        )
    return ranking.path
