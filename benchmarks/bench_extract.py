"""How fast a zoo's features are extracted, against the naive loop and against the bare networks.

    SELECTOR_ASSETS=... python -m benchmarks.bench_extract [STAGE ...] [--quick] [--work DIR] [--models GLOBS]

Stages, in the order in which they build on each other (all of them when none is named); each writes
its rows before the next begins, and ``--work`` keeps the store between calls:

* ``cold``: ``selector.rank`` over the zoo with an empty store, on ``--cold-images`` photos: decode,
  load, decide on backend and precision by measuring, convert, extract, write.
* ``small``: as ``cold``, on ``--small-images`` photos: a first scan by somebody who wants to see what comes out.
* ``naive``: what other tools do, for each model: a DataLoader with two workers that decodes with PIL
  and timm's own transform, and the network in float32 in torch's default layout. Measured on
  ``--naive-images`` photos after loading, and scaled up to ``--images``.
* ``second``: other photos (``--images``) on the same machine: what was decided and compiled is used again.
* ``torch``: as ``cold``, with a store of its own, without OpenVINO, on ``--images`` photos.
* ``alone``: for each model, extraction with pixels and network ready against the pure forward pass
  of the same backend in the same precision on a batch in memory, one after the other.
* ``known``: the extraction stage when every row is stored, and the whole process of a second
  ``selector scan``.

``results/bench_extract.csv`` holds a row a stage, ``bench_extract_models.csv`` a row a stage and
model. ``probe_s`` is the time of a fixed piece of work, so that stages that were measured at
different times can be compared. Without ``SELECTOR_ASSETS`` the offline models of the shipped zoo
and the textile photos stand in.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

import selector
from benchmarks.rows import commit, options, read_rows, write_rows
from selector import sources
from selector.core.contracts import Progress
from selector.core.system import versions
from selector.data import load_target
from selector.demo import photos as textile_folder
from selector.extract.backends import openvino
from selector.extract.encode import Runner, extract_together, open_runner
from selector.extract.job import ExtractSettings, wanted_of
from selector.modalities.pixels.prepared import Pixels, open_pixels_many
from selector.modalities.pixels.transform import normalize
from selector.scan.candidate import Candidate
from selector.scan.extraction import Extraction
from selector.scan.selection import by_network
from selector.store import FeatureStore
from selector.zoo import ModelSpec, load_zoo, select

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BATCH = 32  # of the naive loop
SKIPPED_TAGS = frozenset({"control"})
STAGE_COLUMNS = (
    "stage", "models", "images", "total_s", "decode_s", "setup_s", "extract_s", "seconds_1000", "peak_memory_mb",
    "mapped_mb", "note", "probe_s", "load_average", "commit", "selector", "torch", "openvino", "cpu", "cores",
)  # fmt: skip
MODEL_COLUMNS = (
    "stage", "model", "images", "seconds", "setup_s", "extract_s", "backend", "precision", "batch_size", "input", "params_m",
    "status",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print the ratios."""
    stages: dict[str, Callable[[Bench], None]] = {
        "cold": cold, "small": small, "naive": naive, "second": second, "torch": without_openvino, "alone": alone, "known": known,
    }  # fmt: skip
    parser = options(
        __doc__, RESULTS, "few images and models: does it run?"
    )  # --out is the folder of the two CSV files
    parser.add_argument("stages", nargs="*", help=", ".join(stages))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cold-images", type=int, default=2000)
    parser.add_argument("--small-images", type=int, default=500)
    parser.add_argument("--naive-images", type=int, default=256)
    parser.add_argument("--models", default=None, help="globs on names, separated by commas")
    parser.add_argument(
        "--work", type=Path, default=None, help="folder for photos and stores; a temporary one if not given"
    )
    args = parser.parse_args(argv)
    if unknown := [stage for stage in args.stages if stage not in stages]:
        parser.error(f"unknown stage {unknown[0]}; known: {', '.join(stages)}")
    if args.quick:
        args.images, args.cold_images, args.small_images, args.naive_images = 96, 200, 96, 32
        args.models = args.models or "*lite0,*mn*"
    with contextlib.ExitStack() as stack:
        args.work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if len(args.stages) == 1:
            bench = Bench(args, args.work)
            stages[args.stages[0]](bench)
            for line in bench.summary():
                print(line)
            return 0
        for stage in args.stages or stages:  # each in a process of its own: its memory and libraries are its own
            given = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items()
                       if name not in ("stages", "quick") and value is not None]  # fmt: skip
            subprocess.run([sys.executable, "-m", "benchmarks.bench_extract", stage, *given], check=True)
    return 0


