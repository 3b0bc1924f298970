"""What the scale of the evidence was frozen on: the sets of the benchmark suite, versioned.

``benchmarks/suite/members.py --freeze`` writes the file beside this one. It holds what the evidence
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
    """One set of the suite: its size, and the skill of the best encoder and of the median one."""

    rows: int
    classes: int
    encoders: int
    best_skill: float
    median_skill: float


@dataclass(frozen=True)
class Calibration:
    """The frozen figures.

    Attributes:
        version: raised with every change of a figure below; a run records it.
        skill_per_deviation: how far encoders of a set lie apart in skill per standard deviation of their rank.
        sets: by name.
    """

    version: int
    skill_per_deviation: float
    sets: Mapping[str, CalibrationSet]


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """The figures that the package carries."""
    data = json.loads((files("selector.ranking") / "calibration.json").read_text(encoding="utf-8"))
    sets = {name: CalibrationSet(**facts) for name, facts in data["sets"].items()}
    return Calibration(data["version"], data["skill_per_deviation"], sets)
