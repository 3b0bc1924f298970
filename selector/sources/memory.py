"""Networks that were given as torch modules of this process: ``selector.Model(module)``; see ``selector.zoo.own``.

Features are timm's ``forward_head(forward_features(x), pre_logits=True)`` where the module has that
interface, else the input of its last linear layer when that layer makes its output, else its output.
A zoo file cannot name such a network: it is known by its content, and only where it was made.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, ZooError
from selector.core.preprocess import Preprocess
from selector.sources import _weights, source
from selector.sources._last_linear import WithLastLinear, encoder_of
from selector.zoo.own import live

if TYPE_CHECKING:
    from torch import nn

    from selector.sources._sketch import Sketch
    from selector.zoo import ModelSpec


@source("memory")
class MemorySource:
    """The ``memory:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The network itself; what is in memory is not listed."""
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``. The id is the content."""
        return {
            "source": "memory",
            "model": spec.model_id,
            **_weights.settings_identity(spec),
            "versions": _weights.versions("torch"),
        }

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``; the module that was given stays as it is."""
        from selector.sources._encoder import run_quietly

        network = MemoryNetwork(spec.model_id, spec.kwargs)
        module = run_quietly(lambda: network.create(None), spec, "the module cannot be copied").cpu().eval()
        preprocess = Preprocess().overridden(spec.preprocess.changes())
        return encoder_of(spec, network, module, preprocess, self.identify(spec))

    def sketch(self, spec: ModelSpec) -> Sketch:
        """See ``_sketch``; the module itself, of which no tensor is touched."""
        from selector.sources._sketch import image_sketch

        return image_sketch(
            lambda: (live(spec.model_id, spec.source), Preprocess().overridden(spec.preprocess.changes())), spec.name
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``; where the module was given, in this process too."""
        from selector.sources._encoder import build_headed

        return build_headed(MemoryNetwork(recipe["model"], recipe["kwargs"]), recipe)


@dataclass(frozen=True)
class MemoryNetwork(WithLastLinear):
    """A copy of the module that was given."""

    source: ClassVar[str] = "memory"

    def create(self, num_classes: int | None) -> nn.Module:
        """The module with a last linear layer of that width; 0 takes it off."""
        try:
            module: Any = copy.deepcopy(live(self.model, f"memory:{self.model}"))
        except ZooError as error:
            raise SourceError(str(error)) from None
        return self.with_classes(module, num_classes)
