"""Confirmation: a small, fair tournament that fine-tunes the leading models within a budget."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["EpsilonMember", "TournamentResult", "Trained", "TuningCandidate", "run_tournament"]

if TYPE_CHECKING:
    from selector.tuning.run import run_tournament as run_tournament
    from selector.tuning.types import EpsilonMember as EpsilonMember
    from selector.tuning.types import TournamentResult as TournamentResult
    from selector.tuning.types import Trained as Trained
    from selector.tuning.types import TuningCandidate as TuningCandidate

_PLACES = {"run_tournament": "selector.tuning.run"}


def __getattr__(name: str) -> Any:
    """On first use: importing this room does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'selector.tuning' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES.get(name, "selector.tuning.types")), name)
