"""The pipeline: target and zoo in, ranking out; then the leading models confirmed by fine-tuning.

Three stages, each resumable because its results are in the store before the next begins:
features (once a model, in rounds of rows), scores (once a model and target), measurements.
"""

from __future__ import annotations

from selector.scan.checks import default_run_folder
from selector.scan.pipeline import confirm, label, rank
from selector.scan.planning import Plan, plan
from selector.scan.precomputed import rank_features
from selector.scan.selection import choose_models

__all__ = ["Plan", "choose_models", "confirm", "default_run_folder", "label", "plan", "rank", "rank_features"]
