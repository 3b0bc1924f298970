"""What a scan costs by the size of the zoo and the number of targets: real scans of small networks on small images.

    python -m benchmarks.bench_many [--models 5 15 45] [--targets 1 4 16] [--out FILE] [--figure FILE]

Every cell is one ``selector.rank`` of so many targets (60 images of 32 x 32 each, none shared) by so many networks of
timm's test family at several input sizes, with untrained weights, an empty store and the usual scores. ``seconds`` are
those of the processor, all threads of the process together, so that other work on the machine does not count. Cells
that the file has are not made again; ``--figure`` draws it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import selector
from benchmarks.rows import read_rows, write_rows
from selector.core.atomic import write_atomic
from selector.core.system import versions
from selector.report.svg import Axis, bottom_axis, element, left_axis, picture

HERE = Path(__file__).parent
OUT = HERE / "results" / "bench_many.csv"
COLUMNS = ("models", "targets", "items", "seconds", "python", "torch", "selector", "cpu")
FAMILY = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout", "test_nfnet", "test_byobnet",
          "test_vit2", "test_vit3", "test_convnext2", "test_convnext3", "test_efficientnet_ln", "test_efficientnet_gn",
          "test_efficientnet_evos", "test_vit4")  # fmt: skip
SIZES = (64, 96, 128)
ITEMS = 60
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.tick,.axis{fill:#666}.grid{stroke:#ddd}"
    ".path{fill:none;stroke:#2b6cb0;stroke-width:2}.apart{fill:none;stroke:#999;stroke-dasharray:4 3}"
    ".dot{fill:#2b6cb0}svg{background:#fff}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """A row a cell, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="*", default=[5, 15, 45])
    parser.add_argument("--targets", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two cells")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, help="an SVG file")
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
    if args.figure:
        write_atomic(args.figure, figure(rows).encode())
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


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds over the size of the zoo, a line a number of targets; dashed what scans one by one would take."""
    seconds = {(int(row["models"]), int(row["targets"])): float(row["seconds"]) for row in rows}
    sizes, counts = (sorted({key[i] for key in seconds}) for i in (0, 1))
    apart = {(m, t): t * seconds[m, 1] for m, t in seconds if t > 1 and (m, 1) in seconds}
    x = Axis.over(sizes, 70, 420, log=True)
    y = Axis.over([*seconds.values(), *apart.values()], 330, 34, log=True)
    parts = [element("style", STYLE)]
    parts += left_axis(y, 70, 420, "processor seconds of a scan")
    parts += bottom_axis(x, 34, 330, "networks in the zoo")
    for count in counts:
        for values, kind in ((seconds, "path"), (apart, "apart")):
            points = [(x(m), y(values[m, count])) for m in sizes if (m, count) in values]
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(element("polyline", points=path, class_=kind))
            if kind == "path":
                parts += [element("circle", cx=a, cy=b, r=3.5, class_="dot") for a, b in points]
                label = f"{count} target{'' if count == 1 else 's'}"
                parts.append(element("text", label, x=points[-1][0] + 10, y=points[-1][1] + 4))
    parts.append(element("text", "dashed: scans one by one", x=416.0, y=322.0, class_="tick", text_anchor="end"))
    return str(
        picture(540, 380, "Processor seconds of a scan by the size of the zoo and the number of targets", *parts)
    )


if __name__ == "__main__":
    sys.exit(main())
