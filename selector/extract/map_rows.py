"""Rows at places of whole images, read off feature maps: one pass gives every variant."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import Encoder, Progress
from selector.core.errors import SourceError
from selector.core.task import RowPlan
from selector.extract.extraction import ExtractionRun
from selector.extract.flush_policy import Commits
from selector.extract.job import ExtractJob, versioned
from selector.extract.workspace import Workspace
from selector.store import Entry
from selector.zoo import ModelSpec
from selector.zoo.spec import at_place, network_of

if TYPE_CHECKING:
    from selector.extract.inputs import Batch
    from selector.extract.rows import MapRunner

_ROWS_AT_ONCE = 8192  # in memory before they are written, and fewer where they take long (``Commits``)


class MapRows(ExtractionRun):
    """The run of a job whose rows are read off feature maps.

    Args:
        wanted: the rows, by positions in the job's target.
    """

    def __init__(self, job: ExtractJob, work: Workspace, wanted: RowPlan) -> None:
        super().__init__(job, work)
        self.wanted = wanted

    def extracted(self) -> list[Entry | SourceError]:
        from selector.extract.row_readers import registry
        from selector.extract.rows import JUDGED_ON, canvas_encoder, extract_rows, open_map_runner
        from selector.modalities.pixels.maps import canvas_side

        job, work = self.job, self.work
        reader = registry.get(self.wanted.reader)
        name = json.dumps({"extract": network_of(job.specs[0]), **(work.settings.reading or {})}, sort_keys=True)
        with work.store.lock(name):
            plan, addresses = self._plan()
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
            plan, addresses = self._plan()
            if not lacking or not len(plan):
                return [found[spec.layer] for spec in job.specs]
            seen = np.unique(plan.item)
            begun = next((entry for spec in lacking if (entry := known[spec.layer]) is not None), None)
            runner = open_map_runner(
                encoder, device=work.settings.device, precision=work.settings.precision,
                sample=items.batch(seen[:JUDGED_ON]), decided=None if begun is None else str(begun.meta["precision"]),
                most=self.fitting_batch(job.specs[0], encoder, items.batch(seen[:1])),
            )  # fmt: skip
            entries: dict[str, Entry] = {}
            for spec in lacking:
                variant = spec.layer or variants[0]
                entries[variant] = self._begun_rows(spec, encoder, runner, plan.reader, variant)
            if work.settings.cost != "never" or work.settings.limits:
                self._cost_of_maps(encoder, list(entries.values()), items.batch(seen[:1]))
            if job.next_spec is not None:
                work.ahead.start(at_place(job.next_spec, None, None))
            self._stream(extract_rows, runner, items, plan, addresses, entries)
            found |= {spec.layer: entries[spec.layer or variants[0]] for spec in lacking}
            return [found[spec.layer] for spec in job.specs]

    def _plan(self) -> tuple[RowPlan, list[str]]:
        """The rows whose items are still in the target, by their positions there, and their addresses."""
        target, wanted = self.work.prepared.target, self.wanted
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
        """Run the images of missing rows and append them to their entries, chunk by chunk."""
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

        commits = Commits(_ROWS_AT_ONCE)
        for chunk in extract_rows(
            runner, items, plan.item[rows], plan.place[rows], plan.reader, variants=list(entries)
        ):
            waiting.append((rows[chunk.rows], chunk.features))
            done += len(chunk.rows)
            if commits.due(sum(len(part) for part, _ in waiting)):
                write()
            self.work.notify(Progress("extract", done, len(rows), "rows", name))
        write()
        if pictures:
            rate = {"rows_per_second": pictures / max(time.perf_counter() - started, 1e-6)}
            width = max((entry.num_features or 0 for entry in entries.values()), default=0)
            self.work.store.put("rate", {"network": network_of(self.job.specs[0])}, {**rate, "num_features": width})

    def _begun_rows(self, spec: ModelSpec, encoder: Encoder, runner: MapRunner, reader: str, variant: str) -> Entry:
        """The entry of a variant of rows off maps, with what was decided, before its first row."""
        preprocess = encoder.preprocess.to_dict()
        rows = {"reader": reader, "variant": variant, "strides": list(encoder.strides)}
        return self.work.store.remember(
            self.work.wanted(spec),
            versioned({**encoder.identity, "preprocess": preprocess, "rows": rows, **runner.identity}),
            {
                "num_parameters": encoder.num_parameters, "preprocess": preprocess, "rows": rows, **runner.facts,
                **runner.identity,
            },
        )  # fmt: skip

    def _cost_of_maps(self, encoder: Encoder, entries: Sequence[Entry], batch: Batch) -> None:
        """What a pass over a whole image costs, held against the limits."""
        from selector.extract.encode import open_runner

        runner = open_runner(
            encoder, device=self.work.settings.device, precision="float32", backend="eager", sample=batch,
            rows_expected=1, store=self.work.store,
        )  # fmt: skip
        self.check_cost(self.job.specs[0], encoder, runner, entries, batch)

    def measured(self) -> list[Entry | SourceError]:
        from selector.extract.rows import canvas_encoder
        from selector.modalities.pixels.maps import canvas_side

        work = self.work
        entries = [entry for spec in self.job.specs if (entry := work.entry(spec)) is not None]
        plain = work.load(at_place(self.job.specs[0], None, None))
        encoder = canvas_encoder(plain, work.canvas(canvas_side(plain)))
        self._cost_of_maps(encoder, entries, work.prepared.inputs(encoder.preprocess).batch(self.indices()[:1]))
        return list(entries)
