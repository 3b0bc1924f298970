"""Brings a model's rows into the store, loading the network only when rows are missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from selector import sources, targets
from selector.contracts import Encoder, Preprocess, Progress, ProgressCallback, Target
from selector.scan.candidate import Candidate
from selector.scan.items import Rows, hashes_of, stratified
from selector.store import Entry, FeatureStore, RowsMissing
from selector.zoo import ModelSpec, check_trusted

if TYPE_CHECKING:
    from selector.extract.pixels import Pixels

log = logging.getLogger(__name__)

EXTRACTOR_VERSION = 1  # raised when the same encoder and image would give other features


def wanted_of(spec: ModelSpec, device: str, precision: str, backend: str) -> dict[str, Any]:
    """What a scan asks the store for, known without loading the network; the store remembers which
    entry it led to."""
    identity = sources.registry.get(spec.source_name).identify(spec)
    return {"spec": identity, "device": device, "precision": precision, "backend": backend}


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
    ) -> None:
        self.target = target
        self.store = store
        self.settings = {"device": device, "precision": precision, "backend": backend}
        self.on_bad = on_bad
        self.trusted = trusted
        self.notify = notify
        self.seconds: dict[str, float] = {"decode": 0.0, "extract": 0.0}
        self._pixels: dict[str, Pixels] = {}
        self._rows: dict[float, Rows] = {}

    def rows(self, share: float = 1.0) -> Rows:
        """Items that the proxies see in a round: the first ``share`` of train + val, in an order
        that is stratified by class and drawn from the content, so that every round is a fair
        sample and the next one only adds to it."""
        known = self._rows.get(share)
        if known is None or known.target is not self.target:  # bad images may have left the target
            order = stratified(self.target, self.target.indices("train", "val"))
            known = self._rows[share] = Rows(self.target, np.sort(order[: max(2, round(share * len(order)))]))
        return known

    def run(self, candidate: Candidate, share: float) -> None:
        """Give a candidate the entry that holds its rows of a round."""
        spec = candidate.spec
        check_trusted(spec, self.trusted)
        wanted = self._wanted(spec)
        candidate.entry = entry = self.store.resolve(wanted)
        if entry is not None and not len(entry.missing(self.rows(share).hashes)):
            return
        candidate.cached = False
        started = time.perf_counter()
        candidate.entry = self._extract(spec, wanted, lambda: self.rows(share).indices)
        candidate.seconds += time.perf_counter() - started
        self.seconds["extract"] += time.perf_counter() - started

    def features(self, spec: ModelSpec, indices: np.ndarray) -> np.ndarray:
        """Frozen features (len(indices), D) of any items, extracted when they are not stored yet."""
        check_trusted(spec, self.trusted)
        wanted = self._wanted(spec)
        hashes = hashes_of(self.target, indices)
        entry = self.store.resolve(wanted)
        if entry is not None and not len(entry.missing(hashes)):
            try:
                return entry.rows(hashes)
            except RowsMissing as error:
                log.info("%s: %s", spec.name, error)  # a damaged chunk was set aside: extracted again below
        return self._extract(spec, wanted, lambda: indices).rows(hashes)

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        check_trusted(spec, self.trusted)
        self.notify(Progress("load", 0, 1, "models", spec.name))
        return sources.registry.get(spec.source_name).load(spec)

    def pixels(self, preprocess: Preprocess) -> Pixels:
        """Every item of the target, decoded and resized once for all models that share the size."""
        from selector.extract.pixels import open_pixels

        key = preprocess.pixels_key()
        if key not in self._pixels:
            started = time.perf_counter()
            pixels, bad = open_pixels(
                self.target.items,
                self.target.hashes,
                self.target.names,
                preprocess,
                folder=self.store.pixels_folder,
                on_bad=self.on_bad,
                progress=self.notify,
            )
            self.seconds["decode"] += time.perf_counter() - started
            if bad:
                self.store.add_bad_images({self.target.hashes[i]: reason for i, reason in bad.items()})
                self.target = targets.without(self.target, bad)
                self._pixels.clear()
                return self.pixels(preprocess)
            self._pixels[key] = pixels
        return self._pixels[key]

    def _wanted(self, spec: ModelSpec) -> dict[str, Any]:
        return wanted_of(spec, **self.settings)

    def _extract(self, spec: ModelSpec, wanted: dict[str, Any], indices: Callable[[], np.ndarray]) -> Entry:
        """Load, decide and extract under one lock, so that processes beside this one wait and then find all done."""
        with self.store.lock(json.dumps({"extract": wanted}, sort_keys=True)):
            known = self.store.resolve(wanted)
            if known is not None and not len(known.missing(hashes_of(self.target, indices()))):
                return known
            return self._extract_missing(spec, wanted, indices, known)

    def _extract_missing(
        self, spec: ModelSpec, wanted: dict[str, Any], indices: Callable[[], np.ndarray], known: Entry | None
    ) -> Entry:
        from selector.extract.encode import extract_rows, open_runner

        encoder = self.load(spec)
        pixels = self.pixels(encoder.preprocess)  # may take bad images out of the target
        rows = indices()
        runner = open_runner(
            encoder,
            **self.settings,
            sample=pixels.batch(rows[:128]),
            rows_expected=len(rows),
            decided=dict(known.meta) if known is not None else None,
            store=self.store,
        )
        identity = {
            **encoder.identity,
            "preprocess": encoder.preprocess.to_dict(),
            "extractor": EXTRACTOR_VERSION,
            **runner.identity,
        }
        facts = {
            "num_features": encoder.num_features,
            "num_parameters": encoder.num_parameters,
            "preprocess": encoder.preprocess.to_dict(),
            **runner.facts,
            **runner.identity,
        }
        entry = self.store.remember(wanted, identity, facts)
        if encoder.source_head is not None:
            entry.set_head(*encoder.source_head)
        started = time.perf_counter()
        missing = rows[entry.missing(hashes_of(self.target, rows))]
        extract_rows(runner, entry, pixels, self.target.hashes, missing, self.notify, model=spec.name)
        if len(missing):
            rate = len(missing) / max(time.perf_counter() - started, 1e-6)
            self.store.put(
                "rate", {"source": spec.source}, {"rows_per_second": rate, "num_features": encoder.num_features}
            )
        return entry
