"""Features that are there already: nothing to prepare, and no network to run but the head on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selector import modalities
from selector.core.contracts import Items, ProgressCallback, no_progress
from selector.core.errors import BadImagesError, TargetError
from selector.core.modality import Inputs, Modality
from selector.core.preprocess import RowsPreprocess

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

_NONE = "a target of ready features holds rows, which no network reads; rank it without models."


@modalities.modality("rows")
class RowsModality(Modality["NDArray[np.float32]", "Tensor", RowsPreprocess]):
    """See ``core.modality``."""

    kind = "rows"
    stage = "read"
    has_models = False

    def bad_items(self, bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
        """See ``core.modality``."""
        listed = [(str(names[i]), reason) for i, reason in sorted(bad.items())]
        shown = "; ".join(f"{name} {reason}" for name, reason in listed)
        return BadImagesError(f"{len(listed)} row(s) cannot be used: {shown}.", listed)

    def key(self, preprocess: RowsPreprocess) -> str:
        """See ``core.modality``."""
        return ""

    def prepare(
        self, items: Items, hashes: Sequence[str], names: Sequence[str], preprocesses: Sequence[RowsPreprocess], *,
        folder: Path | None, max_size: int | None = None, device: str = "cpu", on_invalid: Literal["raise", "skip"] = "raise",
        progress: ProgressCallback = no_progress,
    ) -> tuple[dict[str, Inputs], dict[int, str]]:  # fmt: skip
        """Always an error."""
        raise TargetError(_NONE)

    def owns(self, batch: object) -> bool:
        """Nothing."""
        return False

    def ready(
        self,
        batch: NDArray[np.float32] | Tensor,
        preprocess: RowsPreprocess,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Rows (B, D) as a tensor on the device."""
        import torch

        return torch.as_tensor(batch, dtype=dtype or torch.float32, device=device)

    def repeated(self, batch: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Always an error."""
        raise TargetError(_NONE)

    def described(self, preprocess: RowsPreprocess) -> str:
        """See ``core.modality``."""
        return "row."
