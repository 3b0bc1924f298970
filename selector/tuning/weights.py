"""Weights on disk: written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from selector.core.atomic import replacing
from selector.core.errors import StoreError


def save_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """safetensors under a temporary name, then renamed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    try:
        with replacing(path) as temporary:
            save_file(state, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"weights cannot be written to {path} ({error}); free some space and run the same command again: "
            "finished trainings are kept."
        ) from error
