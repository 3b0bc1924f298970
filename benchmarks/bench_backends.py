"""How fast families of networks run in each backend and precision here: the table that short scans decide by.

    SELECTOR_ASSETS=... python -m benchmarks.bench_backends [--models GLOBS] [--quick]

``results/backends.csv`` has a row per model and kind of processor: images per second of one core, of the fastest batch in
memory, the processor seconds that converting and compiling took (what other programs take counts in neither), and whether
the features in bfloat16 agree with those in float32 on 128 photos. ``selector/extract/backend_table.csv`` is made of all
its rows: the median by family and kind of processor.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_extract import RESULTS, chosen_models, lay_out
from benchmarks.rows import options, read_rows, write_rows
from selector import sources
from selector.core.system import cpu_kind, versions
from selector.data import load_target
from selector.extract import backend_table
from selector.extract.backend_choice import JUDGED_ON, agreement
from selector.extract.backend_table import family_of
from selector.extract.backends import open_backend
from selector.modalities.pixels.prepared import open_pixels_many
from selector.zoo import ModelSpec

BATCH = 16
WAYS = [(backend, precision) for backend in ("eager", "openvino") for precision in ("float32", "bfloat16")]
COLUMNS = (
    "cpu", "model", "family", *(f"{backend}_{precision}" for backend, precision in WAYS), "setup_s",
    "eager_bfloat16_agrees", "openvino_bfloat16_agrees", "source", "processor", "torch", "openvino",
)  # fmt: skip
TABLE = Path(backend_table.__file__).with_suffix(".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks that have no row of this kind of processor, then make the table."""
    parser = options(__doc__, RESULTS / "backends.csv", "two networks: does it run?")
    parser.add_argument("--models", default=None, help="globs on names, separated by commas")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    os.environ["SELECTOR_THREADS"] = "1"  # threads that wait for each other would count as well
    torch.set_num_threads(1)
    rows = read_rows(args.out)
    models = chosen_models(args.models)
    with tempfile.TemporaryDirectory() as folder:
        photos, _ = lay_out(Path(folder) / "photos", JUDGED_ON, JUDGED_ON, args.seed)
        for spec in models[:2] if args.quick else models:
            if (cpu_kind(), spec.name) not in {(row["cpu"], row["model"]) for row in rows}:
                rows.append(_measured(spec, photos, Path(folder)))
                print(rows[-1], file=sys.stderr, flush=True)
                write_rows(args.out, rows, COLUMNS)
    write_rows(args.table, table_of(rows))
    return 0


def _measured(spec: ModelSpec, photos: Path, folder: Path) -> dict[str, Any]:
    encoder = sources.registry.get(spec.source_name).load(spec)
    assert encoder.module is not None
    target = load_target(photos)
    items = (target.items, target.hashes, target.names)
    opened, _ = open_pixels_many(*items, [encoder.image_preprocess], folder=folder / "pixels")
    (pixels,) = opened.values()
    family = family_of(encoder.module)
    row: dict[str, Any] = {"cpu": cpu_kind(), "model": spec.name, "family": family, "source": "batches"}
    found = {}
    for backend, precision in WAYS:
        started = time.process_time()
        running = open_backend(backend, encoder, "cpu", precision, BATCH, None)
        parts = []
        times = []
        for start in range(0, JUDGED_ON, BATCH):
            begun = time.process_time()
            parts.append(running.start(pixels.batch(np.arange(start, start + BATCH)))())
            if not start and (backend, precision) == ("openvino", "float32"):
                row["setup_s"] = round(time.process_time() - started, 3)
            times.append(time.process_time() - begun)
        row[f"{backend}_{precision}"] = round(BATCH / min(times[1:]), 2)
        found[backend, precision] = np.concatenate(parts)
    for backend in ("eager", "openvino"):
        near = agreement(found[backend, "float32"], found[backend, "bfloat16"])
        row[f"{backend}_bfloat16_agrees"] = int(near.good())
    facts = versions()
    return {**row, "processor": facts["cpu"], "torch": facts["torch"], "openvino": facts.get("openvino", "")}


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The medians of each family on each kind of processor."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["cpu"], row["family"]].append(row)
    return [
        {
            "cpu": cpu, "family": family, "backend": "openvino",
            **{f"{b}_{p}": _median(_rate(m, b, p) / _rate(m, "eager", "float32") for m in members) for b, p in WAYS[1:]},
            "setup_s": _median(float(m["setup_s"]) for m in members),
            "keeps": int(statistics.mean(float(m["openvino_bfloat16_agrees"]) for m in members) >= 0.5),
            "networks": len(members),
        }
        for (cpu, family), members in sorted(groups.items())
    ]  # fmt: skip


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def _rate(row: Mapping[str, Any], backend: str, precision: str) -> float:
    return float(row[f"{backend}_{precision}"])


if __name__ == "__main__":
    sys.exit(main())
