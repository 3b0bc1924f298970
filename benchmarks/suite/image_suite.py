"""The suites of images: 20 encoders on 8 datasets, and on datasets that no choice was made on.

Members, weights, margins and rates were settled before the scores of the held-out sets were compared. Their tables have
``held_out_`` before their names, so that nothing that reads the image suite sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.suite import encoders, image_sets
from benchmarks.suite.suites import Column, Extracted, Facts, LabeledSet, Suite

SOURCE_IS_TARGET = MappingProxyType(
    {"cifar10": ("cifar_resnet20", "cifar_resnet56", "tiniest", "mlc_resnet8"), "mnist": ("mnist_cnn",)}
)

TRANSFORMER = "imgfocus_vits14"


def upper_half(column: Column) -> list[str]:
    """The better encoders of a column."""
    return [e for e in column if column[e] >= np.median(list(column.values()))]


def foreign(name: str, names: Iterable[str]) -> list[str]:
    """Encoders that were not trained on the target itself."""
    return [e for e in names if e not in SOURCE_IS_TARGET.get(name, ())]


class ImageSuite(Suite):
    """See ``suites.Suite``."""

    sets = image_sets.NAMES
    prefix = ""
    needs = "models/ and data/"
    items = 1000, 600
    quick = 120, 60
    source_is_target = SOURCE_IS_TARGET
    scopes = MappingProxyType(
        {
            "all": lambda name, column, scores: list(column),
            "upper half": lambda name, column, scores: upper_half(column),
            "without source = target": lambda name, column, scores: foreign(name, column),
            # the only large one, which leads on most sets: what an order says of the others
            "without the vision transformer": lambda name, column, scores: [e for e in column if e != TRANSFORMER],
            "with a source head": lambda name, column, scores: [
                e for e in column if e in scores.get("leep", {}).get(name, ())
            ],
        }
    )

    def encoders(self, assets: Path) -> dict[str, Facts]:
        """See ``suites.Suite``."""
        return {name: Facts(encoders.facts_of(card)) for name, card in encoders.cards(assets / "models").items()}

    def load_set(self, name: str, assets: Path, max_train_val: int, max_test: int) -> LabeledSet:
        """See ``suites.Suite``."""
        return image_sets.load(name, assets / "data", max_train_val, max_test)

    def extract(self, encoder: str, data: LabeledSet, assets: Path) -> Extracted:
        """See ``suites.Suite``."""
        assert isinstance(data, image_sets.ImageSet)
        card = encoders.cards(assets / "models")[encoder]
        network = encoders.load(encoder, card, assets / "models", data.small)
        return Extracted(*network.features(data.pixels(network.size, card["interpolation"])), network.size)


class HeldOutSuite(ImageSuite):
    """See ``suites.Suite``."""

    sets = ("coco128_crops", "camvid_tiles")
    prefix = "held_out_"


SUITE = ImageSuite()
SUITES = {"images": SUITE, "held_out": HeldOutSuite()}
