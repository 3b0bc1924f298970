"""Scores a model's rows, from the store where the same rows were scored before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from selector import proxies as proxy_room
from selector.contracts import Progress, ProgressCallback, Score, Target
from selector.errors import NotApplicable, ProxyError
from selector.features import FeatureSet
from selector.scan.candidate import Candidate
from selector.scan.items import hashes_of, rows_digest
from selector.store import Entry, FeatureStore

ProxyLike = str | Callable[[FeatureSet], Score | float]


class Scoring:
    """Scores a candidate's rows, from the store where the same rows were scored before."""

    def __init__(
        self, store: FeatureStore, proxies: Sequence[ProxyLike], seed: int, intervals: bool, notify: ProgressCallback
    ) -> None:
        self.store = store
        self.proxies = [(proxy_name(p), p) for p in proxies]
        self.seed = seed
        self.intervals = intervals
        self.notify = notify
        self.seconds: dict[str, float] = {"score": 0.0}

    def run(self, candidate: Candidate, target: Target, rows: np.ndarray) -> None:
        assert candidate.entry is not None
        started = time.perf_counter()
        candidate.scores, candidate.reasons = {}, {}
        features: FeatureSet | None = None
        for done, (name, proxy) in enumerate(self.proxies):
            self.notify(Progress("score", done, len(self.proxies), "proxies", candidate.spec.name, name))
            key = self._key(candidate.entry, target, rows, name, proxy)
            stored = self.store.get("score", key) if key else None
            if stored is None:
                features = features or _feature_set(candidate.entry, target, rows, self.seed)
                stored = evaluate(features, proxy, self.intervals, self.seed)
                if key:
                    self.store.put("score", key, stored)
            if "reason" in stored:
                candidate.reasons[name] = stored["reason"]
            else:
                candidate.scores[name] = score_of(stored)
        self.seconds["score"] += time.perf_counter() - started

    def _key(
        self, entry: Entry, target: Target, rows: np.ndarray, name: str, proxy: ProxyLike
    ) -> dict[str, Any] | None:
        if not isinstance(proxy, str):
            return None  # a callable has no version: it is computed every time
        return {
            "entry": entry.key,
            "rows": rows_digest(target, rows),
            "proxy": name,
            "version": proxy_room.registry.get(name).version,
            "seed": self.seed,
            "intervals": self.intervals,
        }


def _feature_set(entry: Entry, target: Target, rows: np.ndarray, seed: int) -> FeatureSet:
    hashes = hashes_of(target, rows)
    return FeatureSet(
        entry.rows(hashes),
        target.labels[rows],
        label_kind=target.label_kind,
        keys=hashes,
        source_head=entry.head(),
        seed=seed,
    )


def evaluate(features: FeatureSet, proxy: ProxyLike, intervals: bool, seed: int) -> dict[str, Any]:
    try:
        score = proxy_room.evaluate(features, proxy, intervals=intervals, seed=seed)
    except NotApplicable as error:
        return {"reason": f"not applicable: {error}"}
    except ProxyError as error:
        return {"reason": str(error)}
    return {
        "value": float(score.value),
        "low": score.low,
        "high": score.high,
        "details": {k: float(v) for k, v in score.details.items()},
        "seconds": score.seconds,
        "interval_seconds": score.interval_seconds,
        "blocks": None if score.blocks is None else [float(b) for b in score.blocks],
    }


def score_of(stored: Mapping[str, Any]) -> Score:
    blocks = stored["blocks"]
    return Score(**{**stored, "blocks": None if blocks is None else np.asarray(blocks)})


def proxy_name(proxy: ProxyLike) -> str:
    if isinstance(proxy, str):
        proxy_room.registry.get(proxy)  # an unknown name is an error before anything is loaded
        return proxy
    return str(getattr(proxy, "__name__", type(proxy).__name__))
