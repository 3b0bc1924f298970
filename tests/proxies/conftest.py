"""One BLAS thread: the matrices here are small, and the machine may be busy."""

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="session")
def mixture():
    """(n, d, c, seed) -> features float64 with a mean offset, labels of uneven classes."""

    def build(n: int = 120, d: int = 20, c: int = 4, seed: int = 0, separation: float = 1.0):
        rng = np.random.default_rng(seed)
        labels = np.concatenate([np.arange(c).repeat(3), rng.integers(0, c, max(n - 3 * c, 0))])[:n]
        rng.shuffle(labels)
        means = separation * rng.standard_normal((c, d))
        return means[labels] + rng.standard_normal((n, d)) * np.linspace(2, 0.3, d) + 1.5, labels

    return build
