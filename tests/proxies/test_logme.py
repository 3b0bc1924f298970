"""LogME against an independent SVD implementation."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import selector.proxies as proxies


def svd_logme(x: np.ndarray, columns: np.ndarray) -> float:
    """The formula of the paper on the singular values of x, column by column, nothing shared."""
    n, d = x.shape
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    sigma = s**2
    total = []
    for y in columns.T:
        part = (u.T @ y) ** 2
        outside = y @ y - part.sum()
        alpha = beta = 1.0
        for _ in range(1000):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            norm = (sigma * part / (t + sigma) ** 2).sum()
            residual = (part / (1 + sigma / t) ** 2).sum() + outside
            alpha, beta = gamma / (norm + 1e-5), (n - gamma) / (residual + 1e-5)
            if abs(alpha / beta - t) <= 1e-8 * t:
                break
        t = alpha / beta
        norm = (sigma * part / (t + sigma) ** 2).sum()
        residual = (part / (1 + sigma / t) ** 2).sum() + outside
        log_det = np.log(alpha + beta * sigma).sum() + (d - len(sigma)) * math.log(alpha)
        evidence = d / 2 * math.log(alpha) + n / 2 * math.log(beta) - log_det / 2
        evidence += -beta * residual / 2 - alpha * norm / 2 - n / 2 * math.log(2 * math.pi)
        total.append(evidence / n)
    return float(np.mean(total))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(8, 60),
    d=st.integers(1, 80),
    c=st.integers(2, 5),
    rank=st.integers(1, 80),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_equals_an_svd_implementation_on_random_shapes(n, d, c, rank, offset, scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, min(rank, d))) @ rng.standard_normal((min(rank, d), d))
    x = scale * (x + offset)
    labels = np.arange(n) % c
    expected = svd_logme(x, np.eye(c)[labels])
    assert proxies.score(x, labels, "logme").value == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_real_columns_are_standardized_and_labels_are_as_they_are(mixture):
    x, labels = mixture(80, 15)
    rng = np.random.default_rng(3)
    real = 40 + 7 * (x[:, :2] @ rng.standard_normal((2, 3)) + rng.standard_normal((80, 3)))
    expected = svd_logme(x, (real - real.mean(0)) / real.std(0))
    assert proxies.score(x, real, "logme").value == pytest.approx(expected, rel=1e-9)
    many = np.stack([labels == 0, labels < 2, x[:, 0] > 2], axis=1).astype(int)
    assert proxies.score(x, many, "logme").value == pytest.approx(svd_logme(x, many.astype(float)), rel=1e-9)


def test_a_column_is_scored_on_the_rows_where_it_is_known(mixture):
    x, labels = mixture(90, 15)
    many = np.stack([labels == 0, labels < 2, labels < 3], axis=1).astype(float)
    many[np.random.default_rng(0).random(90) < 0.3, 1] = np.nan
    expected = [svd_logme(x[~np.isnan(c)], c[~np.isnan(c)][:, None]) for c in many.T]
    assert proxies.score(x, many, "logme").value == pytest.approx(np.mean(expected), rel=1e-9)
    mask = ~np.isnan(many)
    given = proxies.score(x, np.nan_to_num(many).astype(int), "logme", mask=mask, intervals=True)
    assert given.value == pytest.approx(np.mean(expected), rel=1e-9)
    assert given.low < given.value < given.high


def test_intercept_equals_centered_columns(mixture):
    for n, d in ((80, 15), (30, 50)):
        x, labels = mixture(n, d)
        columns = np.eye(4)[labels]
        expected = svd_logme(x - x.mean(0), columns - columns.mean(0))
        assert proxies.score(x, labels, "logme", intercept=True).value == pytest.approx(expected, rel=1e-8)


def test_more_label_columns_than_are_worked_on_together(mixture):
    x, labels = mixture(220, 6, 70)
    assert proxies.score(x, labels, "logme").value == pytest.approx(svd_logme(x, np.eye(70)[labels]), rel=1e-9)


def test_wide_features_do_not_win_for_their_width():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 5
    values = [proxies.score(rng.standard_normal((200, d)), labels, "logme").value for d in (50, 400, 3000)]
    assert max(values) - min(values) < 0.05  # without the missing term the last one would be above 10


def test_large_offset_costs_no_digits(mixture):
    x, labels = mixture(100, 12)
    plain = proxies.score(x, labels, "logme", intercept=True).value
    far = proxies.score(x + 1e4, labels, "logme", intercept=True).value
    assert far == pytest.approx(plain, rel=1e-7)


def test_a_column_that_does_not_settle_is_named(mixture, monkeypatch, caplog):
    import selector.proxies.logme as module

    monkeypatch.setattr(module, "MAX_ITERATIONS", 2)
    x, labels = mixture()
    with caplog.at_level(logging.WARNING):
        score = proxies.score(x, labels, "logme")
    assert score.details["iterations"] == 2
    assert "4 of 4 label columns did not settle within 2 steps" in caplog.text
