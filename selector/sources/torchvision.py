"""Models of torchvision: ``torchvision:resnet50`` (its default weights) or ``torchvision:resnet50.IMAGENET1K_V2``.

A whole pretrained segmenter (``torchvision:fcn_resnet50``) is an encoder up to its last layer: the map that this layer
reads is one of its maps, so that a linear decoder on it is a new last layer and the pretrained decoder stays. A whole
pretrained detector (``torchvision:retinanet_resnet50_fpn``) is an encoder whose maps are those of its neck, with its heads
beside them: object detection keeps all but the layers that know the classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, ZooError, did_you_mean
from selector.core.preprocess import Preprocess
from selector.sources import _hub, _index, _weights, source
from selector.sources._last_linear import taken_off
from selector.sources._network import Network

if TYPE_CHECKING:
    from torch import nn

    from selector.sources._encoder import FeaturePath
    from selector.sources._sketch import Sketch
    from selector.zoo import ModelSpec

_LIST = """
import json, torchvision.models as m
names = {}
whole = [n for n in m.list_models(module=m.detection) if not n.startswith(("maskrcnn", "keypointrcnn"))]
for name in m.list_models(module=m) + m.list_models(module=m.segmentation) + whole:
    weights = list(m.get_model_weights(name))
    default = getattr(m.get_model_weights(name), "DEFAULT", None)
    names[name] = {"default": default.name if default else None, "urls": {w.name: w.url for w in weights},
                   "dense": name not in m.list_models(module=m)}
