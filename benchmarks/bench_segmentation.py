"""Cost of rows at points: against the pure forward pass at the same size, and what is stored against dense maps.

    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation [--quick]
    python -m benchmarks.bench_segmentation --memory 200 2000 4000

With ``--memory``: what a scan of so many images (240 x 180, made here) by one small network takes at its peak, each in a
process of its own; ``anonymous_mb`` is what no file backs, ``file_mb`` what the system takes back when it needs to. Seconds are those of the processor, children included, so that other work on the machine counts little; a row holds
medians of alternating runs. ``dense_scans`` times whole scans.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import read_rows, write_rows
from selector import sources
from selector.core.system import cpu_model
from selector.data import load_target
from selector.extract.inputs import ready
from selector.extract.rows import MapRunner, extract_rows
from selector.modalities.pixels.transform import prepare
from selector.tasks import task_of
from selector.tasks.segmentation import FEWEST_POINTS
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results" / "segmentation_cost.csv"
MEMORY = OUT.with_name("segmentation_memory.csv")
MODELS = ("mnv1_100", "efflite0", "opennsfw")


class _Prepared:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.rows[np.asarray(indices)]


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def seconds(run: Callable[[], None]) -> float:
    begun = processor_seconds()
    run()
    return processor_seconds() - begun


def facts() -> dict[str, object]:
    """What every row ends with."""
    return {"processor": cpu_model(), "torch": torch.__version__, "python": platform.python_version()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_segmentation", description=__doc__)
    parser.add_argument("--out", type=Path, help="the committed tables when left out")
    parser.add_argument("--quick", action="store_true", help="32 images, three runs")
    parser.add_argument(
        "--memory", type=int, nargs="+", metavar="PICTURES", help="peak memory of scans, and nothing else"
    )
    args = parser.parse_args(argv)
    if args.memory:
        return memory(args.memory, args.out or MEMORY)
    assets = assets_folder("data/")
    if assets is None:
        return 2
    torch.set_num_threads(1)
    target = load_target(assets / "data" / "camvid")
    task = task_of(target)
    items = target.indices("train", "val")[: 32 if args.quick else 200]
    plan = task.rows(target, items)
    assert plan.place is not None
    rows = []
    for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models:
        if spec.name not in MODELS:
            continue
        encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
        pixels = prepare([target.items[int(i)] for i in items], encoder.image_preprocess)
        inputs = _Prepared(pixels)
        runner = MapRunner(encoder, "cpu", "float32")
        positions = np.searchsorted(items, plan.item)
        width, dense = task.width(encoder), 0

        def forward(encoder=encoder, pixels=pixels, size=runner.batch_size) -> None:  # type: ignore[no-untyped-def]
            with torch.inference_mode():
                for begin in range(0, len(pixels), size):
                    encoder.maps(ready(pixels[begin : begin + size], encoder.preprocess))  # as the source loads it

        def points(runner=runner, inputs=inputs, positions=positions) -> None:  # type: ignore[no-untyped-def]
            for _ in extract_rows(runner, inputs, positions, plan.place, plan.reader):
                pass

        with torch.inference_mode():
            maps = encoder.maps(ready(pixels[:1], encoder.preprocess))
            dense = sum(found.numel() for _, found in maps) * 4
        forward(), points()
        timed = [(seconds(forward), seconds(points)) for _ in range(3 if args.quick else 5)]
        pure, read = (median(column) for column in zip(*timed, strict=True))
        rows.append(
            {
                "model": spec.name, "pictures": len(items), "points": len(plan), "canvas": "x".join(map(str, encoder.image_preprocess.input_size[1:])),
                "forward_s": round(pure, 3), "points_s": round(read, 3), "ratio": round(median(b / a for a, b in timed), 3),
                "dense_bytes_a_picture": dense, "stored_bytes_a_picture": round(len(plan) / len(items) * width * 4),
                "dense_over_stored": round(dense / (len(plan) / len(items) * width * 4), 1),
                "dense_over_stored_of_2000": round(dense / (FEWEST_POINTS * width * 4), 1),
                **facts(),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    write_rows(args.out or OUT, rows)
    return 0


def memory(counts: Sequence[int], out: Path) -> int:
    """A row for every count of images; of several in processes of their own."""
    if len(counts) > 1:
        again = [sys.executable, "-m", "benchmarks.bench_segmentation", "--out", str(out), "--memory"]
        return max(subprocess.run([*again, str(count)], check=False).returncode for count in counts)
    torch.set_num_threads(1)
    small = ModelSpec.model_validate({"name": "small", "source": "timm:test_resnet", "weights": "none"})
    peak, over = {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) // 1024)

    with tempfile.TemporaryDirectory() as folder:
        pictures_with_masks(Path(folder), counts[0])
        watcher = threading.Thread(target=watch)
        watcher.start()
        (model,) = selector.rank(
            folder, zoo=[small], store=Path(folder) / "store", measure_cost="never", history=False, out=False
        )
        over.set()
        watcher.join()
    row = {
        "pictures": counts[0], "rows": model.rows, "width": model.num_features, "anonymous_mb": peak["RssAnon"],
        "file_mb": peak["RssFile"], **facts(),
    }  # fmt: skip
    print(row, flush=True)
    others = [known for known in read_rows(out) if int(known["pictures"]) != counts[0]]
    write_rows(out, sorted([*others, row], key=lambda known: int(known["pictures"])))
    return 0


def pictures_with_masks(root: Path, count: int) -> None:
    """``images/`` and ``masks/`` of soft noise; every mask holds two of four classes."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for i in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8)).resize((240, 180))
        noise.save(root / "images" / f"{i}.jpg", quality=80)
        mask = np.full((180, 240), i % 4, np.uint8)
        mask[:, 120:] = (i + 1) % 4
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")


if __name__ == "__main__":
    raise SystemExit(main())
