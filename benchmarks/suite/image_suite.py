"""The suite of images: 20 encoders on 8 sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.suite import encoders, image_sets
from benchmarks.suite.image_training import ImageLearner
from benchmarks.suite.sets import LabeledSet
from benchmarks.suite.suites import Budget, Column, Facts, Suite

SOURCE_IS_TARGET = MappingProxyType(
    {
        "cifar10": ("cifar_resnet20", "cifar_resnet56", "tiniest", "mlc_resnet8"),
        "mnist": ("mnist_cnn",),
    }
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
    library = "timm"
    needs = "models/ and data/"
    budget = Budget(max_train_val=1000, max_test=600, steps=150)
    quick = Budget(max_train_val=120, max_test=60, steps=4)
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

    def load_set(self, name: str, assets: Path, budget: Budget) -> LabeledSet:
        """See ``suites.Suite``."""
        return image_sets.load(name, assets / "data", budget.max_train_val, budget.max_test)

    def open(self, encoder: str, data: LabeledSet, assets: Path) -> ImageLearner:
        """See ``suites.Suite``."""
        assert isinstance(data, image_sets.ImageSet)
        models = assets / "models"
        return ImageLearner(encoders.load(encoder, encoders.cards(models)[encoder], models, data.small), data)


SUITE = ImageSuite()
