import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from selector.core.errors import SourceError, WeightsMissing
from selector.sources import _hub, registry
from selector.zoo import ModelSpec
from tests.sources.samples import images, load, spec

SMALL = {"preprocess": {"input_size": [3, 64, 64]}}


def stored(folder: Path, name: str, seed: int = 3, **kwargs: Any) -> tuple[torch.nn.Module, dict[str, str]]:
    torch.manual_seed(seed)
    module = models.get_model(name, weights=None, **kwargs).eval()
    torch.save(module.state_dict(), folder / f"{name}.pth")
    return module, {"file": f"{name}.pth", "base": str(folder)}


@pytest.mark.parametrize(
    ("name", "node"), [("resnet18", "flatten"), ("mnasnet0_5", "mean"), ("mobilenet_v3_small", "classifier.2")]
)
def test_features_are_what_feeds_the_last_linear_layer(tmp_path, name, node):
    module, weights = stored(tmp_path, name, num_classes=5)
    encoder = load(spec(f"torchvision:{name}", weights=weights, **SMALL))
    batch = images(encoder)
    with torch.no_grad():
        expected = create_feature_extractor(module, {node: "x"})(batch)["x"]
        features = encoder.encode(batch)
        torch.testing.assert_close(features, expected)
        weight, bias = encoder.source_head
        assert weight.shape == (5, encoder.num_features)
        logits = features @ torch.from_numpy(weight).T + torch.from_numpy(bias)
        torch.testing.assert_close(logits, module(batch), rtol=1e-3, atol=1e-4)
        plain = models.get_model(name, weights=None, num_classes=3).eval()
        headed = encoder.with_head(3)
        plain.load_state_dict(headed.state_dict())
        torch.testing.assert_close(plain(batch), headed(batch))


def test_weights_of_torchvision_are_found_where_torch_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = ModelSpec(name="tv", source="torchvision:shufflenet_v2_x0_5")
    with pytest.raises(
        WeightsMissing,
        match=r"tv: weights https://.*/shufflenetv2_x0\.5-\S+\.pth are not on this machine .*without --offline",
    ):
        load(model)
    url = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url
    file = _hub.url_file(url)
    assert file.parent == Path(torch.hub.get_dir()) / "checkpoints"
    file.parent.mkdir(parents=True)
    module, _ = stored(file.parent, "shufflenet_v2_x0_5")
    (file.parent / "shufflenet_v2_x0_5.pth").rename(file)
    identity = registry.get("torchvision").identify(model)
    assert identity["weights"] == f"url:{file.name}"
    assert identity["model"] == "shufflenet_v2_x0_5.IMAGENET1K_V1"
    encoder = load(
        ModelSpec(source="torchvision:shufflenet_v2_x0_5.IMAGENET1K_V1", preprocess={"input_size": [3, 64, 64]})
    )
    assert encoder.source_head[0].shape == (1000, 1024)
    torch.testing.assert_close(encoder.module.conv1[0].weight, module.conv1[0].weight)


def test_preprocessing_is_that_of_the_weights():
    encoder = load(spec("torchvision:efficientnet_b0.IMAGENET1K_V1"))
    transform = models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms()
    preprocess = encoder.preprocess
    assert preprocess.input_size == (3, transform.crop_size[0], transform.crop_size[0])
    assert (list(preprocess.mean), list(preprocess.std)) == (transform.mean, transform.std)
    assert preprocess.interpolation == transform.interpolation.value
    # timm's crop: the short side is resized to floor(size / crop_pct)
    assert int(preprocess.input_size[1] / preprocess.crop_pct) == transform.resize_size[0]


def test_side_heads_of_training_are_left_out(tmp_path):
    module, weights = stored(tmp_path, "googlenet", aux_logits=True, init_weights=False)
    encoder = load(spec("torchvision:googlenet", weights=weights, **SMALL))
    batch = images(encoder)
    with torch.no_grad():
        features = create_feature_extractor(module, {"flatten": "x"})(batch)["x"]
        torch.testing.assert_close(encoder.encode(batch), features)
    assert isinstance(encoder.with_head(2).train()(batch), torch.Tensor)  # not a tuple with side outputs


