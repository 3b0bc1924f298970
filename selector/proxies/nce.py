"""Negative conditional entropy of the label given the source head's hard prediction."""

from __future__ import annotations

import numpy as np

from selector.features import FeatureSet
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy


@proxy(
    "nce",
    summary="Minus the entropy that is left in the label once the source head's top class is known.",
    good="0 is perfect; minus the entropy of the class shares is a head that says nothing about the labels.",
    source="Tran, Nguyen and Hassner, ICCV 2019, arXiv:1908.08142",
    cost="O(N·C_s)",
    needs_source_logits=True,
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    formula="−H(Y | Z), z = argmax of the source logits.",
    domain="Encoders with their source head. Biased upwards when source classes are many against N: with one row each it is 0.",
)
def nce(features: FeatureSet) -> float:
    """Negative conditional entropy, in nats.

    Raises:
        NotApplicable: no source logits.
    """
    top = features.source_logits.argmax(axis=1)
    _, z = np.unique(top, return_inverse=True)
    joint = np.zeros((z.max() + 1, len(features.classes)))
    np.add.at(joint, (z.ravel(), features.labels), 1)
    share = joint / joint.sum(axis=1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return float((joint * logs).sum() / len(features))
