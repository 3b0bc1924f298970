"""The contract of a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selector.extract.inputs import Batch


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
