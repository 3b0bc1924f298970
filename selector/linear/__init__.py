"""Linear heads, solved rather than trained: L2 logistic and ridge regression.

The probe proxy and the heads that fine-tuning starts from share one solver. Rows are standardized
and rotated into the eigenbasis of their correlation matrix (``basis``). There the curvature of the
loss is nearly diagonal, so a limited-memory quasi-Newton method that starts from this diagonal
(``quasi_newton``) needs few steps on the logistic problems (``logistic``), whose penalty held-out
rows choose (``search``).
"""

from __future__ import annotations

from selector.linear.basis import Basis, standardize
from selector.linear.heads import LinearHead, solve_head
from selector.linear.logistic import Logistic, Solved, label_log_likelihood, log_likelihood
from selector.linear.search import STRENGTHS, best_strength

__all__ = [
    "STRENGTHS",
    "Basis",
    "LinearHead",
    "Logistic",
    "Solved",
    "best_strength",
    "label_log_likelihood",
    "log_likelihood",
    "solve_head",
    "standardize",
]
