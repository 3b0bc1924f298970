"""The work of one network as a pure job: plain values and store keys in, keys and measurements out.

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

from selector import modalities, sources
from selector.core.answers import report
from selector.core.contracts import Encoder, Preprocess, Progress, ProgressCallback, Target, no_progress
from selector.core.costs import Cost
from selector.core.engine import Failure, failure_of, keeping_folder
from selector.core.errors import SourceError
from selector.core.task import RowPlan
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
    from selector.extract.rows import MapRunner

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 8192  # rows off maps in memory before they are written
EXTRACTOR_VERSION = 5  # raised when the same encoder and image would give other features


@dataclass(frozen=True)
class Settings:
    """How networks are run and where rows are read; the same for every job of a scan.

    Attributes:
        reader: row reader of the task (``extract/readers``).
        aspect: (height, width) of whole pictures at a short side of 224, for readers of feature maps; a network
            reads them at its own short side (``canvas_side``). None where items are prepared as the network says.
    """

    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    trusted: bool = False
    on_bad: Literal["fail", "skip"] = "fail"
    cost: CostMode = "off"
    limits: Limits = field(default_factory=Limits)
    reader: str = "pooled"
    aspect: tuple[int, int] | None = None

    @property
    def of_features(self) -> dict[str, str]:
        """Those that decide the features."""
        return {"device": self.device, "precision": self.precision, "backend": self.backend}

    @property
    def reading(self) -> dict[str, Any] | None:
        """Reader and canvas of rows that are read off maps; None for features of whole items."""
        return None if self.aspect is None else {"reader": self.reader, "aspect": list(self.aspect)}


def wanted_of(
    spec: ModelSpec, device: str, precision: str, backend: str, reading: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a scan asks the store for, known without loading the network; the store remembers which
    entry it led to.

    Args:
        reading: of rows that are read off maps: reader and aspect of the canvas. ``spec.layer`` is the variant then.
    """
    known = at_place(spec, None, None) if reading else spec
    identity = sources.registry.get(spec.source_name).identify(known)
    asked: dict[str, Any] = {"spec": identity, "device": device, "precision": precision, "backend": backend}
    if reading:
        asked["rows"] = {**reading, "variant": spec.layer}
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
        plan: rows that are read off feature maps; None for features of whole items.
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
    plan: RowPlan | None = None

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
        self._canvases: dict[int, tuple[int, int]] = {}

    def wanted(self, spec: ModelSpec) -> dict[str, Any]:
        """``wanted_of``, asked once a spec: a source may ask the hub."""
        key = json.dumps([spec.feature_settings(), spec.base], sort_keys=True)
        if key not in self._asked:
            self._asked[key] = wanted_of(spec, **self.settings.of_features, reading=self.settings.reading)
        return self._asked[key]

    def entry(self, spec: ModelSpec) -> Entry | None:
        """What the store has of a spec."""
        return self.store.resolve(self.wanted(spec))

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        self.notify(Progress("load", 0, 1, "models", spec.name))
        return self.ahead.take(spec)

    def canvas(self, short_side: int) -> tuple[int, int]:
        """(height, width) that whole pictures of the target are squashed to for a network of this native side."""
        from selector.modalities.image import canvas_of

        if short_side not in self._canvases:
            self._canvases[short_side] = canvas_of(self.prepared.target.items, short_side)
        return self._canvases[short_side]

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