class Bench:
    """What the stages share: models, photos on disk, stores, and the rows written so far."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args = args
        self.work = work
        self.models = chosen_models(args.models)
        self.store = work / "store"
        self.first, self.second = lay_out(work / "photos", args.cold_images, args.images, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        self._files = {"stage": args.out / "bench_extract.csv", "model": args.out / "bench_extract_models.csv"}
        self.rows = {kind: read_rows(path) for kind, path in self._files.items()}

    def add(self, stage: str, whole: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a stage, replacing older ones."""
        told = {**versions(), "commit": commit(), "load_average": round(os.getloadavg()[0], 1)}
        shared = {key: told.get(key, "") for key in STAGE_COLUMNS if key in told}
        per_1000 = 1000 * whole["total_s"] / whole["images"] if whole.get("images") else ""
        own = {"stage": stage, "models": len(self.models), "seconds_1000": per_1000, "probe_s": probe()}
        row = {**own, **shared, **whole}
        self._write("stage", STAGE_COLUMNS, stage, [row])
        self._write("model", MODEL_COLUMNS, stage, [{"stage": stage, **model} for model in models])
        print({k: _short(v) for k, v in row.items() if v != ""}, file=sys.stderr, flush=True)

    def stage(self, name: str) -> dict[str, str]:
        """The row of a stage; empty when it was not run."""
        return next((row for row in self.rows["stage"] if row["stage"] == name), {})

    def seconds(self, stage: str) -> dict[str, float]:
        """Seconds an image by model."""
        mine = [row for row in self.rows["model"] if row["stage"] == stage and row["status"] == "ok"]
        return {row["model"]: float(row["seconds"]) / float(row["images"]) for row in mine}

    def summary(self) -> list[str]:
        """The ratios that the stages allow, as Markdown."""
        per_1000 = {name: float(self.stage(name)["seconds_1000"]) for name in ("naive", "cold", "small", "second", "torch")
                    if self.stage(name)}  # fmt: skip
        lines = ["| stage | seconds for 1,000 photos by the zoo | naive loop / this |", "|---|---|---|"]
        for name, value in per_1000.items():
            ratio = f"{per_1000['naive'] / value:.1f}" if "naive" in per_1000 else ""
            lines.append(f"| {name} | {value:.1f} | {ratio} |")
        extract, forward = self.seconds("alone"), self.seconds("forward")
        if shared := [name for name in extract if name in forward]:
            each = sorted(extract[name] / forward[name] for name in shared)
            whole = sum(extract[n] for n in shared) / sum(forward[n] for n in shared)
            lines.append(
                f"\nextraction / pure forward: {whole:.3f} over the zoo, {each[0]:.2f} to {each[-1]:.2f} a model"
            )
        if self.stage("known"):
            lines.append(f"stored rows: {self.stage('known')['note']}")
        return lines

    def _write(self, kind: str, columns: Sequence[str], stage: str, new: list[dict[str, Any]]) -> None:
        told = [{key: _short(value) for key, value in row.items()} for row in new]
        kept = [row for row in self.rows[kind] if row["stage"] != stage]
        self.rows[kind] = kept + told
        write_rows(self._files[kind], self.rows[kind], columns)


# ---------------------------------------------------------------------------- stages


def cold(bench: Bench) -> None:
    """An empty store."""
    shutil.rmtree(bench.store, ignore_errors=True)
    _scan(bench, "cold", bench.first, bench.store, bench.args.cold_images)


def small(bench: Bench) -> None:
    """An empty store and few photos: what is set up is most of the time."""
    images = bench.args.small_images
    store = bench.work / "small-store"
    shutil.rmtree(store, ignore_errors=True)
    photos, _ = lay_out(bench.work / "photos", images, 1, bench.args.seed)
    _scan(bench, "small", photos, store, images)


