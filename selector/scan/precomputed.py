"""A target of ready features: nothing to extract, one "model", the features themselves."""

from __future__ import annotations

from collections.abc import Sequence

from selector.config import ProxyLike, ScanConfig
from selector.core.contracts import Score, Target
from selector.core.system import versions
from selector.features import FeatureSet
from selector.ranking.combination import LabelFacts, combine
from selector.results import ModelResult, Ranking, ScoreCell
from selector.scan.dataset_view import Rows
from selector.scan.scoring import evaluate, naming, score_of
from selector.scan.summary import summarise


def rank_rows(data: Target, proxies: Sequence[ProxyLike], names: list[str], config: ScanConfig) -> Ranking:
    """Ready features: there is one "model", the features themselves."""
    assert data.features is not None
    seed = config.seed
    rows = Rows(data, data.indices("train", "val"))
    features = FeatureSet(
        data.features[rows.indices], rows.labels, label_kind=data.label_kind, keys=rows.hashes, seed=seed
    )
    cells: dict[str, ScoreCell] = {}
    scores: dict[str, Score] = {}
    told: set[tuple[str, str]] = set()
    for name, proxy in zip(names, proxies, strict=True):
        with naming(data.name, told):
            stored = evaluate(features, proxy, config.intervals, seed)
        if "reason" in stored:
            cells[name] = ScoreCell(None, reason=stored["reason"])
            continue
        scores[name] = score = score_of(stored)
        cells[name] = ScoreCell(score.value, score.low, score.high, dict(score.details), score.seconds)
    evidence = combine({data.name: scores}, LabelFacts.of(rows.labels, data.label_kind), seed=seed).get(data.name)
    model = ModelResult(
        name=data.name,
        spec={"source": "features"},
        rank=1,
        scores=cells,
        num_features=data.features.shape[1],
        rows=len(rows),
        **(evidence.fields() if evidence else {}),
    )
    return Ranking(
        summarise(data), {**config.record(), "proxies": names}, versions(), (model,), data.notes, loaded_target=data
    )
