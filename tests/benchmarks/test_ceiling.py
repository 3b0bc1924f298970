"""The noise ceiling: what two measurements of the truth agree by."""

import numpy as np
import pytest

from benchmarks.suite.ceiling import SeedNoise, ceiling, measured_twice, seed_noise
from selector.ranking.agreement import weighted_tau

NAMES = tuple(f"e{i}" for i in range(14))


def everyone(name: str, column: object) -> list[str]:
    return list(NAMES)


def columns(values: np.ndarray) -> dict[str, dict[str, float]]:
    return {"s": dict(zip(NAMES, values.tolist(), strict=True))}


def test_the_spread_between_seeds_by_set_and_of_all(tmp_path):
    head = "set,encoder,strategy,seed,status,diverged,test_accuracy"
    rows = ["s,a,full,0,ok,0,0.50", "s,a,full,1,ok,0,0.52", "s,b,full,0,ok,0,0.7", "t,c,full,0,ok,0,0.7"]
    rows += ["t,c,full,1,ok,0,0.76", "t,a,frozen,0,ok,0,0.1", "t,a,frozen,1,ok,0,0.9", "u,a,full,0,ok,0,0.3"]
    path = tmp_path / "ground_truth.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    found = seed_noise(path)
    one, other = np.var([50, 52], ddof=1), np.var([70, 76], ddof=1)
    assert found.deviations == pytest.approx({"s": one**0.5, "t": other**0.5, "": ((one + other) / 2) ** 0.5})
    assert found.error("s", "a") == pytest.approx(1.0)  # the mean of two seeds; each deviates by the root of two
    assert found.error("u", "a") == found.deviations[""]
    nothing = seed_noise(tmp_path / "none.csv")
    assert (nothing.deviations, ceiling(columns(np.arange(14.0)), nothing, everyone, ["spearman"])) == ({}, {})


def test_two_measurements_differ_by_the_noise_of_two_and_vary_as_the_measured_one():
    measured = np.random.default_rng(0).normal(70, 5, 14)
    noise = SeedNoise({"s": 3.0}, {("s", "e0"): 2})
    pairs = [[list(made["s"].values()) for made in pair] for pair in measured_twice(columns(measured), noise, 3000)]
    difference = np.array([np.subtract(*pair) for pair in pairs]).std(axis=0)
    assert difference == pytest.approx([3.0] + [3.0 * np.sqrt(2)] * 13, rel=0.06)
    assert np.mean([np.var(pair[0], ddof=1) for pair in pairs]) == pytest.approx(np.var(measured, ddof=1), rel=0.03)


def test_the_ceiling_is_what_real_measurements_have_with_each_other():
    """Against measurements of accuracies that are known here; noise added once to the measured ones says too much."""
    rng = np.random.default_rng(3)
    found, expected, once = [], [], []
    for _ in range(12):
        true = rng.normal(70, 4, 14)
        first, second = (true + rng.normal(0, 3, (60, 14)) for _ in range(2))
        expected += [weighted_tau(b, a) for a, b in zip(first, second, strict=True)]
        noise = SeedNoise({"s": 3.0}, {})
        found.append(ceiling(columns(first[0]), noise, everyone, ["weighted_tau"], draws=60)["weighted_tau"].value)
        once += [weighted_tau(first[0] + rng.normal(0, 3, 14), first[0]) for _ in range(60)]
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.05)
    assert np.mean(once) > np.mean(expected) + 0.1


def test_the_half_above_the_median_is_that_of_the_first_measurement():
    noise = SeedNoise({"s": 1e-9}, {})
    seen = []

    def upper(name: str, column: dict[str, float]) -> list[str]:
        seen.append(column)
        return [e for e in column if column[e] >= np.median(list(column.values()))]

    wide = columns(np.arange(14.0))
    assert ceiling(wide, noise, upper, ["regret@1"], draws=3)["regret@1"].value == 0.0  # type: ignore[arg-type]
    assert len(seen) == 3
    noise = SeedNoise({"s": 5.0}, {})
    found = ceiling(wide, noise, everyone, ["weighted_tau"], draws=100)["weighted_tau"]
    assert found.low < found.value - 0.15 < found.value < found.high  # encoders are resampled
