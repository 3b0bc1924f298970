"""Confirmation: a small, fair comparison that fine-tunes the leading models within a budget."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["EpsilonMember", "FineTuningResult", "Trained", "TuningCandidate", "run_fine_tuning"]

if TYPE_CHECKING:
    from selector.tuning.run import run_fine_tuning as run_fine_tuning
    from selector.tuning.types import EpsilonMember as EpsilonMember
    from selector.tuning.types import FineTuningResult as FineTuningResult
    from selector.tuning.types import Trained as Trained
    from selector.tuning.types import TuningCandidate as TuningCandidate

_PLACES = {"run_fine_tuning": "selector.tuning.run"}


def __getattr__(name: str) -> object:
    """On first use: importing this room does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'selector.tuning' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES.get(name, "selector.tuning.types")), name)
