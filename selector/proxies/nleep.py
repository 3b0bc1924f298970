"""N-LEEP: LEEP on the components of a Gaussian mixture instead of a source head."""

from __future__ import annotations

import warnings

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy
from selector.proxies.leep import soft_count_likelihood

VARIANCE = 0.8
COMPONENTS_PER_CLASS = 5


@proxy(
    "nleep",
    summary="Log-likelihood of the labels when they are predicted from clusters of the rows.",
    good="0 is perfect; minus the entropy of the class shares is a model that knows nothing.",
    source="Li et al., CVPR 2021, arXiv:2011.11200",
    cost="expectation-maximization with 5C components in the leading principal components; slow for many classes",
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    seeded=True,
    formula="PCA to 80% of the variance, Gaussian mixture with 5C full components, LEEP on its posteriors.",
    deviations="Seeded, with rows in the order of their hashes; the logarithm, which copies dropped, is kept.",
    domain="Classes, and at least two rows a component (10C rows). In-sample. Depends on the seed: compare at one seed.",
)
def nleep(features: FeatureSet) -> Score:
    """LEEP on the posteriors of a Gaussian mixture; a contribution a row.

    Raises:
        NotApplicable: fewer than 10C rows, or constant features.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = COMPONENTS_PER_CLASS * len(features.classes)
    if len(features) < 2 * components:
        raise NotApplicable(f"needs two rows a component, {2 * components}; there are {len(features)}")
    values = features.spectrum.values[::-1]
    if values[0] <= 0:
        raise NotApplicable("the features are constant")
    keep = int(np.searchsorted(np.cumsum(values) / values.sum(), VARIANCE)) + 1
    order, _ = features.canonical
    z = features.coordinates(keep).astype(np.float64)[order]
    z /= np.sqrt(values[0] / len(features))  # the mixture's regularization is in absolute units
    mixture = GaussianMixture(components, random_state=features.seed, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = np.empty((len(z), components))
        posterior[order] = mixture.fit(z).predict_proba(z)
    per_row = soft_count_likelihood(posterior, features)
    return Score(
        float(per_row.mean()), per_row=per_row, details={"converged": float(mixture.converged_), "dimensions": keep}
    )
