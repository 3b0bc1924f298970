"""Fisher ratio: spread between classes over spread within them."""

from __future__ import annotations

from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "fisher",
    summary="Squared distance of the class means over squared distance of the rows from their class mean.",
    good="Higher is better; 0 when all classes have the same mean.",
    source="Fisher, Annals of Eugenics 1936 (traces)",
    cost="nothing on top of logme",
    bounds=(0.0, float("inf")),
    invariances=INVARIANCES,
    formula="tr(S_b)/tr(S_w), the scatters between and within classes.",
    domain="A cheap diagnostic: directions of large variance decide, whether they tell classes apart or not.",
)
def fisher(features: FeatureSet) -> float:
    """Trace ratio of the scatters between and within classes.

    Raises:
        NotApplicable: no spread within classes.
    """
    spectrum = features.spectrum
    between = float(((spectrum.response**2).sum(axis=0) / spectrum.label_counts).sum())
    within = spectrum.trace - between
    if within <= 1e-12 * spectrum.trace or spectrum.trace <= 0:
        raise NotApplicable("the rows of every class are equal (or each class has one row): no spread within classes")
    return between / within
