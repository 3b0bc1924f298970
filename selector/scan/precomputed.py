"""Ready features: nothing to extract; each array is a "model", of which a head is all that is fitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from selector import modalities, tasks
from selector.config import ConfirmConfig, ProxyLike, ScanConfig
from selector.core.contracts import Encoder, ProgressCallback, Score, Target, no_progress
from selector.core.errors import OptionError
from selector.core.system import versions
from selector.extract.job import ExtractSettings, Isolation
from selector.features import FeatureSet
from selector.proxies import proxy_name
from selector.ranking.combination import LabelFacts, combine
from selector.report.ranking import Ranking
from selector.results import Caveat, ModelResult, ScoreCell
from selector.run.executor import Executor
from selector.scan.checks import (
    check_for_target,
    check_names,
    load_target,
    open_store,
    proxies_of,
    run_folder,
    save_run,
)
from selector.scan.confirmation import confirm_leading
from selector.scan.dataset_view import Rows, ordered, summarize
from selector.scan.extraction import NOT_ISOLATED, Extraction
from selector.scan.scoring import evaluate, naming, score_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec

ALL_ROWS = "all_rows_scored"
"""In the settings of a run whose scores saw the test split."""

DOMAINS = "ready features of two domains are compared, and nothing adapts them: the confirmation is left out."


class ReadyFeatures(Extraction):
    """See ``Extraction``: the arrays of the target in the place of networks and of rows in the store."""

    def features(self, spec: ModelSpec, indices: np.ndarray) -> np.ndarray:
        """Rows (len(indices), D) of one array."""
        return np.ascontiguousarray(self.target.ready_features(spec.model_id)[indices])

    def load(self, spec: ModelSpec) -> Encoder:
        """What passes them on to a head."""
        from selector.sources.features import ReadyEncoder

        return ReadyEncoder(spec, self.target.ready_features(spec.model_id).shape[1])


def extraction_for(
    target: Target,
    store: FeatureStore,
    made: ScanConfig,
    config: ScanConfig | ConfirmConfig,
    trusted: bool,
    notify: ProgressCallback,
    isolation: Isolation = NOT_ISOLATED,
    executor: Executor | None = None,
) -> Extraction:
    """What a confirmation takes features and networks from, as the scan ``made`` them."""
    networks = modalities.of(target).has_models
    kind = Extraction if networks else ReadyFeatures
    settings = ExtractSettings(config.device, made.precision, made.backend, trusted, "skip")
    # arrays are at hand here
    return kind(target, store, settings, notify, isolation=isolation, executor=executor if networks else None)


def rank_features(features: Mapping[str, object], labels: object, config: ScanConfig) -> Ranking:
    """Compare several arrays of features of the same rows; see ``selector.rank_features``."""
    if not isinstance(features, Mapping) or not features:
        raise OptionError(
            f"features must be a mapping of names to arrays (N, D), such as {{'clip': F1, 'dino': F2}}. "
            f"Got {type(features).__name__}.",
            "features",
        )
    check_names(config)
    data = load_target((features, labels), config)
    check_for_target(config, data)
    return rank_rows(data, proxies_of(config, data), config, no_progress, all_rows=not config.confirm)


def rank_rows(
    data: Target,
    proxies: Sequence[ProxyLike],
    config: ScanConfig,
    notify: ProgressCallback,
    *,
    all_rows: bool = False,
) -> Ranking:
    """A target of ready features: its arrays are the models.

    Args:
        all_rows: score those of the test split as well, where nothing is confirmed.
    """
    task = tasks.task_for(data)
    confirming = config.confirm and task is not None and not task.adapts
    folder = run_folder(config, data, confirming=confirming)
    indices = np.arange(len(data)) if all_rows else data.indices("train", "val")
    ranking = _ranked(data, Rows(data, indices), proxies, config)
    if all_rows:
        ranking = replace(ranking, settings={**ranking.settings, ALL_ROWS: True})
    if config.confirm and task is not None and task.adapts:
        ranking = replace(
            ranking,
            caveats=(Caveat("task-not-trainable", DOMAINS, {}),),
            warnings=(*ranking.warnings, DOMAINS),
        )
    if not confirming or folder is None:
        return save_run(ranking, folder)
    ranking = ranking.save(folder)
    training = ConfirmConfig.of(**{name: getattr(config, name) for name in ConfirmConfig.training_fields()})
    extraction = extraction_for(data, open_store(config.store), config, config, trusted=True, notify=notify)
    return confirm_rows(ranking, extraction, training)


def confirm_rows(ranking: Ranking, extraction: Extraction, config: ConfirmConfig) -> Ranking:
    """Heads fitted on the arrays, all of them where no number is given, and the best one saved.

    Nothing of it enters the history: what an array is called says nothing of a network.

    Raises:
        OptionError: a choice by scores that saw the test split.
    """
    specs = [ModelSpec(**m.spec) for m in ranking if m.status == "ok"]
    top_k = len(specs) if config.top_k is None else config.top_k
    if ranking.settings.get(ALL_ROWS) and top_k < len(specs):
        raise OptionError(
            f"top_k: the scores of this ranking saw the test split, so they must not choose {top_k} of {len(specs)} arrays "
            "for a test metric; leave top_k out, or rank with confirm=True.",
            "top_k",
        )
    # a pilot run trains what is under the head, and there is nothing
    of_heads = config.model_copy(update={"pilot_cost": 0.0, "history": False})
    return confirm_leading(ranking, extraction, specs, of_heads, top_k)


def _taken(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Some rows; all of them in order without a copy."""
    return array if np.array_equal(indices, np.arange(len(array))) else array[indices]


def _ranked(data: Target, rows: Rows, proxies: Sequence[ProxyLike], config: ScanConfig) -> Ranking:
    started = time.perf_counter()
    names = [proxy_name(proxy) for proxy in proxies]
    assert data.features is not None
    arrays = {name: data.ready_features(name) for name in data.feature_widths or (data.name,)}
    cells: dict[str, dict[str, ScoreCell]] = {}
    scores: dict[str, dict[str, Score]] = {}
    told: set[tuple[str, str]] = set()
    for model, array in arrays.items():
        features = FeatureSet(
            _taken(array, rows.indices),
            rows.labels,
            label_kind=data.label_kind,
            keys=rows.hashes,
            unlabeled=array[rows.beside] if len(rows.beside) else None,
            seed=config.seed,
        )
        cells[model], scores[model] = {}, {}
        for name, proxy in zip(names, proxies, strict=True):
            with naming(model, told):
                stored = evaluate(features, proxy, config.intervals, config.seed)
            if "reason" in stored:
                cells[model][name] = ScoreCell(None, reason=stored["reason"])
                continue
            scores[model][name] = found = score_of(stored)
            cells[model][name] = ScoreCell(found.value, found.low, found.high, dict(found.details), found.seconds)
    top_k = min(config.top_k or 1, len(arrays))
    transferability = combine(scores, LabelFacts.of(rows.labels, data.label_kind), top_k=top_k, seed=config.seed)
    models = [
        ModelResult(
            name=model,
            spec=ModelSpec(name=model, source=f"features:{model}").model_dump(mode="json", exclude_defaults=True),
            scores=cells[model],
            num_features=array.shape[1],
            rows=len(rows),
            **(transferability[model].fields() if model in transferability else {}),
        )
        for model, array in arrays.items()
    ]
    settings = {**config.record(), "proxies": names, "top_k": top_k}
    seconds = {"total": time.perf_counter() - started}
    return Ranking(
        summarize(data), settings, versions(), ordered(models), data.notes, seconds=seconds, loaded_target=data
    )
