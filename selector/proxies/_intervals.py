"""90% intervals by stratified delete-a-block, without any further forward pass.

The estimand is the expected score of a fresh sample of the same N. Ten blocks, the same for every
model of a target; the values with one block left out are kept, so that differences between models
can be paired. Scores that are means over rows leave out contributions; the others are computed
again from moments minus a block.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import ProxyError
from selector.core.stats import t_quantile
from selector.features import FeatureSet
from selector.features.threads import each
from selector.proxies._proxy import Blocks

log = logging.getLogger(__name__)


UNBOUNDED = (-math.inf, math.inf)


def with_interval(
    score: Score,
    features: FeatureSet,
    run: Callable[[FeatureSet], Score],
    how: Blocks = "auto",
    bounds: tuple[float, float] = UNBOUNDED,
    together: bool = False,
) -> Score:
    """``score`` with low, high and blocks; unchanged where a block cannot be left out.

    The half-width is the t quantile times the delete-a-block jackknife's standard error,
    √((B - 1)/B · Σ(left out - their mean)²); the ends stay within the score's own bounds.
    ``together``: ``run`` may be called from several threads at once.
    """

    def without(block: int) -> float:
        return run(features.without(block)).value

    left_out = score.blocks
    if left_out is None:
        try:
            if score.per_row is not None and how == "auto":
                left_out = leave_out_rows(score.per_row, features)
            else:
                left_out = np.array((each if together else _in_turn)(without, features.block_ids.tolist()))
                if how == "halfway" and score.per_row is not None:
                    left_out = 0.5 * (left_out + leave_out_rows(score.per_row, features))
        except ProxyError as error:
            log.warning("no interval, a block cannot be left out: %s", str(error))  # its traceback holds the rows
            return score
    count = len(left_out)
    if count < 2:
        return score
    spread = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    half = t_quantile(count - 1) * spread
    return replace(
        score, low=max(score.value - half, bounds[0]), high=min(score.value + half, bounds[1]), blocks=left_out
    )


def _in_turn(function: Callable[[int], float], items: Iterable[int]) -> list[float]:
    return [function(item) for item in items]


def leave_out_rows(per_row: np.ndarray, features: FeatureSet) -> np.ndarray:
    """Means of the contributions without each block."""
    blocks = np.searchsorted(features.block_ids, features.blocks)
    counts = np.bincount(blocks)
    sums = np.bincount(blocks, weights=per_row)
    return np.asarray((per_row.sum() - sums) / (len(per_row) - counts))
