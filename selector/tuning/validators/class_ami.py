"""ClassAMI: predictions that follow the clusters of the target's features."""

from __future__ import annotations

from sklearn.metrics import adjusted_mutual_info_score

from selector.tuning.validators import View, validator


@validator("class-ami")
def class_ami(view: View) -> float:
    """Adjusted mutual information of predictions and k-means clusters, as many as there are classes; 1 is equal
    (Musgrave et al., arXiv:2208.07360)."""
    return float(adjusted_mutual_info_score(view.predicted, view.clusters))
