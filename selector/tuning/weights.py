"""Weights and checkpoints on disk: written as a whole or not at all; a damaged checkpoint is set aside, not trusted."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from selector.core.atomic import replacing
from selector.core.errors import StoreError

log = logging.getLogger(__name__)


def save_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """safetensors under a temporary name, then renamed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    try:
        with replacing(path) as temporary:
            save_file(state, temporary)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"weights cannot be written to {path} ({error}); free some space and run the same command again: "
            "finished trainings are kept."
        ) from error


def write_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Save tensors and plain values; a full disk is a warning, since training can go on without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        log.warning("checkpoint %s could not be written (%s); training goes on without it", path, error)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state, or None when there is none or it is damaged; weights only, no code is run."""
    if not path.is_file():
        return None
    try:
        state: dict[str, object] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        log.warning("checkpoint %s is damaged (%s); this training starts again", path, str(error).splitlines()[0])
        path.unlink(missing_ok=True)
        return None
    return state
