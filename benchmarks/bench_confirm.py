"""Does the tournament find what training everything would find, and for how little?

    SELECTOR_ASSETS=... python -m benchmarks.bench_confirm [--quick] [--out DIR] [--seed N] [--sets ...]

Three questions, one CSV each:

- ``confirm_regret``: on each image set, the tournament against the rule "train every encoder in
  full, at every rate of the grid, for the maximum of steps, with one seed, and take the best
  validation accuracy", on the same splits and images. Regret is the test accuracy of the best
  encoder under the rule minus that of the model chosen, in points; ``trained_regret`` is that of the
  best among the tournament's fine-tuned lanes, as if the frozen encoders were no choice. Cost is the processor time of
  training and evaluating (other work on the machine does not count) and optimiser steps.
- ``confirm_rungs``: the rank agreement of the first rung with training in full.
- ``confirm_loop``: images/s of the training loop against a bare torch loop that does the same work,
  alternating in one process.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.assets import assets_folder
from selector import agreement, sources, tasks
from selector.contracts import Preprocess, Target
from selector.extract.pixels import Pixels, normalise, open_pixels
from selector.strategies._loop import Settings, augmented, bf16_helps, train
from selector.strategies._parts import Group
from selector.system import versions
from selector.targets import load_target
from selector.tournament import Contestant, run_tournament
from selector.tournament.journal import Journal
from selector.tournament.workbench import Candidate, Workbench
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results"
ZOO = Path(__file__).parent / "assets-zoo.yaml"
SETS = ("flowers", "cifar10", "pneumoniamnist", "dtd10", "brainmri")
# name: side at which it is trained; None for its own (up to 32 pixels, or fixed)
ENCODERS: dict[str, int | None] = {
    "mlc_resnet8": None,
    "cifar_resnet20": None,
    "svhn_cnn": None,
    "mnist_cnn": None,
    "usps_cnn": None,
    "mnv1_025": 64,
    "mn_edgetpu075": 64,
    "efflite0": 64,
}
IMAGES, STEPS = 1200, 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the three comparisons and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_confirm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set, three encoders, few steps: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of the rule's trainings and of the tournament's winner"
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument(
        "--work", type=Path, help="folder of trainings, to go on after an interruption; else a temporary one"
    )
    parser.add_argument("--only", choices=("regret", "loop"), help="one of the questions")
    args = parser.parse_args(argv)
    assets = None if args.only == "loop" else assets_folder("models/ and data/")
    if args.only != "loop" and assets is None:
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if assets is not None:
        names = list(ENCODERS)[:3] if args.quick else list(ENCODERS)
        _regret(assets, args.sets[:1] if args.quick else args.sets, names, 8 if args.quick else args.steps, args)
    if args.only != "regret":
        _loop(args)
    return 0


# ---------------------------------------------------------------------------- regret and rungs


def _regret(assets: Path, sets: Sequence[str], names: Sequence[str], steps: int, args: argparse.Namespace) -> None:
    specs = {spec.name: spec for spec in load_zoo(ZOO, trust=True).models}
    regrets, rungs = [], []
    for name in sets:
        target = load_target(assets / "data" / name, max_samples=200 if args.quick else IMAGES, seed=0)
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.work / name if args.work else Path(temporary)
            row, rung = _one_set(name, target, [specs[n] for n in names], steps, args.seed, folder)
        regrets.append({**row, **_environment()})
        rungs.append({**rung, **_environment()})
        _table(args.out / "confirm_regret.csv", regrets)
        _table(args.out / "confirm_rungs.csv", rungs)
        print(
            {
                k: row[k]
                for k in (
                    "set",
                    "rule_choice",
                    "tournament_choice",
                    "rule_regret",
                    "tournament_regret",
                    "trained_regret",
                    "cpu_share",
                )
            }
        )
    if regrets:
        difference, trained = (
            statistics.mean(float(r[column]) - float(r["rule_regret"]) for r in regrets)
            for column in ("tournament_regret", "trained_regret")
        )
        share = sum(float(r["tournament_cpu_seconds"]) for r in regrets) / sum(
            float(r["rule_cpu_seconds"]) for r in regrets
        )
        print(
            f"mean regret above the rule: {difference:+.2f} points ({trained:+.2f} without the frozen encoders); "
            f"share of its processor time: {share:.1%}"
        )


def _one_set(
    name: str, target: Target, specs: Sequence[ModelSpec], steps: int, seed: int, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    task = tasks.registry.get("classification")
    opened: dict[str, Pixels] = {}

    def pixels_for(preprocess: Preprocess) -> Pixels:
        key = preprocess.pixels_key()
        if key not in opened:
            opened[key], _ = open_pixels(
                target.items, target.hashes, target.names, preprocess, folder=folder / "pixels"
            )
        return opened[key]

    def contestant(spec: ModelSpec) -> Contestant:
        side = ENCODERS[spec.name]
        sized = spec if side is None else spec.model_copy(
            update={"preprocess": spec.preprocess.model_copy(update={"input_size": (3, side, side)})}
        )  # fmt: skip
        return Contestant(
            spec.name, load=lambda: sources.registry.get(spec.source_name).load(sized), identity={"n": spec.name}
        )

    contestants = [contestant(spec) for spec in specs]
    for c in contestants:  # decoding is paid by neither
        pixels_for(c.load().preprocess)

    result = run_tournament(
        contestants,
        target,
        task,
        pixels_for,
        strategies=("full",),
        max_steps=steps,
        repeats=0,
        device="cpu",
        seed=seed,
        checkpoint_folder=folder / "tournament",
    )
    tournament_seconds = sum(float(h["processor_seconds"]) for h in result.history)
    assert result.best is not None
    chosen = next(m for m in result.measurements[result.best.name] if m.strategy == result.best.strategy)
    trained = {n: m for n, ms in result.measurements.items() for m in ms if m.strategy == "full" and m.test}
    trained_choice = max(trained, key=lambda n: trained[n].merit)

    bench = Workbench(target, task, pixels_for, Journal(folder / "rule"), "cpu", 32, True)
    full: dict[str, tuple[float, float]] = {}
    rule_steps, rule_seconds = 0, 0.0
    for c in contestants:
        loaded = bench.load(c)
        bench.solve(loaded, math.inf)
        bench.prepare_start(loaded)
        best: tuple[float, float] | None = None
        for rate in bench.rates(loaded, "full"):
            candidate = Candidate(c.name, "full", rate, seed)
            record = bench.run(loaded, candidate, (steps,))
            assert record is not None
            rule_steps += int(record.facts["steps"])
            rule_seconds += float(record.facts["processor_seconds"])
            if record.logits is None:
                continue
            val = task.metrics(record.logits, bench.labels["val"])["accuracy"]
            if best is None or val > best[0]:
                test = task.metrics(bench.test_outputs(loaded, candidate, (steps,)), bench.labels["test"])["accuracy"]
                best = (val, test)
        full[c.name] = best or (0.0, 0.0)

    rule_choice = max(full, key=lambda n: full[n][0])
    most = max(test for _, test in full.values())
    first = {
        n: max(
            (
                float(h["value"])
                for h in result.history
                if h["model"] == n and h["rung"] == 1 and h["value"] is not None
            ),
            default=0.0,
        )
        for n in full
    }
    values, finals = [first[n] for n in full], [full[n][0] for n in full]
    tournament_steps = sum(_own_steps(result.history, h) for h in result.history)
    row = {
        "set": name,
        "n_train": len(bench.indices["train"]),
        "n_val": len(bench.indices["val"]),
        "n_test": len(bench.indices["test"]),
        "encoders": len(full),
        "max_steps": steps,
        "rates": 3,
        "seed": seed,
        "rule_choice": rule_choice,
        "tournament_choice": f"{result.best.name} {result.best.strategy}",
        "rule_test": round(full[rule_choice][1], 4),
        "tournament_test": round(chosen.test_value, 4),
        "best_test": round(most, 4),
        "rule_regret": round(100 * (most - full[rule_choice][1]), 2),
        "tournament_regret": round(100 * (most - chosen.test_value), 2),
        "trained_choice": trained_choice,
        "trained_regret": round(100 * (most - trained[trained_choice].test_value), 2),
        "rule_cpu_seconds": round(rule_seconds, 1),
        "tournament_cpu_seconds": round(tournament_seconds, 1),
        "cpu_share": round(tournament_seconds / rule_seconds, 3),
        "step_share": round(tournament_steps / rule_steps, 3),
        "settled": result.settled,
    }
    rung = {
        "set": name,
        "encoders": len(full),
        "first_rung_steps": min(int(h["steps"]) for h in result.history),
        "final_steps": steps,
        "weighted_tau": round(agreement.weighted_tau(values, finals), 3),
        "spearman": round(agreement.spearman(values, finals), 3),
        "first_rung": ";".join(f"{n}={v:.3f}" for n, v in first.items()),
        "final": ";".join(f"{n}={v:.3f}" for n, (v, _) in full.items()),
    }
    return row, rung


def _own_steps(history: Sequence[Any], entry: Any) -> int:
    """Steps of one rung: its running total minus that of the rung before."""
    before = [
        int(h["steps"]) for h in history
        if (h["model"], h["rate"], h["seed"]) == (entry["model"], entry["rate"], entry["seed"]) and h["rung"] < entry["rung"]
    ]  # fmt: skip
    return int(entry["steps"]) - max(before, default=0)


# ---------------------------------------------------------------------------- the loop itself


class _Memory:
    """Images in memory: reading them is free for both loops."""

    def __init__(self, side: int, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def _loop(args: argparse.Namespace) -> None:
    import timm

    rows = []
    cases = [("resnet18", 96), ("tf_efficientnet_lite0", 96), ("vit_tiny_patch16_224", 96), ("test_resnet", 64)]
    for name, side in cases[-1:] if args.quick else cases:
        kwargs = {"img_size": side} if name.startswith("vit") else {}
        steps = 2 if args.quick else 6
        module = timm.create_model(name, num_classes=10, **kwargs)
        pixels = _Memory(side, 256)
        labels = np.arange(256) % 10
        preprocess = Preprocess(input_size=(3, side, side))
        for augment in (False, True):
            settings = Settings(steps, 32, 1e-4, "sgd", augment=augment, bf16=bf16_helps("cpu"))
            ours, bare = [], []
            for round_ in range(2 if args.quick else 6):  # the first is a warm-up
                for run, times in ((_ours, ours), (_bare, bare)):
                    seconds = run(module, pixels, labels, preprocess, settings)
                    if round_:
                        times.append(seconds)
            ratio = statistics.median(b / o for o, b in zip(ours, bare, strict=True))
            rows.append(
                {
                    "model": name, "side": side, "batch": 32, "augment": augment, "precision": "bf16" if settings.bf16 else "fp32",
                    "repeats": len(ours), "ours_images_per_s": round(steps * 32 / statistics.median(ours), 1),
                    "bare_images_per_s": round(steps * 32 / statistics.median(bare), 1), "ratio": round(ratio, 3), **_environment(),
                }
            )  # fmt: skip
            print({k: rows[-1][k] for k in ("model", "augment", "ours_images_per_s", "bare_images_per_s", "ratio")})
            _table(args.out / "confirm_loop.csv", rows)


_Timed = Callable[[nn.Module, _Memory, np.ndarray, Preprocess, Settings], float]


def _ours(module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings) -> float:
    begun = time.process_time()
    train(
        module,
        [Group(tuple(name for name, _ in module.named_parameters()))],
        pixels,
        np.arange(len(labels)),
        labels,
        lambda images: normalise(images, preprocess),
        nn.functional.cross_entropy,
        settings,
    )
    return time.process_time() - begun


def _bare(module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings) -> float:
    """The shortest loop that does the same: same layout, precision, clipping, optimiser, batch-norm mode."""
    begun = time.process_time()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
    parameters = list(module.parameters())
    optimiser = torch.optim.SGD(
        parameters, lr=settings.rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    targets = torch.from_numpy(labels)
    for step in range(settings.steps):
        rows = np.arange(step * 32, step * 32 + 32) % len(labels)
        images = torch.from_numpy(pixels.batch(rows))
        if settings.augment:
            images = augmented(images, flip=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            loss = nn.functional.cross_entropy(module(normalise(images, preprocess)), targets[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
    return time.process_time() - begun


def _environment() -> dict[str, Any]:
    found = versions()
    return {
        "selector": found["selector"],
        "torch": found.get("torch"),
        "timm": found.get("timm"),
        "cpu": found["cpu"],
        "threads": torch.get_num_threads(),
    }


def _table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
