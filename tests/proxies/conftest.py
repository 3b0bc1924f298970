"""One BLAS thread: the matrices here are small, and the machine may be busy."""

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from selector.features import FeatureSet

REFERENCE = Path(__file__).parent.parent / "reference"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


def _module():
    spec = importlib.util.spec_from_file_location("reference_features", REFERENCE / "features.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _module().make


def reference_rows() -> list[dict[str, str]]:
    with (REFERENCE / "values.csv").open() as file:
        return list(csv.DictReader(file))


def reference_set(row: dict[str, str]) -> FeatureSet:
    features, labels = make(
        int(row["n"]),
        int(row["d"]),
        int(row["c"]),
        int(row["seed"]),
        int(row["rank"]) if row["rank"] else None,
        float(row["separation"]),
        float(row["offset"]),
    )
    return FeatureSet(features, labels)


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


@pytest.fixture(scope="session")
def reference_cases():
    return [(row, reference_set(row)) for row in reference_rows()]
