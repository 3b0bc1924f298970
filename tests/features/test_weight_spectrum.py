"""Exponents of weight spectra against a search written as loops, scipy's Pareto fit and known tails."""

import numpy as np
import pytest
from scipy.stats import kstest, pareto

from selector.core.errors import ProxyError
from selector.features.weight_spectrum import eigenvalues, power_law, weight_spectrum


def by_loops(values):
    best = None
    x = np.sort(values)
    for start in sorted(set(x.tolist())):
        tail = x[x >= start]
        if len(tail) < 10:
            break
        shape, _, _ = pareto.fit(tail, floc=0, fscale=start)  # scipy's maximum likelihood
        distance = kstest(tail, pareto(shape, scale=start).cdf).statistic
        if best is None or distance < best[0]:
            best = (distance, shape + 1, start, len(tail))
    return best


@pytest.mark.parametrize("kind", ["law", "law and bulk", "exponential"])
def test_equals_scipys_fit_at_every_beginning_of_the_tail(kind):
    rng = np.random.default_rng(0)
    x = 2 * (1 - rng.random(300)) ** (-1 / 1.5)  # alpha 2.5 from 2 on
    if kind == "law and bulk":
        x = np.r_[x, 2 * rng.random(200)]
    if kind == "exponential":
        x = rng.exponential(size=200)
    distance, alpha, start, tail = by_loops(x)
    found = power_law(x)
    assert found.distance == pytest.approx(distance, rel=1e-9)
    assert (found.alpha, found.smallest, found.tail) == (pytest.approx(alpha, rel=1e-9), start, tail)
    if kind != "exponential":
        assert found.alpha == pytest.approx(2.5, abs=4 * found.error)


def test_eigenvalues_are_squared_singular_values_of_the_matrix():
    import torch

    kernel = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 12, 3, 3)).astype(np.float32))
    matrix = kernel.numpy().astype(np.float64).reshape(60, -1)
    expected = np.linalg.svd(matrix, compute_uv=False) ** 2 / 108
    np.testing.assert_allclose(eigenvalues(kernel), np.sort(expected), rtol=1e-9)
    np.testing.assert_allclose(eigenvalues(matrix.T), np.sort(expected), rtol=1e-9)


def test_a_heavy_tail_has_a_lower_exponent_than_noise():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 300))
    u, _, v = np.linalg.svd(noise, full_matrices=False)
    heavy = (u * (1 - rng.random(200)) ** (-1 / 2)) @ v  # eigenvalues ~ x^-2
    found = weight_spectrum(
        {"noise": noise, "heavy": heavy.astype(np.float32), "bias": np.ones(300), "depthwise": np.ones((300, 1, 3, 3)),
         "steps": np.ones((60, 60), dtype=np.int64), "zero": np.zeros((80, 80))}
    )  # fmt: skip
    assert set(found.layers) == {"noise", "heavy"}
    assert found.layers["heavy"].alpha == pytest.approx(2, abs=0.4)
    assert found.layers["noise"].alpha > found.layers["heavy"].alpha + 0.5
    assert found.alpha == pytest.approx(np.mean([law.alpha for law in found.layers.values()]))


def test_what_cannot_be_fitted_is_an_error():
    with pytest.raises(ProxyError, match=r"needs at least 10 different positive values. Got 3"):
        power_law([1.0, 2.0, 3.0, -1.0])
    with pytest.raises(ProxyError, match="no weight has two sides of at least 50"):
        weight_spectrum({"head": np.ones((10, 500))})
    with pytest.raises(ProxyError, match="weight 'fc' is not finite: the checkpoint is damaged"):
        weight_spectrum({"fc": np.full((60, 60), np.nan)})