@pytest.mark.slow
def test_a_vision_transformer_at_another_size_and_its_class_token():
    encoder = load(spec("torchvision:vit_b_32", layer="encoder.layers.encoder_layer_0", pooling="cls", **SMALL))
    assert encoder.encode(images(encoder, 1)).shape == (1, 768)
    encoder = load(spec("torchvision:vit_b_32", **SMALL))
    assert encoder.module.image_size == 64
    recipe = encoder.recipe(2, (96, 96))
    assert recipe["kwargs"] == {"image_size": 96}
    headed = encoder.with_head(2, (96, 96))
    plain = torchvision.models.vit_b_32(num_classes=2, image_size=96).eval()
    plain.load_state_dict(headed.state_dict())
    batch = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(plain(batch), headed(batch))
    with pytest.raises(SourceError, match="take square images only"):
        encoder.with_head(2, (96, 64))


def test_names_and_settings_that_are_wrong(tmp_path):
    identify = registry.get("torchvision").identify
    with pytest.raises(SourceError, match=r"torchvision \S+ has no model 'resnet5'; did you mean 'resnet"):
        identify(spec("torchvision:resnet5"))
    with pytest.raises(
        SourceError,
        match=r"no weights 'IMAGENET_V2' for resnet50; did you mean 'IMAGENET1K_V2'\? Known: IMAGENET1K_V1, ",
    ):
        identify(spec("torchvision:resnet50.IMAGENET_V2"))
    with pytest.raises(SourceError, match=r"kwargs\.weights is not passed on; say with 'weights'"):
        identify(spec("torchvision:resnet50", kwargs={"weights": "DEFAULT"}))
    assert identify(spec("torchvision:resnet50.DEFAULT"))["model"] == "resnet50"
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kwargs": {"weights": "DEFAULT"}}, r"kwargs\.weights is not passed on"),
        ({"kwargs": {"weights_backbone": "DEFAULT"}}, r"kwargs\.weights_backbone is not passed on"),
        ({"model": "maskrcnn_resnet50_fpn"}, "torchvision has no classifier of this name"),
    ],
)
def test_a_recipe_cannot_make_torchvision_fetch_weights(change, said):
    recipe = {"model": "resnet18", "kwargs": {}, "head": "native", "outputs": 2, "features": 512}
    with pytest.raises(SourceError, match=said):
        registry.get("torchvision").build(recipe | change)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_a_segmenter_keeps_its_decoder_up_to_the_last_layer(tmp_path, name):
    """Its last layer on one map of the encoder is the whole network; training's second head is left out."""
    extra = {} if name.startswith("lraspp") else {"aux_loss": True}
    module, weights = stored(tmp_path, name, num_classes=5, weights_backbone=None, **extra)
    encoder = load(spec(f"torchvision:{name}", weights=weights, **SMALL))
    batch = images(encoder)
    maps = dict(encoder.maps(batch))
    place = sorted(maps).index(8 if not name.startswith("deeplabv3") else 16)
    last = maps[sorted(maps)[place]]
    parts = module.classifier
    layers = [parts.low_classifier, parts.high_classifier] if name.startswith("lraspp") else [parts[-1]]
    weight = torch.cat([layer.weight for layer in layers], 1)
    bias = sum(layer.bias for layer in layers)
    with torch.no_grad():
        logits = torch.nn.functional.conv2d(last, weight, bias)
        whole = torch.nn.functional.interpolate(logits, size=batch.shape[2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(whole, module(batch)["out"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(encoder.encode(batch), last.mean((2, 3)))
        trained = encoder.map_module()
        torch.testing.assert_close(trained(batch)[place], last)
        rebuilt = registry.get("torchvision").build(encoder.map_recipe())
        rebuilt.load_state_dict(trained.state_dict())
        torch.testing.assert_close(rebuilt(batch)[place], last)
    assert any(block.startswith("classifier") for block in encoder.blocks), "partial fine-tuning begins at the decoder"
    assert encoder.blocks[-1].startswith("classifier")
    assert not any("aux" in key for key in trained.state_dict())


def test_a_wildcard_means_segmenters_where_it_matches_nothing_else():
    source = registry.get("torchvision")
    assert source.expand("fcn_*") == ["fcn_resnet50.COCO_WITH_VOC_LABELS_V1", "fcn_resnet101.COCO_WITH_VOC_LABELS_V1"]
    assert not any(name.startswith(("fcn", "deeplab", "lraspp")) for name in source.expand("*resnet*"))


def test_a_segmenter_reads_pictures_as_its_weights_do():
    encoder = load(spec("torchvision:lraspp_mobilenet_v3_large", weights="none"))
    transform = models.segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT.transforms()
    assert encoder.preprocess.input_size == (3, *transform.resize_size * 2)
    assert list(encoder.preprocess.mean) == transform.mean
