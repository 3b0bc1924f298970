"""Ways to run a network over decoded images: torch eager, compiled by torch, compiled by OpenVINO.

A backend takes uint8 pixels of a fixed batch shape and gives float32 features. Which one runs a
network is decided by ``selector.extract.backend_choice``, once an encoder, and kept in its entry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selector.core.contracts import Encoder
from selector.core.errors import ConfigError, did_you_mean
from selector.extract.inputs import Batch

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "check_choice", "open_backend", "why_not"]

BACKENDS = ("eager", "compile", "openvino")
PRECISIONS = ("float32", "bfloat16")


class Backend(Protocol):
    """A network made ready on a device.

    Attributes:
        batch_size: images of a call; a caller pads the last batch, so that every call has the same
            shape. Eager torch takes other sizes too.
        mixed: products are in ``precision``; weights, sums and norms stay in float32.
    """

    name: str
    precision: str
    batch_size: int
    mixed: bool

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Begin the features of uint8 (B, H, W, 3), B the batch size, or of tokens; the result waits for (B, D)."""
        ...

    def resized(self, batch_size: int) -> Backend | None:
        """The same for another batch size; None where it has to be opened anew."""
        ...

    def in_precision(self, precision: str) -> Backend | None:
        """The same in another precision; None where it has to be opened anew."""
        ...


def why_not(backend: str, device: str) -> str:
    """Why a backend cannot run here; empty when it can. Imports neither torch nor OpenVINO."""
    if backend == "compile":
        from selector.extract.backends import compiled

        return compiled.why_not(device)
    if backend == "openvino":
        from selector.extract.backends import openvino

        return openvino.why_not(device)
    return ""


def open_backend(
    backend: str, encoder: Encoder, device: str, precision: str, batch_size: int, cache: Path | None
) -> Backend:
    """Make a network ready; conversion or compilation happens here.

    Args:
        cache: folder for compiled models; None keeps none.

    Raises:
        SourceError: the backend cannot run this network.
    """
    if backend == "compile":
        from selector.extract.backends.compiled import CompiledBackend

        return CompiledBackend(encoder, device, precision, batch_size, cache)
    if backend == "openvino":
        from selector.extract.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(encoder, device, precision, batch_size, cache)
    if encoder.module is None:
        from selector.extract.backends.compiled import FrozenBackend

        return FrozenBackend(encoder, batch_size)
    from selector.extract.backends.eager import EagerBackend

    return EagerBackend(encoder, device, precision, batch_size)


def check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown backend or precision.

    Raises:
        ConfigError: with what is known.
    """
    if value != "auto" and value not in known:
        names = ("auto", *known)
        raise ConfigError(f"unknown {what} '{value}'{did_you_mean(value, names) or '.'} Known: {', '.join(names)}.")
