"""fastai's ``fine_tune`` with its defaults, for the epochs that fit."""

from __future__ import annotations

import copy
import time

from _common import BATCH, SHARE, SIZE, Cell, read_cell, report
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    aug_transforms,
    get_image_files,
    vision_learner,
)
from safetensors.torch import load_file

TIMED = 3  # steps


def main() -> None:
    """Train, and measure on test."""
    cell = read_cell()
    dls = ImageDataLoaders.from_folder(
        cell.folder / "train", valid_pct=0.2, seed=0, bs=BATCH, num_workers=0, item_tfms=Resize(round(SIZE * 8 / 7)),
        batch_tfms=[
            *aug_transforms(size=SIZE, do_flip=cell.facts["mirrored"]),
            Normalize.from_stats(cell.facts["mean"], cell.facts["std"], cuda=False),
        ],
    )  # fmt: skip
    learner = vision_learner(dls, cell.facts["arch"], pretrained=False, normalize=False, **cell.facts["kwargs"])
    stored = load_file(cell.folder.parent / cell.facts["encoder"])
    missing = learner.model[0].model.load_state_dict(stored, strict=False).missing_keys
    assert not missing, missing
    learner.freeze()
    # an epoch of the head alone comes first, for about a third of the time of a whole one
    epochs = max(1, min(100, int(SHARE * cell.left / epoch_seconds(learner) - 1 / 3)))
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
    used = cell.seconds - cell.left
    report(cell, test_accuracy(cell, learner), used, epochs=epochs, size=SIZE)


def epoch_seconds(learner: Learner) -> float:
    """What an epoch of everything takes, from a few steps of a copy; validation is a forward pass of a quarter as many images."""
    network = copy.deepcopy(learner.model).train()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    begun = time.perf_counter()
    for _ in range(TIMED):
        images, labels = learner.dls.one_batch()
        learner.loss_func(network(images), labels).backward()
    return (time.perf_counter() - begun) / TIMED * (len(learner.dls.train) + len(learner.dls.valid) / 3)


def test_accuracy(cell: Cell, learner: Learner) -> float:
    """Share of right answers."""
    files = get_image_files(cell.folder / "test")
    outputs, _ = learner.get_preds(dl=learner.dls.test_dl(files, num_workers=0))
    named = [learner.dls.vocab[int(place)] for place in outputs.argmax(1)]
    return sum(name == path.parent.name for name, path in zip(named, files, strict=True)) / len(files)


if __name__ == "__main__":
    main()
