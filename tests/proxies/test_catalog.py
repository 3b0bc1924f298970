"""The other proxies against their formulas written out, scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

import selector.proxies as proxies
from selector.features import FeatureSet

SHAPES = [(120, 10), (40, 70)]


@pytest.fixture(params=SHAPES, ids=["tall", "wide"])
def case(request, mixture):
    return mixture(*request.param, 4, separation=0.5)


def logits_of(x, classes=7):
    return x @ np.random.default_rng(2).standard_normal((x.shape[1], classes)) / np.sqrt(x.shape[1]) + np.linspace(
        -1, 1, classes
    )


def scatters(x, labels):
    means = np.stack([x[labels == c].mean(0) for c in range(labels.max() + 1)])
    counts = np.bincount(labels)
    apart = x - means[labels]
    between = means - x.mean(0)
    return means, counts, apart.T @ apart, (between.T * counts) @ between


def test_fisher(case):
    x, labels = case
    _, _, within, between = scatters(x, labels)
    assert proxies.score(x, labels, "fisher").value == pytest.approx(np.trace(between) / np.trace(within), rel=1e-9)


def test_cka(case):
    x, labels = case
    n = len(x)
    center = np.eye(n) - 1 / n
    for y in (np.eye(4)[labels], x[:, :2] * [1, 2]):
        k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
        expected = (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)
        target = labels if y.shape[1] == 4 else y
        assert proxies.score(x, target, "cka").value == pytest.approx(expected, rel=1e-9)


def test_transrate(case):
    x, labels = case
    n, d = x.shape
    z = x - x.mean(0)
    z *= np.sqrt(d / (z**2).sum() * n)

    def rate(part):
        return 0.5 * np.linalg.slogdet(np.eye(d) + part.T @ part / (len(part) * 1e-4))[1]

    expected = rate(z) - sum(len(z[labels == c]) / n * rate(z[labels == c]) for c in range(4))
    assert proxies.score(x, labels, "transrate").value == pytest.approx(expected, rel=1e-8)


def test_gbc(case):
    x, labels = case
    x = np.hstack([x, 1e-4 * np.random.default_rng(0).standard_normal((len(x), 3))])  # some variances at the floor
    z = PCA(min(64, len(x) - 1, x.shape[1]), svd_solver="full").fit_transform(x)
    total = 0.0
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            si, sj = (np.maximum(z[labels == c].var(0), 1e-4) for c in (i, j))
            s = (si + sj) / 2
            delta = z[labels == i].mean(0) - z[labels == j].mean(0)
            distance = (delta**2 / s).sum() / 8 + 0.5 * np.log(s / np.sqrt(si * sj)).sum()
            total += np.exp(-distance)
    assert proxies.score(x, labels, "gbc").value == pytest.approx(-total, rel=1e-6)


def test_parc(case):
    x, labels = case
    features = FeatureSet(x, labels)
    z = features.coordinates(32)
    sizes = np.linalg.norm(PCA(min(32, x.shape[1]), svd_solver="full").fit_transform(x), axis=0)
    np.testing.assert_allclose(np.linalg.norm(z, axis=0), sizes, rtol=1e-6)
    assert ((z**3).sum(0) > 0).all()  # signs are fixed
    z = (z - z.mean(0)) / z.std(0)
    upper = np.triu_indices(len(x), 1)
    for y in (labels, np.stack([labels < 2, labels % 2 == 0, labels % 3 > 0], axis=1).astype(int)):
        columns = np.eye(4)[labels] if y.ndim == 1 else y
        unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(1 - np.corrcoef(columns), nan=1.0)
        expected = spearmanr((1 - unit @ unit.T)[upper].round(12), apart.round(9)[upper]).statistic
        assert proxies.score(x, y, "parc").value == pytest.approx(expected, rel=1e-9)


def test_parc_does_not_depend_on_the_signs_of_principal_components(case, monkeypatch):
    x, labels = case
    plain = proxies.score(x, labels, "parc").value
    coordinates = FeatureSet.coordinates
    for seed in range(4):
        signs = np.random.default_rng(seed).choice([-1, 1], size=200)
        monkeypatch.setattr(FeatureSet, "coordinates", lambda f, n, s=signs: (z := coordinates(f, n)) * s[: z.shape[1]])
        assert proxies.score(x, labels, "parc").value == pytest.approx(plain, abs=1e-12)


def test_large_targets_are_sampled_by_stratum(mixture, monkeypatch):
    import selector.proxies.class_geometry as silhouette
    import selector.proxies.parc as parc

    x, labels = mixture(400, 6)
    features = FeatureSet(x, labels)
    rows = features.sample(100)
    np.testing.assert_allclose(np.bincount(labels[rows]), np.bincount(labels) / 4, atol=1)
    for module, name in ((parc, "parc"), (silhouette, "silhouette")):
        monkeypatch.setattr(module, "MAX_ROWS", 100)
        assert proxies.score(x, labels, name).value == pytest.approx(
            proxies.score(x, labels, name, seed=5).value, abs=0.1
        )
    assert proxies.score(x, labels, "silhouette").value == pytest.approx(
        silhouette_score(x[rows], labels[rows]), rel=1e-9
    )


def test_silhouette(case):
    x, labels = case
    labels = labels.copy()
    labels[0] = 4  # a class of one row
    assert proxies.score(x, labels, "silhouette").value == pytest.approx(silhouette_score(x, labels), abs=1e-9)


def test_nearest_class_mean(case):
    x, labels = case
    labels = labels.copy()
    labels[0] = 4
    right = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        present = [c for c in range(5) if (labels[rest] == c).any()]
        distance = [np.linalg.norm(x[i] - x[rest & (labels == c)].mean(0)) for c in present]
        right.append(present[int(np.argmin(distance))] == labels[i])
    np.testing.assert_array_equal(proxies.score(x, labels, "nearest-class-mean").per_row, right)


def test_energy_leep_and_nce(case):
    x, labels = case
    logits = logits_of(x)
    energies = np.sort(logsumexp(logits, axis=1))
    theta, top = softmax(logits, axis=1), logits.argmax(1)
    likelihood, entropy = [], 0.0
    for i in range(len(x)):
        given = [theta[labels == labels[i], z].sum() / theta[:, z].sum() for z in range(7)]
        likelihood.append(np.log(np.dot(given, theta[i])))
    for z in set(top):
        share = np.bincount(labels[top == z]) / (top == z).sum()
        entropy -= (top == z).mean() * (share[share > 0] * np.log(share[share > 0])).sum()
    for name, expected in (("energy", energies[:30].mean()), ("leep", np.mean(likelihood)), ("nce", -entropy)):
        assert proxies.score(x, labels, name, source_logits=logits).value == pytest.approx(expected, rel=1e-9)
    weight = np.random.default_rng(3).standard_normal((7, x.shape[1]))
    features = FeatureSet(x, labels, source_head=(weight, np.arange(7.0)))
    direct = FeatureSet(x, labels, source_logits=x @ weight.T + np.arange(7.0))
    assert proxies.evaluate(features, "leep").value == pytest.approx(proxies.evaluate(direct, "leep").value, rel=1e-9)


def test_source_classes_without_mass_are_left_out(case):
    x, labels = case
    logits = logits_of(x)
    logits[:, 3] = -1e9
    assert np.isfinite(proxies.score(x, labels, "leep", source_logits=logits).value)


def test_nleep(mixture):
    x, labels = mixture(150, 10)
    features = FeatureSet(x, labels)
    order, _ = features.canonical
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    keep = int((np.cumsum(values) / values.sum() < 0.8).sum()) + 1
    z = features.coordinates(keep) / np.sqrt(values[0] / 150)
    posterior = GaussianMixture(20, random_state=0, reg_covar=1e-4).fit(z[order]).predict_proba(z)
    given = np.stack([posterior[labels == c].sum(0) for c in range(4)]) / posterior.sum(0)
    expected = np.log((posterior * given[labels]).sum(1)).mean()
    score = proxies.evaluate(features, "nleep")
    assert (score.details["dimensions"], score.value) == (keep, pytest.approx(expected, rel=1e-6))


def test_sfda(case):
    x, labels = case[0] * 0.2, case[1]  # small enough for a shrinkage between its ends
    n, d = x.shape
    counts = np.bincount(labels)

    def posterior(rows, s):
        means, _, within, _ = scatters(rows, labels)
        covariance = (1 - s) * within / n + s * np.trace(within) / n / d * np.eye(d)
        weight = np.linalg.solve(covariance, means.T)
        return softmax(rows @ weight - 0.5 * np.einsum("cd,dc->c", means, weight) + np.log(counts / n), axis=1)

    largest = np.linalg.eigvalsh(scatters(x, labels)[2] / n)[-1]
    s = np.exp(-5 * largest)
    assert 1e-6 < s < 0.9
    p = softmax(posterior(x, s), axis=1)[np.arange(n), labels][:, None]
    outer = np.stack([x[labels != c].mean(0) for c in range(4)])[labels]
    expected = posterior(p * x + (1 - p) * outer, s)[np.arange(n), labels].mean()
    assert proxies.score(x, labels, "sfda").value == pytest.approx(expected, rel=1e-7)


def test_ncti(case):
    x, labels = case
    n = len(x)
    z = PCA(min(64, n - 1, x.shape[1]), svd_solver="full").fit_transform(x)
    k = min(64, z.shape[1])
    means, counts, within, between = scatters(z, labels)
    a = ledoit_wolf_shrinkage(z - means[labels], assume_centered=True)
    covariance = (1 - a) * within / n + a * np.trace(within) / n / k * np.eye(k)
    weight = np.linalg.solve(covariance, means.T)
    p = softmax(z @ weight - 0.5 * np.einsum("cd,dc->c", means, weight) + np.log(counts / n), axis=1)
    # discriminant features have variance 1 within classes (shrunk) and 1 + ratio in all
    ratios = np.sort(np.linalg.eigvals(np.linalg.solve(covariance, between / n)).real)[::-1][:3]
    g = np.sqrt(1 + ratios).mean()
    nuclear = sum(np.linalg.norm(p[labels == c], ord="nuc") for c in range(4))
    low, high = np.log(np.sqrt(counts / 4).sum()), np.log(np.sqrt(counts * np.minimum(counts, 4)).sum())
    terms = proxies.score(x, labels, "ncti").details
    assert terms["seli"] == pytest.approx(1 - 1 / g, rel=1e-6)
    assert terms["ncc"] == pytest.approx(p[np.arange(n), labels].mean(), rel=1e-6)
    assert terms["vc"] == pytest.approx((np.log(nuclear) - low) / (high - low), rel=1e-6)
    assert proxies.score(x, labels, "ncti").value == pytest.approx(terms["seli"] + terms["ncc"] - terms["vc"])


@pytest.mark.parametrize("classes", [4, 2])
@pytest.mark.parametrize(("factor", "variance"), [(1.0, 10.0), (0.1, 100.0)])
def test_pactran(mixture, classes, factor, variance):
    x, labels = mixture(60, 8, classes, separation=0.4)
    n, d = x.shape
    z = x - x.mean(0)
    prior = factor * n

    def loss(theta):
        w, b = theta[:-classes].reshape(d, classes), theta[-classes:]
        log_p = log_softmax(z @ w + b, axis=1)
        residual = (np.exp(log_p) - np.eye(classes)[labels]) / n
        gradient = np.concatenate([(z.T @ residual + w / prior).ravel(), residual.sum(0)])
        return -log_p[np.arange(n), labels].mean() + (w**2).sum() / 2 / prior, gradient

    found = minimize(
        loss,
        np.zeros(d * classes + classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-9},
    )
    w, b = found.x[:-classes].reshape(d, classes), found.x[-classes:]
    p = softmax(z @ w + b, axis=1)
    h = ((z**2).T @ (p * (1 - p))).sum() + (p * (1 - p)).sum() + classes * d / prior
    cells = classes * d
    bound = found.fun + 0.5 * cells / prior * (variance * factor / d) * np.log(prior * h / cells)
    score = proxies.score(x, labels, "pactran", factor=factor, variance=variance)
    assert score.value == pytest.approx(-bound, abs=1e-4)
