"""Brings a model's rows into the store, loading the network only when rows are missing."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from selector import sources
from selector.core.contracts import (
    AnyPreprocess,
    Encoder,
    Modality,
    Preprocess,
    Progress,
    ProgressCallback,
    Target,
)
from selector.core.engine import failure_of
from selector.core.errors import SourceError
from selector.extract.memory import give_back
from selector.scan.candidate import Candidate
from selector.scan.costs import CostMode, Costs
from selector.scan.dataset_view import Rows
from selector.scan.inputs import Prepared
from selector.scan.limits import Limits, OverLimit
from selector.scan.prefetch import LoadAhead
from selector.scan.texts import layer_specs
from selector.scan.variants import Place, SameNetwork, at_place, network_of, place_of
from selector.store import Entry, FeatureStore, RowsMissing
from selector.zoo import ModelSpec, check_trusted

if TYPE_CHECKING:
    from selector.extract.encode import Runner
    from selector.extract.inputs import Batch
    from selector.extract.pixels import Pixels
    from selector.extract.tokens import TokenTable

log = logging.getLogger(__name__)

NO_LIMITS = Limits()
EXTRACTOR_VERSION = 4  # raised when the same encoder and image would give other features


def wanted_of(spec: ModelSpec, device: str, precision: str, backend: str) -> dict[str, Any]:
    """What a scan asks the store for, known without loading the network; the store remembers which
    entry it led to."""
    identity = sources.registry.get(spec.source_name).identify(spec)
    asked = {"spec": identity, "device": device, "precision": precision, "backend": backend}
    # what an older version extracted is not looked up either
    return {**asked, "extractor": EXTRACTOR_VERSION}


class Extraction:
    """Brings a model's rows into the store, loading the network only when rows are missing."""

    def __init__(
        self,
        target: Target,
        store: FeatureStore,
        device: str,
        precision: str,
        backend: str,
        on_bad: Literal["fail", "skip"],
        trusted: bool,
        notify: ProgressCallback,
        limits: Limits = NO_LIMITS,
        cost: CostMode = "off",
    ) -> None:
        self.prepared = Prepared(target, store, device, on_bad, notify)
        self.store = store
        self.settings = {"device": device, "precision": precision, "backend": backend}
        self.trusted = trusted
        self.notify = notify
        self.limits = limits
        self.costs = Costs(store, device, cost)
        self._seconds: dict[str, float] = {"extract": 0.0, "cost": 0.0}
        self._ahead = LoadAhead(self._load)
        self._announced: tuple[Sequence[SameNetwork], float] | None = None
        self._upcoming: list[ModelSpec] = []
        self._asked: dict[str, dict[str, Any]] = {}

    @property
    def target(self) -> Target:
        """What is left of the target: items that turned out to be unusable have left it."""
        return self.prepared.target

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent, by stage."""
        return {**self.prepared.seconds, **self._seconds}

    def rows(self, share: float = 1.0) -> Rows:
        """The rows that the proxies see in a round."""
        return self.prepared.rows(share)

    def expect(self, networks: Sequence[SameNetwork], share: float) -> None:
        """Say what ``run`` will be asked for next, so that images are decoded once for all of it and
        the weights of the next network are loaded while one runs.

        The store is asked when the first of them lacks rows: a scan that it answers pays nothing.
        """
        self._announced, self._upcoming = (networks, share), []

    def _look_ahead(self) -> None:
        """Find out which of the announced networks lack rows, once."""
        if self._announced is None:
            return
        (networks, share), self._announced = self._announced, None
        for network in networks:
            try:
                lacking = [c.spec for c in network.members if self._lacks(c.spec, self.rows(share).hashes)]
            except Exception as error:  # noqa: BLE001  raised again, and reported, when it is this network's turn
                log.debug("%s: %s", network.name, error)
            else:
                self._upcoming += lacking[:1]

    def run(self, network: SameNetwork, share: float) -> None:
        """Give the candidates of one network the entries that hold their rows of a round, or why they are excluded.

        A reading that fails alone is marked; an error that concerns the network is raised.
        """
        pending: list[Candidate] = []
        for candidate in network.members:
            try:
                if self._lacks_rows(candidate, share):
                    pending.append(candidate)
            except OverLimit as error:
                candidate.excluded = str(error)
        if not pending:
            return
        self._look_ahead()
        self._upcoming = [spec for spec in self._upcoming if network_of(spec) != network_of(pending[0].spec)]
        started, costing = time.perf_counter(), self._seconds["cost"]
        try:
            wanted = [candidate.spec for candidate in pending]
            taken = {place_of(spec) for spec in wanted}
            beside = [spec for spec in layer_specs(wanted[0]) if place_of(spec) not in taken]  # one pass gives them too
            found = self._extract([*wanted, *beside], lambda: self.rows(share).indices)[: len(wanted)]
        except OverLimit as error:
            for candidate in pending:
                self._exclude(candidate, str(error))
            return
        finally:
            give_back()  # the network is gone
        seconds = time.perf_counter() - started - (self._seconds["cost"] - costing)
        self._seconds["extract"] += seconds
        for candidate, result in zip(pending, found, strict=True):
            candidate.cached = False
            candidate.seconds += seconds / len(pending)  # one pass served them all
            if isinstance(result, Entry):
                candidate.entry, candidate.cost = result, self.costs.known(result)
            else:
                candidate.failure = failure_of(result)

    def _lacks_rows(self, candidate: Candidate, share: float) -> bool:
        """Look up what the store has of a candidate; whether rows of a round have to be extracted.

        Raises:
            OverLimit: what is known of it exceeds a limit.
        """
        spec = candidate.spec
        self.limits.check_facts(spec)
        check_trusted(spec, self.trusted)
        candidate.entry = entry = self.store.resolve(self._wanted(spec))
        if entry is None:
            return True
        self.limits.check_facts(spec, entry.meta.get("num_parameters"))
        candidate.cost = self.costs.known(entry)
        if candidate.cost is not None and not self.costs.wanted(entry):
            self.limits.check_cost(candidate.cost)
        if len(entry.missing(self.rows(share).hashes)):
            return True
        if self.costs.wanted(entry) or (self.limits.measured and candidate.cost is None):
            self._cost_alone(candidate, entry)
        return False

    def _exclude(self, candidate: Candidate, reason: str) -> None:
        """Leave a candidate out; its row shows what was counted and measured before it was."""
        candidate.excluded = reason
        candidate.entry = self.store.resolve(self._wanted(candidate.spec))
        candidate.cost = None if candidate.entry is None else self.costs.known(candidate.entry)

    def _cost_alone(self, candidate: Candidate, entry: Entry) -> None:
        """Measure a model whose rows are all stored, because this run asks for its figures."""
        from selector.extract.encode import open_runner

        encoder = self.load(candidate.spec)
        sample = self.inputs(encoder.preprocess).batch(self.rows(1.0).indices[:1])
        runner = open_runner(
            encoder, **self.settings, sample=sample, rows_expected=1, decided=dict(entry.meta), store=self.store
        )
        try:
            self._cost(candidate.spec, encoder, runner, [entry], sample)
        finally:
            candidate.cost = self.costs.known(entry)

    def _cost(self, spec: ModelSpec, encoder: Encoder, runner: Runner, entries: Sequence[Entry], pixels: Batch) -> None:
        """Find out what a loaded network costs and hold it against the limits.

        Raises:
            OverLimit: it exceeds one.
        """
        started = time.perf_counter()
        try:
            self.limits.check_facts(spec, encoder.num_parameters)
            self.limits.check_cost(self.costs.measure(entries, encoder, runner, pixels))
        finally:
            self._seconds["cost"] += time.perf_counter() - started

    def estimate(self, spec: ModelSpec, rows: int) -> float | None:
        """Seconds that a network takes for so many rows, by what was measured here; None when nothing was."""
        rate = self.store.get("rate", {"source": spec.source})
        return rows / rate["rows_per_second"] if rate else None

    def features(self, spec: ModelSpec, indices: np.ndarray) -> np.ndarray:
        """Frozen features (len(indices), D) of any items, extracted when they are not stored yet."""
        check_trusted(spec, self.trusted)
        hashes = self.target.row_hashes(indices)
        entry = self.store.resolve(self._wanted(spec))
        if entry is not None and not len(entry.missing(hashes)):
            try:
                return entry.rows(hashes)
            except RowsMissing as error:
                log.info("%s: %s", spec.name, error)  # a damaged chunk was set aside: extracted again below
        (found,) = self._extract([spec], lambda: indices)
        if not isinstance(found, Entry):
            raise found
        return found.rows(hashes)

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        self.notify(Progress("load", 0, 1, "models", spec.name))
        return self._ahead.take(spec)

    def inputs(self, preprocess: AnyPreprocess) -> Pixels | TokenTable:
        """Every item of the target, prepared once for all models that prepare it alike."""
        return self.prepared.inputs(preprocess, self._to_come)

    def stored(self, spec: ModelSpec) -> Entry | None:
        """The entry of a spec, if there is one."""
        return self.store.resolve(self._wanted(spec))

    def _to_come(self) -> Iterator[Preprocess]:
        """What the upcoming models will ask for, as the zoo or an earlier scan says."""
        for spec in self._upcoming:
            if spec.reads is Modality.IMAGE and (expected := self._expected(spec)) is not None:
                yield expected

    def _expected(self, spec: ModelSpec) -> Preprocess | None:
        remembered = self.store.get("preprocess", {"network": network_of(spec)})
        if remembered is not None:
            return Preprocess.from_dict(remembered)
        said = spec.preprocess.changes()
        return Preprocess().overridden(said) if {"input_size", "interpolation", "crop_pct"} <= set(said) else None

    def _load(self, spec: ModelSpec) -> Encoder:
        check_trusted(spec, self.trusted)
        return sources.registry.get(spec.source_name).load(spec)

    def _lacks(self, spec: ModelSpec, hashes: Sequence[str]) -> bool:
        self.limits.check_facts(spec)
        check_trusted(spec, self.trusted)
        entry = self.store.resolve(self._wanted(spec))
        return entry is None or len(entry.missing(hashes)) > 0

    def _wanted(self, spec: ModelSpec) -> dict[str, Any]:
        key = json.dumps([spec.feature_settings(), spec.base], sort_keys=True)
        if key not in self._asked:  # a source may ask the hub
            self._asked[key] = wanted_of(spec, **self.settings)
        return self._asked[key]

    def _extract(self, specs: Sequence[ModelSpec], indices: Callable[[], np.ndarray]) -> list[Entry | SourceError]:
        """Load, decide and extract under one lock, so that processes beside this one wait and then find all done.

        Args:
            specs: readings of one network.
            indices: positions of the items; asked for anew after images were found to be bad.

        Returns:
            For each spec its entry, or why it has none.
        """
        with self.store.lock(json.dumps({"extract": network_of(specs[0]), **self.settings}, sort_keys=True)):
            hashes = self.target.row_hashes(indices())
            found: dict[Place, Entry | SourceError] = {}
            for spec in specs:
                known = self.store.resolve(self._wanted(spec))
                if known is not None and not len(known.missing(hashes)):
                    found[place_of(spec)] = known
            lacking = {place_of(spec): spec for spec in specs if place_of(spec) not in found}
            for mates in self._passes(list(lacking.values())):
                for encoder, members in self._encoders(mates, found):
                    found |= self._extract_pass(encoder, members, lacking, indices)
            return [found[place_of(spec)] for spec in specs]

    def _passes(self, specs: Sequence[ModelSpec]) -> list[list[ModelSpec]]:
        """Readings by the forward pass that gives them: new ones together, and those whose first rows
        came from one pass with all that were in it, so that a resumed extraction runs the same network."""
        fresh: list[ModelSpec] = []
        begun: dict[str, list[ModelSpec]] = {}
        for spec in specs:
            known = self.store.resolve(self._wanted(spec))
            if known is None:
                fresh.append(spec)
            else:
                places = known.meta.get("together", [place_of(spec)])
                begun[json.dumps(places)] = [at_place(spec, layer, pooling) for layer, pooling in places]
        return [*([fresh] if fresh else []), *begun.values()]

    def _encoders(
        self, specs: Sequence[ModelSpec], found: dict[Place, Entry | SourceError]
    ) -> Iterator[tuple[Encoder, list[ModelSpec]]]:
        """The encoder of some readings: one for all of them where one pass gives what each gives alone.

        Why a reading cannot be had is added to ``found``.
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
        return self.load(spec)

    def _extract_pass(
        self,
        encoder: Encoder,
        specs: Sequence[ModelSpec],
        lacking: Mapping[Place, ModelSpec],
        indices: Callable[[], np.ndarray],
    ) -> dict[Place, Entry | SourceError]:
        """Run an encoder over the items that its readings (``specs``) lack."""
        from selector.extract.backend_choice import JUDGED_ON
        from selector.extract.encode import extract_together, open_runner
        from selector.extract.inputs import in_order
        from selector.extract.tokens import TokenTable

        if encoder.modality is Modality.IMAGE and self._expected(specs[0]) != encoder.preprocess:
            self.store.put("preprocess", {"network": network_of(specs[0])}, encoder.preprocess.to_dict())
        items = self.inputs(encoder.preprocess)  # may take bad items out of the target
        rows = indices()
        hashes = self.target.row_hashes(rows)
        units = self.target.units_of(rows)
        known = next((entry for spec in specs if (entry := self.store.resolve(self._wanted(spec)))), None)
        sample = items.longest_first(rows[:JUDGED_ON]) if isinstance(items, TokenTable) else rows[:JUDGED_ON]
        runner = open_runner(
            encoder,
            **self.settings,
            sample=items.batch(sample),
            rows_expected=len(rows),
            decided=dict(known.meta) if known is not None else None,
            store=self.store,
        )
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
        if self._upcoming:
            self._ahead.start(self._upcoming[0])
        started = time.perf_counter()
        failures = extract_together(
            runner, entries, items, self.target.hashes, rows[missing], self.notify, model=specs[0].name,
            cut=items.cut if isinstance(items, TokenTable) else in_order,
            keys=None if units is None else self.target.row_hashes, sample=sample,
        )  # fmt: skip
        ran = int(missing.sum()) - (0 if runner.judged is None else len(sample))
        if ran > 0:
            rate = ran / max(time.perf_counter() - started, 1e-6)
            width = encoder.num_features // len(specs)
            self.store.put("rate", {"source": specs[0].source}, {"rows_per_second": rate, "num_features": width})
        return {
            place_of(spec): failure or entry
            for spec, entry, failure in zip(specs, entries, failures, strict=True)
            if entry is not None
        }

    def _begun(self, spec: ModelSpec, reading: Encoder, runner: Runner, places: Sequence[Place]) -> Entry:
        """The entry of a reading, with what was decided, before its first row."""
        preprocess = reading.preprocess.to_dict()
        entry = self.store.remember(
            self._wanted(spec),
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
