"""Fine-tune every encoder on every image set and write down what came out.

    SELECTOR_ASSETS=... python -m benchmarks.suite.ground_truth [--quick] [--sets ...] [--encoders ...]

Resumable: finished cells are skipped. README.md beside this file has the protocol.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from benchmarks.assets import assets_folder
from benchmarks.suite import encoders, image_sets, table, training

OUT = Path(__file__).parents[1] / "results" / "suite" / "ground_truth.csv"
CONFIRMED = 3  # encoders of a set that get a second seed once its column is complete


@dataclass(frozen=True)
class Budget:
    """How much is spent on a cell."""

    max_train_val: int = 1000
    max_test: int = 600
    steps: int = 150


QUICK = Budget(max_train_val=120, max_test=60, steps=4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells, set by set, cheap encoders first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.ground_truth", description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(image_sets.NAMES), choices=image_sets.NAMES)
    parser.add_argument("--encoders", nargs="+", help="names of cards; all when left out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="a few images and steps: does it run?")
    parser.add_argument("--seed", type=int, default=0, help="of batches and augmentation; splits never move")
    parser.add_argument("--part", type=part, default=(1, 1), help="i/n: this process runs every n-th encoder")
    parser.add_argument(
        "--again", action="store_true", help="only second seeds, of the leaders among the encoders measured so far"
    )
    args = parser.parse_args(argv)
    assets = assets_folder("models/ and data/")
    if assets is None:
        return 2
    cards = encoders.cards(assets / "models")
    unknown = set(args.encoders or ()) - set(cards)
    if unknown:
        parser.error(f"--encoders: unknown {sorted(unknown)}; known are {', '.join(cards)}")
    chosen = {name: card for name, card in cards.items() if not args.encoders or name in args.encoders}
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    budget = QUICK if args.quick else Budget()
    models, data = assets / "models", assets / "data"
    loaded: image_sets.ImageSet | None = None
    if args.again:
        cells = second_seeds(args.sets, list(chosen), args.seed, args.part, args.out)
    else:
        cells = plan(args.sets, list(chosen), list(cards), args.seed, args.part, args.out)
    for cell, again in cells:
        if loaded is None or loaded.name != cell.set_name:
            loaded = image_sets.load(cell.set_name, data, budget.max_train_val, budget.max_test)
        cell.run(loaded, cards[cell.encoder], models, budget, again)
    return 0


def plan(
    sets: Sequence[str], names: Sequence[str], every: Sequence[str], seed: int, share: tuple[int, int], out: Path
) -> Iterator[tuple[Cell, int | None]]:
    """The missing cells of this process, decided one by one as rows arrive: a column, then second
    seeds for the leaders of every column that is complete by now (another process may have ended it)."""
    first, step = share[0] - 1, share[1]
    for position, set_name in enumerate(sets):
        for name in names[first::step]:
            cell = Cell(set_name, name, seed, out)
            if cell.missing():
                yield cell, None
        for earlier in sets[: position + 1]:
            for name in leaders(out, earlier, seed, every)[first::step]:
                cell = Cell(earlier, name, seed + 1, out)
                if name in names and cell.missing(("full",)):
                    yield cell, seed


def second_seeds(
    sets: Sequence[str], names: Sequence[str], seed: int, share: tuple[int, int], out: Path
) -> Iterator[tuple[Cell, int | None]]:
    """Second seeds that are missing, set by set; a column need not be complete."""
    first, step = share[0] - 1, share[1]
    for set_name in sets:
        measured = [name for (found, name, how, made), _ in table.read(out).items()
                    if (found, how, made) == (set_name, "full", seed)]  # fmt: skip
        for name in leaders(out, set_name, seed, measured)[first::step]:
            cell = Cell(set_name, name, seed + 1, out)
            if name in names and cell.missing(("full",)):
                yield cell, seed


def leaders(out: Path, set_name: str, seed: int, cards: Iterable[str]) -> list[str]:
    """The first encoders of a set by fully fine-tuned test accuracy; none before its column is complete."""
    rows = table.read(out)
    column = [rows.get((set_name, name, "full", seed)) for name in cards]
    if any(row is None for row in column):
        return []
    good = [row for row in column if row and row["status"] == "ok" and row["test_accuracy"] != "nan"]
    return [row["encoder"] for row in sorted(good, key=lambda row: -float(row["test_accuracy"]))[:CONFIRMED]]


def part(text: str) -> tuple[int, int]:
    """``2/3`` -> (2, 3)."""
    number, of = (int(piece) for piece in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


@dataclass(frozen=True)
class Cell:
    """One encoder on one set with one seed: two rows, ``frozen`` and ``full``."""

    set_name: str
    encoder: str
    seed: int
    out: Path

    def missing(self, strategies: Sequence[str] = ("frozen", "full")) -> list[str]:
        finished = table.done(table.read(self.out))
        return [s for s in strategies if (self.set_name, self.encoder, s, self.seed) not in finished]

    def run(
        self, images: image_sets.ImageSet, card: dict[str, Any], models: Path, budget: Budget, again: int | None = None
    ) -> None:
        """Solve, train, append; with ``again`` only ``full``, at the rate that seed ``again`` chose."""
        train, val, test = (images.rows(split) for split in ("train", "val", "test"))
        facts = {
            "n_train": len(train), "n_val": len(val), "n_test": len(test), "classes": images.classes,
            "torch": torch.__version__, "timm": timm.__version__, "cpu": cpu_name(),
        }  # fmt: skip
        started = time.perf_counter()
        rate = None
        try:
            encoder = encoders.load(self.encoder, card, models, images.small)
            facts["size"] = encoder.size
            pixels = images.pixels(encoder.size, card["interpolation"])
            features, source_logits = encoder.features(pixels)
            head = training.solve_head(features, images.labels, train, val, images.classes)
            if again is None:
                save_features(images, self.encoder, encoder.size, features, source_logits)
            else:
                first = table.read(self.out)[self.set_name, self.encoder, "full", again]
                rate = float(first["rate"])
        except Exception:  # noqa: BLE001  a cell that fails is a row, not the end of the run
            for strategy in ("frozen", "full") if again is None else ("full",):
                self._write(strategy, facts, started, reason=traceback.format_exc(limit=-2))
            return
        if again is None:
            facts["precision"] = training.precision(encoder, "frozen")
            self._measure("frozen", facts, started, lambda: training.frozen(head, features, images.labels, val, test))
        started = time.perf_counter()
        facts["precision"] = training.precision(encoder, "full")
        self._measure(
            "full", facts, started,
            lambda: training.full(encoder, images, head, steps=budget.steps,
                                  seed=self.seed, rate=rate),
        )  # fmt: skip

    def _measure(
        self, strategy: str, facts: dict[str, Any], started: float, job: Callable[[], training.Result]
    ) -> None:
        if strategy not in self.missing((strategy,)):
            return
        try:
            result = job()
        except Exception:  # noqa: BLE001  a cell that fails is a row, not the end of the run
            self._write(strategy, facts, started, reason=traceback.format_exc(limit=-2))
        else:
            self._write(strategy, facts, started, result)

    def _write(
        self,
        strategy: str,
        facts: dict[str, Any],
        started: float,
        result: training.Result | None = None,
        reason: str = "",
    ) -> None:
        row = {
            "set": self.set_name, "encoder": self.encoder, "strategy": strategy, "seed": self.seed, **facts,
            "seconds": f"{time.perf_counter() - started:.1f}", "status": "ok" if result else "failed",
            "reason": " | ".join(reason.split("\n")).strip(" |"),
        }  # fmt: skip
        if result:
            row |= {
                "steps": result.steps, "rates_tried": result.tried, "diverged": int(result.diverged),
                "rate": "" if result.rate is None else f"{result.rate:g}",
                "val_accuracy": f"{result.val_accuracy:.6f}", "test_accuracy": f"{result.test_accuracy:.6f}",
                "test_log_loss": f"{result.test_log_loss:.6f}",
            }  # fmt: skip
        table.append(self.out, row)
        print(*(row.get(c, "") for c in ("set", "encoder", "strategy", "seed", "rates_tried", "rate", "val_accuracy",
              "test_accuracy", "seconds", "status", "reason")), flush=True)  # fmt: skip


def features_folder() -> Path:
    """Where frozen features of train and val lie for the proxies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "selector-suite"


def save_features(
    images: image_sets.ImageSet, encoder: str, size: int, features: np.ndarray, source_logits: np.ndarray | None
) -> None:
    """``<set>/<encoder>.npz``: features, labels, splits, rows used and, with a source head, source_logits.

    The test split is left out: no proxy may see it.
    """
    path = features_folder() / images.name / f"{encoder}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = images.rows("train", "val")
    arrays = {"features": features[rows], "labels": images.labels[rows], "splits": images.splits[rows], "size": size}
    if source_logits is not None:
        arrays["source_logits"] = source_logits[rows]
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **arrays)
    Path(file.name).replace(path)


def cpu_name() -> str:
    """Model and core count."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name} x{os.cpu_count()}"


if __name__ == "__main__":
    sys.exit(main())
