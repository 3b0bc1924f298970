"""Rows of features at the places of a ``RowPlan``: one forward pass a batch, only rows are kept.

Feature maps run in eager torch (or onnxruntime), because what is read off them is a small part of what a compiled graph
would have to hand over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selector import modalities
from selector.core.contracts import Encoder, Progress
from selector.core.errors import OutOfMemory, SourceError
from selector.core.resources import is_out_of_memory
from selector.core.table import RowPlan
from selector.extract import backend_table
from selector.extract.backend_choice import MIN_COSINE, MIN_NEIGHBORS, agreement
from selector.extract.backends import PRECISIONS, check_choice
from selector.extract.encode import Commits, not_finite, open_runner, prefetched, resolve_device
from selector.extract.extraction import ExtractionRun
from selector.extract.inputs import Batch, Batches, in_order
from selector.extract.job import ExtractJob, versioned
from selector.extract.multi_tap import Around
from selector.extract.row_readers import RowReader, registry
from selector.extract.workspace import Workspace
from selector.modalities.pixels.maps import canvas_encoder, canvas_side
from selector.store.entry import Entry
from selector.zoo import ModelSpec
from selector.zoo.spec import at_place, network_of

if TYPE_CHECKING:
    import torch

_PIXELS = 16 * 224 * 224  # of a batch on a processor: 16 images of 224; on a GPU eight times as many
_GPU = 8
JUDGED_ON = 8  # images on which a lower precision is compared with float32, each read at nine places


@dataclass(frozen=True)
class RowChunk:
    """Rows of a batch: ``rows`` (n,) are positions in the plan, ``features`` (n, D) float32 by variant."""

    rows: NDArray[np.int64]
    features: dict[str, NDArray[np.float32]]


class _Taps(Around):
    """An encoder whose features are the means of its maps: by them its copies on a device are checked."""

    def __init__(self, base: Encoder) -> None:
        super().__init__(base, {"maps": base.identity, "strides": list(base.strides)}, 0)

    def maps(self, batch: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """See ``contracts.Encoder``."""
        return self._base.maps(batch)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Means of the maps, side by side."""
        import torch

        return torch.cat([found.float().mean((2, 3)) for _, found in self.maps(batch)], 1)


