"""Which pretrained model should I start from, and how should I transfer it?

The public names are imported on first use, so that ``import selector`` is fast (no torch), prints
nothing, installs no handler and touches no network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from selector.core.version import __version__

_PUBLIC = {
    "rank": "selector.api",
    "confirm": "selector.api",
    "plan": "selector.api",
    "label": "selector.api",
    "rank_features": "selector.api",
    "score": "selector.api",
    "load_target": "selector.data",
    "load_zoo": "selector.zoo",
    "load_model": "selector.deploy",
    "load_ranking": "selector.report.ranking",
    "ModelSpec": "selector.zoo",
    "Model": "selector.zoo",
    "ModelSelector": "selector.estimators",
    "FeatureExtractor": "selector.estimators",
    "Ranking": "selector.report.ranking",
    "Score": "selector.core.contracts",
    "ScanConfig": "selector.config",
    "ConfirmConfig": "selector.config",
    "SelectorError": "selector.core.errors",
}

__all__ = ["__version__", "plot", *_PUBLIC]

if TYPE_CHECKING:
    from selector.api import confirm as confirm
    from selector.api import label as label
    from selector.api import plan as plan
    from selector.api import rank as rank
    from selector.api import rank_features as rank_features
    from selector.api import score as score
    from selector.config import ConfirmConfig as ConfirmConfig
    from selector.config import ScanConfig as ScanConfig
    from selector.core.contracts import Score as Score
    from selector.core.errors import SelectorError as SelectorError
    from selector.data import load_target as load_target
    from selector.deploy import load_model as load_model
    from selector.estimators import FeatureExtractor as FeatureExtractor
    from selector.estimators import ModelSelector as ModelSelector
    from selector.report import plot as plot
    from selector.report.ranking import Ranking as Ranking
    from selector.report.ranking import load_ranking as load_ranking
    from selector.zoo import Model as Model
    from selector.zoo import ModelSpec as ModelSpec
    from selector.zoo import load_zoo as load_zoo


def __getattr__(name: str) -> object:
    if name == "plot":
        return importlib.import_module("selector.report.plot")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'selector' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
