"""Rows of gradients: what a network, linearized at its weights, sees of each item.

Fine-tuning that moves the weights little is a linear model on these rows, and their inner products are the neural
tangent kernel. They are far too wide to keep, so a random projection of them is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def gradient_rows(
    outputs: Callable[[Any], torch.Tensor],
    items: Iterable[Any],
    parameters: Sequence[torch.Tensor],
    *,
    width: int = 512,
    seed: int = 0,
) -> np.ndarray:
    """Randomly projected gradients of a network's outputs, a row an item.

    Args:
        outputs: one item -> (S,) outputs, with gradients. Random mixtures of a head's classes (signs of ±1) give, on
            average over them, the kernel summed over classes.
        items: inputs, one at a time: their gradients must not mix.
        parameters: that may move; those that an output does not depend on count as 0.
        width: of the projection of each output's gradient.
        seed: of the projection: parameters are folded into ``width`` sums with random signs.
    Returns:
        float32 (N, S · width), divided by √S. Inner products of rows are, on average over seeds, the mean over outputs
        of the inner products of the gradients; their relative error is about 1/√width.
    Cost: S backward passes an item.   Source: Jacot et al., NeurIPS 2018, arXiv:1806.07572 (kernel); Charikar et al.,
    ICALP 2002 (sketch).
    """
    import torch

    rng = torch.Generator().manual_seed(seed)
    signs = [torch.randint(0, 2, (p.numel(),), generator=rng, dtype=torch.int8).mul_(2).sub_(1) for p in parameters]
    rows = []
    for item in items:
        found = outputs(item)
        row = torch.zeros(len(found), width)
        for s in range(len(found)):
            gradients = torch.autograd.grad(
                found[s], list(parameters), retain_graph=s + 1 < len(found), allow_unused=True
            )
            for gradient, sign in zip(gradients, signs, strict=True):
                if gradient is not None:
                    signed = gradient.detach().reshape(-1).float().cpu() * sign
                    padded = torch.nn.functional.pad(signed, (0, -len(signed) % width))
                    row[s] += padded.reshape(-1, width).sum(dim=0)
        rows.append(row.reshape(-1).numpy() / math.sqrt(len(found)))
    return np.stack(rows)
