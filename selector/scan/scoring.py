"""Scores a model's rows, from the store where the same rows were scored before; in a worker, right after extraction."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector import proxies as proxy_room
from selector.config import ProxyLike
from selector.core.contracts import Progress, ProgressCallback, Score, Target
from selector.core.errors import NotApplicable, ProxyError, StoreError
from selector.core.resources import memory_limit
from selector.core.table import RowPlan
from selector.core.units import format_size
from selector.extract.extraction import ItemRows
from selector.extract.job import ExtractJob, ExtractResult
from selector.extract.rows import MapRows
from selector.extract.workspace import Workspace, workspace_of
from selector.features import FeatureSet
from selector.ranking.combination import score_key
from selector.run.job import Shared
from selector.run.worker import report
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.store import FeatureStore
from selector.store.entry import Entry, RowsMissing

log = logging.getLogger(__name__)

NOT_APPLICABLE = "not applicable"
_COPIES = 3  # of its float32 rows in memory while a model is scored


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
                        if (reason := _too_large(candidate.entry, rows)) is not None:
                            candidate.excluded = reason
                            return
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

    def _key(self, entry: Entry, rows: Rows, facet: str, name: str, proxy: ProxyLike) -> dict[str, object] | None:
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


def _too_large(entry: Entry, rows: Rows) -> str | None:
    """Why the proxies cannot read some rows within the memory that a model may take; None where they can."""
    limit, width = memory_limit(), entry.num_features or 0
    needed = _COPIES * 4 * len(rows.hashes) * width
    if limit is None or needed <= limit:
        return None
    return (
        f"scoring {len(rows.hashes)} × {width} features takes about {format_size(needed)} of memory, more than "
        f"{format_size(limit)}; read fewer items with max_samples (--max-samples)."
    )


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


@dataclass(frozen=True)
class RoundRows:
    """What jobs of a round read.

    Attributes:
        target: whose items.
        indices: (n,) positions of the items in it.
        plan: the rows that are read off maps of them; None where an item is a row.
        rows: what is scored; None where nothing is.
        workspace: what the process of the scan has open for the target; a worker opens its own.
    """

    target: Target
    indices: np.ndarray
    plan: RowPlan | None = None
    rows: Rows | None = None
    workspace: Workspace | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "workspace": None}


@dataclass(frozen=True)
class ScoreSettings:
    """How rows are scored; the same for every model of a scan."""

    proxies: tuple[str, ...]
    seed: int
    intervals: bool


@dataclass(frozen=True)
class ToScore:
    """Rows of a target, and how they are scored."""

    rows: Shared[RoundRows]
    settings: ScoreSettings


@dataclass(frozen=True)
class ModelJob:
    """What is wanted of one model in a round.

    Attributes:
        extract: the extraction without its items.
        rows: those that it reads.
        scored: what is scored of them, one per target; nothing where the driver scores.
    """

    extract: ExtractJob
    rows: Shared[RoundRows]
    scored: tuple[ToScore, ...] = ()

    @property
    def name(self) -> str:
        """Of the model; for messages."""
        return self.extract.name

    @staticmethod
    def of(job: ExtractJob, rows: Shared[RoundRows], scored: tuple[ToScore, ...]) -> ModelJob:
        """A job without what all jobs of a round share."""
        empty = replace(job, target=None, indices=None, plan=None)  # type: ignore[arg-type]
        return ModelJob(empty, rows, () if job.cost_only else scored)


def run_model_job(job: ModelJob) -> ExtractResult:
    """Extract the rows of a model, and score them.

    Raises:
        StoreError: the store cannot be written from here.
    """
    seen = job.rows.value
    whole = replace(job.extract, target=seen.target, indices=seen.indices, plan=seen.plan)
    work = seen.workspace or workspace_of(whole.target, whole.store, whole.settings)
    result = ItemRows(whole, work).run() if whole.plan is None else MapRows(whole, work, whole.plan).run()
    if seen.workspace is None and work.store.read_only:
        raise StoreError(
            f"the store {work.store.root} cannot be written by a worker, so that its rows would be lost; give all workers "
            "the right to write there, or name another store."
        )
    if not result.bad:  # bad items leave the target, and the rows are others
        for each in job.scored:
            _score(whole, work, result, each)
    return result


def _score(job: ExtractJob, work: Workspace, result: ExtractResult, wanted: ToScore) -> None:
    settings, rows = wanted.settings, wanted.rows.value.rows
    assert rows is not None
    scoring = Scoring(work.store, settings.proxies, settings.seed, settings.intervals, report)
    for spec, found in zip(job.specs, result.variants, strict=True):
        if found.identity is None:
            continue
        try:
            scoring.run(Candidate(spec, work.store.entry(found.identity["entry"])), rows)
        except RowsMissing as error:  # the driver asks again, and says what it finds
            log.info("%s is not scored by its worker: %s", spec.name, error)


def score_settings(proxies: Sequence[object], seed: int, intervals: bool) -> ScoreSettings | None:
    """None where a proxy is a function: it has no name that a worker could know, and no key in the store."""
    names = tuple(proxy for proxy in proxies if isinstance(proxy, str))
    return ScoreSettings(names, seed, intervals) if len(names) == len(proxies) else None
