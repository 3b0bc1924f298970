"""What the torch sources share: features of a module, its linear head, its random start.

A source says how its architectures are built (``Network``); everything that follows from a built
module (width, blocks, heads, other resolutions) is worked out here from real forward passes.
"""

from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, did_you_mean, first_line
from selector.core.preprocess import Preprocess
from selector.sources._blocks import blocks_by_structure, in_forward_order
from selector.sources._bounded import bounded_settings
from selector.sources._features import FeaturePath as FeaturePath
from selector.sources._features import Named, add_linear, layout_of, linear_weights, mixed, read_together
from selector.sources._maps import MapNetwork, MapTaps, alike, find_taps
from selector.sources._network import Network, running
from selector.sources._weights import identity_at
from selector.zoo import ModelSpec

log = logging.getLogger(__name__)


_BUILD_ERRORS = (SourceError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError, LookupError)
"""What a network that does not support a setting answers with."""


@contextmanager
def seeded() -> Iterator[None]:
    """Networks built inside start from the same weights every time; the caller's generators are untouched."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # not torch.manual_seed, which also moves the GPUs' generators
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


# ---------------------------------------------------------------------------- the contract


def build_headed(network: Network, recipe: Mapping[str, Any]) -> nn.Module:
    """The module that a recipe describes, in eval mode, from the seeded random start."""
    if recipe["head"] == "maps":
        return build_maps(network, recipe)
    with seeded():
        if recipe["head"] == "native":
            module = network.create(int(recipe["outputs"]))
            if not callable(getattr(module, "get_classifier", None)):
                name = network.classifier(module)
                module = mixed(module, Named)
                cast(Named, module).selector_classifier = name
        else:
            module = network.create(recipe["backbone_classes"])
            module = add_linear(module, FeaturePath(**recipe["path"]), int(recipe["features"]), int(recipe["outputs"]))
    return module.eval()


def build_maps(network: Network, recipe: Mapping[str, Any]) -> MapNetwork:
    """The module that a recipe of ``Encoder.map_recipe`` describes, in eval mode, from the seeded random start."""
    with seeded():
        module = network.create(recipe["backbone_classes"])
        built = MapNetwork(module, MapTaps.from_dict(recipe["taps"]), recipe["whole"])
        built.classes = recipe["backbone_classes"]
        return built.eval()


@dataclass(frozen=True)
class _Loaded:
    """A network with its weights, as all its variants share it."""

    network: Network
    module: nn.Module
    preprocess: Preprocess
    default: FeaturePath
    blocks: tuple[str, ...]
    source_head: tuple[np.ndarray, np.ndarray] | None


class TorchEncoder(Encoder):
    """An encoder around a torch module; made by ``make_encoder``."""

    module: nn.Module
    preprocess: Preprocess

    def __init__(self, spec: ModelSpec, loaded: _Loaded, identity: dict[str, object], path: FeaturePath) -> None:
        self.name = spec.name
        self.network = loaded.network
        self.module = loaded.module
        self.preprocess = loaded.preprocess
        self.identity = identity
        self.path = path
        self._loaded = loaded
        self._layer = spec.layer or ""
        self._resized: tuple[tuple[int, int], nn.Module, Network] | None = None  # the last size asked for
        self._mapped: tuple[tuple[int, int], nn.Module, Network] | None = None  # likewise of a canvas
        self.blocks = loaded.blocks
        if spec.layer in loaded.blocks:  # what lies behind the layer decides nothing
            self.blocks = loaded.blocks[: loaded.blocks.index(spec.layer) + 1]
        self.head_names = loaded.network.head_names(loaded.module)
        heads = tuple(f"{name}." for name in self.head_names)
        self.num_parameters = sum(p.numel() for name, p in self.module.named_parameters() if not name.startswith(heads))

    def encode(self, batch: Tensor) -> Tensor:
        """Features (B, D)."""
        return self.path(self.module, batch)

    def variant(self, spec: ModelSpec) -> TorchEncoder:
        """See ``contracts.Encoder``."""
        loaded = self._loaded
        path = _path(spec, loaded.module, loaded.default)
        with running(spec.name, self.preprocess.input_size), torch.no_grad():
            raw = path.raw(loaded.module, probe_batch(self.preprocess.input_size))
        return _read(spec, loaded, identity_at(self.identity, spec), path, raw)

    def encode_variants(self, batch: Tensor, variants: Sequence[Encoder]) -> list[Tensor]:
        """See ``contracts.Encoder``."""
        paths = [cast(TorchEncoder, variant).path for variant in variants]
        return read_together(self.module, batch, paths)[0]

    @cached_property
    def taps(self) -> MapTaps:
        """Where the maps are read; from a forward pass, once a network.

        Raises:
            SourceError: the network gives none.
        """
        try:
            return find_taps(self.module, self._loaded.blocks, self.preprocess.input_size, self._whole, self._layer)
        except SourceError as error:
            raise SourceError(f"{self.name}: {error}") from None

    @property
    def _whole(self) -> bool:
        return self.path.kind == "forward"

    @property
    def strides(self) -> tuple[int, ...]:
        """See ``contracts.Encoder``."""
        return self.taps.strides

    def maps(self, batch: Tensor) -> list[tuple[int, Tensor]]:
        """See ``contracts.Encoder``."""
        _, found = self.taps.read(self.module, batch, self._whole)
        return list(zip(self.taps.strides, found, strict=True))

    def encode_maps(self, batch: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """See ``contracts.Encoder``."""
        (features,), found = read_together(self.module, batch, [self.path], self.taps)
        return features, list(zip(self.taps.strides, found, strict=True))

    def on_canvas(self, size: tuple[int, int]) -> TorchEncoder:
        """See ``contracts.Encoder``."""
        module, network = self._canvas(size)
        other = copy.copy(self)
        other.module, other.network = module, network
        other.preprocess = self.preprocess.on_canvas(size)
        other._loaded = replace(self._loaded, module=module, network=network, preprocess=other.preprocess)
        other._resized = other._mapped = None
        other.__dict__.pop("_plan", None)
        return other

    def map_module(self, input_size: tuple[int, int] | None = None) -> MapNetwork:
        """See ``contracts.Encoder``."""
        module, network = self._canvas(input_size)
        reasons = []
        for classes in (0, None):  # without the head, where the architecture can do without
            try:
                built = build_maps(network, self._map_recipe(network, classes))
                new = built.network
                heads = *network.head_names(new), network.classifier(new)
                _copy_state(module, new, (*self.head_names, network.classifier(module), *heads))
                self._check_maps(module, built, input_size)
                return built
            except _BUILD_ERRORS as error:
                reasons.append(first_line(error))
        raise SourceError(f"{self.name}: its maps cannot be trained: {'; '.join(reasons)}")

    def map_recipe(self, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """See ``contracts.Encoder``."""
        _, network = self._canvas(input_size)
        return self._map_recipe(network, self.map_module(input_size).classes)

    def _map_recipe(self, network: Network, classes: int | None) -> dict[str, object]:
        recipe = {
            **network.describe(),
            **{"head": "maps", "backbone_classes": classes, "whole": self._whole, "taps": asdict(self.taps)},
        }
        plain: dict[str, object] = json.loads(json.dumps(recipe))
        return plain

    def _check_maps(self, module: nn.Module, built: MapNetwork, size: tuple[int, int] | None) -> None:
        channels, *native = self.preprocess.input_size
        batch = probe_batch((channels, *(size or native)))
        with torch.no_grad():
            expected = self.taps.read(module, batch, self._whole)[1]
            if not all(alike(a, b) for a, b in zip(built(batch), expected, strict=True)):
                raise SourceError("the maps of the network that was built again are others")

    def _canvas(self, size: tuple[int, int] | None) -> tuple[nn.Module, Network]:
        """The network for images of (height, width), whose maps were read once at that size."""
        channels, *native = self.preprocess.input_size
        if size is None or tuple(size) == tuple(native):
            _ = self.taps
            return self.module, self.network
        if self._mapped is not None and self._mapped[0] == tuple(size):
            return self._mapped[1:]
        at, stride = f"{size[0]}x{size[1]}", self.taps.strides[-1]
        if self.taps.exact and (size[0] % stride or size[1] % stride):
            nearest = "x".join(str(max(1, round(side / stride)) * stride) for side in size)
            raise SourceError(
                f"{self.name}: {at} pixels (height x width) are no multiple of the largest stride of the network, "
                f"{stride}; use {nearest}."
            )
        try:
            module, network = self.network.resized(self.module, (size[0], size[1]))
            with torch.no_grad():
                found = self.taps.read(module, probe_batch((channels, *size)), self._whole)[1]
        except Exception as error:
            raise SourceError(
                f"{self.name}: the network gives no maps at {at} ({first_line(error)}); leave it at its native "
                f"{native[0]}x{native[1]}."
            ) from error
        cells = [tuple(side // stride for side in size) for stride in self.taps.strides]
        shapes = [tuple(one.shape[1:]) for one in found]
        if [shape[0] for shape in shapes] != list(self.taps.channels) or (
            self.taps.exact and [shape[1:] for shape in shapes] != cells
        ):
            raise SourceError(
                f"{self.name}: at {at} the network gives maps {shapes}; expected {list(self.taps.channels)} channels on "
                f"{cells} cells."
            )
        self._mapped = ((size[0], size[1]), module, network)
        return module, network

    def with_head(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> nn.Module:
        """A fresh module (B, C, H, W) -> (B, num_outputs), in eval mode; see ``contracts.Encoder``."""
        module, network = self._sized(input_size)
        headed = build_headed(network, self._recipe(network, *self._plan, num_outputs))
        _copy_backbone(module, headed, self.head_names)
        return headed

    def recipe(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """Plain JSON for ``build`` of the same source."""
        _, network = self._sized(input_size)
        return self._recipe(network, *self._plan, num_outputs)

    def _recipe(self, network: Network, head: str, backbone_classes: int | None, num_outputs: int) -> dict[str, object]:
        recipe = {**network.describe(), "head": head, "outputs": num_outputs, "features": self.num_features}
        if head == "added":
            recipe |= {"backbone_classes": backbone_classes, "path": asdict(self.path)}
        plain: dict[str, object] = json.loads(json.dumps(recipe))
        return plain

    @cached_property
    def _plan(self) -> tuple[str, int | None]:
        """(head, classes of the backbone): the first way to a head that gives the features of ``encode``.

        The network's own head is preferred, because then the trained weights load into the plain
        architecture; else a linear layer is added to the network without its head, or, where
        taking the head off changes the features, to the network as it is.
        """
        if self.source_head is not None and self.path.kind in ("head", "forward"):
            return "native", None
        ways: list[tuple[str, int | None]] = [("added", 0), ("added", None)]
        if self.path.kind in ("head", "forward"):
            ways.insert(0, ("native", None))
        for way in ways:
            try:
                headed = build_headed(self.network, self._recipe(self.network, *way, 2))
                _copy_backbone(self.module, headed, self.head_names)
                if self._agrees(headed):
                    return way
            except _BUILD_ERRORS as error:
                log.debug("%s: no head by way of %s: %s", self.name, way, error)
        raise SourceError(f"{self.name}: no trainable linear head can be put on this network.")

    def _agrees(self, headed: Any) -> bool:
        head = headed.get_classifier()
        if not isinstance(head, nn.Linear) or head.in_features != self.num_features:
            return False
        batch = probe_batch(self.preprocess.input_size)
        with torch.no_grad():
            head.bias.zero_()  # beside a bias, small features of a random start would not show
            return alike(headed(batch), head(self.encode(batch)))

    def _sized(self, input_size: tuple[int, int] | None) -> tuple[nn.Module, Network]:
        channels, *native = self.preprocess.input_size
        if input_size is None or tuple(input_size) == tuple(native):
            return self.module, self.network
        if self._resized is not None and self._resized[0] == tuple(input_size):
            return self._resized[1:]
        height, width = input_size
        at = f"{height}x{width}"
        try:
            module, network = self.network.resized(self.module, (height, width))
            with torch.no_grad():
                features = self.path(module, probe_batch((channels, height, width)))
        except Exception as error:
            raise SourceError(
                f"{self.name}: the network does not work at {at} ({first_line(error)}); "
                f"leave it at its native {native[0]}x{native[1]}."
            ) from error
        if features.shape != (1, self.num_features):
            raise SourceError(
                f"{self.name}: at {at} the network gives features {tuple(features.shape)}, expected "
                f"(1, {self.num_features}); leave it at its native {native[0]}x{native[1]}."
            )
        self._resized = ((height, width), module, network)
        return module, network


def make_encoder(
    spec: ModelSpec,
    network: Network,
    module: nn.Module,
    preprocess: Preprocess,
    identity: dict[str, object],
    default: FeaturePath,
    source_head: tuple[np.ndarray, np.ndarray] | None = None,
) -> TorchEncoder:
    """Look at a loaded network once and wrap it.

    Args:
        spec: its entry in the zoo; ``pooling`` and ``layer`` decide what is read off.
        network: how it was built.
        module: with its weights.
        preprocess: final, overrides applied.
        identity: as ``Source.identify`` gives it.
        default: how features are read when the spec names no layer and no pooling.
        source_head: given where it is known; otherwise it is taken from the classifier, when that is
            linear on the features.
    Raises:
        SourceError: the layer does not exist, the pooling does not fit, the network does not run
            at its input size, or its features are not finite.
    """
    module.eval()
    path = _path(spec, module, default)
    names = network.block_names(module)
    batch = probe_batch(preprocess.input_size)
    with running(spec.name, preprocess.input_size):
        raw, blocks = in_forward_order(module, names, lambda: path.raw(module, batch))
        if not blocks:
            by_structure = blocks_by_structure(module, network.classifier(module))
            raw, blocks = in_forward_order(module, by_structure, lambda: path.raw(module, batch))
    loaded = _Loaded(network, module, preprocess, default, tuple(blocks), source_head)
    return _read(spec, loaded, identity, path, raw)


def _read(
    spec: ModelSpec, loaded: _Loaded, identity: dict[str, object], path: FeaturePath, raw: Tensor
) -> TorchEncoder:
    """The encoder that reads a loaded network at ``path``; ``raw`` is what the network gave there."""
    path = _with_layout(spec, loaded.module, path, raw)
    features = path.pooled(raw)
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise SourceError(
            f"{spec.name}: features of a test image have shape {tuple(features.shape)} and are "
            f"{'finite' if bool(torch.isfinite(features).all()) else 'not finite'}; expected finite (1, D)."
        )
    encoder = TorchEncoder(spec, loaded, identity, path)
    encoder.num_features = int(features.shape[1])
    classifier = loaded.network.classifier(loaded.module)
    if spec.weights == "none" or spec.layer is not None or spec.pooling is not None:
        pass  # the head of a random start has no source task; other variants are not what the head was trained on
    elif loaded.source_head is not None:
        encoder.source_head = loaded.source_head
    elif classifier and path.kind == "head":
        batch = probe_batch(loaded.preprocess.input_size)
        encoder.source_head = _linear_head(loaded.module, classifier, batch, features)
    return encoder


def probe_batch(input_size: tuple[int, ...]) -> Tensor:
    """One image of seeded noise (1, C, H, W)."""
    return torch.randn((1, *input_size), generator=torch.Generator().manual_seed(0))


def run_quietly(
    build: Callable[[], nn.Module],
    spec: ModelSpec,
    what: str,
    settings: Mapping[str, object] = MappingProxyType({}),
    weights: Sequence[Path] = (),
) -> nn.Module:
    """Build from the seeded start; whatever goes wrong is this model's ``SourceError``.

    Settings that others chose (``bounded_settings``) make no network that is larger than its weights.
    """
    try:
        with seeded(), bounded_settings(spec.name, settings, *weights):
            return build()
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{spec.name}: {what}: {first_line(error)}") from error


def _path(spec: ModelSpec, module: nn.Module, default: FeaturePath) -> FeaturePath:
    pooling = spec.pooling or default.pooling
    if pooling not in ("avg", "max", "cls"):
        raise SourceError(f"{spec.name}: pooling '{pooling}' is for texts; images take avg, max or cls.")
    if spec.layer is not None:
        known = [name for name, _ in module.named_modules() if name]
        if spec.layer not in known:
            raise SourceError(
                f"{spec.name}: the network has no layer '{spec.layer}'{did_you_mean(spec.layer, known) or '.'} "
                "'layer' is the dotted name of a submodule, such as one of its blocks."
            )
        return FeaturePath("layer", layer=spec.layer, pooling=pooling)
    if spec.pooling is not None and default.kind == "head":
        return FeaturePath("features", pooling=pooling)
    return replace(default, pooling=pooling)


def _with_layout(spec: ModelSpec, module: nn.Module, path: FeaturePath, raw: Tensor) -> FeaturePath:
    layout = layout_of(raw, getattr(module, "output_fmt", None))
    prefix = _prefix_tokens(module) if layout == "tokens" else 0
    if spec.pooling is not None and layout == "rows":
        raise SourceError(
            f"{spec.name}: pooling '{spec.pooling}' needs a map or tokens, but "
            f"{path.layer or 'the network'} gives {tuple(raw.shape)}; leave 'pooling' out or name an earlier 'layer'."
        )
    if path.pooling == "cls" and (layout != "tokens" or not prefix):
        if spec.pooling == "cls":
            raise SourceError(f"{spec.name}: pooling 'cls' needs a class token, which this network does not have.")
        path = replace(path, pooling="avg")
    return replace(path, layout=layout, prefix_tokens=prefix)


def _prefix_tokens(module: nn.Module) -> int:
    return int(getattr(module, "num_prefix_tokens", 0) or 0)


def _linear_head(module: Any, classifier: str, batch: Tensor, features: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    layer = module.get_submodule(classifier)
    if layer.in_features != features.shape[1]:
        return None
    with torch.no_grad():
        logits = module(batch)
        bias = 0.0 if layer.bias is None else layer.bias
        if not isinstance(logits, Tensor) or not alike(logits - bias, features @ layer.weight.T):
            return None
        if layer.bias is not None and not bool(layer.bias.any()):
            return None  # a projection into a space shared with text (CLIP), not classes: nobody learned its bias
    return linear_weights(layer)


def _copy_state(module: nn.Module, built: nn.Module, head_names: Sequence[str]) -> None:
    """All weights but those of the heads; names and shapes must agree."""
    heads = tuple(f"{name}." for name in head_names if name)
    state, own = module.state_dict(), built.state_dict()
    for tensors in (state, own):
        for key in [key for key in tensors if key.startswith(heads)]:
            del tensors[key]  # in place: a copy would lose the versions that are kept beside the tensors
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
        raise SourceError("the network that was built again has other weights than the one that was loaded")
    built.load_state_dict(state, strict=False)


def _copy_backbone(module: nn.Module, headed: Any, head_names: tuple[str, ...]) -> None:
    """All weights but those of the old heads (``head_names`` of ``module``) and of the new one."""
    new = headed.get_classifier()
    _copy_state(module, headed, (*head_names, *(name for name, one in headed.named_modules() if one is new)))
