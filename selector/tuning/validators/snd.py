"""Soft neighborhood density: items whose predictions have many near neighbors."""

from __future__ import annotations

import numpy as np

from selector.tuning.validators import View, validator

TEMPERATURE = 0.05
MOST = 4000  # items


@validator("snd")
def snd(view: View) -> float:
    """Mean entropy of each row's softmax over cosines to all others / 0.05, nats (Saito et al., ICCV 2021,
    arXiv:2108.10860). Fooled by a model that says one class of everything."""
    rows = view.target.astype(np.float64)
    if len(rows) > MOST:
        rows = rows[np.random.default_rng(view.seed).permutation(len(rows))[:MOST]]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits = rows @ rows.T / TEMPERATURE
    np.fill_diagonal(logits, -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=1)
    np.fill_diagonal(logits, 0.0)  # its weight is 0
    return float((np.log(total) - (weights * logits).sum(axis=1) / total).mean())