def workspace_of(job: ExtractJob) -> Workspace:
    """The workspace of this worker process for a job's target and store, made anew for another one."""
    key = json.dumps([job.store, job.target.fingerprint, repr(job.settings)])
    if key not in _OWN:
        _OWN.clear()
        _OWN[key] = Workspace(job.target, FeatureStore(job.store), job.settings, report)
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
            if job.cost_only:
                found = self._measured()
            else:
                found = self._extracted() if job.plan is None else self._mapped(job.plan)
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

        work, job = self.work, self.job
        if modalities.of(encoder).resizable and work.expected(specs[0]) != encoder.preprocess:
            work.store.put("preprocess", {"network": network_of(specs[0])}, encoder.preprocess.to_dict())
        items = work.prepared.inputs(encoder.preprocess, lambda: job.to_come)  # may take bad items out of the target
        rows = self._indices()
        target = work.prepared.target
        hashes = target.row_hashes(rows)
        units = target.units_of(rows)
        begun = next((entry for spec in specs if (entry := known.get(place_of(spec))) is not None), None)
        sample = items.longest_first(rows[:JUDGED_ON])
        if begun is None:  # may take seconds: silence would look like a hang
            work.notify(Progress("load", 0, 1, "models", specs[0].name, "choosing a backend"))
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
            cut=items.cut,
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

    # ---------------------------------------------------------------- rows off feature maps

    def _mapped(self, wanted: RowPlan) -> list[Entry | SourceError]:
        """As ``_extracted``, for rows at places of whole pictures: one pass gives every variant."""
        from selector.extract.backend_choice import JUDGED_ON
        from selector.extract.readers import registry
        from selector.extract.rows import canvas_encoder, extract_rows, open_map_runner
        from selector.modalities.pixels.maps import canvas_side

        job, work = self.job, self.work
        reader = registry.get(wanted.reader)
        name = json.dumps({"extract": network_of(job.specs[0]), **(work.settings.reading or {})}, sort_keys=True)
        with work.store.lock(name):
            plan, addresses = self._plan(wanted)
            known = {spec.layer: work.entry(spec) for spec in job.specs}
            found: dict[str | None, Entry | SourceError] = {
                layer: entry
                for layer, entry in known.items()
                if entry is not None and not len(entry.missing(addresses))
            }
            lacking = [spec for spec in job.specs if spec.layer not in found]
            if not lacking:
                return [found[spec.layer] for spec in job.specs]
            plain = work.load(at_place(job.specs[0], None, None))
            encoder = canvas_encoder(plain, work.canvas(canvas_side(plain)))
            variants = reader.variants(encoder.strides)
            for spec in lacking:
                if spec.layer is not None and spec.layer not in variants:
                    found[spec.layer] = SourceError(
                        f"{spec.name}: there is no feature variant '{spec.layer}' of its maps; known: "
                        f"{', '.join(variants)}."
                    )
            lacking = [spec for spec in lacking if spec.layer not in found]
            items = work.prepared.inputs(encoder.preprocess, lambda: job.to_come)  # may take bad items out
            plan, addresses = self._plan(wanted)
            if not lacking or not len(plan):
                return [found[spec.layer] for spec in job.specs]
            seen = np.unique(plan.item)
            begun = next((entry for spec in lacking if (entry := known[spec.layer]) is not None), None)
            runner = open_map_runner(
                encoder, device=work.settings.device, precision=work.settings.precision,
                sample=items.batch(seen[:JUDGED_ON]), decided=None if begun is None else str(begun.meta["precision"]),
            )  # fmt: skip
            entries: dict[str, Entry] = {}
            for spec in lacking:
                variant = spec.layer or variants[0]
                entries[variant] = self._begun_rows(spec, encoder, runner, plan.reader, variant)
            if work.settings.cost != "off" or work.settings.limits:
                self._cost_of_maps(encoder, list(entries.values()), items.batch(seen[:1]))
            if job.next_spec is not None:
                work.ahead.start(at_place(job.next_spec, None, None))
            self._stream(extract_rows, runner, items, plan, addresses, entries)
            found |= {spec.layer: entries[spec.layer or variants[0]] for spec in lacking}
            return [found[spec.layer] for spec in job.specs]

    def _plan(self, wanted: RowPlan) -> tuple[RowPlan, list[str]]:
        """The rows whose items are still in the target, by their positions there, and their addresses."""
        target = self.work.prepared.target
        if target is self.job.target:
            return wanted, wanted.addresses(target.hashes)
        at = {content: i for i, content in enumerate(target.hashes)}
        position = np.array([at.get(self.job.target.hashes[i], -1) for i in wanted.item], dtype=np.int64)
        kept = position >= 0
        assert wanted.place is not None
        plan = RowPlan(position[kept], {}, wanted.place[kept], wanted.reader)
        return plan, plan.addresses(target.hashes)

    def _stream(
        self,
        extract_rows: Any,
        runner: MapRunner,
        items: Any,
        plan: RowPlan,
        addresses: Sequence[str],
        entries: Mapping[str, Entry],
    ) -> None:
        """Run the pictures of missing rows and append them to their entries, chunk by chunk."""
        lacks = {variant: np.zeros(len(plan), bool) for variant in entries}
        for variant, entry in entries.items():
            lacks[variant][entry.missing(addresses)] = True
        rows = np.flatnonzero(np.any(list(lacks.values()), axis=0))
        assert plan.place is not None
        name, started, done = self.job.name, time.perf_counter(), 0
        pictures = len(np.unique(plan.item[rows]))
        self.work.notify(Progress("extract", 0, len(rows), "rows", name))
        waiting: list[tuple[np.ndarray, Mapping[str, np.ndarray]]] = []

        def write() -> None:
            if not waiting:
                return
            which = np.concatenate([part for part, _ in waiting])
            for variant, entry in entries.items():
                features = np.concatenate([found[variant] for _, found in waiting])
                own = lacks[variant][which]
                entry.append([addresses[i] for i in which[own]], features[own])
            waiting.clear()

        for chunk in extract_rows(
            runner, items, plan.item[rows], plan.place[rows], plan.reader, variants=list(entries)
        ):
            waiting.append((rows[chunk.rows], chunk.features))
            done += len(chunk.rows)
            if sum(len(part) for part, _ in waiting) >= _ROWS_AT_ONCE:
                write()
            self.work.notify(Progress("extract", done, len(rows), "rows", name))
        write()
        if pictures:
            rate = {"rows_per_second": pictures / max(time.perf_counter() - started, 1e-6)}
            width = max((entry.num_features or 0 for entry in entries.values()), default=0)
            self.work.store.put("rate", {"source": self.job.specs[0].source}, {**rate, "num_features": width})

    def _begun_rows(self, spec: ModelSpec, encoder: Encoder, runner: MapRunner, reader: str, variant: str) -> Entry:
        """The entry of a variant of rows off maps, with what was decided, before its first row."""
        preprocess = encoder.preprocess.to_dict()
        rows = {"reader": reader, "variant": variant, "strides": list(encoder.strides)}
        return self.work.store.remember(
            self.work.wanted(spec),
            {
                **encoder.identity, "preprocess": preprocess, "extractor": EXTRACTOR_VERSION, "rows": rows,
                **runner.identity,
            },
            {
                "num_parameters": encoder.num_parameters, "preprocess": preprocess, "rows": rows, **runner.facts,
                **runner.identity,
            },
        )  # fmt: skip

    def _cost_of_maps(self, encoder: Encoder, entries: Sequence[Entry], batch: Batch) -> None:
        """What a pass over a whole picture costs, held against the limits."""
        from selector.extract.encode import open_runner

        runner = open_runner(
            encoder, device=self.work.settings.device, precision="float32", backend="eager", sample=batch,
            rows_expected=1, store=self.work.store,
        )  # fmt: skip
        self._cost(self.job.specs[0], encoder, runner, entries, batch)

    # ---------------------------------------------------------------- cost

    def _measured(self) -> list[Entry | SourceError]:
        """Measure a network whose rows are all stored, because its costs are asked for."""
        from selector.extract.encode import open_runner

        work = self.work
        entries = [entry for spec in self.job.specs if (entry := work.entry(spec)) is not None]
        encoder = work.load(self.job.specs[0] if self.job.plan is None else at_place(self.job.specs[0], None, None))
        if self.job.plan is not None:
            from selector.extract.rows import canvas_encoder
            from selector.modalities.pixels.maps import canvas_side

            encoder = canvas_encoder(encoder, work.canvas(canvas_side(encoder)))
            self._cost_of_maps(encoder, entries, work.prepared.inputs(encoder.preprocess).batch(self._indices()[:1]))
            return list(entries)
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