def second(bench: Bench) -> None:
    """Other photos, the same machine."""
    _scan(bench, "second", bench.second, bench.store, bench.args.images)


def without_openvino(bench: Bench) -> None:
    """As if the extra were not installed."""
    here = openvino.why_not
    openvino.why_not = lambda device: "left out for this measurement"
    store = bench.work / "torch-store"
    shutil.rmtree(store, ignore_errors=True)
    try:
        _scan(bench, "torch", bench.second, store, bench.args.images)
    finally:
        openvino.why_not = here


def naive(bench: Bench) -> None:
    """The loop of other tools, a model at a time."""
    rows = []
    shots = sorted(bench.second.rglob("*.jpg"))[: bench.args.naive_images]
    for spec in bench.models:
        loading, running = naive_seconds(spec, shots)
        seconds = loading + running * bench.args.images / len(shots)
        rows.append({"model": spec.name, "images": bench.args.images, "seconds": seconds, "setup_s": loading,
                     "extract_s": seconds - loading, "backend": "naive", "precision": "float32", "batch_size": BATCH,
                     "status": "ok"})  # fmt: skip
    total = sum(row["seconds"] for row in rows)
    bench.add(
        "naive", {"images": bench.args.images, "total_s": total, "note": f"measured on {len(shots)} photos"}, rows
    )


def alone(bench: Bench) -> None:
    """Extraction with everything ready, and the pure forward pass, one after the other."""
    target = load_target(bench.second)
    store = FeatureStore(bench.store)
    scratch = FeatureStore(bench.work / "scratch")
    ours, bare = [], []
    for spec in bench.models:
        entry = store.resolve(wanted_of(spec, "auto", "auto", "auto"))
        encoder = sources.registry.get(spec.source_name).load(spec)
        opened, _ = open_pixels_many(
            target.items, target.hashes, target.names, [encoder.preprocess], folder=store.pixels_folder
        )
        (pixels,) = opened.values()
        count = min(len(target), bench.args.images)
        runner = open_runner(
            encoder, sample=pixels.batch(np.arange(min(128, count))), rows_expected=count,
            decided=entry.meta if entry is not None else None, store=store,
        )  # fmt: skip
        runner.encode(pixels.batch(np.arange(min(64, count))))  # warm
        forward = forward_seconds(runner, pixels)
        fresh = scratch.entry({"model": spec.name, "at": time.time_ns()})
        started = time.perf_counter()
        extract_together(runner, [fresh], pixels, target.hashes, np.arange(count))
        taken = time.perf_counter() - started
        forward = min(forward, forward_seconds(runner, pixels))
        how = {name: runner.identity[name] for name in ("backend", "precision")}
        facts = {"images": count, **how, "batch_size": runner.batch_size,
                 "input": encoder.preprocess.input_size[1], "params_m": encoder.num_parameters / 1e6, "status": "ok"}  # fmt: skip
        ours.append({"model": spec.name, "seconds": taken, "extract_s": taken, **facts})
        bare.append({"model": spec.name, "seconds": forward * count, **facts})
    shutil.rmtree(bench.work / "scratch", ignore_errors=True)
    bench.add("alone", {"images": bench.args.images, "total_s": sum(row["seconds"] for row in ours)}, ours)
    bench.add("forward", {"images": bench.args.images, "total_s": sum(row["seconds"] for row in bare)}, bare)