class MapRunner:
    """An encoder on its canvas made ready to give maps.

    Attributes:
        identity: backend, precision and kind of arithmetic; part of the address of its rows.
        facts: what was decided beside, and on what grounds; in no address.
        batch_size: images a forward pass; halved when memory runs out.
    """

    def __init__(self, encoder: Encoder, device: str, precision: str, batch_size: int | None = None) -> None:
        from selector.extract.backends.eager import DTYPES, placed

        self.encoder, self.device = encoder, device
        _, height, width = encoder.image_preprocess.input_size
        budget = _PIXELS if device == "cpu" else _GPU * _PIXELS
        usual = max(1, budget // (height * width))
        self.batch_size = max(1, min(usual, batch_size or usual))
        self._tapped: Encoder = _Taps(encoder)
        self._dtype: Any = DTYPES["float32"]
        # as for pooled features: on a processor bfloat16 is mixed, weights and sums stay in float32
        self._mixed = precision == "bfloat16" and device == "cpu" and encoder.module is not None
        if encoder.module is None:
            precision = "float32"
        else:
            import torch

            self._dtype = DTYPES["float32" if self._mixed else precision]
            self._tapped = placed(self._tapped, torch.device(device), self._dtype)
        self.identity = {"backend": "eager", "precision": precision}
        if self._mixed:
            self.identity["arithmetic"] = "mixed"
        self.facts: dict[str, object] = {"device": device, "batch_size": self.batch_size}

    def read(
        self,
        pixels: Batch,
        item: NDArray[np.int64],
        place: NDArray[np.float32],
        reader: RowReader,
        variants: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        """Rows (R, D) by variant of a batch of decoded images uint8 (B, H, W, 3).

        Args:
            item: (R,) positions in the batch.
            place: (R, k) relative coordinates.

        Raises:
            SourceError: memory is too small for a single image, or rows are not finite.
        """
        parts = []
        begin = 0
        while begin < len(pixels):
            size = self.batch_size
            chosen = np.flatnonzero((item >= begin) & (item < begin + size))
            try:
                found = self._read(pixels[begin : begin + size], item[chosen] - begin, place[chosen], reader, variants)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                found = None
            if found is None:  # outside of the except block: its traceback would keep the maps alive
                if size == 1:
                    raise OutOfMemory(
                        f"{self.encoder.name}: memory of {self.device} is too small for a single image of "
                        f"{self.encoder.image_preprocess.input_size}; use a smaller resolution."
                    )
                self.batch_size = self.facts["batch_size"] = size // 2
                continue
            parts.append((chosen, found))
            begin += size
        rows = {v: np.empty((len(item), parts[0][1][v].shape[1]), np.float32) for v in variants} if parts else {}
        for chosen, found in parts:
            for variant in variants:
                rows[variant][chosen] = found[variant]
        for variant, array in rows.items():
            if not np.isfinite(array).all():
                raise not_finite(f"{self.encoder.name}: rows of '{variant}'", self.identity["precision"])
        return rows

    def _read(
        self,
        pixels: Batch,
        item: NDArray[np.int64],
        place: NDArray[np.float32],
        reader: RowReader,
        variants: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        import torch

        from selector.extract.backends.eager import unrounded

        device = torch.device(self.device)
        with torch.inference_mode(), unrounded(device, self._dtype):
            items = modalities.of(self.encoder)
            batch = items.ready(items.staged(pixels, device), self.encoder.preprocess, device, self._dtype)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._mixed):
                maps = self._tapped.maps(batch)
            on = maps[0][1].device
            where = torch.from_numpy(item).to(on), torch.from_numpy(place).to(on)
            return {v: reader.read(maps, *where, v).cpu().numpy() for v in variants}


def open_map_runner(
    encoder: Encoder,
    *,
    device: str = "auto",
    precision: str = "auto",
    sample: Batch | None = None,
    decided: str | None = None,
    most: int | None = None,
) -> MapRunner:
    """Make an encoder on its canvas (``canvas_encoder``) ready, deciding the precision where that is open.

    Args:
        precision: ``auto`` takes bfloat16 where the hardware has it and the maps of the sample, read at nine places,
            agree with those in float32, as for pooled features.
        sample: the first images, decoded; 8 are enough, and fewer leave it at float32.
        decided: the precision of rows that are already stored: it is kept.
        most: pictures a forward pass that fit into memory; None where that is not limited.

    Raises:
        ConfigError: an unknown device or precision.
        SourceError: the network gives no maps.
    """
    check_choice("precision", precision, PRECISIONS)
    device = resolve_device(device)
    chosen = decided or ("float32" if precision == "auto" else precision)
    runner = MapRunner(encoder, device, chosen, most)
    if decided or precision != "auto" or encoder.module is None or sample is None or len(sample) < JUDGED_ON:
        return runner
    if not _may_lower(device, encoder.module):
        return runner
    lower = MapRunner(encoder, device, "bfloat16", most)
    few, places = sample[:JUDGED_ON], [(x, y) for x in (1 / 6, 1 / 2, 5 / 6) for y in (1 / 6, 1 / 2, 5 / 6)]
    item, place = np.repeat(np.arange(len(few)), len(places)), np.tile(np.array(places, np.float32), (len(few), 1))
    point = registry.get("point")
    variants = point.variants(encoder.strides)
    exact, near = (r.read(few, item, place, point, variants) for r in (runner, lower))
    # a row per image, its nine places side by side: points of one image are often as good as equal, and which of
    # those is the nearest says nothing
    worst = [agreement(*(rows[v].reshape(len(few), -1) for rows in (exact, near))) for v in variants]
    found = min(worst, key=lambda one: (one.cosine, one.neighbors))
    facts = {"judged_on": len(few), "agreement_cosine": found.cosine, "agreement_neighbors": found.neighbors}
    lower.facts |= facts
    runner.facts |= facts
    fewest = int(MIN_NEIGHBORS * len(few))  # of 8 images one may have another nearest one
    kept = all(one.cosine >= MIN_COSINE and round(one.neighbors * len(few)) >= fewest for one in worst)
    return lower if kept else runner


def _may_lower(device: str, module: Any) -> bool:
    """Whether bfloat16 is worth a comparison: the hardware has it, and networks of this family were not found to lose their
    features by it there."""
    from selector.extract.backends.eager import has_bfloat16

    if not has_bfloat16(device):
        return False
    known = backend_table.look_up(module, device)
    return known is None or known.keeps


def extract_rows(
    runner: MapRunner,
    inputs: Batches,
    items: NDArray[np.int64],
    places: np.ndarray,
    reader: str,
    variants: Sequence[str] | None = None,
) -> Iterator[RowChunk]:
    """Read rows off some images, batch by batch.

    Args:
        inputs: the prepared images of the target, by position.
        items: (R,) position of the image of each row, ascending (``RowPlan.item``).
        places: (R, k) of ``RowPlan.place``.
        reader: its name in ``extract.row_readers``.
        variants: feature variants that are wanted; the usual one by default.

    Yields:
        The rows of each batch, in the order of the plan; memory is that of two batches, whatever the number of images.

    Raises:
        SourceError: rows that are not finite, too little memory, or a variant that there is not.
    Cost: one forward pass per image.
    """
    read = registry.get(reader)
    known = read.variants(runner.encoder.strides)
    wanted = list(variants or known[:1])
    if unknown := sorted(set(wanted) - set(known)):
        raise SourceError(
            f"{runner.encoder.name}: row reader '{reader}' has no variant '{unknown[0]}'; known: {', '.join(known)}."
        )
    order = np.argsort(items, kind="stable")
    ordered = items[order]
    batches = in_order(np.unique(items), runner.batch_size)
    for part, pixels in zip(batches, prefetched(inputs, batches), strict=True):
        begin, end = (np.searchsorted(ordered, part, side) for side in ("left", "right"))
        rows = np.concatenate([order[a:b] for a, b in zip(begin, end, strict=True)])
        item = np.repeat(np.arange(len(part)), end - begin)
        yield RowChunk(rows, runner.read(pixels, item, places[rows].astype(np.float32), read, wanted))


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
            self._stream(runner, items, plan, addresses, entries)
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
        self, runner: MapRunner, items: Batches, plan: RowPlan, addresses: Sequence[str], entries: Mapping[str, Entry]
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
        runner = open_runner(
            encoder, device=self.work.settings.device, precision="float32", backend="eager", sample=batch,
            rows_expected=1, store=self.work.store,
        )  # fmt: skip
        self.check_cost(self.job.specs[0], encoder, runner, entries, batch)

    def measured(self) -> list[Entry | SourceError]:
        work = self.work
        entries = [entry for spec in self.job.specs if (entry := work.entry(spec)) is not None]
        plain = work.load(at_place(self.job.specs[0], None, None))
        encoder = canvas_encoder(plain, work.canvas(canvas_side(plain)))
        self._cost_of_maps(encoder, entries, work.prepared.inputs(encoder.preprocess).batch(self.indices()[:1]))
        return list(entries)
