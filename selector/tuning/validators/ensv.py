"""EnsV: agreement with the averaged prediction of the pool."""

from __future__ import annotations

from selector.tuning.validators import View, validator


@validator("ensv")
def ensv(view: View) -> float:
    """Share of items predicted as the mean of all candidates does (EnsV; a pool that is wrong together is not noticed)."""
    assert view.pool is not None
    return float((view.predicted == view.pool.argmax(axis=1)).mean())