def known(bench: Bench) -> None:
    """Everything is stored: the extraction stage in this process, and the whole command in its own."""
    asked = bench.stage("second")
    ranking = selector.rank(
        bench.second, zoo=bench.models, store=bench.store, prune="never"
    )  # scores are stored too now
    stage = seconds_to_memory(bench.second, bench.models, bench.store)
    assert all(model.status != "failed" for model in ranking)
    command = [sys.executable, "-X", "importtime", "-m", "selector", "scan", str(bench.second), "--no-confirm", "--prune", "never",
               "--store", str(bench.store), "--out", str(bench.work / "run")]  # fmt: skip
    if os.environ.get("SELECTOR_ASSETS"):
        command += ["--zoo", str(HERE / "assets-zoo.yaml"), "--trust-zoo"]
    command += ["--models", ",".join(spec.name for spec in bench.models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # once, to see what it imports
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([word for word in command if word not in ("-X", "importtime")], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    ratio = float(asked["extract_s"]) / stage if asked else float("nan")
    process = statistics.median(times)
    note = (
        f"extraction stage {stage * 1000:.0f} ms ({ratio:.0f} x faster than the second target's first scan), "
        f"whole selector scan process {process:.2f} s, torch {'imported' if 'torch' in imported else 'not imported'}"
    )
    bench.add("known", {"images": bench.args.images, "total_s": process, "extract_s": stage, "note": note}, [])


# ---------------------------------------------------------------------------- measuring


class Steps:
    """Where the time of a scan goes, from what it tells of its progress."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._last = ("setup", "")
        self._since = time.perf_counter()

    def __call__(self, step: Progress) -> None:
        now = time.perf_counter()
        self.seconds[self._last] += now - self._since
        self._since = now
        if step.stage == "load":
            self._last = ("setup", step.model)
        elif step.stage == "decode" and step.done < step.total:
            self._last = ("decode", self._last[1])
        elif step.stage == "extract" and step.done < step.total:
            self._last = ("extract", step.model)
        else:  # what follows a finished step is the set-up of what comes next
            self._last = ("setup", step.model or self._last[1])

    def of(self, stage: str, model: str | None = None) -> float:
        """Seconds of a stage, of one model or of all."""
        return sum(s for (name, who), s in self.seconds.items() if name == stage and model in (None, who))


def _scan(bench: Bench, stage: str, photos: Path, store: Path, images: int) -> None:
    """The extraction of ``selector.rank`` (without the measuring of costs), with its peak memory."""
    memory, steps = Memory(), Steps()
    before = probe()
    with memory.watched():
        ranking = selector.rank(
            photos, zoo=bench.models, store=store, prune="never", proxies=["knn"], intervals=False, measure_cost="never",
            progress=steps,
        )  # fmt: skip
    rows = [
        {
            "model": model.name, "images": images, "seconds": model.extract_seconds, "setup_s": steps.of("setup", model.name),
            "extract_s": steps.of("extract", model.name), "backend": model.backend, "precision": model.precision,
            "params_m": (model.num_parameters or 0) / 1e6, "status": model.status if model.status == "ok" else model.reason,
        }
        for model in ranking
    ]  # fmt: skip
    total = float(ranking.seconds["extract"])
    whole = {
        "images": images, "total_s": total, "decode_s": float(ranking.seconds["decode"]), "extract_s": total,
        "setup_s": total - steps.of("extract") - float(ranking.seconds["decode"]),
        "peak_memory_mb": memory.peak // 10**6, "mapped_mb": memory.mapped // 10**6, "probe_s": before,
    }  # fmt: skip
    bench.add(stage, whole, rows)


def seconds_to_memory(target: Any, specs: Sequence[ModelSpec], store: Path) -> float:
    """Seconds until the rows of every model are in memory, when all of them are stored: the best of five turns."""

    def turn() -> float:
        extraction = Extraction(load_target(target), FeatureStore(store), ExtractSettings(trusted=True))
        candidates = [Candidate(spec) for spec in specs]
        hashes = extraction.rows().hashes  # a target is loaded, in any scan, before extraction begins
        started = time.perf_counter()
        extraction.run(by_network(candidates), 1.0)
        for candidate in candidates:
            assert candidate.cached
            assert candidate.entry is not None
            candidate.entry.rows(hashes)
        return time.perf_counter() - started

    return min(turn() for _ in range(5))


def naive_seconds(spec: ModelSpec, shots: Sequence[Path]) -> tuple[float, float]:
    """Load the network; then PIL, timm's transform, float32, default layout. Seconds of each."""
    from timm.data import create_transform

    started = time.perf_counter()
    encoder = sources.registry.get(spec.source_name).load(spec)
    loading = time.perf_counter() - started
    p = encoder.preprocess
    transform = create_transform(
        p.input_size, interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop_pct, crop_mode=p.crop_mode
    )

    class Decoded(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(shots)

        def __getitem__(self, index: int) -> torch.Tensor:
            tensor: torch.Tensor = transform(Image.open(io.BytesIO(shots[index].read_bytes())).convert("RGB"))
            return tensor

    assert encoder.module is not None
    assert not encoder.module.training
    started = time.perf_counter()
    loader = torch.utils.data.DataLoader(Decoded(), batch_size=BATCH, num_workers=2)
    with torch.no_grad():
        parts = [encoder.encode(batch).numpy() for batch in loader]
    assert sum(map(len, parts)) == len(shots)
    return loading, time.perf_counter() - started


def forward_seconds(runner: Runner, pixels: Pixels) -> float:
    """Seconds an image of the network alone, on one batch in memory: the median of at least 5 passes after a warm-up."""
    backend: Any = runner._backend
    batch = np.resize(pixels.batch(np.arange(min(runner.batch_size, len(pixels)))), (runner.batch_size, *pixels.shape))
    if hasattr(backend, "forward"):
        ready = normalize(batch, runner.encoder.preprocess, backend.device, backend.dtype)

        def once() -> Any:
            with torch.inference_mode():
                return backend.forward(ready)
    else:

        def once() -> Any:
            return backend.start(batch)()

    once()
    times: list[float] = []
    while len(times) < 5 or sum(times) < 0.7:
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return statistics.median(times) / runner.batch_size


def probe() -> float:
    """Seconds of a fixed piece of work on all cores, the least of seven."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    pictures = torch.ones(8, 64, 56, 56)
    times = []
    with torch.inference_mode():
        for _ in range(7):
            started = time.perf_counter()
            for _ in range(10):
                layer(pictures)
            times.append(time.perf_counter() - started)
    return min(times)


class Memory:
    """The largest private memory while it is entered, sampled every 50 ms; ``mapped`` is what files take beside it.

    Mapped files (decoded images, libraries, weights) are the page cache's: the system takes them back when it
    needs the room.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.mapped = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        stop = threading.Event()
        process = psutil.Process()

        def sample() -> None:
            while not stop.wait(0.05):
                now = process.memory_info()
                mapped = getattr(now, "shared", 0)  # Linux tells them apart
                self.peak, self.mapped = max(self.peak, now.rss - mapped), max(self.mapped, mapped)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


# ---------------------------------------------------------------------------- models and photos


def chosen_models(globs: str | None) -> list[ModelSpec]:
    """The torch models of the benchmark's zoo, without untrained controls."""
    if os.environ.get("SELECTOR_ASSETS"):
        specs = select(load_zoo(HERE / "assets-zoo.yaml", trust=True), globs)
    else:
        specs = select(load_zoo(), globs, None if globs else "offline")
    return [spec for spec in specs if not SKIPPED_TAGS & set(spec.tags)]


def lay_out(folder: Path, first: int, second: int, seed: int) -> tuple[Path, Path]:
    """Two disjoint sets of so many photos, mixed from all kinds at hand, as image folders with a class a kind."""
    places = folder / f"first-{first}-{seed}", folder / f"second-{second}-{seed}"
    if all(place.is_dir() for place in places):
        return places
    kinds = {"textile": [path.read_bytes() for path in sorted(textile_folder().rglob("*.jpg"))]}
    if assets := os.environ.get("SELECTOR_ASSETS"):
        import pyarrow.parquet as pq

        for name in ("flowers", "dtd10"):
            for file in sorted((Path(assets) / "data" / name).glob("*.parquet")):
                cells = pq.read_table(file, columns=["image"])["image"].to_pylist()
                kinds.setdefault(name, []).extend(cell["bytes"] for cell in cells)
    pool = list({content: kind for kind, contents in kinds.items() for content in contents}.items())
    if len(pool) < first + second:
        sys.exit(f"{first + second} photos are needed, {len(pool)} are here; lower --images and --cold-images.")
    order = np.random.default_rng(seed).permutation(len(pool))
    for place, chosen in zip(places, (order[:first], order[first : first + second]), strict=True):
        for rank, index in enumerate(chosen):
            content, kind = pool[index]
            split = "val" if rank % 7 == 0 else "train"
            path = place / split / kind / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return places


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
