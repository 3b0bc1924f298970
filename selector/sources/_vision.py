"""The image tower of CLIP models and whole detectors of transformers, as this project calls them; imports torch."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.preprocess import Preprocess
from selector.sources._encoder import FeaturePath, make_encoder
from selector.sources._features import Necked, mixed
from selector.sources._network import Network
from selector.sources._text_files import ModelFiles, find_files
from selector.sources._transformer import IMAGE_CLASSES, create, create_backbone
from selector.sources.transformers import load_backbone, read_tokenizer_files
from selector.zoo import ModelSpec
from selector.zoo.spec import PreprocessOverrides

_USUAL = {
    "clip": {
        **{"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]},
        **{"crop_size": 224, "do_center_crop": True, "resample": 3},
    }
}
_OF_DETECTORS = {"size": 640, "do_normalize": False, "resample": 2}
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_MOST_BOXES = 100  # an image, as COCO's protocol counts
_OF_CLASSES = re.compile(r"(^|\.)(class_embed|enc_score_head|denoising_class_embed)\.")


def load_encoder(spec: ModelSpec, identity: dict[str, Any]) -> Encoder:
    """See ``contracts.Source.load``."""
    network, module, preprocess = load_network(spec, find_files(spec))
    path = FeaturePath("forward" if isinstance(module, _Tower) else "features")
    return make_encoder(spec, network, module, preprocess, identity, path)


def load_network(spec: ModelSpec, files: ModelFiles) -> tuple[VisionNetwork, nn.Module, Preprocess]:
    """The network that reads images, with the weights among its files, and how it reads them."""
    model: Any = _whole(spec, files)
    tower = getattr(model, "vision_model", model)
    config = json.loads(json.dumps({"model_type": tower.config.model_type, **tower.config.to_diff_dict()}))
    network = VisionNetwork(tower.config.model_type, {"config": config, "classes": tower.config.num_labels})
    return network, _mixed(tower), _preset(spec, files, _USUAL.get(model.config.model_type, _OF_DETECTORS))


def _whole(spec: ModelSpec, files: ModelFiles) -> nn.Module:
    """The model with all that it has: a detector for any size, its class layers as wide as its weights'."""
    config, changes = {**files.read("config.json"), **spec.kwargs}, dict(spec.kwargs)
    if config.get("model_type") not in _USUAL:
        named = config.get("id2label")
        changes |= {"eval_size": None, "anchor_image_size": None}
        changes |= {"num_labels": len(named)} if isinstance(named, dict) else {}
    return load_backbone(spec.model_copy(update={"kwargs": changes}), files, IMAGE_CLASSES)


def _preset(spec: ModelSpec, files: ModelFiles, usual: dict[str, Any]) -> Preprocess:
    """How a model reads images, with the zoo's overrides; ``usual`` is what ``preprocessor_config.json`` leaves open."""
    said = {**usual, **files.read("preprocessor_config.json")}
    cropped, plain = said.get("do_center_crop") is True, said.get("do_normalize") is False
    size = said["crop_size" if cropped else "size"]
    sides = [size.get(key) for key in ("height", "width")] if isinstance(size, dict) else [size, size]
    mean, std = ([0.0] * 3, [1.0] * 3) if plain else (said["image_mean"], said["image_std"])
    stated = {"input_size": [3, *sides], "mean": mean, "std": std, "interpolation": _RESAMPLE.get(said["resample"])}
    try:
        found = PreprocessOverrides.model_validate({**stated, "crop_mode": "center" if cropped else "squash"})
    except ValueError as error:
        raise SourceError(f"{spec.name}: preprocessor_config.json is not read: {str(error).splitlines()[2]}") from None
    return Preprocess(crop_pct=1.0).overridden({**found.changes(), **spec.preprocess.changes()})


@dataclass(frozen=True)
class VisionNetwork(Network):
    """An image model; ``kwargs`` are its ``config`` and how many ``classes`` it was trained for."""

    source: ClassVar[str] = "vision"

    def create(self, num_classes: int | None) -> nn.Module:
        """The whole network, whatever the width: heads are put on it."""
        return _mixed(create_backbone(self.kwargs["config"], num_labels=int(self.kwargs["classes"])))

    def block_names(self, module: nn.Module) -> list[str]:
        """Of a detector the stages of its backbone."""
        if isinstance(module, _Tower):
            return super().block_names(module)
        place = "model.backbone.model.encoder.stages"
        return [f"{place}.{name}" for name, _ in module.get_submodule(place).named_children()]


