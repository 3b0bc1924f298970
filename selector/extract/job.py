"""The work of one network as a pure job: plain values and store keys in, keys and figures out.

``extract`` is the same function in this process, in a worker and on a cluster. What it can reuse between jobs
of one process (decoded pictures, a network that loads ahead) lies in a ``Workspace``, which changes how long a
job takes and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from selector import sources
from selector.core.contracts import Encoder, Preprocess, Progress, ProgressCallback, Target, no_progress
from selector.core.costs import Cost
from selector.core.engine import Failure, failure_of, keeping_folder
from selector.core.errors import SourceError
from selector.extract.known_costs import CostMode, Costs
from selector.extract.memory import give_back
from selector.extract.prefetch import LoadAhead
from selector.extract.prepare import Prepared
from selector.store import Entry, FeatureStore
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.limits import Limits, OverLimit
from selector.zoo.variants import Place, at_place, network_of, place_of

if TYPE_CHECKING:
    from selector.extract.encode import Runner
    from selector.extract.inputs import Batch

log = logging.getLogger(__name__)

EXTRACTOR_VERSION = 5  # raised when the same encoder and image would give other features


@dataclass(frozen=True)
class Settings:
    """How networks are run; the same for every job of a scan."""

    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    trusted: bool = False
    on_bad: Literal["fail", "skip"] = "fail"
    cost: CostMode = "off"
    limits: Limits = field(default_factory=Limits)

    @property
    def of_features(self) -> dict[str, str]:
        """Those that decide the features."""
        return {"device": self.device, "precision": self.precision, "backend": self.backend}


def wanted_of(spec: ModelSpec, device: str, precision: str, backend: str) -> dict[str, Any]:
    """What a scan asks the store for, known without loading the network; the store remembers which
    entry it led to."""
    identity = sources.registry.get(spec.source_name).identify(spec)
    asked = {"spec": identity, "device": device, "precision": precision, "backend": backend}
    # what an older version extracted is not looked up either
    return {**asked, "extractor": EXTRACTOR_VERSION}


def layer_specs(spec: ModelSpec) -> list[ModelSpec]:
    """A model read at each of its layers, where its source can tell them without building the network.

    Empty for other models, and for one that its zoo entry reads at a single layer.
    """
    layers: Any = getattr(sources.registry.get(spec.source_name), "layers", None)
    if layers is None or spec.layer not in (None, "mean"):
        return []
    return [spec.model_copy(update={"layer": layer, "name": f"{spec.name}@{layer}"}) for layer in layers(spec)]


@dataclass(frozen=True)
class ExtractJob:
    """What is wanted of one network.

    Attributes:
        specs: feature variants that are wanted, all of one network.
        beside: further variants that the same pass gives; one that cannot be had is nobody's failure.
        target: whose items; ``indices`` (n,) are their positions in it.
        store: folder or URL of the feature store, where the rows go.
        settings: how the network is run.
        to_come: what later jobs will probably read, so that pictures are decoded once for all of them.
        next_spec: the network that will probably be asked for next; loaded while this one runs.
        cost_only: the rows are all stored; the network is loaded for what it costs.
    """

    specs: tuple[ModelSpec, ...]
    target: Target
    indices: np.ndarray
    store: str
    settings: Settings = Settings()
    beside: tuple[ModelSpec, ...] = ()
    to_come: tuple[Preprocess, ...] = ()
    next_spec: ModelSpec | None = None
    cost_only: bool = False

    @property
    def name(self) -> str:
        """Of the first variant; for messages."""
        return self.specs[0].name


@dataclass(frozen=True)
class VariantResult:
    """One feature variant: the identity of its entry, or why it has none."""

    identity: Mapping[str, Any] | None = None
    cost: Cost | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class ExtractResult:
    """What a job found.

    Attributes:
        variants: in the order of ``ExtractJob.specs``.
        excluded: the limit that the network exceeds, or "".
        bad: content hash -> reason, of items that turned out to be unusable.
        seconds: by stage: extract (load, decide and run), cost, decode, tokenise.
    """

    variants: tuple[VariantResult, ...] = ()
    excluded: str = ""
    bad: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class Workspace:
    """What jobs of one process share: the open store, prepared items, the network that loads ahead.

    Args:
        target: whose items are prepared.
        store: where rows go.
    """

    def __init__(
        self, target: Target, store: FeatureStore, settings: Settings, notify: ProgressCallback = no_progress
    ) -> None:
        self.store = store
        self.settings = settings
        self.notify = notify
        self.prepared = Prepared(target, store, settings.device, settings.on_bad, notify)
        self.costs = Costs(store, settings.device, settings.cost)
        self.ahead = LoadAhead(self._load)
        self._asked: dict[str, dict[str, Any]] = {}

    def wanted(self, spec: ModelSpec) -> dict[str, Any]:
        """``wanted_of``, asked once a spec: a source may ask the hub."""
        key = json.dumps([spec.feature_settings(), spec.base], sort_keys=True)
        if key not in self._asked:
            self._asked[key] = wanted_of(spec, **self.settings.of_features)
        return self._asked[key]

    def entry(self, spec: ModelSpec) -> Entry | None:
        """What the store has of a spec."""
        return self.store.resolve(self.wanted(spec))

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        self.notify(Progress("load", 0, 1, "models", spec.name))
        return self.ahead.take(spec)

    def expected(self, spec: ModelSpec) -> Preprocess | None:
        """What a network will read, as the zoo or an earlier scan says."""
        remembered = self.store.get("preprocess", {"network": network_of(spec)})
        if remembered is not None:
            return Preprocess.from_dict(remembered)
        said = spec.preprocess.changes()
        return Preprocess().overridden(said) if {"input_size", "interpolation", "crop_pct"} <= set(said) else None

    def _load(self, spec: ModelSpec) -> Encoder:
        check_trusted(spec, self.settings.trusted)
        with keeping_folder():
            return sources.registry.get(spec.source_name).load(spec)


_OWN: dict[str, Workspace] = {}
"""Of a worker process: the workspace of the target that it saw last."""


def workspace_of(job: ExtractJob, notify: ProgressCallback = no_progress) -> Workspace:
    """The workspace of this process for a job's target and store, made anew for another one."""
    key = json.dumps([job.store, job.target.fingerprint, repr(job.settings)])
    if key not in _OWN:
        _OWN.clear()
        _OWN[key] = Workspace(job.target, FeatureStore(job.store), job.settings, notify)
    return _OWN[key]


