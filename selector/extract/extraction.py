"""What every run of an extraction job does: its result, its items, what the network costs."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from selector import modalities
from selector.core.contracts import Encoder, Progress
from selector.core.errors import SourceError
from selector.core.resources import give_back, memory_limit
from selector.extract.job import ExtractJob, ExtractResult, VariantResult, versioned
from selector.extract.workspace import Workspace
from selector.run.job import Failure
from selector.store.entry import Entry
from selector.zoo import ModelSpec
from selector.zoo.limits import OverLimit, check_memory
from selector.zoo.spec import Place, at_place, network_of, place_of

if TYPE_CHECKING:
    from selector.extract.encode import Runner
    from selector.extract.inputs import Batch
    from selector.extract.prefetch_model import Opened


class ExtractionRun(ABC):
    """The run of one job; what differs between rows of whole items and rows off maps is in ``ItemRows`` and ``MapRows``."""

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
            found = self.measured() if job.cost_only else self.extracted()
            variants = tuple(self._result(value) for value in found)
        except OverLimit as error:
            excluded = str(error)
            known = [work.entry(spec) for spec in job.specs]  # its row shows what was found before it was excluded
            variants = tuple(
                VariantResult(cost=error.cost) if entry is None else self._result(entry) for entry in known
            )
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
        return VariantResult(failure=Failure.of(found))

    @abstractmethod
    def extracted(self) -> list[Entry | SourceError]:
        """Bring the missing rows of every variant of the job into its entry; an entry a variant, or why it has none."""

    @abstractmethod
    def measured(self) -> list[Entry | SourceError]:
        """Measure a network whose rows are all stored, because its costs are asked for."""

    def indices(self) -> np.ndarray:
        """Positions of the wanted items in what is left of the target; asked anew after items left it."""
        target = self.work.prepared.target
        if target is self.job.target:
            return self.job.indices
        place = {content: i for i, content in enumerate(target.hashes)}
        return np.array(sorted({place[h] for h in self._wanted_hashes if h in place}), dtype=np.int64)

    def fitting_batch(self, spec: ModelSpec, encoder: Encoder, item: Batch) -> int | None:
        """How many items of a pass fit into the memory that a model may take; None where there is no limit.

        Raises:
            OverLimit: not even one does.
        """
        work = self.work
        limit = memory_limit()
        if limit is None or encoder.module is None:
            return None
        found = work.needed_memory(spec)
        if found is None:
            from selector.extract.cost import needed_memory
            from selector.extract.encode import resolve_device

            found = needed_memory(encoder, resolve_device(work.settings.device), item)
            work.remember_memory(spec, found)
        if found.memory is None or found.disk is None:
            return None
        try:
            check_memory(found.memory, limit)
        except OverLimit as error:
            error.cost = found
            raise
        return (limit - found.disk) // max(1, found.memory - found.disk)

    def check_cost(
        self, spec: ModelSpec, encoder: Encoder, runner: Runner, entries: Sequence[Entry], batch: Batch
    ) -> None:
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


class ItemRows(ExtractionRun):
    """The run of a job whose rows are items, or the words of a sentence."""

    def extracted(self) -> list[Entry | SourceError]:
        """Load, decide and extract under one lock, so that processes beside this one wait and then find all done."""
        job, work = self.job, self.work
        specs = [*job.specs, *job.beside]
        name = json.dumps({"extract": network_of(specs[0]), **work.settings.of_features}, sort_keys=True)
        with work.store.lock(name):
            hashes = work.prepared.target.row_hashes(self.indices())
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
                return loaded.variant(spec)
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
        rows = self.indices()
        target = work.prepared.target
        hashes = target.row_hashes(rows)
        groups = target.groups_of(rows)
        begun = next((entry for spec in specs if (entry := known.get(place_of(spec))) is not None), None)
        sample = items.longest_first(rows[:JUDGED_ON])
        if begun is None:  # may take seconds: silence would look like a hang
            work.notify(Progress("load", 0, 1, "models", specs[0].name, "choosing a backend"))
        runner = open_runner(
            encoder,
            **work.settings.of_features,
            sample=items.batch(sample),
            most=self.fitting_batch(specs[0], encoder, items.batch(sample[:1])),
            rows_expected=len(rows),
            decided=dict(begun.meta) if begun is not None else None,
            store=work.store,
            opened=work.ahead.opened(encoder),
        )
        if begun is None:
            runner.require_repeatable(items.batch(sample[:2]))
        entries: list[Entry | None] = []
        missing = np.zeros(len(rows), bool)
        for spec, variant in zip(specs, encoder.outputs or (encoder,), strict=True):
            if place_of(spec) not in lacking:
                entries.append(None)
                continue
            entry = self._begun(spec, variant, runner, [place_of(mate) for mate in specs])
            lacking_rows = entry.missing(hashes)
            missing[lacking_rows if groups is None else groups[lacking_rows]] = True
            entries.append(entry)
        # before the next network loads beside it
        self.check_cost(
            specs[0], encoder, runner, [entry for entry in entries if entry is not None], items.batch(rows[:1])
        )
        if job.next_spec is not None:
            work.ahead.start(job.next_spec, partial(self._opened, job.next_spec, len(rows)))
        started = time.perf_counter()
        failures = extract_together(
            runner, entries, items, target.hashes, rows[missing], work.notify, model=specs[0].name,
            cut=items.cut,
            keys=None if groups is None else target.row_hashes, sample=sample,
        )  # fmt: skip
        ran = int(missing.sum()) - (0 if runner.judged is None else min(len(sample), len(runner.judged)))
        if ran > 0:
            rate = ran / max(time.perf_counter() - started, 1e-6)
            width = encoder.num_features // len(specs)
            remembered = {"rows_per_second": rate, "num_features": width}
            work.store.put("rate", {"network": network_of(specs[0])}, remembered)
        return {
            place_of(spec): failure or entry
            for spec, entry, failure in zip(specs, entries, failures, strict=True)
            if entry is not None
        }

    def _opened(self, spec: ModelSpec, rows: int, encoder: Encoder) -> Opened:
        """The likely backend of the network that comes next; of one that was begun the decided one."""
        from selector.extract.prefetch_model import open_ahead

        work = self.work
        entry = work.entry(spec)
        decided = None if entry is None else dict(entry.meta)
        if decided and "together" in decided:
            return {}  # several variants run as one network, which is made at its turn
        return open_ahead(encoder, **work.settings.of_features, rows_expected=rows, store=work.store, decided=decided)

    def _begun(self, spec: ModelSpec, variant: Encoder, runner: Runner, places: Sequence[Place]) -> Entry:
        """The entry of a variant, with what was decided, before its first row."""
        preprocess = variant.preprocess.to_dict()
        entry = self.work.store.remember(
            self.work.wanted(spec),
            versioned({**variant.identity, "preprocess": preprocess, **runner.identity}),
            {
                "num_features": variant.num_features,
                "num_parameters": variant.num_parameters,
                "preprocess": preprocess,
                **runner.facts,
                **runner.identity,
                **({"together": [list(place) for place in places]} if len(places) > 1 else {}),
            },
        )
        if variant.source_head is not None:
            entry.set_head(*variant.source_head)
        return entry

    def measured(self) -> list[Entry | SourceError]:
        from selector.extract.encode import open_runner

        work = self.work
        entries = [entry for spec in self.job.specs if (entry := work.entry(spec)) is not None]
        encoder = work.load(self.job.specs[0])
        sample = work.prepared.inputs(encoder.preprocess).batch(self.indices()[:1])
        runner = open_runner(
            encoder, **work.settings.of_features, sample=sample, rows_expected=1, decided=dict(entries[0].meta),
            store=work.store,
        )  # fmt: skip
        self.check_cost(self.job.specs[0], encoder, runner, entries, sample)
        return list(entries)
