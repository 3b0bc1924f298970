"""The few large products on a GPU: Gram matrices, eigenvectors, nearest neighbors.

Everything that is small after them stays in numpy, so CPU and GPU run the same formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from selector.features.labels import Labels


def device_of(values: object) -> str | None:
    """``cuda:0`` and the like of a torch tensor that lies on a GPU; None for everything else."""
    device = getattr(values, "device", None)
    return str(device) if getattr(device, "type", "cpu") == "cuda" else None


class TorchSums:
    """The sums of ``moments.Moments`` of one part, in float64 on a device."""

    def __init__(self, width: int, columns: int, device: str) -> None:
        import torch

        self.torch, self.device = torch, device
        new: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.count = 0
        self.total, self.norm2_rows = torch.zeros(width, **new), torch.zeros(width, **new)
        self.gram, self.cross = torch.zeros(width, width, **new), torch.zeros(columns, width, **new)
        self.label_total, self.label_square = np.zeros(columns), np.zeros(columns)
        self.norm4 = torch.zeros((), **new)

    def add(self, rows: np.ndarray, shift: np.ndarray, labels: Labels, index: slice | np.ndarray) -> None:
        """Rows as stored; they are widened and shifted on the device."""
        torch = self.torch
        z = torch.as_tensor(np.ascontiguousarray(rows), device=self.device).double()
        z -= torch.as_tensor(shift, device=self.device)
        self.count += len(z)
        self.total += z.sum(0)
        self.gram += z.T @ z
        if labels.columns is None:
            self.cross.index_add_(0, torch.as_tensor(labels.codes[index], device=self.device), z)
        else:
            self.cross += torch.as_tensor(labels.columns[index], device=self.device).T @ z
        block = labels.block(index)
        self.label_total += block.sum(axis=0)
        self.label_square += (block**2).sum(axis=0)
        norms = (z * z).sum(1)
        self.norm4 += (norms * norms).sum()
        self.norm2_rows += norms @ z

    def arrays(self) -> dict[str, Any]:
        """As numpy, under the names of ``Moments``."""
        return {
            "count": self.count,
            "total": self.total.cpu().numpy(),
            "gram": np.asfortranarray(self.gram.cpu().numpy()),
            "cross": self.cross.cpu().numpy(),
            "label_total": self.label_total,
            "label_square": self.label_square,
            "norm4": float(self.norm4),
            "norm2_rows": self.norm2_rows.cpu().numpy(),
        }


def eigh(lower: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues ascending and eigenvectors of a symmetric matrix, lower triangle filled."""
    import torch

    values, vectors = torch.linalg.eigh(torch.as_tensor(np.ascontiguousarray(lower), device=device), UPLO="L")
    return values.cpu().numpy(), vectors.cpu().numpy()


def nearest(queries: np.ndarray, base: np.ndarray, count: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(similarity, index) of the ``count`` largest inner products of every query, descending."""
    import torch

    a, b = torch.as_tensor(queries, device=device), torch.as_tensor(base, device=device)
    found = torch.topk(a @ b.T, count, dim=1)
    return found.values.cpu().numpy(), found.indices.cpu().numpy()
