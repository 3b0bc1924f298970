"""Proxy A-distance: how well a linear classifier tells the two domains apart."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.linear import solve_head
from selector.proxies._domains import LABELS, equal_samples
from selector.proxies._proxy import proxy

MOST = 2000  # rows a domain


@proxy(
    "a-distance",
    summary="Minus the proxy A-distance: how little a linear classifier can tell the two domains apart.",
    label_kinds=LABELS,
    needs_unlabeled=True,
    good="0 is two domains that look alike, −2 two that are told apart without an error.",
    source="Ben-David et al., NeurIPS 2006; Ganin et al., JMLR 2016",
    cost="two logistic regressions on at most 2,000 rows a domain",
    bounds=(-2.0, 0.0),
    invariances={"row order", "class renaming", "absent classes"},
    seeded=True,
    blocks="recompute",
    formula="−2(1 − 2ε), ε the error of a logistic regression with C·D = 10 on standardized columns, fitted on one half "
    "of as many rows of either domain and tested on the other, both ways; ε at most ½.",
    domain="At −2 for most pairs of domains and wide features: it then says nothing of which model transfers.",
)
def a_distance(features: FeatureSet) -> Score:
    """Minus the proxy A-distance; ``details``: the classifier's error."""
    source, target = equal_samples(features, MOST)
    rows = np.concatenate([source, target])
    domain = np.repeat([0, 1], len(source))
    half = np.tile(np.random.default_rng(features.seed).permutation(len(source)) % 2, 2)
    wrong = 0
    for test in (0, 1):
        fitted, held = half != test, half == test
        head = solve_head(rows[fitted], domain[fitted], rows[:0], domain[:0], 2, strengths=[10 / rows.shape[1]])
        said = (rows[held] @ head.weight.T + head.bias).argmax(axis=1)
        wrong += int((said != domain[held]).sum())
    error = min(wrong / len(rows), 0.5)
    return Score(-2 * (1 - 2 * error), details={"error": error})
