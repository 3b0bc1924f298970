"""What trainings on an engine's workers read: networks and prepared items, from the store that all of them reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selector.core.contracts import AnyPreprocess, Encoder, Target
from selector.extract.job import Settings
from selector.extract.workspace import Workspace, workspace_of
from selector.zoo import ModelSpec

if TYPE_CHECKING:
    from selector.core.modality import Inputs


@dataclass(frozen=True)
class StoreSupplies:
    """``tuning.crew.Supplies`` of a scan.

    Attributes:
        target: whose items.
        store: folder or URL of the feature store.
        settings: of the scan's extraction.
        specs: of the networks that another process can load, by the name of the candidate.
    """

    target: Target
    store: str
    settings: Settings
    specs: Mapping[str, ModelSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the candidates."""
        return tuple(self.specs)

    def load(self, name: str) -> Encoder:
        """The encoder of a candidate."""
        return self._work.load(self.specs[name])

    def inputs(self, preprocess: AnyPreprocess) -> Inputs:
        """Every item of the target, prepared once a machine."""
        return self._work.prepared.inputs(preprocess)

    def folder(self) -> Path:
        """Of the trainings of this machine."""
        return self._work.store.trainings_folder

    @property
    def _work(self) -> Workspace:
        return workspace_of(self.target, self.store, self.settings)
