"""What a scan costs by the size of the zoo and the number of targets: real scans of small networks on small images.

    python -m benchmarks.bench_many [--models 5 15 45] [--targets 1 4 16] [--out FILE]

Every cell is one ``selector.rank`` of so many targets (60 images of 32 x 32 each, none shared) by so many networks of
timm's test family at several input sizes, with untrained weights, an empty store and the usual scores. ``seconds`` are
those of the processor, all threads of the process together, so that other work on the machine does not count. Cells
that the file has are not made again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import selector
from benchmarks.rows import read_rows, write_rows
from selector.core.system import versions

HERE = Path(__file__).parent
OUT = HERE / "results" / "bench_many.csv"
COLUMNS = ("models", "targets", "items", "seconds", "python", "torch", "selector", "cpu")
FAMILY = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout", "test_nfnet", "test_byobnet",
          "test_vit2", "test_vit3", "test_convnext2", "test_convnext3", "test_efficientnet_ln", "test_efficientnet_gn",
          "test_efficientnet_evos", "test_vit4")  # fmt: skip
SIZES = (64, 96, 128)
ITEMS = 60


def main(argv: Sequence[str] | None = None) -> int:
    """A row per cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="*", default=[5, 15, 45])
    parser.add_argument("--targets", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two cells")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if args.quick:
        args.models, args.targets = [2], [1, 2]
    rows = read_rows(args.out)
    made = {(int(row["models"]), int(row["targets"])) for row in rows}
    lacking = [each for each in itertools.product(args.models, args.targets) if each not in made]
    if lacking:
        cell(1, 1, args.seed)  # imports, once a process, are no cost of a scan's size
    for models, targets in lacking:
        rows.append(cell(models, targets, args.seed))
        write_rows(args.out, rows, COLUMNS)
        print(rows[-1], file=sys.stderr, flush=True)
    return 0


def zoo(models: int) -> list[selector.ModelSpec]:
    """So many networks: a family at one size, then at the next."""
    every = [
        selector.ModelSpec(
            name=f"{name}-{size}", source=f"timm:{name}", weights="none",
            kwargs={"img_size": size} if "vit" in name else {}, preprocess={"input_size": [3, size, size]},
        )
        for size in SIZES
        for name in FAMILY
    ]  # fmt: skip
    return every[:models]


def cell(models: int, targets: int, seed: int) -> dict[str, Any]:
    """Processor seconds of one scan."""
    rng = np.random.default_rng(seed)
    data = [
        selector.load_target(
            (rng.integers(0, 256, (ITEMS, 32, 32, 3), dtype=np.uint8), np.arange(ITEMS) % 3), name=f"noise-{n}"
        )
        for n in range(targets)
    ]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        rankings = selector.rank(
            data, zoo=zoo(models), store=folder, history=False, measure_cost="never", precision="float32", backend="eager",
            prune="never",
        )  # fmt: skip
        seconds = time.process_time() - begun
    failed = {m.name: m.reason for ranking in rankings for m in ranking if m.status != "ok"}
    assert not failed, failed
    told = versions()
    return {
        "models": models, "targets": targets, "items": ITEMS, "seconds": round(seconds, 2),
        **{key: told.get(key, "") for key in ("python", "torch", "selector", "cpu")},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