def extract(job: ExtractJob, workspace: Workspace | None = None) -> ExtractResult:
    """Bring the rows of a network into the store, loading it only when rows are missing.

    Args:
        job: what is wanted.
        workspace: what this process has at hand; a worker's own when None.
    Returns:
        For each variant its entry or why it has none; a variant that fails alone leaves the others.
    Raises:
        SourceError: the network cannot be used at all.
        StoreError: the store cannot be written (a full disk).
    """
    work = workspace or workspace_of(job)
    return _Extraction(job, work).run()


class _Extraction:
    """The run of one job."""

    def __init__(self, job: ExtractJob, work: Workspace) -> None:
        self.job, self.work = job, work
        self.cost_seconds = 0.0
        bad = set(work.prepared.bad)
        # positions are of the job's target; the workspace's may have lost items since
        self._wanted_hashes = [h for h in (job.target.hashes[i] for i in job.indices) if h not in bad]

    def run(self) -> ExtractResult:
        work, job = self.work, self.job
        before = dict(work.prepared.seconds)
        bad = set(work.prepared.bad)
        started = time.perf_counter()
        excluded = ""
        variants: tuple[VariantResult, ...] = ()
        try:
            found = self._measured() if job.cost_only else self._extracted()
            variants = tuple(self._result(value) for value in found)
        except OverLimit as error:
            excluded = str(error)
            known = [work.entry(spec) for spec in job.specs]  # its row shows what was found before it was excluded
            variants = tuple(VariantResult() if entry is None else self._result(entry) for entry in known)
        finally:
            give_back()  # the network is gone
        seconds = {stage: value - before.get(stage, 0.0) for stage, value in work.prepared.seconds.items()}
        whole = time.perf_counter() - started - self.cost_seconds
        return ExtractResult(
            variants,
            excluded,
            {h: reason for h, reason in work.prepared.bad.items() if h not in bad},
            {**seconds, "extract": 0.0 if job.cost_only else whole, "cost": self.cost_seconds},
        )

    def _result(self, found: Entry | SourceError) -> VariantResult:
        if isinstance(found, Entry):
            return VariantResult({"entry": found.identity, "facts": found.meta}, self.work.costs.known(found))
        return VariantResult(failure=failure_of(found))

    # ---------------------------------------------------------------- rows

    def _indices(self) -> np.ndarray:
        """Positions of the wanted items in what is left of the target; asked anew after items left it."""
        target = self.work.prepared.target
        if target is self.job.target:
            return self.job.indices
        place = {content: i for i, content in enumerate(target.hashes)}
        return np.array(sorted({place[h] for h in self._wanted_hashes if h in place}), dtype=np.int64)

    def _extracted(self) -> list[Entry | SourceError]:
        """Load, decide and extract under one lock, so that processes beside this one wait and then find all done."""
        job, work = self.job, self.work
        specs = [*job.specs, *job.beside]
        name = json.dumps({"extract": network_of(specs[0]), **work.settings.of_features}, sort_keys=True)
        with work.store.lock(name):
            hashes = work.prepared.target.row_hashes(self._indices())
            known = {place_of(spec): work.entry(spec) for spec in specs}  # resolved once, passed on
            found: dict[Place, Entry | SourceError] = {
                place: entry for place, entry in known.items() if entry is not None and not len(entry.missing(hashes))
            }
            lacking = {place_of(spec): spec for spec in specs if place_of(spec) not in found}
            for mates in self._passes(list(lacking.values()), known):
                for encoder, members in self._encoders(mates, found):
                    found |= self._pass(encoder, members, lacking, known)
            return [found[place_of(spec)] for spec in job.specs]

    def _passes(self, specs: Sequence[ModelSpec], known: Mapping[Place, Entry | None]) -> list[list[ModelSpec]]:
        """Variants by the forward pass that gives them: new ones together, and those whose first rows
        came from one pass with all that were in it, so that a resumed extraction runs the same network."""
        fresh: list[ModelSpec] = []
        begun: dict[str, list[ModelSpec]] = {}
        for spec in specs:
            entry = known.get(place_of(spec))
            if entry is None:
                fresh.append(spec)
            else:
                places = entry.meta.get("together", [place_of(spec)])
                begun[json.dumps(places)] = [at_place(spec, layer, pooling) for layer, pooling in places]
        return [*([fresh] if fresh else []), *begun.values()]

    def _encoders(
        self, specs: Sequence[ModelSpec], found: dict[Place, Entry | SourceError]
    ) -> Iterator[tuple[Encoder, list[ModelSpec]]]:
        """The encoder of some variants: one for all of them where one pass gives what each gives alone.

        Why a variant cannot be had is added to ``found``.
        """
        encoders: dict[Place, Encoder] = {}
        first: Encoder | None = None
        apart = False
        for spec in specs:
            try:
                encoder = self._read(first, spec)
                if first is not None:  # without a module (ONNX) nothing is shared: each was loaded anew
                    apart = apart or encoder.module is None or encoder.module is not first.module
                first = first or encoder
                encoders[place_of(spec)] = encoder
            except SourceError as error:  # its layer may be what is wrong: the others are tried
                found[place_of(spec)] = error
        members = [spec for spec in specs if place_of(spec) in encoders]
        if len(members) > 1 and not apart:
            from selector.extract.multi_tap import Together, agree

            together = Together([encoders[place_of(spec)] for spec in members])
            if agree(together):
                yield together, members
                return
        for spec in members:
            yield encoders.pop(place_of(spec)), [spec]

    def _read(self, loaded: Encoder | None, spec: ModelSpec) -> Encoder:
        """The encoder of a spec, from the network that is loaded already where its source can do that."""
        if loaded is not None:
            with contextlib.suppress(NotImplementedError):
                return loaded.reading(spec)
        return self.work.load(spec)

    def _pass(
        self,
        encoder: Encoder,
        specs: Sequence[ModelSpec],
        lacking: Mapping[Place, ModelSpec],
        known: Mapping[Place, Entry | None],
    ) -> dict[Place, Entry | SourceError]:
        """Run an encoder over the items that its variants (``specs``) lack."""
        from selector.extract.backend_choice import JUDGED_ON
        from selector.extract.encode import extract_together, open_runner
        from selector.extract.inputs import in_order
        from selector.extract.tokens import TokenTable

        work, job = self.work, self.job
        if isinstance(encoder.preprocess, Preprocess) and work.expected(specs[0]) != encoder.preprocess:
            work.store.put("preprocess", {"network": network_of(specs[0])}, encoder.preprocess.to_dict())
        items = work.prepared.inputs(encoder.preprocess, lambda: job.to_come)  # may take bad items out of the target
        rows = self._indices()
        target = work.prepared.target
        hashes = target.row_hashes(rows)
        units = target.units_of(rows)
        begun = next((entry for spec in specs if (entry := known.get(place_of(spec))) is not None), None)
        sample = items.longest_first(rows[:JUDGED_ON]) if isinstance(items, TokenTable) else rows[:JUDGED_ON]
        runner = open_runner(
            encoder,
            **work.settings.of_features,
            sample=items.batch(sample),
            rows_expected=len(rows),
            decided=dict(begun.meta) if begun is not None else None,
            store=work.store,
        )
        if begun is None:
            runner.require_repeatable(items.batch(sample[:2]))
        entries: list[Entry | None] = []
        missing = np.zeros(len(rows), bool)
        for spec, reading in zip(specs, encoder.outputs or (encoder,), strict=True):
            if place_of(spec) not in lacking:
                entries.append(None)
                continue
            entry = self._begun(spec, reading, runner, [place_of(mate) for mate in specs])
            lacking_rows = entry.missing(hashes)
            missing[lacking_rows if units is None else units[lacking_rows]] = True
            entries.append(entry)
        # before the next network loads beside it
        self._cost(specs[0], encoder, runner, [entry for entry in entries if entry is not None], items.batch(rows[:1]))
        if job.next_spec is not None:
            work.ahead.start(job.next_spec)
        started = time.perf_counter()
        failures = extract_together(
            runner, entries, items, target.hashes, rows[missing], work.notify, model=specs[0].name,
            cut=items.cut if isinstance(items, TokenTable) else in_order,
            keys=None if units is None else target.row_hashes, sample=sample,
        )  # fmt: skip
        ran = int(missing.sum()) - (0 if runner.judged is None else len(sample))
        if ran > 0:
            rate = ran / max(time.perf_counter() - started, 1e-6)
            width = encoder.num_features // len(specs)
            work.store.put("rate", {"source": specs[0].source}, {"rows_per_second": rate, "num_features": width})
        return {
            place_of(spec): failure or entry
            for spec, entry, failure in zip(specs, entries, failures, strict=True)
            if entry is not None
        }

    def _begun(self, spec: ModelSpec, reading: Encoder, runner: Runner, places: Sequence[Place]) -> Entry:
        """The entry of a variant, with what was decided, before its first row."""
        preprocess = reading.preprocess.to_dict()
        entry = self.work.store.remember(
            self.work.wanted(spec),
            {**reading.identity, "preprocess": preprocess, "extractor": EXTRACTOR_VERSION, **runner.identity},
            {
                "num_features": reading.num_features,
                "num_parameters": reading.num_parameters,
                "preprocess": preprocess,
                **runner.facts,
                **runner.identity,
                **({"together": [list(place) for place in places]} if len(places) > 1 else {}),
            },
        )
        if reading.source_head is not None:
            entry.set_head(*reading.source_head)
        return entry

    # ---------------------------------------------------------------- cost

    def _measured(self) -> list[Entry | SourceError]:
        """Measure a network whose rows are all stored, because its figures are asked for."""
        from selector.extract.encode import open_runner

        work = self.work
        entries = [entry for spec in self.job.specs if (entry := work.entry(spec)) is not None]
        encoder = work.load(self.job.specs[0])
        sample = work.prepared.inputs(encoder.preprocess).batch(self._indices()[:1])
        runner = open_runner(
            encoder, **work.settings.of_features, sample=sample, rows_expected=1, decided=dict(entries[0].meta),
            store=work.store,
        )  # fmt: skip
        self._cost(self.job.specs[0], encoder, runner, entries, sample)
        return list(entries)

    def _cost(self, spec: ModelSpec, encoder: Encoder, runner: Runner, entries: Sequence[Entry], batch: Batch) -> None:
        """Find out what a loaded network costs and hold it against the limits.

        Raises:
            OverLimit: it exceeds one.
        """
        limits = self.job.settings.limits
        started = time.perf_counter()
        try:
            limits.check_facts(spec, encoder.num_parameters)
            limits.check_cost(self.work.costs.measure(entries, encoder, runner, batch))
        finally:
            self.cost_seconds += time.perf_counter() - started
