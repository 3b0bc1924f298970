"""Confirmation: a small, fair tournament that fine-tunes the leading models within a budget."""

from selector.tuning.run import run_tournament
from selector.tuning.types import Contestant, EpsilonMember, TournamentResult, Trained

__all__ = ["Contestant", "EpsilonMember", "TournamentResult", "Trained", "run_tournament"]