print(json.dumps(names))
"""

_RESERVED = frozenset({"weights", "weights_backbone", "progress", "pretrained", "norm_layer"})
_WITH_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
COCO_CLASSES = 91  # of torchvision's detectors, background and gaps in COCO's numbers included
_OF_MORE = ("maskrcnn", "keypointrcnn")  # their heads find more than boxes: not built
_SAMPLES = {"nearest", "bilinear", "bicubic", "lanczos"}


@source("torchvision")
class TorchvisionSource:
    """The ``torchvision:`` source: image classifiers, segmenters and detectors of boxes, without video."""

    def expand(self, pattern: str) -> list[str]:
        """``model.WEIGHTS`` that match, in natural order; see ``contracts.Source``.

        Segmenters and detectors are meant where nothing else matches (``fcn_*``): they read large images and cost
        accordingly.
        """
        if not any(char in pattern for char in "*?["):
            return [pattern]
        every = [(f"{model}.{name}", facts["dense"]) for model, facts in _known().items() for name in facts["urls"]]
        try:
            return _index.matching(pattern, [name for name, dense in every if not dense], "torchvision")
        except ZooError:
            return _index.matching(pattern, [name for name, _ in every], "torchvision")

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``."""
        _weights.refuse_kwargs(spec.name, spec.kwargs, _RESERVED)
        model, weights, url = _resolve(spec)
        identity: dict[str, object] = {"source": "torchvision", "model": model, **_weights.settings_identity(spec)}
        if spec.weights == "none":
            identity["weights"] = _weights.RANDOM_START
        elif spec.weights is not None:
            identity["weights"] = _weights.content_hash(spec.weights.path())
        else:
            identity |= {"model": f"{model}.{weights}", "weights": _hub.url_identity(url, spec.name)}
        return identity | {"versions": _weights.versions("torchvision", "torch")}

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        from selector.sources._encoder import make_encoder, run_quietly

        identity = self.identify(spec)
        model, weights, url = _resolve(spec)
        network = network_of(model, dict(spec.kwargs))
        path = None
        if spec.weights != "none":
            path = _hub.fetch_url(url, spec.name) if spec.weights is None else spec.weights.path()
        what = f"torchvision cannot build '{model}'"
        module = run_quietly(lambda: network.create(None), spec, what, spec.kwargs, [path] if path else ())
        if path is not None:
            dropped = network.dropped  # training-time side heads are never built
            state = {k: v for k, v in _weights.read_state_dict(path).items() if not k.startswith(dropped)}
            mapping = "by_name" if spec.weights is None or spec.weights == "none" else spec.weights.mapping
            head = next(iter(network.last_layers(module)), "")
            if mapping == "by_name" and f"{head}.weight" in state and "num_classes" not in spec.kwargs:
                classes = network.classes_in(state[f"{head}.weight"], module.get_submodule(head).weight)
                network = replace(network, kwargs={**network.kwargs, "num_classes": classes})
                module = run_quietly(lambda: network.create(None), spec, what, network.kwargs, [path])
            _weights.load_into(module, state, mapping, f"{spec.name}: {path}", "")
        module, network, preprocess = _preprocess(spec, module, network, weights)
        default, source_head = network.features(module, spec.name)
        return make_encoder(spec, network, module, preprocess, identity, default, source_head)

    def sketch(self, spec: ModelSpec) -> Sketch:
        """See ``_sketch``."""
        from selector.sources._encoder import run_quietly
        from selector.sources._sketch import image_sketch

        model, weights, _ = _resolve(spec)
        network = network_of(model, dict(spec.kwargs))

        what = f"torchvision cannot build '{model}'"
        return image_sketch(
            lambda: _preprocess(spec, run_quietly(lambda: network.create(None), spec, what), network, weights),
            spec.name,
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._encoder import build_headed

        return build_headed(network_of(recipe["model"], recipe["kwargs"]), recipe)


def _preprocess(
    spec: ModelSpec, module: nn.Module, network: TorchvisionNetwork, weights: str | None
) -> tuple[nn.Module, TorchvisionNetwork, Preprocess]:
    """How its weights read pictures, with the zoo's overrides; a network of a fixed size follows."""
    from torchvision import models

    enum = models.get_model_weights(network.model)
    preset = network.preset(module, enum[weights] if weights else getattr(enum, "DEFAULT", None))
    preprocess = preset.overridden(spec.preprocess.changes())
    if preprocess.input_size[1:] != preset.input_size[1:]:
        module, network = network.resized(module, preprocess.input_size[1:])
    return module, network, preprocess


def network_of(model: str, kwargs: Mapping[str, Any]) -> TorchvisionNetwork:
    """How torchvision builds it, by the module that it is in."""
    from torchvision import models

    kinds = ((models.segmentation, DenseNetwork), (models.detection, DetectorNetwork))
    kind = next((kind for module, kind in kinds if model in models.list_models(module)), TorchvisionNetwork)
    return TorchvisionNetwork(model, kwargs) if model.startswith(_OF_MORE) else kind(model, kwargs)


@dataclass(frozen=True)
class TorchvisionNetwork(Network):
    """An architecture of ``torchvision.models``."""

    source: ClassVar[str] = "torchvision"

    @property
    def dropped(self) -> tuple[str, ...]:
        """Prefixes of weights that are never built."""
        return _WITH_AUXILIARY.get(self.model, ())

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """Dotted names of the layers that know the classes."""
        return tuple(name for name in (self.classifier(module),) if name)

    def classes_in(self, weight: Any, own: object) -> int:
        """How many classes the weight of a last layer is for; ``own`` is that of the network as it is built."""
        return len(weight)

    def preset(self, module: object, weights: object) -> Preprocess:
        """How its weights read images."""
        return _preset(weights)

    def features(self, module: Any, name: str) -> tuple[FeaturePath, tuple[np.ndarray, np.ndarray] | None]:
        """How features are read off a network with its weights, whose last layer is taken off; and that layer.

        Raises:
            SourceError: features that this source does not know how to read.
        """
        from torch import nn
        from torchvision.models import VisionTransformer

        from selector.sources._encoder import FeaturePath

        if isinstance(module, VisionTransformer):
            module.num_prefix_tokens = 1  # the class token, for 'layer' and 'pooling'
        if head := self.classifier(module):
            return FeaturePath("forward"), taken_off(module, head)
        if not isinstance(getattr(module, "features", None), nn.Module):
            raise SourceError(f"{name}: torchvision's {self.model} has no features that this source knows how to read.")
        return FeaturePath("layer", layer="features"), None

    def create(self, num_classes: int | None) -> nn.Module:
        """``torchvision.models.get_model``; a width of 0 takes the final linear layer off.

        Raises:
            SourceError: another thing than a classifier (detectors fetch the weights of their backbones unasked), or
                a setting that makes torchvision fetch weights.
        """
        from torchvision import models

        if self.model not in models.list_models(module=models):
            raise SourceError(
                f"torchvision:{self.model}: torchvision has no classifier of this name, so it is not built."
            )
        lean = {"aux_logits": False, "init_weights": False} if self.model in _WITH_AUXILIARY else {}
        module = self._made(num_classes, **lean)
        if num_classes == 0:
            taken_off(module, self.classifier(module))
        return module

    def _made(self, num_classes: int | None, **fixed: object) -> nn.Module:
        """What torchvision builds with the settings of the entry and those that are ``fixed`` here."""
        from torchvision import models

        _weights.refuse_kwargs(f"torchvision:{self.model}", self.kwargs, _RESERVED)
        settings = {**self.kwargs, **fixed, **({"num_classes": num_classes} if num_classes else {})}
        module: nn.Module = models.get_model(self.model, weights=None, **settings)
        return module

    def classifier(self, module: nn.Module) -> str:
        """The last linear layer of the head, under the names that torchvision's architectures use."""
        from torch.nn import Linear, Sequential

        for name in ("fc", "heads", "head", "classifier"):
            layer = getattr(module, name, None)
            if isinstance(layer, Sequential) and len(layer):
                last = list(dict(layer.named_children()))[-1]
                name, layer = f"{name}.{last}", layer[-1]
            if isinstance(layer, Linear):
                return name
        return ""

    def resized(self, module: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, TorchvisionNetwork]:
        """Vision transformers get their position embedding resampled; others take any size or none."""
        from torchvision.models import VisionTransformer
        from torchvision.models.vision_transformer import interpolate_embeddings

        from selector.sources._encoder import seeded

        vit: object = module
        if not isinstance(vit, VisionTransformer):
            return module, self
        if size[0] != size[1]:
            raise SourceError("torchvision's vision transformers take square images only")
        network = replace(self, kwargs={**self.kwargs, "image_size": size[0]})
        state = interpolate_embeddings(size[0], vit.patch_size, copy.copy(vit.state_dict()))
        with seeded():
            changed = network.create(None)
        head = self.classifier(changed)
        if head and not self.classifier(module):  # it was taken off
            taken_off(changed, head)
        changed.load_state_dict(state)
        return changed.eval(), network


@dataclass(frozen=True)
class DenseNetwork(TorchvisionNetwork):
    """A segmenter of ``torchvision.models.segmentation``: backbone and decoder, up to the last layer."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """That of training's second loss."""
        return ("aux_classifier.",)

    def create(self, num_classes: int | None) -> nn.Module:
        """``torchvision.models.get_model`` with ``forward_features``; a width of 0 takes the last layer off."""
        from selector.sources._dense import headless, without_last_layer

        module = headless(self._made(num_classes, weights_backbone=None, aux_loss=False))
        if num_classes == 0:
            without_last_layer(module)
        return module

    def classifier(self, module: nn.Module) -> str:
        """None: the last layer is a convolution."""
        return ""

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """One, or the two of LR-ASPP."""
        from selector.sources._dense import last_layers

        return last_layers(module)

    def head_names(self, module: nn.Module) -> tuple[str, ...]:
        """The last layers."""
        return self.last_layers(module)

    def features(self, module: object, name: str) -> tuple[FeaturePath, None]:
        """The mean of the map that the last layer reads."""
        from selector.sources._dense import without_last_layer
        from selector.sources._encoder import FeaturePath

        without_last_layer(module)
        return FeaturePath("features"), None


@dataclass(frozen=True)
class DetectorNetwork(TorchvisionNetwork):
    """A detector of ``torchvision.models.detection``: its encoder ends at the neck, and its heads go with it."""

    def create(self, num_classes: int | None) -> nn.Module:
        """``torchvision.models.get_model``, whole whatever the width, with timm's interface to its maps."""
        from selector.sources._dense import with_neck

        return with_neck(self._made(num_classes, weights_backbone=None), self.model)

    def classifier(self, module: nn.Module) -> str:
        """None: it has several layers that know the classes."""
        return ""

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """See ``_dense.class_layers``."""
        from selector.sources._dense import class_layers

        return class_layers(module)

    def head_names(self, module: nn.Module) -> tuple[str, ...]:
        """None: all goes with its maps, and what reads them renews the class layers."""
        return ()

    def block_names(self, module: nn.Module) -> list[str]:
        """Those of the backbone."""
        from selector.sources._dense import blocks

        return blocks(module)

    def classes_in(self, weight: Any, own: Any) -> int:
        """A last layer may have several anchors a class."""
        return len(weight) * int(self.kwargs.get("num_classes", COCO_CLASSES)) // len(own)

    def preset(self, module: Any, weights: object) -> Preprocess:
        """What its own transform does: the short side, mean and deviation."""
        reads = module.transform
        side = int((reads.fixed_size or reads.min_size)[-1])
        return Preprocess(
            input_size=(3, side, side),
            mean=tuple(reads.image_mean),
            std=tuple(reads.image_std),
            interpolation="bilinear",
            crop_pct=1.0,
        )

    def features(self, module: object, name: str) -> tuple[FeaturePath, None]:
        """The mean of the coarsest map of its neck."""
        from selector.sources._encoder import FeaturePath

        return FeaturePath("features"), None


def _known() -> dict[str, Any]:
    return _index.index("torchvision", _LIST)


def _resolve(spec: ModelSpec) -> tuple[str, str | None, str]:
    """(model, name of its weights, address)."""
    model, _, name = spec.model_id.partition(".")
    weights: str | None = name
    known = _known()
    version = _weights.versions("torchvision")["torchvision"]
    if model not in known:
        raise SourceError(
            f"{spec.name}: torchvision {version} has no model '{model}'{did_you_mean(model, known) or '.'}"
        )
    facts = known[model]
    if weights in ("", "DEFAULT"):
        weights = facts["default"]
    elif weights not in facts["urls"]:
        raise SourceError(
            f"{spec.name}: torchvision {version} has no weights '{name}' for {model}"
            f"{did_you_mean(name, facts['urls']) or '.'} Known: {', '.join(facts['urls'])}."
        )
    if weights is None and spec.weights is None:
        raise SourceError(f"{spec.name}: torchvision {version} has no weights for {model}; give a file.")
    return model, weights, facts["urls"].get(weights, "")


def _preset(weights: Any) -> Preprocess:
    """torchvision's evaluation transform: resize the short side, crop the middle."""
    if weights is None:
        return Preprocess()
    transform = weights.transforms()
    resize = transform.resize_size[0]
    crop = getattr(transform, "crop_size", [resize])[0]  # whole images have none
    interpolation = transform.interpolation.value
    return Preprocess(
        input_size=(3, crop, crop),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=interpolation if interpolation in _SAMPLES else "bilinear",
        crop_pct=min(1.0, crop / resize),
    )
