"""A linear probe: logistic regression on frozen features at the native size, its strength by cross-validation."""

from __future__ import annotations

import numpy as np
from _common import Cell, accuracy, outputs_of, read_cell, report
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def features(cell: Cell, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Frozen features (N, D) and labels."""
    if "arch" in cell.facts:
        pixels, labels = cell.images(split, cell.facts["size"])
        return outputs_of(cell.network(0), cell, pixels).numpy(), labels.numpy()
    from sentence_transformers import SentenceTransformer

    texts, labels = cell.texts(split)
    return SentenceTransformer(cell.facts["encoder"], device="cpu").encode(texts), labels


def main() -> None:
    """Fit, and measure on test."""
    import torch

    cell = read_cell()
    rows, labels = features(cell, "train")
    folds = int(min(5, np.bincount(labels).min()))
    fitted = make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 1, 6).tolist(), cv=max(2, folds), max_iter=500)
    ).fit(rows, labels)
    used = cell.seconds - cell.left
    test, truth = features(cell, "test")
    report(cell, accuracy(torch.from_numpy(fitted.predict_proba(test)), torch.from_numpy(truth)), used)


if __name__ == "__main__":
    main()