def _mixed(module: nn.Module) -> nn.Module:
    return mixed(module, _Tower if cast(Any, module).config.model_type == "clip_vision_model" else _Detector).eval()


class _Tower(nn.Module):
    """Images (B, C, H, W) of any size -> what a tower pools (B, D)."""

    num_prefix_tokens = 1

    def forward(self, batch: Tensor) -> Tensor:
        return cast(Tensor, super().forward(batch, interpolate_pos_encoding=True).pooler_output)


def zero_shot_logits(spec: ModelSpec, texts: Sequence[str]) -> Callable[[np.ndarray], np.ndarray] | None:
    """What gives logits (N, C) of a tower's features (N, D): cosines with texts in the space of both towers, scaled."""
    from tokenizers import Tokenizer

    files = find_files(spec)
    model: Any = _whole(spec, files)
    if not hasattr(model, "text_model"):
        return None
    content, _, pad, _ = read_tokenizer_files(spec, files)
    tokenizer = Tokenizer.from_str(content)
    tokenizer.enable_truncation(model.config.text_config.max_position_embeddings)
    tokenizer.enable_padding(pad_id=pad or 0)
    rows = tokenizer.encode_batch(list(texts))
    ids, mask = torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])
    with torch.inference_mode():
        named = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        weight = model.logit_scale.exp() * nn.functional.normalize(named)
        projection = model.visual_projection.weight

    def logits(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            shared = torch.from_numpy(np.asarray(features, np.float32)) @ projection.T
            found: np.ndarray = (nn.functional.normalize(shared) @ weight.T).numpy()
        return found

    return logits


class _Detector(Necked):
    """A detector that is called as torchvision's are, and has timm's interface to its maps."""

    model: Any
    config: Any

    @property
    def backbone(self) -> Any:
        """What is fixed where all else learns."""
        return self.model.backbone

    @property
    def neck_and_heads(self) -> tuple[str, ...]:
        """Dotted names of all but the backbone."""
        inner = [f"model.{name}" for name, _ in self.model.named_children() if name != "backbone"]
        return (*inner, *(name for name, _ in self.named_children() if name != "model"))

    def neck_maps(self, batch: Tensor) -> list[Tensor]:
        """See ``Necked``."""
        found = self.model.backbone(batch, batch.new_ones((len(batch), *batch.shape[2:])))
        projected = [f(m) for f, (m, _) in zip(self.model.encoder_input_proj, found, strict=True)]
        return list(self.model.encoder(projected)[0])

    def forward(self, batch: Tensor, targets: Any = None) -> object:
        """The loss, or of each image ``boxes`` in pixels, ``labels`` and ``scores``, the most confident first."""
        height, width = batch.shape[2:]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=batch.device)
        if targets is not None:
            boxes = [box_convert(one["boxes"], "xyxy", "cxcywh") / scale for one in targets]
            known = [{"class_labels": one["labels"], "boxes": b} for one, b in zip(targets, boxes, strict=True)]
            return {"loss": super().forward(batch, labels=known).loss}
        found = super().forward(batch)
        _, count, classes = found.logits.shape
        scores, places = found.logits.sigmoid().flatten(1).topk(min(_MOST_BOXES, count * classes))
        every = box_convert(found.pred_boxes, "cxcywh", "xyxy").clamp(0, 1) * scale
        rows = zip(every, places, scores, strict=True)
        return [{"boxes": b[p // classes], "labels": p % classes, "scores": s} for b, p, s in rows]

    def with_classes(self, classes: int) -> nn.Module:
        """A detector with these weights and new class layers."""
        config = copy.deepcopy(self.config)
        config.num_labels = classes
        fresh = _mixed(create(config))
        fresh.load_state_dict({k: v for k, v in self.state_dict().items() if not _OF_CLASSES.search(k)}, strict=False)
        return fresh
