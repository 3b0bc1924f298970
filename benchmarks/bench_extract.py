"""How fast a zoo's features are extracted, against the naive loop and against the bare networks.

    python -m benchmarks.bench_extract [--quick] [--images 1000] [--models 'mn*,eff*'] [--out FILE]

For each model, one after the other in the same run, on the same photos:

* ``naive``: what other tools do: a DataLoader that decodes with PIL and timm's own transform, and
  the network in float32 in torch's default layout (on ``--naive-images`` of the photos, scaled up).
* ``cold``: the selector with an empty store: decode once for all models, load, decide on backend
  and precision by measuring, extract, write.
* ``second``: other photos of the same number on the same machine: what was decided and compiled for
  the first ones is used again.
* ``forward``: the network alone, with the backend and in the precision that was decided, on batches
  that are in memory already; ``second``'s extraction divided by it says what the rest costs.
* ``known``: the extraction stage when all rows are stored.

With ``SELECTOR_ASSETS`` set the zoo is ``assets-zoo.yaml`` and the photos are flowers, textures and
textile images; without it, the offline models of the shipped zoo and the textile images.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from selector import sources
from selector.contracts import Encoder
from selector.demo import photos as textile_folder
from selector.extract.encode import Runner, extract_rows, open_runner
from selector.extract.pixels import Pixels, open_pixels_many
from selector.images import content_hash
from selector.store import FeatureStore
from selector.system import versions
from selector.zoo import ModelSpec, load_zoo, select

HERE = Path(__file__).parent
BATCH = 32
SKIPPED_TAGS = frozenset({"control"})
COLUMNS = (
    "model", "input", "params_m", "images", "backend", "precision", "naive_s", "cold_s", "cold_decide_s", "second_s",
    "second_open_s", "second_extract_s", "forward_s", "known_s", "naive/cold", "naive/second", "extract/forward", "status",
)  # fmt: skip


@dataclass
class Photos:
    """Undecoded images, with what addresses and names them."""

    items: list[bytes]
    hashes: tuple[str, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.hashes = tuple(content_hash(item) for item in self.items)
        self.names = tuple(f"photo {i}" for i in range(len(self.items)))


class Memory:
    """The largest resident size while it is entered, sampled every 50 ms."""

    def __init__(self) -> None:
        self.peak = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        stop = threading.Event()
        process = psutil.Process()

        def sample() -> None:
            while not stop.wait(0.05):
                self.peak = max(self.peak, process.memory_info().rss)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="96 images and 3 models: does it run?")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--naive-images", type=int, default=256, help="photos that the naive loop reads, 0 for all")
    parser.add_argument("--models", default=None, help="globs on names, separated by commas")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="CSV to write")
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.naive_images = 96, 32
    specs = chosen_models(args.models)[: 3 if args.quick else None]
    first, second = photos(args.images, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows, notes = measure(specs, first, second, Path(folder), args)
    print_table(rows, notes)
    if args.out is not None:
        write(args.out, rows, notes)
    return 0 if all(row["status"] == "ok" for row in rows) else 1


def measure(
    specs: Sequence[ModelSpec], first: Photos, second: Photos, folder: Path, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row a model and one for the whole zoo, and what the figures were measured with."""
    store = FeatureStore(folder)
    memory = Memory()
    rows: list[dict[str, Any]] = []
    decode: dict[str, float] = {}
    encoders = {spec.name: sources.registry.get(spec.source_name).load(spec) for spec in specs}
    resizes = [encoder.preprocess for encoder in encoders.values()]
    del encoders
    pixels: dict[str, dict[str, Pixels]] = {}
    for name, shots in (("cold", first), ("second", second)):
        started = time.perf_counter()
        with memory.watched():
            pixels[name], _ = open_pixels_many(
                shots.items, shots.hashes, shots.names, resizes, folder=store.pixels_folder
            )
        decode[name] = time.perf_counter() - started
    for spec in specs:
        row: dict[str, Any] = {"model": spec.name, "images": args.images}
        try:
            row |= measure_one(spec, first, second, pixels, store, memory, args)
            row["status"] = "ok"
        except Exception as error:  # noqa: BLE001 - a failed row stays in the table, with its reason
            row["status"] = f"failed: {type(error).__name__}: {error}"[:120]
        rows.append(row)
        print(*(f"{k}={_short(v)}" for k, v in row.items()), file=sys.stderr, flush=True)
    good = [row for row in rows if row["status"] == "ok"]
    total: dict[str, Any] = {"model": "whole zoo", "images": args.images, "status": "ok"}
    for column in COLUMNS:
        if column.endswith("_s"):
            total[column] = sum(row[column] for row in good)
    total["cold_s"] += decode["cold"]
    total["second_s"] += decode["second"]
    rows.append(_with_ratios(total))
    notes = {
        **versions(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "decode_cold_s": round(decode["cold"], 2),
        "decode_second_s": round(decode["second"], 2),
        "cold/known": round(total["cold_s"] / total["known_s"], 1) if good else None,
        "peak_memory_mb": memory.peak // 10**6,
        "naive_images": args.naive_images or args.images,
    }
    return rows, notes


def measure_one(
    spec: ModelSpec,
    first: Photos,
    second: Photos,
    pixels: dict[str, dict[str, Pixels]],
    store: FeatureStore,
    memory: Memory,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """All ways for one model, close together in time."""
    source = sources.registry.get(spec.source_name)
    spec_identity = {"spec": source.identify(spec)}
    encoder: Encoder = source.load(spec)
    key = encoder.preprocess.pixels_key()
    naive = naive_seconds(spec, first, args)
    with memory.watched():
        cold = ours(spec, first, pixels["cold"][key], store, args)
        again = ours(spec, second, pixels["second"][key], store, args)
    forward = forward_seconds(again["runner"], pixels["second"][key], args.images)
    started = time.perf_counter()
    entry = FeatureStore(store.root).resolve(spec_identity)
    assert entry is not None
    assert not len(entry.missing(second.hashes))
    known = time.perf_counter() - started
    runner: Runner = again["runner"]
    return _with_ratios(
        {
            "input": encoder.preprocess.input_size[1],
            "params_m": round(encoder.num_parameters / 1e6, 1),
            **runner.identity,
            "naive_s": naive,
            "cold_s": cold["total"],
            "cold_decide_s": cold["open"],
            "second_s": again["total"],
            "second_open_s": again["open"],
            "second_extract_s": again["extract"],
            "forward_s": forward,
            "known_s": known,
        }
    )


def ours(
    spec: ModelSpec, shots: Photos, pixels: Pixels, store: FeatureStore, args: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of what a scan does for one model, decoding aside."""
    rows = np.arange(len(shots.items))
    started = time.perf_counter()
    source = sources.registry.get(spec.source_name)
    spec_identity = {"spec": source.identify(spec)}
    known = store.resolve(spec_identity)
    encoder = source.load(spec)
    loaded = time.perf_counter()
    runner = open_runner(
        encoder, device="cpu", precision=args.precision, backend=args.backend, sample=pixels.batch(rows[:128]),
        rows_expected=len(rows), decided=known.meta if known is not None else None, store=store,
    )  # fmt: skip
    opened = time.perf_counter()
    identity = {**encoder.identity, "preprocess": encoder.preprocess.to_dict(), **runner.identity}
    entry = store.remember(
        spec_identity, identity, {"num_features": encoder.num_features, **runner.facts, **runner.identity}
    )
    extract_rows(runner, entry, pixels, shots.hashes, rows[entry.missing(shots.hashes)])
    ended = time.perf_counter()
    return {
        "runner": runner,
        "load": loaded - started,
        "open": opened - loaded,
        "extract": ended - opened,
        "total": ended - started,
    }


def naive_seconds(spec: ModelSpec, shots: Photos, args: argparse.Namespace) -> float:
    """Load the network, then PIL, timm's transform, float32, default layout, scaled to all photos."""
    from timm.data import create_transform

    count = min(args.naive_images or args.images, args.images)
    started = time.perf_counter()
    encoder = sources.registry.get(spec.source_name).load(spec)
    loading = time.perf_counter() - started
    p = encoder.preprocess
    transform = create_transform(
        p.input_size, interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop_pct, crop_mode=p.crop_mode
    )

    class Decoded(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> torch.Tensor:
            tensor: torch.Tensor = transform(Image.open(io.BytesIO(shots.items[index])).convert("RGB"))
            return tensor

    assert encoder.module is not None
    module_in_eval_mode = encoder.module.eval()
    assert not module_in_eval_mode.training
    started = time.perf_counter()
    with torch.no_grad():
        parts = [encoder.encode(batch).numpy() for batch in torch.utils.data.DataLoader(Decoded(), batch_size=BATCH)]
    assert sum(map(len, parts)) == count
    return loading + (time.perf_counter() - started) * args.images / count


def forward_seconds(runner: Runner, pixels: Pixels, images: int) -> float:
    """The network alone on one batch in memory: the median of at least 5 passes after a warm-up, for all images."""
    backend: Any = runner._backend
    batch = pixels.batch(np.arange(min(runner.batch_size, len(pixels))))
    if len(batch) < runner.batch_size:
        batch = np.concatenate([batch, np.repeat(batch[:1], runner.batch_size - len(batch), axis=0)])
    if hasattr(backend, "forward"):
        from selector.extract.pixels import normalise

        ready = normalise(batch, runner.encoder.preprocess, backend.device, backend.dtype)

        def once() -> Any:
            with torch.inference_mode():
                return backend.forward(ready)
    else:

        def once() -> Any:
            return backend.start(batch)()

    once()
    times = []
    while len(times) < 5 or sum(times) < 1:
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * images / runner.batch_size


def chosen_models(globs: str | None) -> list[ModelSpec]:
    """The torch models of the benchmark's zoo, without untrained controls."""
    if os.environ.get("SELECTOR_ASSETS"):
        specs = select(load_zoo(HERE / "assets-zoo.yaml", trust=True), globs)
    else:
        specs = select(load_zoo(), globs, None if globs else "offline")
    return [spec for spec in specs if not SKIPPED_TAGS & set(spec.tags)]


def photos(count: int, seed: int) -> tuple[Photos, Photos]:
    """Two disjoint sets of ``count`` photos each, mixed from all kinds at hand."""
    kinds: list[list[bytes]] = [[path.read_bytes() for path in sorted(textile_folder().rglob("*.jpg"))]]
    assets = os.environ.get("SELECTOR_ASSETS")
    if assets:
        import pyarrow.parquet as pq

        for name in ("flowers", "dtd10"):
            for file in sorted((Path(assets) / "data" / name).glob("*.parquet")):
                kinds.append([cell["bytes"] for cell in pq.read_table(file, columns=["image"])["image"].to_pylist()])
    rng = np.random.default_rng(seed)
    pool = list(dict.fromkeys(item for kind in reversed(kinds) for item in rng.permutation(np.array(kind, object))))
    if len(pool) < 2 * count:
        sys.exit(f"{2 * count} photos are needed, {len(pool)} are here; lower --images.")
    mixed = [pool[i] for i in rng.permutation(2 * count)]
    return Photos(mixed[:count]), Photos(mixed[count:])


def print_table(rows: Sequence[dict[str, Any]], notes: dict[str, Any]) -> None:
    """As Markdown."""
    print("|", " | ".join(COLUMNS), "|")
    print("|", " | ".join("---" for _ in COLUMNS), "|")
    for row in rows:
        print("|", " | ".join(_short(row.get(column, "")) for column in COLUMNS), "|")
    print()
    for key, value in notes.items():
        print(f"{key}: {value}")


def write(path: Path, rows: Sequence[dict[str, Any]], notes: dict[str, Any]) -> None:
    """As CSV; every row carries what it was measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *notes], restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _short(v) for k, v in {**row, **notes}.items()})


def _with_ratios(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "naive/cold": row["naive_s"] / row["cold_s"],
        "naive/second": row["naive_s"] / row["second_s"],
        "extract/forward": row["second_extract_s"] / row["forward_s"],
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
