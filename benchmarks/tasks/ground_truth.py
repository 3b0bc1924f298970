"""Train every encoder on every set of the coming tasks and write down what came out.

    SELECTOR_ASSETS=... python -m benchmarks.tasks.ground_truth [--sets ...] [--encoders ...] [--quick] [--seed 1]

Resumable: cells that have a row are skipped. README.md beside this file has the protocols.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.assets import assets_folder
from benchmarks.suite import saved
from benchmarks.tasks import cells as table
from benchmarks.tasks import detection, mask_sets, segmentation, vectors
from benchmarks.tasks.cells import Cell, Outcome

VECTORS = ("houses", "bccd_cells", "coco128_super", "atis_slots")
SETS = (*VECTORS, *mask_sets.SETS, *detection.SETS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells, set by set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks.ground_truth", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--encoders", nargs="+", help="all when left out")
    parser.add_argument("--heads", nargs="+", help="all when left out")
    parser.add_argument("--strategies", nargs="+", help="frozen or full; both when left out")
    parser.add_argument(
        "--out", type=Path, help="the table; the committed one when left out, with --quick one in the cache"
    )
    parser.add_argument("--quick", action="store_true", help="two steps a cell: does it run?")
    parser.add_argument(
        "--seed", type=int, default=0, help="of batches, augmentation and new layers; splits never move"
    )
    args = parser.parse_args(argv)
    assets = assets_folder("models/, data/ and text/")
    if assets is None:
        return 2
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    out = args.out or (saved.folder(quick=True) / "tasks.csv" if args.quick else table.TRUTH)
    for name in args.sets:
        asked = {"encoder": args.encoders, "head": args.heads, "strategy": args.strategies}
        wanted = [
            cell
            for cell in cells_of(name, args.seed)
            if all(not values or getattr(cell, field) in values for field, values in asked.items())
        ]
        table.run(wanted, measure_of(name, assets, args.quick), out, threads)
    return 0


def cells_of(name: str, seed: int) -> list[Cell]:
    """Every cell of a set, the cheap ones first."""
    if name in detection.SETS:
        return detection.cells(name, seed)
    return segmentation.cells(name, seed) if name in mask_sets.SETS else vectors.cells(name, seed)


def measure_of(name: str, assets: Path, quick: bool) -> Callable[[Cell], Outcome]:
    """What measures a cell of this set."""
    module: ModuleType = detection if name in detection.SETS else segmentation if name in mask_sets.SETS else vectors
    return lambda cell: module.measure(cell, assets, 2 if quick else None)


if __name__ == "__main__":
    sys.exit(main())
