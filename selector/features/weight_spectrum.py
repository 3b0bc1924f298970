"""The weight-spectrum exponent: how heavy the tails of a network's weight matrices are. It looks at no target.

A static fact of a checkpoint, for a prior. Martin, Peng and Mahoney, Nature Communications 2021,
arXiv:2002.06716: exponents between 2 and 4 are usual of well-trained layers, above 6 of layers that are still
nearly random; lower means over layers go with better networks of one family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.core.errors import ProxyError
from selector.features.arrays import as_array

SMALLEST = 50  # of both sides of a matrix: shorter spectra have no tail to fit
_FEWEST = 10  # values in a tail


@dataclass(frozen=True)
class PowerLaw:
    """A density ~ x^-alpha above ``smallest``.

    Attributes:
        alpha: exponent, above 1; ``error``: its standard error, (alpha - 1)/√tail.
        smallest: where the tail begins.
        distance: Kolmogorov-Smirnov distance of the tail to the law.
        tail: how many values are in it.
    """

    alpha: float
    error: float
    smallest: float
    distance: float
    tail: int


@dataclass(frozen=True)
class WeightSpectrum:
    """Exponents of a network.

    Attributes:
        alpha: mean over layers, unweighted.
        weighted: mean of alpha · log₁₀ of the largest eigenvalue.
        layers: by name of the weight.
    """

    alpha: float
    weighted: float
    layers: Mapping[str, PowerLaw]


def power_law(values: Any) -> PowerLaw:
    """The exponent by maximum likelihood, the tail's beginning by the smallest Kolmogorov-Smirnov distance.

    Args:
        values: (n,) positive; the others are left out.
    Raises:
        ProxyError: fewer than ten different positive values.
    Cost: O(n²).   Source: Clauset, Shalizi and Newman, SIAM Review 2009, eq. 3.1 and section 3.3.
    """
    x = np.sort(as_array(values, "values").astype(np.float64).ravel())
    x = x[x > 0]
    starts = np.unique(x, return_index=True)[1]
    starts = starts[starts <= len(x) - _FEWEST]
    if not len(starts) or x[starts[0]] == x[-1]:
        raise ProxyError(f"a power law needs at least {_FEWEST} different positive values. Got {len(np.unique(x))}.")
    log = np.log(x)
    above = np.cumsum(log[::-1])[::-1]  # Σ of the logarithms from here on
    best: PowerLaw | None = None
    for start in starts:
        count = len(x) - start
        total = above[start] - count * log[start]
        if total <= 0:
            continue
        alpha = 1 + count / total
        law = -np.expm1((1 - alpha) * (log[start:] - log[start]))
        steps = np.arange(count + 1) / count
        distance = float(max((law - steps[:-1]).max(), (steps[1:] - law).max()))
        if best is None or distance < best.distance:
            best = PowerLaw(alpha, (alpha - 1) / count**0.5, float(x[start]), distance, count)
    assert best is not None
    return best


def eigenvalues(weight: Any) -> np.ndarray:
    """Of WᵀW/N, ascending, W (out, everything else), N its longer side.

    Args:
        weight: two or more dimensions; a convolution is one matrix (out, in · height · width).
    Cost: short side² × long side.
    """
    matrix = as_array(weight, "weight").astype(np.float64)
    matrix = matrix.reshape(len(matrix), -1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    gram = matrix @ matrix.T / matrix.shape[1]
    found = np.linalg.eigvalsh(gram)
    return np.asarray(found[found > found[-1] * len(found) * np.finfo(np.float64).eps])


def weight_spectrum(weights: Mapping[str, Any]) -> WeightSpectrum:
    """Exponents of all weights whose two sides (out, everything else) are at least 50 long.

    Args:
        weights: name -> array or tensor, as a state dictionary has them; vectors and small ones are left out.
    Raises:
        ProxyError: a weight is not finite, or no weight is large enough.
    Cost: an eigendecomposition a weight.
    """
    layers: dict[str, PowerLaw] = {}
    largest: list[float] = []
    for name, weight in weights.items():
        shape = tuple(weight.shape)
        if len(shape) < 2 or min(shape[0], int(np.prod(shape[1:]))) < SMALLEST:
            continue
        values = as_array(weight, name)
        if values.dtype.kind != "f":
            continue  # counters, indices and quantized weights
        if not np.isfinite(values).all():
            raise ProxyError(f"weight '{name}' is not finite: the checkpoint is damaged.")
        found = eigenvalues(values)
        if len(np.unique(found)) < _FEWEST:
            continue  # untouched by training, or of low rank
        layers[name] = power_law(found)
        largest.append(float(found[-1]))
    if not layers:
        raise ProxyError(f"no weight has two sides of at least {SMALLEST}: nothing to fit a spectrum to.")
    alphas = np.array([law.alpha for law in layers.values()])
    return WeightSpectrum(float(alphas.mean()), float((alphas * np.log10(largest)).mean()), layers)
