"""Two published recipes for images: torchvision's tutorial of transfer learning, and timm's training script for fine-tuning.

python recipes.py torchvision|timm FOLDER SECONDS
"""

from __future__ import annotations

import copy
import sys
import time

import torch
from _common import BATCH, SHARE, SIZE, accuracy, outputs_of, read_cell, report, split_off
from torch import nn


def main() -> None:
    """Train for the epochs that fit, keep the best by validation where the recipe does, and measure on test."""
    recipe = sys.argv.pop(1)
    cell = read_cell()
    stored, labels = cell.images("train", int(SIZE * 256 / 224))
    train, val = (torch.from_numpy(rows) for rows in split_off(labels.numpy()))
    module = cell.network(cell.classes)
    mirrored = 0.5 if cell.facts["mirrored"] else 0.0
    ema = None
    if recipe == "torchvision":
        from torchvision.transforms import v2

        change = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(mirrored)])
        optimizer: torch.optim.Optimizer = torch.optim.SGD(module.parameters(), 0.001, momentum=0.9)
        loss_of: nn.Module = nn.CrossEntropyLoss()
    else:
        from PIL import ImageOps
        from timm.data import create_transform
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3
        from torchvision.transforms.functional import to_pil_image

        keep_bits = ImageOps.posterize  # timm's policy asks for 0 bits now and then, which Pillow refuses
        ImageOps.posterize = lambda image, bits: keep_bits(image, max(1, bits))
        prepare = create_transform(
            SIZE, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", hflip=mirrored, re_prob=0.25,
            mean=(0, 0, 0), std=(1, 1, 1),
        )  # fmt: skip

        def change(images: torch.Tensor) -> torch.Tensor:
            return torch.stack([prepare(to_pil_image(image)) for image in images]) * 255

        optimizer = create_optimizer_v2(module, opt="adamw", lr=1e-4, weight_decay=0.05)
        loss_of = LabelSmoothingCrossEntropy(0.1)
        ema = ModelEmaV3(module, decay=0.998, use_warmup=True)
    small = nn.functional.interpolate(stored.float(), SIZE, mode="bilinear", antialias=True)
    begun = time.perf_counter()
    epochs, best, kept, done, scheduler = 0, -1.0, module, 0, None
    while True:
        module.train()
        for batch in train[torch.randperm(len(train))].split(BATCH):
            if len(batch) < 2:
                continue
            images = (
                torch.stack([change(image) for image in stored[batch]])
                if recipe == "torchvision"
                else change(stored[batch])
            )
            loss = loss_of(module(cell.normalize(images)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if ema is not None:
                ema.update(module)
        done += 1
        found = ema.module if ema is not None else module
        right = accuracy(outputs_of(found, cell, small[val]), labels[val])
        if right >= best:
            best, kept = right, copy.deepcopy(found)
        if not epochs:  # the first epoch says how many fit
            each = time.perf_counter() - begun
            epochs = max(1, min(100, 1 + int(SHARE * cell.left / each)))
            scheduler = (
                torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(epochs * 7 / 25)), 0.1)
                if recipe == "torchvision"
                else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
            )
        scheduler.step()
        if done >= epochs or cell.left < each:
            break
    used = cell.seconds - cell.left
    test, truth = cell.images("test", SIZE)
    report(cell, accuracy(outputs_of(kept, cell, test), truth), used, epochs=done, size=SIZE)


if __name__ == "__main__":
    main()
