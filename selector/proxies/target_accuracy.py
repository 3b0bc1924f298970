"""The accuracy that the source's head would have on a target without labels, predicted from both domains."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._domains import LABELS, source_head
from selector.proxies._proxy import proxy
from selector.proxies.a_distance import a_distance
from selector.proxies.coral_distance import coral_distance
from selector.proxies.label_shift import label_shift
from selector.proxies.mmd import mmd
from selector.proxies.pas import pas

MEASURES = {
    "pas": pas,
    "a_distance": a_distance,
    "mmd": mmd,
    "coral_distance": coral_distance,
    "label_shift": label_shift,
}


@proxy(
    "target-accuracy",
    summary="Accuracy that a linear head of the source domain is expected to have on a target without labels.",
    label_kinds=LABELS,
    needs_unlabelled=True,
    good="An accuracy: 1 is perfect, chance is that of the class shares.",
    source="Garg et al., ICLR 2022, arXiv:2201.04234 (average thresholded confidence), and the measures in its details",
    cost="one head of the source domain and the measures",
    bounds=(0.0, 1.0),
    invariances={"row order", "class renaming", "absent classes"},
    seeded=True,
    blocks="recompute",
    formula="The mean of average confidence and average thresholded confidence of the head on the target, at the temperature "
    "that fits held-out source rows; never above the accuracy on those.",
    domain="Rests on the head's confidence. Where the target looks like another class throughout, it is too high.",
)
def target_accuracy(features: FeatureSet) -> Score:
    """The predicted accuracy; ``details``: its ingredients."""
    head = source_head(features)
    accuracy, confidence = head.accuracy, float(head.target.max(axis=1).mean())
    thresholded = thresholded_confidence(head.held_out, head.labels, head.target)
    details = {"source_accuracy": accuracy, "confidence": confidence, "thresholded_confidence": thresholded}
    if features.is_whole:  # intervals need the value alone
        details |= {name: float(measure(features)) for name, measure in MEASURES.items()}
    return Score(min((confidence + thresholded) / 2, accuracy), details=details)


def thresholded_confidence(held_out: np.ndarray, labels: np.ndarray, target: np.ndarray) -> float:
    """Share of the target's rows whose largest probability exceeds the threshold that, on held-out source rows, leaves
    as many above it as are classified rightly."""
    right = float((held_out.argmax(axis=1) == labels).mean())
    threshold = np.quantile(held_out.max(axis=1), 1 - right)
    return float((target.max(axis=1) >= threshold).mean())
