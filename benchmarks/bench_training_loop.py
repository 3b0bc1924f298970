"""How fast is the training loop, against a bare torch loop that does the same work?

    python -m benchmarks.bench_training_loop [--quick] [--out DIR]

``confirm_loop.csv``: images/s of both, alternating in one process; the ratio is a median over the
repeats. No assets are needed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.confirm_rows import OUT, environment, one_thread_count
from benchmarks.rows import write_rows
from selector.core.contracts import Preprocess
from selector.modalities.pixels.augmentation import augmented
from selector.modalities.pixels.prepared import normalize
from selector.tasks._learner import HeadLearner
from selector.tuning.strategies._loop import CLIP, Feed, Settings, train
from selector.tuning.strategies._parts import Group, bf16_helps


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_training_loop", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small network, two steps: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    one_thread_count()
    _measure(args.quick, args.out)
    return 0


class _Memory:
    """Images in memory: reading them is free for both loops."""

    def __init__(self, side: int, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def _measure(quick: bool, out: Path) -> None:
    import timm

    rows = []
    cases = [("resnet18", 96), ("tf_efficientnet_lite0", 96), ("vit_tiny_patch16_224", 96), ("test_resnet", 64)]
    for name, side in cases[-1:] if quick else cases:
        kwargs = {"img_size": side} if name.startswith("vit") else {}
        steps = 2 if quick else 6
        module = timm.create_model(name, num_classes=10, **kwargs)
        pixels = _Memory(side, 256)
        labels = np.arange(256) % 10
        preprocess = Preprocess(input_size=(3, side, side))
        for augment in (False, True):
            settings = Settings(steps, 32, 1e-4, "sgd", bf16=bf16_helps("cpu"))
            ours, bare = [], []
            for round_ in range(2 if quick else 6):  # the first is a warm-up
                for run, times in ((_ours, ours), (_bare, bare)):
                    seconds = run(module, pixels, labels, preprocess, settings, augment)
                    if round_:
                        times.append(seconds)
            ratio = statistics.median(b / o for o, b in zip(ours, bare, strict=True))
            rows.append(
                {
                    "model": name, "side": side, "batch": 32, "augment": augment, "precision": "bf16" if settings.bf16 else "fp32",
                    "repeats": len(ours), "ours_images_per_s": round(steps * 32 / statistics.median(ours), 1),
                    "bare_images_per_s": round(steps * 32 / statistics.median(bare), 1), "ratio": round(ratio, 3), **environment(),
                }
            )  # fmt: skip
            print({k: rows[-1][k] for k in ("model", "augment", "ours_images_per_s", "bare_images_per_s", "ratio")})
            write_rows(out / "confirm_loop.csv", rows)


_Timed = Callable[[nn.Module, _Memory, np.ndarray, Preprocess, Settings, bool], float]


def _ours(
    module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings, augment: bool
) -> float:
    begun = time.process_time()
    learner = HeadLearner(module, nn.functional.cross_entropy)
    feed = Feed(
        pixels,
        lambda images: normalize(images, preprocess),
        lambda items: list(labels[items]),
        augmented if augment else None,
    )
    groups = [Group(tuple(name for name, _ in learner.named_parameters()))]
    train(learner, groups, feed, np.arange(len(labels)), settings)
    return time.process_time() - begun


def _bare(
    module: nn.Module, pixels: _Memory, labels: np.ndarray, preprocess: Preprocess, settings: Settings, augment: bool
) -> float:
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
        images = torch.from_numpy(pixels.batch(rows))
        if augment:
            images, _ = augmented(images, [None] * len(images))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            loss = nn.functional.cross_entropy(module(normalize(images, preprocess)), targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
