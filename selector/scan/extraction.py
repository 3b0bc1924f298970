"""The driver of the extraction: which jobs a round needs, and what their results mean for the candidates."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from selector import modalities
from selector.core.contracts import UNLABELED, Encoder, Progress, ProgressCallback, Target, no_progress
from selector.core.errors import MALFORMED, ConfigError, SelectorError, StoreError
from selector.core.preprocess import AnyPreprocess
from selector.core.progress import under_way
from selector.extract.job import ExtractJob, ExtractResult, ExtractSettings, Isolation, layer_specs
from selector.extract.workspace import Workspace
from selector.modalities.image import canvas_of
from selector.run.executor import Executor, InProcess, Routed
from selector.run.job import Failure, Needs, Shared
from selector.run.pool import Pool
from selector.run.worker import report
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows, count_items, reader_of, reads_maps, stratified
from selector.scan.scoring import ModelJob, RoundRows, ScoreSettings, ToScore, run_model_job
from selector.scan.selection import SameNetwork
from selector.store import FeatureStore
from selector.store.entry import Entry, RowsMissing
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.limits import Limits, OverLimit, check_memory
from selector.zoo.spec import at_place, network_of, place_of
from selector.zoo.timm_facts import timm_facts

if TYPE_CHECKING:
    from selector.core.modality import Inputs
    from selector.tuning.job import StoreSupplies

log = logging.getLogger(__name__)

_SPEED = 2e10  # multiply-adds a second until a network has run here


def prices(
    specs: Sequence[ModelSpec], target: Target, estimate: Callable[[ModelSpec, int], float | None]
) -> dict[str, float]:
    """Seconds an item of each network by name: as it ran here before (``estimate``), else by its multiply-adds and what
    others took; one of which nothing is known costs the median of the others."""
    measured: dict[str, float] = {}
    operations: dict[str, float] = {}
    for spec in specs:
        if (seconds := estimate(spec, 1)) is not None:
            measured[spec.name] = seconds
        if (found := operations_of(spec, target, spec.params, spec.preprocess.input_size)) is not None:
            operations[spec.name] = math.sqrt(max(found[0], 1.0) * max(found[1], 1.0))
    both = sorted(measured[name] / operations[name] for name in measured.keys() & operations.keys())
    speed = both[len(both) // 2] if both else 1 / _SPEED
    found_prices = {**{name: found * speed for name, found in operations.items()}, **measured}
    known = sorted(found_prices.values())
    median = known[len(known) // 2] if known else 1.0
    return {spec.name: found_prices.get(spec.name, median) for spec in specs}


def operations_of(
    spec: ModelSpec, target: Target, parameters: int | None, size: tuple[int, int, int] | None
) -> tuple[float, float] | None:
    """Multiply-adds an item, at least and at most; None where nothing tells."""
    if (known := timm_facts(spec)) is not None and known.operations:
        whole = known.operations * (1.0 if size is None else size[1] * size[2] / known.img_size**2)
        return whole, whole
    return modalities.of(target).operations(parameters, size) if parameters else None


_Lacking: TypeAlias = "tuple[SameNetwork, list[Candidate], bool]"
"""A network, those of its candidates that lack something, and whether that is only what they cost."""

OF_THIS_PROCESS = ("memory",)
"""Sources whose networks no other process knows."""

NO_LIMITS = Limits()
NOT_ISOLATED = Isolation()


class Extraction:
    """Brings candidates' rows into the store through pure jobs, and applies what they found.

    A job is a value; only this class writes to candidates.

    Attributes:
        failed: networks (``network_of``) that failed for several targets at once, and are not tried again.
        given_up: models whose trainings workers died of, with the reason.
    """

    def __init__(
        self,
        target: Target,
        store: FeatureStore,
        settings: ExtractSettings,
        notify: ProgressCallback = no_progress,
        *,
        executor: Executor | None = None,
        isolation: Isolation = NOT_ISOLATED,
        scores: ScoreSettings | None = None,
    ) -> None:
        self.store = store
        self.notify = notify
        aspect = canvas_of(target.items, 224) if reads_maps(target) else None
        self.job_settings = replace(settings, reader=reader_of(target), aspect=aspect)
        self.work = Workspace(target, store, self.job_settings, notify)
        self.executor: Executor = executor or Routed(InProcess(), Pool(1, notify=notify, pinned=False))
        self.isolation = isolation
        self._scores = scores  # what workers score as well
        self._views: dict[float, Shared[RoundRows]] = {}
        self.failed: Mapping[str, Failure] = {}
        self.given_up: Mapping[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._rows: dict[float, Rows] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """In another process: the same target and store, opened there."""
        return _reopened, (type(self), self.target, self.store.address, self.job_settings)

    @property
    def target(self) -> Target:
        """What is left of the target: items that turned out to be unusable have left it."""
        return self.work.prepared.target

    @property
    def settings(self) -> dict[str, str]:
        """Those that decide the features."""
        return self.job_settings.of_features

    @property
    def reads_maps(self) -> bool:
        """Whether rows are read off feature maps of whole images."""
        return self.job_settings.aspect is not None

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent, by stage."""
        return {"decode": 0.0, "extract": 0.0, "cost": 0.0, **self._seconds}

    def rows(self, share: float = 1.0) -> Rows:
        """Items that the proxies see in a round: the first ``share`` of train + val, in an order
        that is stratified by class and drawn from the content, so that every round is a fair
        sample and the next one only adds to it."""
        known = self._rows.get(share)
        if known is None or known.target is not self.target:  # bad items may have left the target
            scored, beside = (
                np.sort(order[: max(2, round(share * len(order)))])
                for splits in (("train", "val"), (UNLABELED,))
                for order in [stratified(self.target, self.target.indices(*splits))]
            )
            known = self._rows[share] = Rows(self.target, scored, beside=beside)
        return known

    # ---------------------------------------------------------------- a round

    def run(self, networks: Sequence[SameNetwork], share: float) -> None:
        """Give the candidates of some networks the entries that hold their rows of a round, or why they have none.

        The store is asked first, once a candidate: a scan that it answers runs no job.
        """
        lacking: list[_Lacking] = []
        for network in networks:
            if (why := self.failed.get(network_of(network.members[0].spec))) is not None:
                _fail(network.members, why)
                continue
            try:
                pending, cost_only = self._lookup(network, share)
            except (StoreError, ConfigError):
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001  one model's failure must not end the scan
                _fail(network.members, Failure.of(error))
                continue
            if pending or cost_only:
                lacking.append((network, pending or cost_only, not pending))
        self._work(lacking, share)

    def _work(self, lacking: Sequence[_Lacking], share: float) -> None:
        """Run the jobs of a round: one after another, each model loading beside the one before it, or side by side."""
        several = self.executor.width > 1
        if several:  # the expensive ones first, so that none is left to run alone at the end
            price = self.prices([members[0].spec for _, members, _ in lacking])
            lacking = sorted(lacking, key=lambda one: (one[2], -price[one[1][0].spec.name]))
        asked: dict[int, list[Candidate]] = {}
        done = 0

        def tell() -> None:
            if several:
                names = [candidates[0].spec.name for candidates in asked.values()]
                self.notify(Progress("extract", done, len(lacking), "models", note=under_way(names)))

        def jobs() -> Iterator[ModelJob]:
            for number, (_, candidates, cost_only) in enumerate(lacking):
                upcoming = [members[0].spec for _, members, alone in lacking[number + 1 :] if not alone]
                job = self._job(candidates, share, upcoming, cost_only=cost_only)
                sent = ModelJob.of(job, self.view(share), self.scored(share) if several else ())
                asked[id(sent)] = candidates
                tell()
                yield sent

        results = self.executor.map(run_model_job, jobs(), fatal=(StoreError, ConfigError), needs=self._needs)
        with contextlib.closing(results):  # type: ignore[type-var]  # a generator: workers stop where this ends early
            for result in results:
                candidates = asked.pop(id(result.job))
                if result.value is None:
                    _fail(candidates, result.failure)
                else:
                    self._apply(candidates, result.value, cost_only=result.job.extract.cost_only)
                done += 1
                tell()

    def _needs(self, job: ModelJob) -> Needs:
        """What the zoo says of a model's size (its weights in float32), and where it may run."""
        spec = job.extract.specs[0]
        size = None if spec.params is None else 4 * int(spec.params)
        return Needs(size, local=spec.source_name in OF_THIS_PROCESS, limits=self.isolation.limits(spec))

    def scored(self, share: float) -> tuple[ToScore, ...]:
        """What workers score as well."""
        return () if self._scores is None else (ToScore(self.view(share), self._scores),)

    def view(self, share: float) -> Shared[RoundRows]:
        """The rows of a round as jobs read them."""
        rows = self.rows(share)
        if share not in self._views or self._views[share].value.rows is not rows:
            plan = rows.plan if self.reads_maps else None
            self._views[share] = Shared(RoundRows(rows.target, rows.every_item, plan, rows, self.work))
        return self._views[share]

    def _job(
        self, candidates: Sequence[Candidate], share: float, upcoming: Sequence[ModelSpec], *, cost_only: bool
    ) -> ExtractJob:
        specs = tuple(candidate.spec for candidate in candidates)
        # a model that loads beside an isolated one, or is one itself, would load in this process
        beside = upcoming[0] if upcoming and self.executor.width == 1 else None
        if beside is not None and any(map(self.isolation.concerns, (specs[0], beside))):
            beside = None
        taken = {place_of(spec) for spec in specs}
        expected = [self.work.expected(spec) for spec in upcoming]
        return ExtractJob(
            specs=specs,
            target=self.target,
            indices=self.rows(share).every_item,
            store=self.store.address,
            settings=self.job_settings,
            beside=()
            if cost_only or self.reads_maps
            else tuple(s for s in layer_specs(specs[0]) if place_of(s) not in taken),
            to_come=tuple(preprocess for preprocess in expected if preprocess is not None),
            next_spec=beside,
            cost_only=cost_only,
        )

    def _lookup(self, network: SameNetwork, share: float) -> tuple[list[Candidate], list[Candidate]]:
        """Look up what the store has of a network's candidates.

        Returns:
            those that lack rows, and those that only lack what they cost.
        """
        lacking: list[Candidate] = []
        costing: list[Candidate] = []
        for candidate in network.members:
            try:
                if self._lacks_rows(candidate, share):
                    lacking.append(candidate)
                elif self._lacks_cost(candidate):
                    costing.append(candidate)
            except OverLimit as error:
                candidate.excluded = str(error)
        return lacking, costing

    def _lacks_rows(self, candidate: Candidate, share: float) -> bool:
        """Whether rows of a round have to be extracted.

        Raises:
            OverLimit: what is known of it exceeds a limit.
        """
        spec, limits = candidate.spec, self.job_settings.limits
        limits.check_facts(spec)
        check_trusted(spec, self.job_settings.trusted)
        candidate.entry = entry = self.work.entry(spec)
        if entry is None:
            found = self.work.needed_memory(spec) if limits.max_memory is not None else None
            if found is not None and found.memory is not None and limits.max_memory is not None:
                candidate.cost = found
                check_memory(found.memory, limits.max_memory)
            return True
        limits.check_facts(spec, entry.meta.get("num_parameters"))
        candidate.cost = self.work.costs.known(entry)
        if candidate.cost is not None and not self.work.costs.wanted(entry):
            limits.check_cost(candidate.cost)
        rows = self.rows(share)
        return len(entry.missing([*rows.hashes, *rows.hashes_beside])) > 0

    def _lacks_cost(self, candidate: Candidate) -> bool:
        entry = candidate.entry
        if entry is None:
            return False
        return self.work.costs.wanted(entry) or (self.job_settings.limits.measured and candidate.cost is None)

    def _apply(self, candidates: Sequence[Candidate], result: ExtractResult, *, cost_only: bool) -> None:
        """What a job found, on the candidates that asked for it."""
        self.work.prepared.leave_out(result.bad)
        for stage, value in result.seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + value
        spent = result.seconds.get("extract", 0.0) / max(1, len(candidates))  # one pass served them all
        for candidate, found in zip(candidates, result.variants, strict=True):
            if not cost_only and not result.excluded:
                candidate.cached = False
                candidate.seconds += spent
            candidate.excluded = result.excluded
            candidate.failure = found.failure
            if found.identity is not None:
                entry = self.store.entry(found.identity["entry"])
                entry.meta = {**found.identity["facts"], **entry.meta}
                candidate.entry, candidate.cost = entry, found.cost
            elif found.cost is not None:
                candidate.cost = found.cost

    # ---------------------------------------------------------------- a single model

    def stored_items(self, spec: ModelSpec) -> int:
        """How many items of train and val this model need not read, because the store has all their rows."""
        rows = self.rows()
        try:
            check_trusted(spec, self.job_settings.trusted)  # a source imports packages to look such an entry up
            entry = self.work.entry(spec)
        except (SelectorError, *MALFORMED):  # its extraction reports this
            return 0
        if entry is None:
            return 0
        return len(rows.every_item) - count_items(entry.missing(rows.hashes), rows.groups)

    def estimate(self, spec: ModelSpec, rows: int) -> float | None:
        """Seconds that a network takes for so many rows, by what was measured here; None when nothing was."""
        rate = self.store.get("rate", {"network": network_of(spec)})
        return rows / rate["rows_per_second"] if rate else None

    def prices(self, specs: Sequence[ModelSpec]) -> dict[str, float]:
        """Seconds an item of each network, by name; see ``prices``."""
        return prices(specs, self.target, self.estimate)

    def features(self, spec: ModelSpec, indices: np.ndarray) -> np.ndarray:
        """Frozen features (len(indices), D) of any items, extracted when they are not stored yet."""
        check_trusted(spec, self.job_settings.trusted)
        hashes = self.target.row_hashes(indices)
        entry = self.work.entry(spec)
        if entry is not None and not len(entry.missing(hashes)):
            try:
                return entry.rows(hashes)
            except RowsMissing as error:
                log.info("%s: %s", spec.name, error)  # a damaged chunk was set aside: extracted again below
        settings = replace(self.job_settings, limits=NO_LIMITS)
        job = ExtractJob((spec,), self.target, indices, self.store.address, settings)
        rows = Shared(RoundRows(self.target, indices, workspace=self.work))
        (result,) = self.executor.map(run_model_job, [ModelJob.of(job, rows, ())], needs=self._needs)
        failure = result.failure if result.value is None else result.value.variants[0].failure
        if failure is not None:
            raise failure.error
        again = self.work.entry(spec)
        assert again is not None
        return again.rows(hashes)

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        return self.work.load(spec)

    def inputs(self, preprocess: AnyPreprocess) -> Inputs:
        """Every item of the target, prepared once for all models that prepare it alike."""
        return self.work.prepared.inputs(preprocess)

    def trained(self, spec: ModelSpec) -> ModelSpec:
        """The network that a candidate is trained as: a variant of its maps is no place where it ends."""
        return at_place(spec, None, None) if self.reads_maps else spec

    def supplies(self, specs: Sequence[ModelSpec]) -> StoreSupplies:
        """What trainings of these networks read, on workers that know them."""
        known = {spec.name: self.trained(spec) for spec in specs if spec.source_name not in OF_THIS_PROCESS}
        from selector.tuning.job import StoreSupplies  # it brings torch, which a scan from the store does not need

        return StoreSupplies(self.target, self.store.address, self.job_settings, known)

    def stored(self, spec: ModelSpec) -> Entry | None:
        """The entry of a spec, if there is one."""
        return self.work.entry(spec)


def _fail(candidates: Sequence[Candidate], failure: Failure | None) -> None:
    for candidate in candidates:
        candidate.failure = failure


def _reopened(kind: type[Extraction], target: Target, store: str, settings: ExtractSettings) -> Extraction:
    """An extraction in a worker, which isolates its models by being one."""
    own = replace(settings, on_invalid="skip", limits=NO_LIMITS, cost="never")
    return kind(target, FeatureStore(store), own, report)
