"""Batch nuclear norm: predictions that are sure and of many classes."""

from __future__ import annotations

import numpy as np

from selector.tuning.validators import View, validator


@validator("bnm")
def bnm(view: View) -> float:
    """‖P‖_* / M of the predictions P (M, C) (Cui et al., CVPR 2020, arXiv:2003.12237)."""
    return float(np.linalg.norm(view.target, ord="nuc") / len(view.target))
