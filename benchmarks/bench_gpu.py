"""Everything that behaves otherwise on a GPU, in at most ten minutes.

    python -m benchmarks.bench_gpu [--device cuda] [--quick] [--out FILE]

Writes a row a check (what, status, figures) and prints the list of what failed; ends with 1 where something did. Without a
GPU the same checks run on ``cpu``, and those that need one say so. No assets and no network are needed: networks have
random weights, images are drawn here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

import selector
from benchmarks.rows import options, write_rows
from selector import sources
from selector.core.contracts import Encoder
from selector.core.preprocess import Preprocess
from selector.core.system import cpu_model, graphics_cards
from selector.extract.backend_choice import agreement
from selector.extract.encode import Runner, open_runner, resolve_device
from selector.extract.inputs import ready
from selector.modalities.pixels.augmentation import augmented
from selector.modalities.pixels.transform import normalize
from selector.tasks._learner import HeadLearner
from selector.tuning.strategies._loop import CLIP, Feed, Settings, train
from selector.tuning.strategies._parts import Group
from selector.zoo import ModelSpec

OUT = Path(__file__).parent / "results" / "bench_gpu.csv"
SAME = {"float32": 0.9999, "bfloat16": 0.98}  # median centered cosine with the features of the CPU in float32
STEPS = 4


class NeedsGpu(Exception):
    """The check has nothing to look at here."""


@dataclass
class Bench:
    """What the checks share."""

    device: str
    quick: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def encoder(self) -> Encoder:
        """A network with random weights, the same each time."""
        name = "test_resnet" if self.quick else "resnet50"
        spec = ModelSpec(name=name, source=f"timm:{name}", weights="none")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return sources.registry.get("timm").load(spec)

    def pixels(self, encoder: Encoder, count: int = 64) -> np.ndarray:
        _, height, width = encoder.image_preprocess.input_size
        coarse = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)
        return np.stack([np.asarray(Image.fromarray(c).resize((width, height))) for c in coarse])

    def runner(self, precision: str = "float32", device: str | None = None) -> tuple[Runner, np.ndarray]:
        encoder = self.encoder()
        pixels = self.pixels(encoder)
        asked: dict[str, Any] = {"precision": precision, "sample": pixels, "rows_expected": len(pixels)}
        return open_runner(encoder, device=device or self.device, backend="eager", **asked), pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, write the table, print what failed."""
    parser = options(__doc__, OUT, "small networks: does it run?")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    device = resolve_device(args.device)
    about = {
        "device": ", ".join(graphics_cards()) if device != "cpu" else cpu_model(),
        "torch": torch.__version__,
        "selector": selector.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        for check in CHECKS:
            begun = time.perf_counter()
            bench = Bench(device, args.quick, Path(folder) / check.__name__)
            bench.folder.mkdir()
            try:
                status, figures = "ok", check(bench)
            except NeedsGpu as error:
                status, figures = "needs a GPU", {"why": str(error)}
            except Exception as error:  # noqa: BLE001  one check that fails must not hide the others
                traceback.print_exc()
                status, figures = "failed", {"error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
            seconds = round(time.perf_counter() - begun, 1)
            rows.append(
                {"check": check.__name__, "status": status, "seconds": seconds, "figures": json.dumps(figures), **about}
            )
            print(f"{check.__name__:24} {status:12} {seconds:6.1f} s  {figures}", flush=True)
            write_rows(args.out, rows)
    failed = [row["check"] for row in rows if row["status"] == "failed"]
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


# ---------------------------------------------------------------------------- extraction


def features(bench: Bench) -> dict[str, Any]:
    """Of the device, channels last and folded, in both precisions, against those of the CPU as the network is."""
    encoder = bench.encoder()
    pixels = bench.pixels(encoder)
    with torch.inference_mode():
        plain = encoder.encode(ready(pixels, encoder.preprocess)).float().numpy()
    found = {}
    for precision, least in SAME.items():
        runner, _ = bench.runner(precision)
        near = agreement(plain, runner.encode(pixels))
        found[precision] = round(near.cosine, 6)
        assert near.cosine >= least, f"{precision}: median cosine {near.cosine:.5f}, expected {least}"
    return found


def tf32(bench: Bench) -> dict[str, Any]:
    """What products in TF32 change."""
    if not bench.on_gpu:
        raise NeedsGpu("TF32 is of GPUs")
    runner, pixels = bench.runner()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    rows = []
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
            rows.append(runner.encode(pixels))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    near = agreement(*rows)
    assert near.cosine >= 0.999, f"median cosine {near.cosine:.5f}"
    return {"cosine": round(near.cosine, 6)}


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """The batch is halved until it fits, and the rows are those of a batch that fits."""
    runner, pixels = bench.runner()
    expected = runner.encode(pixels)
    start = type(runner._backend).start

    def small(self: Any, batch: Any) -> Any:
        if self.batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return start(self, batch)

    backend = type("Small", (type(runner._backend),), {"start": small})
    runner._backend.__class__ = backend
    found = runner.encode(pixels)
    assert runner.batch_size <= 4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    return {"batch_size": runner.batch_size}


def resumption(bench: Bench) -> dict[str, Any]:
    """Rows of a second runner over half of the items are those of the first, to the bit."""
    first, pixels = bench.runner()
    whole = first.encode(pixels)
    second, _ = bench.runner()
    again = second.encode(pixels[len(pixels) // 2 :])
    apart = float(np.abs(again - whole[len(pixels) // 2 :]).max())
    assert apart <= 1e-5 * float(np.abs(whole).max()), f"rows differ by {apart}"
    return {"largest_difference": apart}


def peak_memory(bench: Bench) -> dict[str, Any]:
    """Of extraction, beside the weights in float32."""
    if not bench.on_gpu:
        raise NeedsGpu("the peak of a device's memory")
    runner, pixels = bench.runner()
    torch.cuda.reset_peak_memory_stats()
    runner.encode(pixels)
    assert runner.encoder.module is not None
    weights = sum(4 * p.numel() for p in runner.encoder.module.parameters())
    return {"peak_mb": torch.cuda.max_memory_allocated() >> 20, "weights_mb": weights >> 20, "batch": runner.batch_size}


def extraction_rate(bench: Bench) -> dict[str, Any]:
    """Against the bare forward pass on a batch that is on the device, and a DataLoader loop."""
    runner, pixels = bench.runner("bfloat16" if bench.on_gpu else "float32")
    module = runner._backend.encoder  # type: ignore[attr-defined]
    kind = runner._backend.dtype  # type: ignore[attr-defined]
    many = np.concatenate([pixels] * (1 if bench.quick else 8))
    batch = ready(many[: runner.batch_size], runner.encoder.preprocess).to(bench.device, kind)
    batch = batch.to(memory_format=torch.channels_last)

    def bare() -> None:
        for _ in range(0, len(many), runner.batch_size):
            module.encode(batch)

    def loader() -> None:
        for part in torch.utils.data.DataLoader(torch.from_numpy(many), batch_size=runner.batch_size):
            module.encode(ready(part.numpy(), runner.encoder.preprocess).to(bench.device, kind))

    def timed(function: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(3):
            begun = time.perf_counter()
            with torch.inference_mode():
                function()
            if bench.on_gpu:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
        return len(many) / best

    rates = {"ours": timed(lambda: runner.encode(many)), "bare": timed(bare), "loader": timed(loader)}
    return {f"{name}_per_s": round(rate, 1) for name, rate in rates.items()}


# ---------------------------------------------------------------------------- training and scans


class _Memory:
    """Images in memory: reading them is free for both loops."""

    def __init__(self, side: int, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def _ours(module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings) -> float:
    begun = time.process_time()
    learner = HeadLearner(module, nn.functional.cross_entropy)
    feed = Feed(pixels, lambda images: normalize(images, preprocess), lambda items: list(labels[items]), augmented)
    groups = [Group(tuple(name for name, _ in learner.named_parameters()))]
    train(learner, groups, feed, np.arange(len(labels)), settings)
    return time.process_time() - begun


def _bare(module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings) -> float:
    """The shortest loop that does the same: same layout, precision, clipping, optimizer, batch-norm mode."""
    begun = time.process_time()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(
        parameters, lr=settings.rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    targets = torch.from_numpy(labels)
    for step in range(settings.steps):
        rows = np.arange(step * 32, step * 32 + 32) % len(labels)
        images, _ = augmented(torch.from_numpy(pixels.batch(rows)), [None] * len(rows))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            loss = nn.functional.cross_entropy(module(normalize(images, preprocess)), targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return time.process_time() - begun


def training_rate(bench: Bench) -> dict[str, Any]:
    """In mixed precision against a bare torch loop, on a CPU in its own precision."""
    import timm

    if bench.on_gpu:
        raise NeedsGpu("the bare loop runs on the CPU; see the scans' seconds")
    module = timm.create_model("test_resnet", num_classes=10)
    memory, labels = _Memory(64, 64), np.arange(64) % 10
    settings = Settings(2, 32, 1e-4, "sgd", device=bench.device, bf16=bench.on_gpu)
    preprocess = Preprocess(input_size=(3, 64, 64))
    ours, bare = (min(run(module, memory, labels, preprocess, settings) for _ in range(2)) for run in (_ours, _bare))
    return {"bare_over_ours": round(bare / ours, 3)}


def classification(bench: Bench) -> dict[str, Any]:
    """Scan, train in full, save, load, predict and export."""
    rng = np.random.default_rng(0)
    pictures = [np.clip(rng.integers(0, 80, (48, 48, 3)) + 90 * (np.arange(3) == i % 3), 0, 255) for i in range(90)]
    items = [Image.fromarray(p.astype(np.uint8)) for p in pictures]
    labels = [("red", "green", "blue")[i % 3] for i in range(90)]
    found = _scan(bench, (items, labels), strategies="full")
    saved = selector.load_model(bench.folder / "run")
    assert len(saved.predict(items[0])) == 1
    return found


def segmentation(bench: Bench) -> dict[str, Any]:
    """Scan and training of masks."""
    return _scan(bench, _scenes(bench.folder / "data", masks=True), task="segmentation", strategies="frozen")


def detection(bench: Bench) -> dict[str, Any]:
    """Scan and training of boxes."""
    return _scan(bench, _scenes(bench.folder / "data"), task="detection", strategies="frozen")


def two_devices(bench: Bench) -> dict[str, Any]:
    """A scan by a worker on each of two devices."""
    if torch.cuda.device_count() < 2:
        raise NeedsGpu("two GPUs")
    return _scan(
        bench, _scenes(bench.folder / "data", masks=True), task="segmentation", confirm=False, engine="processes"
    )


def _scan(bench: Bench, target: Any, **asked: Any) -> dict[str, Any]:
    training = {"top_k": 1, "max_steps": STEPS, "resolution": 64} if asked.setdefault("confirm", True) else {}
    begun = time.perf_counter()
    places = {"device": bench.device, "store": bench.folder / "store", "out": bench.folder / "run"}
    zoo = [ModelSpec(name="tiny", source="timm:test_resnet", weights="none")]
    ranking = selector.rank(target, zoo=zoo, history=False, **training, **asked, **places)
    (model,) = ranking
    assert model.status == "ok", model.reason
    return {"seconds": round(time.perf_counter() - begun, 1)}


def _scenes(folder: Path, count: int = 40, *, masks: bool = False) -> Path:
    """Squares and bars: a COCO file with their boxes, or a folder of images and masks."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 60, (96, 96, 3)).astype(np.uint8))
        x, y, size, kind = *(int(v) for v in rng.integers(8, 40, 2)), int(rng.integers(24, 48)), number % 2
        corners = [x, y, x + size, y, x + size, y + size // (1 + kind), x, y + size // (1 + kind)]
        ImageDraw.Draw(image).polygon(corners, fill=((220, 40, 40), (40, 40, 220))[kind])
        image.save(folder / "images" / f"{number}.png")
        if masks:
            mask = Image.new("L", image.size)
            ImageDraw.Draw(mask).polygon(corners, fill=1 + kind)
            (folder / "masks").mkdir(exist_ok=True)
            mask.save(folder / "masks" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 96})
        objects.append(
            {
                "id": number, "image_id": number, "category_id": kind, "iscrowd": 0,
                "bbox": [x, y, size, size // (1 + kind)], "area": size * size // (1 + kind),
            }
        )  # fmt: skip
    if masks:
        return folder
    categories = [{"id": 0, "name": "square"}, {"id": 1, "name": "bar"}]
    table = folder / "annotations.json"
    table.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return table


CHECKS: tuple[Callable[[Bench], dict[str, Any]], ...] = (
    *(features, tf32, out_of_memory, resumption, peak_memory, extraction_rate),
    *(training_rate, classification, segmentation, detection, two_devices),
)

if __name__ == "__main__":
    sys.exit(main())
