"""The interval of a share, against scipy and by its coverage."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from selector.core.stats import share_interval


@pytest.mark.parametrize(("right", "count"), [(0, 4), (4, 4), (45, 50), (10, 10), (0, 10), (276, 300)])
def test_a_share_lies_within_the_exact_interval(right: int, count: int) -> None:
    exact = binomtest(right, count).proportion_ci(0.9, method="exact")
    low, high = share_interval(right, count)
    assert exact.low <= low <= right / count <= high <= exact.high


@pytest.mark.parametrize("count", [4, 10, 20, 50, 200])
def test_shares_are_covered_on_few_items(count: int) -> None:
    ends = [share_interval(right, count) for right in range(count + 1)]
    held = []
    for share in np.linspace(0.02, 0.98, 49):
        chances = binom.pmf(np.arange(count + 1), count, share)
        held.append(sum(p for p, (low, high) in zip(chances, ends, strict=True) if low <= share <= high))
    assert np.mean(held) >= 0.9
    assert min(held) > 0.8
