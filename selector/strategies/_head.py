"""The head of a network: what flows into it, and how a solved one is put in place."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from torch import nn

from selector.strategies._loop import Normalise, PixelBatches, predict
from selector.strategies._parts import head_layer


def head_inputs(
    module: nn.Module,
    pixels: PixelBatches,
    indices: np.ndarray,
    normalise: Normalise,
    *,
    device: str = "cpu",
    bf16: bool = False,
    deadline: float = float("inf"),
) -> tuple[np.ndarray | None, float]:
    """Features (N, D) float32 that the head reads, and the seconds they took.

    None when the deadline came first.
    """
    caught: list[torch.Tensor] = []
    handle = head_layer(module).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].float().cpu()))
    begun = time.perf_counter()
    try:
        done = predict(module, pixels, indices, normalise, device=device, bf16=bf16, deadline=deadline)
    finally:
        handle.remove()
    seconds = time.perf_counter() - begun
    return (None if done is None else torch.cat(caught).numpy()), seconds


def set_head(module: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Copy a solved head (K, D), (K,) into the network."""
    head = head_layer(module)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.asarray(weight, dtype=np.float32)))
        head.bias.copy_(torch.from_numpy(np.asarray(bias, dtype=np.float32)))


STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse L2 penalties, weak features to strong ones


def solved_head(
    features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray, num_outputs: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """L2 logistic regression on standardised features, the strength chosen on held-out rows.

    Args:
        features, labels: (N, D) and ints (N,).
        held_out, held_out_labels: rows that choose the strength, by log-loss.
        num_outputs: K; a class without rows gets a head that never wins.
    Returns:
        weight (K, D) and bias (K,) on the features as given, and the strength.
    """
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0)
    spread = features.std(axis=0)
    scale = 1.0 / np.maximum(spread, 1e-6 + 1e-3 * float(spread.mean()))
    rows = (features - mean) * scale
    others = (held_out - mean) * scale
    best: tuple[float, np.ndarray, np.ndarray, float] | None = None
    solver = LogisticRegression(C=STRENGTHS[0], warm_start=True, max_iter=200, tol=1e-4)
    for strength in STRENGTHS:
        solver.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unconverged strength is judged by its log-loss like any other
            solver.fit(rows, labels)
        weight, bias = _full(solver.coef_, solver.intercept_, solver.classes_, num_outputs)
        loss = _log_loss(others @ weight.T + bias, held_out_labels)
        if best is None or loss < best[0]:
            best = (loss, weight, bias, strength)
    assert best is not None
    _, weight, bias, strength = best
    unscaled = weight * scale
    return unscaled.astype(np.float32), (bias - unscaled @ mean).astype(np.float32), strength


def _full(
    coef: np.ndarray, intercept: np.ndarray, classes: np.ndarray, num_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    if len(classes) == 2 and len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight = np.zeros((num_outputs, coef.shape[1]))
    bias = np.full(num_outputs, float(intercept.min()) - 20.0)
    weight[classes], bias[classes] = coef, intercept
    return weight, bias


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    top = logits.max(axis=1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((normaliser - logits[np.arange(len(labels)), labels]).mean())
