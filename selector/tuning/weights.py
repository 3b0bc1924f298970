"""Weights on disk: written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from selector.core.errors import StoreError


def save_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """safetensors under a temporary name, then renamed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        save_file(state, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"weights cannot be written to {path} ({error}); free some space and run the same command again: "
            "finished trainings are kept."
        ) from error
    finally:  # after an interrupt as well
        temporary.unlink(missing_ok=True)
