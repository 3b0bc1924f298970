"""Rows, labels and the one spectrum that proxies share."""

from __future__ import annotations

from selector.features.blocks import NUM_BLOCKS
from selector.features.feature_set import NUM_FOLDS, FeatureSet
from selector.features.labels import Labels
from selector.features.moments import Moments, accumulate
from selector.features.spectrum import Spectrum

__all__ = ["NUM_BLOCKS", "NUM_FOLDS", "FeatureSet", "Labels", "Moments", "Spectrum", "accumulate"]
