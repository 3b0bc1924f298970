"""Real weights, real images: the one check that a loading mistake cannot survive."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from timm.data import create_transform

from selector.zoo import load_zoo
from tests.sources.samples import load

PER_CLASS = 30


@pytest.fixture(scope="module")
def photos() -> tuple[list[Image.Image], np.ndarray]:
    """Published inspection images of textiles, three classes, from the pip package of the demo."""
    folder = Path(str(importlib.util.find_spec("conformal_clip_data").origin)).parent  # type: ignore[union-attr]
    images, labels = [], []
    for label, name in enumerate(("nominal", "local", "global")):
        files = sorted((folder / "data" / "textile_images" / "simulated" / name).glob("*.jpg"))
        for file in files[:: len(files) // PER_CLASS][:PER_CLASS]:
            images.append(Image.open(file).convert("RGB"))
            labels.append(label)
    return images, np.array(labels)


def accuracy(encoder: Any, photos: tuple[list[Image.Image], np.ndarray]) -> float:
    """5-NN by cosine, cross-validated, on features of timm's own transform."""
    p = encoder.preprocess
    transform = create_transform(
        p.input_size, interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop_pct
    )
    batch = torch.stack([transform(image) for image in photos[0]])
    with torch.inference_mode():
        rows = torch.cat([encoder.encode(part) for part in batch.split(30)]).numpy()
    scores = cross_val_score(KNeighborsClassifier(5, metric="cosine"), rows, photos[1], cv=5)
    return float(scores.mean())


def test_imagenet_weights_see_more_than_the_same_network_untrained(photos):
    (trained,) = (m for m in load_zoo().models if m.name == "efficientnet-lite0")
    trained = trained.model_copy(
        update={"preprocess": trained.preprocess.model_copy(update={"input_size": (3, 160, 160)})}
    )
    untrained = trained.model_copy(update={"weights": "none"})
    with_weights, without = accuracy(load(trained), photos), accuracy(load(untrained), photos)
    assert with_weights > 0.55
    assert with_weights > without + 0.10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-lite1", "efficientnet-lite2"])
def test_the_larger_ones_too(name, photos):
    (trained,) = (m for m in load_zoo().models if m.name == name)
    untrained = trained.model_copy(update={"weights": "none"})
    assert accuracy(load(trained), photos) > accuracy(load(untrained), photos) + 0.10
