"""Adapts the leading models of a ranking to a target without labels, and hands over the one that validators choose."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selector import tasks
from selector.config import ConfirmConfig
from selector.core.atomic import write_atomic
from selector.core.contracts import UNLABELED
from selector.core.documents import plain
from selector.core.errors import ConfigError
from selector.report.ranking import Ranking
from selector.results import BEST
from selector.run.worker import working_on
from selector.scan.checks import save_run
from selector.scan.confirmation import leading
from selector.scan.extraction import Extraction
from selector.scan.previews import illustrated, previewed
from selector.scan.summary import ordered
from selector.tasks.adaptation import Adaptation
from selector.zoo import ModelSpec

if TYPE_CHECKING:
    from selector.tuning.adapt import AdaptationResult
    from selector.tuning.workbench import Workbench

PREDICTIONS, LABELS = "target_predictions.npz", "labels.json"
"""Of a run's folder: what candidates say of the target, and labels that a person gave (class numbers by content)."""


def adapt_leading(
    ranking: Ranking, extraction: Extraction, specs: Sequence[ModelSpec], config: ConfirmConfig, top_k: int
) -> Ranking:
    """The saved ranking with its first ``top_k`` models adapted by every strategy; ``best`` holds the one handed over."""
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
        budget_seconds=config.seconds,
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
        augment=True,
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
        return {str(key): int(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it and hand the answers over again.") from None


def write_predictions(path: Path, result: AdaptationResult, hashes: Sequence[str]) -> None:
    """What every candidate says of the target's items, for ``selector label``: probabilities (K, M, C) by content."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, models=[key[0] for key in result.keys], strategies=[key[1] for key in result.keys], hashes=list(hashes),
        probabilities=result.probabilities, merits=result.merits,
    )  # fmt: skip
    write_atomic(path, buffer.getvalue())
