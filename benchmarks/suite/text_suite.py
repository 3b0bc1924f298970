"""The suite of texts: 6 encoders on 6 sets."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from benchmarks.suite import text_encoders, text_sets
from benchmarks.suite.sets import LabeledSet
from benchmarks.suite.suites import Budget, Facts, Suite
from benchmarks.suite.text_training import TextLearner
from selector.scan.past import facts_of
from selector.tasks.classification import Classification


class TextSuite(Suite):
    """See ``suites.Suite``."""

    sets = text_sets.NAMES
    prefix = "text_"
    library = "transformers"
    needs = "text/"
    members = Classification.members["text"]
    budget = Budget(max_train_val=2000, max_test=1000, steps=150)
    quick = Budget(max_train_val=600, max_test=300, steps=4)
    scopes = MappingProxyType(
        {
            "all": lambda name, column, scores: list(column),
            "without the untrained control": lambda name, column, scores: [
                e for e in column if e != text_encoders.UNTRAINED
            ],
        }
    )

    def encoders(self, assets: Path) -> dict[str, Facts]:
        """See ``suites.Suite``."""
        del assets  # the networks come from pip packages
        depths = text_encoders.DEPTHS
        return {name: Facts(facts_of(spec, {}), depths[name]) for name, spec in text_encoders.specs().items()}

    def load_set(self, name: str, assets: Path, budget: Budget) -> LabeledSet:
        """See ``suites.Suite``."""
        return text_sets.load(name, assets / "text", budget.max_train_val, budget.max_test)

    def open(self, encoder: str, data: LabeledSet, assets: Path) -> TextLearner:
        """See ``suites.Suite``."""
        del assets
        assert isinstance(data, text_sets.TextSet)
        return TextLearner(text_encoders.specs()[encoder], data)


SUITE = TextSuite()
