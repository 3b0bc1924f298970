"""CLIP's image tower and transformers' whole detectors: what is read, what is refused, and the words beside an image.

No real pair of towers is small enough to be a test's: ``support.vision_models`` sets the weights of a tiny one by hand.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selector.core.errors import SourceError
from selector.extract.cost import footprint
from selector.sources import registry
from selector.zoo import ModelSpec
from tests.sources.samples import head_of
from tests.support.vision_models import COLORS, DETECTORS, clip, detector


def spec(folder: Path, source: str = "vision", **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": f"{source}:{folder}", "name": folder.name, **more})


def load(folder: Path, **more: Any) -> Any:
    return registry.get("vision").load(spec(folder, **more))


def test_the_tower_gives_what_clip_pools_at_any_size(tmp_path: Path) -> None:
    from transformers import CLIPModel

    encoder = load(clip(tmp_path, exact=False))
    assert encoder.preprocess.to_dict() == {
        **{"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3},
        **{"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"},
    }
    own = CLIPModel.from_pretrained(tmp_path).eval()
    batch = torch.randn((3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), own.vision_model(batch).pooler_output)
        assert encoder.with_head(5, (32, 32))(torch.cat([batch] * 4, 2).reshape(3, 3, 32, 32)).shape == (3, 5)
    assert (encoder.blocks, encoder.strides) == (("encoder.layers.0",), (8,))


def test_a_head_on_the_tower_is_built_again_from_its_recipe(tmp_path: Path) -> None:
    encoder = load(clip(tmp_path, exact=False))
    head_of(encoder, encoder.probe())


def test_logits_are_those_of_clip(tmp_path: Path) -> None:
    from transformers import CLIPModel, PreTrainedTokenizerFast

    encoder, texts = load(clip(tmp_path, exact=False)), ["a photo of a red.", "blue", "a green photo of a blue photo"]
    own = CLIPModel.from_pretrained(tmp_path).eval()
    batch = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    tokens = PreTrainedTokenizerFast.from_pretrained(tmp_path)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = own(
            pixel_values=batch, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).logits_per_image
        found = registry.get("vision").zero_shot(spec(tmp_path), texts)(encoder.encode(batch).numpy())
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_by_hand_a_color_is_nearest_to_its_word(tmp_path: Path) -> None:
    encoder = load(clip(tmp_path))
    batch = torch.full((3, 3, 16, 16), -1.0)
    for number in range(3):
        batch[number, number] = 1.0
    logits = registry.get("vision").zero_shot(spec(tmp_path), [f"a photo of a {color}." for color in COLORS])
    with torch.no_grad():
        assert logits(encoder.encode(batch).numpy()).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_is_read_at_its_neck(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForObjectDetection

    encoder = load(detector(tmp_path, kind))
    assert encoder.preprocess.to_dict() == {
        **{"input_size": [3, 96, 96], "mean": [0.0] * 3, "std": [1.0] * 3},
        **{"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"},
    }
    own = AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    batch = torch.rand((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        necks = own(batch).encoder_last_hidden_state
        for (stride, found), wanted in zip(encoder.maps(batch), necks, strict=True):
            assert found.shape[2] == 96 // stride
            torch.testing.assert_close(found, wanted)
    assert len(encoder.blocks) == 4


def test_memory_is_told_without_weights(tmp_path: Path) -> None:
    (clip(tmp_path) / "model.safetensors").write_bytes(b"")
    sketch = registry.get("vision").sketch(spec(tmp_path))
    assert all(p.device.type == "meta" for p in sketch.module.parameters())
    assert footprint(sketch).weights > 1_000


def test_other_types_and_weights_from_elsewhere_are_refused(tmp_path: Path) -> None:
    from tests.support.text_models import text_model

    with pytest.raises(SourceError, match="its type is 'bert'; 'vision:' reads clip"):
        load(text_model(tmp_path / "bert"))
    folder = clip(tmp_path / "clip")
    with pytest.raises(SourceError, match="it reads images: name it as 'vision:'"):
        registry.get("transformers").load(spec(folder, "transformers"))
    folder = detector(tmp_path / "detr")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("use_timm_backbone", True), ("backbone", "resnet18")):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(SourceError, match=f"{key} names weights from elsewhere"):
            load(folder)
    other = {**config, "backbone_config": {**config["backbone_config"], "model_type": "timm_backbone"}}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(SourceError, match="the type 'timm_backbone' is not read"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"size": 10000000}')
    with pytest.raises(SourceError, match=r"preprocessor_config\.json is not read"):
        load(folder)
