"""Scores a model's rows, from the store where the same rows were scored before."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from selector import proxies as proxy_room
from selector.config import ProxyLike
from selector.core.contracts import Progress, ProgressCallback, Score
from selector.core.errors import NotApplicable, ProxyError
from selector.features import FeatureSet
from selector.ranking.combination import score_key
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.store import Entry, FeatureStore

log = logging.getLogger(__name__)

NOT_APPLICABLE = "not applicable"


class Scoring:
    """Scores a candidate's rows, from the store where the same rows were scored before."""

    def __init__(
        self, store: FeatureStore, proxies: Sequence[ProxyLike], seed: int, intervals: bool, notify: ProgressCallback
    ) -> None:
        self.store = store
        self.proxies = [(proxy_room.proxy_name(p), p) for p in proxies]
        self.seed = seed
        self.intervals = intervals
        self.notify = notify
        self.seconds: dict[str, float] = {"score": 0.0}
        self._told: set[tuple[str, str]] = set()

    def run(self, candidate: Candidate, rows: Rows) -> None:
        """Give a candidate its scores on some rows, or the reason why a proxy has none.

        A task with several facets has a score a facet that the proxy accepts (``facet:proxy``).
        """
        assert candidate.entry is not None
        started = time.perf_counter()
        candidate.scores, candidate.reasons = {}, {}
        several = len(rows.facets) > 1
        read: FeatureSet | None = None
        for facet, problem in rows.facets.items():
            features: FeatureSet | None = None
            for done, (name, proxy) in enumerate(self.proxies):
                self.notify(Progress("score", done, len(self.proxies), "proxies", candidate.spec.name, name))
                key = self._key(candidate.entry, rows, facet, name, proxy)
                stored = self.store.get("score", key) if key else None
                if stored is None:
                    if features is None and read is not None:
                        features = read.with_labels(problem.labels, problem.kind)
                    if features is None:
                        features = read = feature_set(candidate.entry, rows, self.seed, facet)
                    with naming(candidate.spec.name, self._told):
                        stored = evaluate(features, proxy, self.intervals, self.seed)
                    if key and not stored.pop("crashed", False):  # a mended proxy is asked again
                        self.store.put("score", key, stored)
                called = score_key(facet, name, len(rows.facets))
                if "reason" not in stored:
                    candidate.scores[called] = score_of(stored)
                elif not (several and stored["reason"].startswith(NOT_APPLICABLE)):
                    candidate.reasons[called] = stored["reason"]
        self.seconds["score"] += time.perf_counter() - started

    def _key(self, entry: Entry, rows: Rows, facet: str, name: str, proxy: ProxyLike) -> dict[str, Any] | None:
        if not isinstance(proxy, str):
            return None  # a callable has no version: it is computed every time
        return {
            "entry": entry.key,
            "rows": rows.digest_of(facet),
            "proxy": name,
            "version": proxy_room.registry.get(name).version,
            "seed": self.seed,
            "intervals": self.intervals,
        }


@contextmanager
def naming(model: str, told: set[tuple[str, str]]) -> Iterator[None]:
    """What proxies log meanwhile bears the model's name, which they do not know, and is said once a model.

    An interval computes a score again without each block, and every round of rows anew: the same was said dozens
    of times. ``told`` remembers (model, message without its numbers).
    """
    room = logging.getLogger(proxy_room.__name__)
    named = _Named(model, told)
    before, room.propagate = room.propagate, False
    room.addHandler(named)
    try:
        yield
    finally:
        room.removeHandler(named)
        room.propagate = before


class _Named(logging.Handler):
    def __init__(self, model: str, told: set[tuple[str, str]]) -> None:
        super().__init__()
        self.model, self.told = model, told

    def emit(self, record: logging.LogRecord) -> None:
        if (self.model, str(record.msg)) not in self.told:
            self.told.add((self.model, str(record.msg)))
            log.log(record.levelno, "%s: %s", self.model, record.getMessage())


def feature_set(entry: Entry, rows: Rows, seed: int = 0, facet: str | None = None) -> FeatureSet:
    """Rows as the proxies see them, with the labels of a facet (the first when none is named).

    Raises:
        RowsMissing: some are not stored.
    """
    problem = rows.facets[next(iter(rows.facets)) if facet is None else facet]
    return FeatureSet(
        entry.rows(rows.hashes),
        problem.labels,
        label_kind=problem.kind,
        keys=rows.hashes,
        groups=rows.groups,
        source_head=entry.head(),
        unlabeled=entry.rows(rows.hashes_beside) if rows.hashes_beside else None,
        unlabeled_keys=rows.hashes_beside or None,
        seed=seed,
    )


def evaluate(features: FeatureSet, proxy: ProxyLike, intervals: bool, seed: int) -> dict[str, Any]:
    """A score as the plain JSON that the store keeps, or ``reason`` where the proxy gives none."""
    try:
        score = proxy_room.evaluate(features, proxy, intervals=intervals, seed=seed)
    except NotApplicable as error:
        return {"reason": f"{NOT_APPLICABLE}: {error}"}
    except ProxyError as error:
        return {"reason": str(error)}
    except (Exception, SystemExit) as error:
        name = proxy_room.proxy_name(proxy)
        log.info("proxy '%s' raised %s", name, type(error).__name__, exc_info=error)
        return {"reason": f"proxy '{name}' raised {type(error).__name__}: {error}", "crashed": True}
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
    """The score that ``evaluate`` wrote."""
    blocks = stored["blocks"]
    return Score(**{**stored, "blocks": None if blocks is None else np.asarray(blocks)})
