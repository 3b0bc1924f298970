"""The job of one model in a round: its rows are extracted and, where several workers share the models, scored there.

The scores go to the store, where the driver finds them: its own scoring then computes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector.core.contracts import Target
from selector.core.errors import StoreError
from selector.core.task import RowPlan
from selector.extract.job import ExtractJob, ExtractResult
from selector.extract.run import extract
from selector.extract.workspace import Workspace, workspace_of
from selector.run.job import Shared
from selector.run.worker import report
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.scan.scoring import Scoring
from selector.store import RowsMissing

log = logging.getLogger(__name__)


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

    def __getstate__(self) -> dict[str, Any]:
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
    result = extract(whole, work)
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
