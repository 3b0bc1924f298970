"""What training may still change: how far models end above or below the place of their score, as learned on other datasets.

A score of frozen features says how good features are, and little of how well a network trains. P(best), P(top k), the set
of ties and pruning during a scan therefore draw, beside the noise of the rows, what models gained or lost by training on the
datasets of the benchmark suite: relatives (models of one family) mostly alike, others farther apart, and everything together
more on some datasets than on others (Student's t). ``benchmarks/suite/best_probability.py --freeze`` writes the constants and
measures, with every dataset left out in turn, how often models are best that have a given P(best).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np

_GENERAL = frozenset({"all", "paraphrase", "multi", "distilled", "untrained", "test", "tiny", "small", "base", "large"})


@dataclass(frozen=True)
class Spread:
    """Deviations of what training adds, in units of the transferability.

    Attributes:
        between: of families from each other; ``within``: of models of one family.
        freedom: of Student's t: how differently datasets spread them; fewer degrees, heavier tails.
        unlike: factor for targets of another kind than those of the suite.
        seen: (modality, label kind) of the suite.
        gain: by modality, mean and deviation of what a complete training adds to the accuracy of the frozen network.
        version: raised with every change.
    """

    between: float
    within: float
    freedom: int
    unlike: float = 1.0
    seen: tuple[tuple[str, str], ...] = ()
    gain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    version: int = 0


@lru_cache(maxsize=1)
def spread() -> Spread:
    """The constants that the package carries."""
    made = json.loads((files("selector.ranking") / "outlook.json").read_text(encoding="utf-8"))
    return Spread(**{**made, "seen": tuple(tuple(kind) for kind in made["seen"])})


@dataclass(frozen=True)
class Outlook:
    """What training may do to the models of a pool.

    Attributes:
        families: by model; one that is not named is of a family of its own.
        constants: how far training moves them.
        factor: of all deviations, for this target.
    """

    families: Mapping[str, str] = field(default_factory=dict)
    constants: Spread = field(default_factory=spread)
    factor: float = 1.0

    @classmethod
    def of(cls, sources: Mapping[str, str], modality: str, label_kind: str) -> Outlook:
        """For models by name, from their sources (``timm:resnet18.a1_in1k``), and a target of this kind."""
        made = spread()
        seen = (str(modality), str(label_kind)) in made.seen
        return cls({name: family(source) for name, source in sources.items()}, made, 1.0 if seen else made.unlike)

    def draws(self, names: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, models) what training adds to each, beyond what it adds to all."""
        families = [self.families.get(name, name) for name in names]
        place = {one: i for i, one in enumerate(dict.fromkeys(families))}
        of_family = rng.standard_normal((count, len(place)))[:, [place[one] for one in families]]
        own = rng.standard_normal((count, len(names)))
        scale = np.sqrt(rng.chisquare(self.constants.freedom, (count, 1)) / self.constants.freedom)
        return np.asarray(self.factor * (self.constants.between * of_family + self.constants.within * own) / scale)


def expected_gain(
    observed: float, error: float, modality: str, room: float = 1.0, before: tuple[float, float] | None = None
) -> float:
    """What a training adds to the accuracy of the frozen network on new items: the mean of what validation items say of it,
    and of what it added on other datasets, each weighted by its precision.

    Args:
        observed: training minus frozen on the validation items; ``error``: its standard error, above 0.
        room: share of the items that the frozen network gets wrong, of which training is not expected to mend more than half.
        before: mean and deviation on other datasets; those that the package carries when not given.

    >>> expected_gain(0.0, 0.1, "text") > 0.02 > expected_gain(-0.02, 0.01, "text")
    True
    """
    mean, deviation = before or spread().gain[modality]
    share = deviation**2 / (deviation**2 + error**2)
    return share * observed + (1 - share) * min(mean, room / 2)


def family(source: str) -> str:
    """The family of a model: the first word of its name that is no general one.

    >>> family("timm:efficientnet_lite0.in1k"), family("transformers:sentence-transformers/paraphrase-MiniLM-L3-v2")
    ('efficientnet', 'minilm')
    """
    name = source.rpartition(":")[2].rpartition("/")[2].partition("@")[0].lower()
    words = [word for word in re.findall(r"[a-z]+", name) if len(word) > 2]
    return next((word for word in words if word not in _GENERAL), name)
