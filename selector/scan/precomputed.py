"""Ready features: nothing to extract; each array is a "model"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from selector.config import ProxyLike, ScanConfig
from selector.core.contracts import Score, Target
from selector.core.errors import OptionError
from selector.core.system import versions
from selector.features import FeatureSet
from selector.proxies import default_proxies
from selector.ranking.combination import LabelFacts, combine
from selector.report.ranking import Ranking
from selector.results import ModelResult, ScoreCell
from selector.scan.checks import check_names, load_target, run_folder, save_run
from selector.scan.dataset_view import Rows
from selector.scan.scoring import evaluate, naming, score_of
from selector.scan.summary import ordered, summarise


def rank_features(features: Mapping[str, Any], labels: Any, config: ScanConfig) -> Ranking:
    """Compare several arrays of features of the same rows; see ``selector.rank_features``."""
    if not isinstance(features, Mapping) or not features:
        raise OptionError(
            f"features must be a mapping of names to arrays (N, D), such as {{'clip': F1, 'dino': F2}}. "
            f"Got {type(features).__name__}.",
            "features",
        )
    arrays = {str(name): _matrix(name, rows) for name, rows in features.items()}
    first, *others = arrays
    for name in others:
        if len(arrays[name]) != len(arrays[first]):
            raise OptionError(
                f"features: '{name}' has {len(arrays[name])} rows and '{first}' {len(arrays[first])}; they must be "
                "features of the same items in the same order.",
                "features",
            )
    wanted, names = check_names(config)
    data = replace(load_target((arrays[first], labels), config), name="features")
    if config.proxies is None:
        names = list(default_proxies(data.label_kind))
        wanted = list(names)
    everything = np.arange(len(data))
    # a row is what it is in all of the arrays, so that each of them is divided into the same folds and blocks
    digests = [xxhash.xxh3_128() for _ in everything]
    for name in sorted(arrays):
        for digest, row in zip(digests, arrays[name], strict=True):
            digest.update(np.ascontiguousarray(row).data)
    keys = [digest.hexdigest() for digest in digests]
    ranking = _ranked(arrays, data, Rows(data, everything), keys, wanted, names, config)
    return save_run(ranking, run_folder(config, data, confirming=False))


def rank_rows(data: Target, proxies: Sequence[ProxyLike], names: list[str], config: ScanConfig) -> Ranking:
    """A target of ready features: there is one "model", the features themselves."""
    assert data.features is not None
    rows = Rows(data, data.indices("train", "val"))
    beside = data.features[rows.beside] if len(rows.beside) else None
    return _ranked(
        {data.name: data.features[rows.indices]}, data, rows, rows.hashes, proxies, names, config, beside=beside
    )


def _ranked(
    arrays: Mapping[str, np.ndarray],
    data: Target,
    rows: Rows,
    keys: Sequence[str],
    proxies: Sequence[ProxyLike],
    names: list[str],
    config: ScanConfig,
    *,
    beside: np.ndarray | None = None,
) -> Ranking:
    cells: dict[str, dict[str, ScoreCell]] = {}
    scores: dict[str, dict[str, Score]] = {}
    told: set[tuple[str, str]] = set()
    for model, array in arrays.items():
        features = FeatureSet(
            array, rows.labels, label_kind=data.label_kind, keys=keys, unlabelled=beside, seed=config.seed
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
            spec={"source": "features"},
            scores=cells[model],
            num_features=array.shape[1],
            rows=len(rows),
            **(transferability[model].fields() if model in transferability else {}),
        )
        for model, array in arrays.items()
    ]
    settings = {**config.record(), "proxies": names, "top_k": top_k}
    return Ranking(summarise(data), settings, versions(), ordered(models), data.notes, loaded_target=data)


def _matrix(name: Any, rows: Any) -> np.ndarray:
    """Features as numpy.

    Raises:
        OptionError: they are not (N, D).
    """
    found = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise OptionError(
            f"features: '{name}' must be numbers (N, D). Got {found.dtype} of shape {found.shape}.", "features"
        )
    return found if found.dtype.kind == "f" else found.astype(np.float32)
