"""A network's job for a worker elsewhere: its rows are extracted and scored there, and keys come back.

The scores go to the store, where the driver finds them: its own scoring then computes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selector.core.answers import opened, report
from selector.core.engine import Shared
from selector.core.errors import StoreError
from selector.extract.isolated import IsolatedJobs, Isolation
from selector.extract.job import ExtractJob, ExtractResult
from selector.extract.run import extract
from selector.extract.workspace import workspace_of
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.scan.scoring import Scoring
from selector.store import RowsMissing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreSettings:
    """How rows are scored; the same for every network of a scan."""

    proxies: tuple[str, ...]
    seed: int
    intervals: bool


@dataclass(frozen=True)
class ToScore:
    """Rows of a target (``Rows``), and how they are scored."""

    rows: Shared
    settings: ScoreSettings


@dataclass(frozen=True)
class Parcel:
    """A job whose target travels apart, once a worker.

    Attributes:
        job: without items.
        rows: the ``Rows`` whose items it extracts.
        isolation: whether and how the worker runs the network in a child of its own.
        scored: what is scored of them, a target each; nothing where the driver scores (proxies that are functions
            have no key).
    """

    job: ExtractJob
    rows: Shared
    isolation: Isolation
    scored: tuple[ToScore, ...] = ()

    @property
    def shared(self) -> tuple[Shared, ...]:
        """All values that it reads."""
        return tuple(dict.fromkeys((self.rows, *(each.rows for each in self.scored))))

    @property
    def name(self) -> str:
        """Of the network; for messages."""
        return self.job.name

    @property
    def cost_only(self) -> bool:
        """As its job says."""
        return self.job.cost_only


def parcel_of(job: ExtractJob, rows: Shared, isolation: Isolation, scored: tuple[ToScore, ...]) -> Parcel:
    """A job without what all jobs of a round share."""
    empty = replace(job, target=None, indices=None, next_spec=None)  # type: ignore[arg-type]
    return Parcel(replace(empty, plan=None), rows, isolation, () if job.cost_only else scored)


def work(parcel: Parcel) -> ExtractResult:
    """Extract and score in a worker.

    Raises:
        StoreError: the store cannot be written from here.
    """
    rows: Rows = opened(parcel.rows)
    plan = rows.plan if parcel.job.settings.aspect is not None else None
    job = replace(parcel.job, target=rows.target, indices=rows.every_item, plan=plan)
    run = _isolated(parcel.isolation).run if parcel.isolation.concerns(job.specs[0]) else extract
    result = run(job)
    store = workspace_of(job.target, job.store, job.settings).store
    if store.read_only:
        raise StoreError(
            f"the store {store.root} cannot be written by a worker, so that its rows would be lost; give all workers the "
            "right to write there, or name another store."
        )
    if not result.bad:  # bad items leave the target, and the rows are others
        for each in parcel.scored:
            _score(job, result, opened(each.rows), each.settings)
    return result


def _score(job: ExtractJob, result: ExtractResult, rows: Rows, settings: ScoreSettings) -> None:
    store = workspace_of(job.target, job.store, job.settings).store
    scoring = Scoring(store, settings.proxies, settings.seed, settings.intervals, report)
    for spec, found in zip(job.specs, result.variants, strict=True):
        if found.identity is None:
            continue
        try:
            scoring.run(Candidate(spec, store.entry(found.identity["entry"])), rows)
        except RowsMissing as error:  # the driver asks again, and says what it finds
            log.info("%s is not scored by its worker: %s", spec.name, error)


_children: list[IsolatedJobs] = []


def _isolated(isolation: Isolation) -> IsolatedJobs:
    """The child of this worker, for code and graphs of others."""
    if not _children:
        _children.append(IsolatedJobs(isolation, report))
    return _children[0]


def score_settings(proxies: Sequence[object], seed: int, intervals: bool) -> ScoreSettings | None:
    """None where a proxy is a function: it has no name that a worker could know, and no key in the store."""
    names = tuple(proxy for proxy in proxies if isinstance(proxy, str))
    return ScoreSettings(names, seed, intervals) if len(names) == len(proxies) else None
