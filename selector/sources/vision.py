"""Image models of transformers: ``vision:org/name`` (hub) or ``vision:path/to/folder``.

The image tower of CLIP models, read before its projection, and whole detectors (RT-DETR, RT-DETRv2, D-FINE), of which
detection keeps all but the layers that know the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selector.sources import source
from selector.sources.transformers import TransformersSource

if TYPE_CHECKING:
    from torch import nn

    from selector.core.contracts import Encoder
    from selector.sources._sketch import Sketch
    from selector.zoo import ModelSpec


@source("vision")
class VisionSource(TransformersSource):
    """The ``vision:`` source."""

    prefix = "vision"

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        from selector.sources._vision import load_encoder

        return load_encoder(spec, self.identify(spec))

    def sketch(self, spec: ModelSpec) -> Sketch:
        """See ``_sketch``."""
        from selector.sources._sketch import image_sketch
        from selector.sources._text_files import ModelFiles, find_files
        from selector.sources._vision import load_network

        files = ModelFiles(find_files(spec).folder)
        return image_sketch(lambda: load_network(spec, files)[1:], spec.name)

    def zero_shot(self, spec: ModelSpec, texts: Sequence[str]) -> Callable[[Any], Any] | None:
        """What gives logits (N, C) of features (N, D) from a text per class; None of models without a text tower."""
        from selector.sources._vision import zero_shot_logits

        return zero_shot_logits(spec, texts)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._encoder import build_headed
        from selector.sources._vision import VisionNetwork

        return build_headed(VisionNetwork(recipe["model"], recipe["kwargs"]), recipe)
