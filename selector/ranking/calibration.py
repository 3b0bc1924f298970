"""What the scale of the transferability was frozen on: the sets of the benchmark suite, versioned.

``benchmarks/suite/members.py --freeze`` writes the file beside this one. It holds what the transferability
needs of the suite and nothing of any pool, so that a model that joins a zoo moves no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True)
class CalibrationSet:
    """One set of the suite: its size, and the normalized score of the best encoder and of the median one."""

    rows: int
    classes: int
    encoders: int
    best_normalized_score: float
    median_normalized_score: float


@dataclass(frozen=True)
class Calibration:
    """The frozen values.

    Attributes:
        version: raised with every change of a value below; a run records it.
        normalized_score_per_deviation: how far encoders of a set lie apart in normalized score per standard deviation of their rank.
        sets: by name.
    """

    version: int
    normalized_score_per_deviation: float
    sets: Mapping[str, CalibrationSet]

    def unlike(self, modality: str, label_kind: str) -> set[str]:
        """In what a target differs from all sets: modality, label_kind."""
        found = {"modality": str(modality), "label_kind": str(label_kind)}
        return {name for name, value in found.items() if _MADE_ON[name] != value}


_MADE_ON = {"modality": "image", "label_kind": "classes"}


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """The values that the package carries."""
    data = json.loads((files("selector.ranking") / "calibration.json").read_text(encoding="utf-8"))
    sets = {name: CalibrationSet(**facts) for name, facts in data["sets"].items()}
    return Calibration(data["version"], data["normalized_score_per_deviation"], sets)
