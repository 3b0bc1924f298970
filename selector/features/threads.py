"""Capping BLAS threads around small linear algebra.

Two BLAS threads on a busy machine of two cores can slow a small eigendecomposition a hundredfold:
the threads spin for each other at every one of thousands of tiny steps.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

SMALL = 1024  # order of a matrix up to which one thread is at least as fast


@cache
def _controller() -> Any:
    # made once: listing the loaded libraries takes longer than the decompositions it protects
    import scipy.linalg  # noqa: F401  scipy brings a BLAS of its own, which must be in the list
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def capped(order: int) -> AbstractContextManager[Any]:
    """One BLAS thread inside the block when the matrices are of a small ``order``."""
    if order > SMALL:
        return nullcontext()
    context: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return context
