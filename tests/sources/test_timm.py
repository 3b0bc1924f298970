import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import nn

from selector.core.atomic import cache_folder
from selector.core.errors import SourceError, WeightsMissing
from selector.sources import registry
from selector.zoo import ModelSpec, WeightsFile
from tests.sources.samples import images, load, spec
from tests.support.hub import Hub


def network(name: str, seed: int = 3, **kwargs: Any) -> nn.Module:
    """A timm network whose weights, batch statistics included, are not those of the seeded start."""
    torch.manual_seed(seed)
    module = timm.create_model(name, **kwargs).eval()
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape) * 0.1 + (1.0 if key.endswith(("running_var", "norm.weight")) else 0.0))
            if key.endswith("running_var"):
                value.abs_()
    return module


def own_features(module: Any, batch: torch.Tensor) -> torch.Tensor:
    """What timm itself takes for the features of a network."""
    found: torch.Tensor = module.forward_head(module.forward_features(batch), pre_logits=True)
    return found


def stored(folder: Path, weights: Any, file: str = "w.safetensors", **more: Any) -> dict[str, Any]:
    """Write a network's weights, or what else a file may hold, and return what a spec says to find it."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    if file.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in state.items()}, folder / file)
    else:
        torch.save(state, folder / file)
    return {"file": file, "base": str(folder), **more}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout", "test_vit"])
@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_a_local_checkpoint_gives_timms_own_features_logits_and_preprocessing(tmp_path, name, file):
    module = network(name, num_classes=7)  # the width of the head is read from the file
    encoder = load(spec(f"timm:{name}", weights=stored(tmp_path, module, file)))
    batch = images(encoder)
    with torch.no_grad():
        features = encoder.encode(batch)
        torch.testing.assert_close(features, own_features(module, batch))
        weight, bias = encoder.source_head
        assert weight.shape == (7, encoder.num_features)
        logits = features.numpy() @ weight.T + bias
        torch.testing.assert_close(torch.from_numpy(logits), module(batch), rtol=1e-3, atol=1e-4)
    config = resolve_model_data_config(module)
    assert encoder.preprocess.input_size == config["input_size"]
    assert (encoder.preprocess.mean, encoder.preprocess.std) == (config["mean"], config["std"])
    assert (encoder.preprocess.crop_pct, encoder.preprocess.interpolation) == (
        config["crop_pct"],
        config["interpolation"],
    )


def test_a_trained_head_loads_into_plain_timm(tmp_path):
    encoder = load(spec("timm:test_resnet", weights=stored(tmp_path, network("test_resnet"))))
    headed = encoder.with_head(3)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    plain.load_state_dict(headed.state_dict())
    batch = images(encoder)
    with torch.no_grad():
        torch.testing.assert_close(plain(batch), headed(batch))


def test_weights_by_position_have_other_names_in_the_same_order(tmp_path):
    module = network("test_efficientnet")
    state = module.state_dict()
    renamed = {f"tensor{i:04d}": value for i, value in enumerate(state.values())}
    weights = stored(tmp_path, renamed, "w.pth", mapping="by_position")
    encoder = load(spec("timm:test_efficientnet", weights=weights))
    for key, value in encoder.module.state_dict().items():
        torch.testing.assert_close(value, state[key])
    with pytest.raises(
        SourceError, match=r"w\.pth: holds \d+ tensors, the network has \d+; by position they must be equally"
    ):
        load(spec("timm:test_resnet", weights=weights))
    torch.save(dict(reversed(renamed.items())), tmp_path / "w.pth")
    with pytest.raises(
        SourceError,
        match=r"do not fit the network: \d+ of another shape \(conv_stem\.weight, .*expected \(24, 3, 3, 3\), found \(1000,\)\. Check the architecture and its kwargs\.$",
    ):
        load(spec("timm:test_efficientnet", weights=weights))


def test_checkpoints_are_unwrapped_and_heads_may_be_missing(tmp_path):
    module = network("test_resnet")
    state = {f"module.{k}": v for k, v in module.state_dict().items() if not k.startswith("fc.")}
    encoder = load(spec("timm:test_resnet", weights=stored(tmp_path, {"epoch": 3, "state_dict": state}, "w.pth")))
    assert encoder.source_head is None
    batch = images(encoder)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), own_features(module, batch))
    timm.create_model("test_resnet", num_classes=2).load_state_dict(encoder.with_head(2).state_dict())


@pytest.mark.parametrize(
    ("file", "make", "message"),
    [
        ("code.pth", lambda p: stored(p.parent, {"model": network("test_resnet").state_dict(), "args": argparse.Namespace(x=1)}, p.name),
         r"code\.pth is not plain tensors, and running code from a weights file is refused"),
        ("half.safetensors", lambda p: p.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{"), r"half\.safetensors cannot be read, it is damaged or in another format"),
        ("empty.pth", lambda p: p.touch(), r"empty\.pth cannot be read"),
        ("list.pth", lambda p: stored(p.parent, [1, 2], p.name), r"list\.pth holds no tensors by name; expected a state dict"),
        ("vit.safetensors", lambda p: stored(p.parent, network("test_vit"), p.name),
         r"do not fit the network: \d+ missing \(conv1\.0\.weight.*unexpected .*Check the architecture"),
    ],
)  # fmt: skip
def test_damaged_and_dangerous_files_are_refused(tmp_path, file, make, message):
    make(tmp_path / file)
    with pytest.raises(SourceError, match=message):
        load(spec("timm:test_resnet", weights={"file": file, "base": str(tmp_path)}))


def test_a_projection_into_a_text_space_is_no_source_head(tmp_path):
    module = network("test_vit")
    nn.init.zeros_(module.head.bias)
    assert load(spec("timm:test_vit", weights=stored(tmp_path, module))).source_head is None


@pytest.mark.parametrize(
    "key", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "__class__"]
)
def test_settings_that_would_fetch_or_run_something_are_refused(key):
    with pytest.raises(SourceError, match=rf"kwargs\.{key} is not passed on; say with 'weights' where"):
        registry.get("timm").identify(spec("timm:test_resnet", kwargs={key: "/tmp/x"}))


def test_settings_that_the_network_does_not_know():
    with pytest.raises(SourceError, match=r"timm cannot build 'test_resnet': TypeError: .*'no_such_setting'"):
        load(spec("timm:test_resnet", kwargs={"no_such_setting": 1}))


def test_unknown_models_and_tags():
    identify = registry.get("timm").identify
    with pytest.raises(SourceError, match=r"timm \S+ has no model 'resnet5O'; did you mean 'resnet50'"):
        identify(ModelSpec(source="timm:resnet5O"))
    with pytest.raises(
        SourceError, match=r"has no weights 'a1_in2k' for resnet50; did you mean 'a1_in1k'\? Known: a1_in1k, "
    ):
        identify(ModelSpec(source="timm:resnet50.a1_in2k"))
    with pytest.raises(SourceError, match=r"has no pretrained weights for vit_tiny_patch16_384_none|has no model"):
        identify(ModelSpec(source="timm:vit_tiny_patch16_384_none"))
    with pytest.raises(SourceError, match=r"timm cannot build 'resnet5O': .*Unknown model"):
        load(spec("timm:resnet5O"))


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", torch.mean), ("max", torch.amax), (None, torch.mean)])
def test_a_layer_of_a_convolutional_network(tmp_path, pooling, reduce):
    module = network("test_resnet")
    weights = stored(tmp_path, module)
    encoder = load(spec("timm:test_resnet", weights=weights, layer="layer2.0", pooling=pooling))
    batch = images(encoder)
    with torch.no_grad():
        x = module.maxpool(module.act1(module.bn1(module.conv1(batch))))
        expected = module.layer2(module.layer1(x))
        torch.testing.assert_close(encoder.encode(batch), reduce(expected, (2, 3)))
        torch.testing.assert_close(encoder.maps(batch)[-1][1], expected)
    assert encoder.num_features == expected.shape[1]
    assert encoder.source_head is None


@pytest.mark.parametrize("pooling", ["avg", "max", "cls", None])
@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])  # test_vit2 has register tokens beside the class token
def test_a_layer_of_a_transformer(name, pooling):
    encoder = load(spec(f"timm:{name}", layer="blocks.1", pooling=pooling))
    module, batch = encoder.module, images(encoder)
    with torch.no_grad():
        ((patches, prefix),) = module.forward_intermediates(
            batch, indices=[1], norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        own = "cls" if module.global_pool == "token" else "avg"
        expected = {"avg": patches.mean(1), "max": patches.amax(1), "cls": prefix[:, 0]}[pooling or own]
        torch.testing.assert_close(encoder.encode(batch), expected)


def test_pooling_of_the_last_layer(tmp_path):
    encoder = load(spec("timm:test_vit", pooling="max"))
    module, batch = encoder.module, images(encoder)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.encode(batch), module.forward_features(batch)[:, module.num_prefix_tokens :].amax(1)
        )
        tokens = module.forward_features(batch)[:, module.num_prefix_tokens :]
        height = batch.shape[2] // module.patch_embed.patch_size[0]
        torch.testing.assert_close(encoder.maps(batch)[-1][1][:, :, 1, 2], tokens[:, height + 2])


SWIN = {"kwargs": {"embed_dim": 24, "num_heads": [1, 2, 3, 4], "depths": [2, 2, 2, 2]}}


def test_maps_with_the_channels_last_are_told_apart():
    encoder = load(spec("timm:swin_tiny_patch4_window7_224", layer="layers.1.blocks.0", **SWIN))
    assert encoder.num_features == 48
    assert [(s, m.shape) for s, m in encoder.maps(images(encoder, 1))] == [(8, (1, 48, 28, 28))]
    assert encoder.blocks[:3] == ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0")


def test_another_size_without_asking_the_network():
    encoder = load(spec("timm:test_resnet"))
    assert encoder.recipe(3, (64, 96)) == encoder.recipe(3)
    assert encoder.with_head(3, (64, 96))(torch.zeros(2, 3, 64, 96)).shape == (2, 3)


def test_a_transformer_of_a_fixed_size_is_resampled(tmp_path):
    module = network("test_vit3")
    encoder = load(spec("timm:test_vit3", weights=stored(tmp_path, module)))
    headed, recipe = encoder.with_head(3, (96, 96)), encoder.recipe(3, (96, 96))
    assert recipe["kwargs"]["img_size"] == [96, 96]
    plain = timm.create_model("test_vit3", num_classes=3, img_size=96).eval()
    plain.load_state_dict(headed.state_dict())
    reference = timm.create_model("test_vit3", num_classes=0).eval()
    reference.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("head.")}, strict=False)
    reference.set_input_size(img_size=96)
    batch = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(plain(batch), headed.get_classifier()(reference(batch)))
        native = encoder.module(images(encoder, 1))  # the encoder itself is as it was
    assert native.shape == (1, 1000)


def test_windows_that_do_not_fit_leave_the_windows_alone():
    encoder = load(spec("timm:swin_tiny_patch4_window7_224", **SWIN))
    recipe = encoder.recipe(3, (128, 128))
    assert recipe["kwargs"] == {**SWIN["kwargs"], "strict_img_size": False}
    registry.get("timm").build(recipe).load_state_dict(encoder.with_head(3, (128, 128)).state_dict())


def test_sizes_that_a_network_cannot_take():
    if not timm.is_model("test_coatnet"):
        pytest.skip("this timm has no test_coatnet")
    encoder = load(spec("timm:test_coatnet"))
    with pytest.raises(SourceError, match=r"the network does not work at 80x80 \(.*\); leave it at its native 160x160"):
        encoder.with_head(3, (80, 80))
    with pytest.raises(SourceError, match=r"preprocess\.input_size \[3, 16, 16\] does not fit the network"):
        load(spec("timm:test_maxvit", preprocess={"input_size": [3, 16, 16]}))


def test_the_zoo_may_ask_for_another_size_of_a_fixed_network():
    asked = [{"preprocess": {"input_size": [3, 96, 96]}}, {"kwargs": {"img_size": 96}}]
    for settings in asked:
        encoder = load(spec("timm:test_vit3", **settings))
        assert encoder.preprocess.input_size == (3, 96, 96)
        assert encoder.encode(images(encoder)).shape == (3, 96)


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("resnet50", "layer1.0", "layer4.2", 16),
        ("vit_tiny_patch16_224", "blocks.0", "blocks.11", 12),
        ("convnext_atto", "stages.0.blocks.0", "stages.3.blocks.1", 12),
        ("efficientnet_b0", "blocks.0.0", "blocks.6.0", 16),
        ("mobilenetv3_small_100", "blocks.0.0", "blocks.5.0", 12),
        ("regnety_004", "s1.b1", "s4.b6", 16),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0", "layers.3.blocks.1", 12),
        ("poolformer_s12", "stages.0.blocks.0", "stages.3.blocks.1", 12),
        ("vgg11", "features.3", "features.18", 7),
        ("test_vit", "blocks.0", "blocks.5", 6),
    ],
)
def test_blocks_by_name_without_building_the_weights(name, first, last, count):
    from selector.sources._blocks import in_forward_order
    from selector.sources.timm import TimmNetwork

    with torch.device("meta"):
        try:
            module = timm.create_model(name).eval()
        except NotImplementedError as error:  # timm 1.0.26 computes the widths of regnets with tensors
            pytest.skip(f"this timm builds no {name} without weights: {error}")
        size = module.pretrained_cfg["input_size"]
        architecture = TimmNetwork(name, {})
        _, blocks = in_forward_order(
            module, architecture.block_names(module), lambda: module.forward_features(torch.zeros(1, *size))
        )
    assert (blocks[0], blocks[-1], len(blocks)) == (first, last, count)


# ---------------------------------------------------------------------------- the hub

MODEL = "test_resnet.r160_in1k"


def cached(home: Path, repo: str, files: dict[str, bytes], links: bool = True) -> None:
    """The layout in which the hub's own library keeps a repository."""
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    commit = "0" * 40
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for name, content in files.items():
        place = root / "snapshots" / commit / name
        if links:
            digest = hashlib.sha256(content).hexdigest()
            (root / "blobs" / digest).write_bytes(content)
            place.symlink_to(Path("../../blobs") / digest)
        else:
            place.write_bytes(content)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def published(folder: Path, weights: Any, file: str = "published.safetensors") -> bytes:
    return (folder / stored(folder, weights, file)["file"]).read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_cached_hub_weights_load_without_the_network(home, links):
    module = network("test_resnet")
    content = published(home, module)
    cached(home, f"timm/{MODEL}", {"model.safetensors": content}, links)
    named, short = (ModelSpec(source=f"timm:{name}") for name in (MODEL, "test_resnet"))
    identity = registry.get("timm").identify(named)
    assert identity["weights"].startswith(f"hub:{hashlib.sha256(content).hexdigest()}" if links else "xxh128:")
    assert registry.get("timm").identify(short) == identity  # the default tag is spelled out
    encoder = load(named)
    batch = images(encoder)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), own_features(module, batch))
    assert (encoder.source_head[0].shape[0], encoder.identity) == (1000, identity)
    assert "file" not in encoder.module.pretrained_cfg


def test_older_weights_are_read_without_running_code(home):
    module = network("test_resnet")
    cached(home, f"timm/{MODEL}", {"pytorch_model.bin": published(home, module, "w.bin")})
    encoder = load(ModelSpec(source=f"timm:{MODEL}"))
    torch.testing.assert_close(encoder.module.state_dict()["fc.weight"], module.state_dict()["fc.weight"])
    assert "state_dict" not in encoder.module.pretrained_cfg


def test_weights_whose_original_was_in_another_librarys_format(home):
    name = "vit_tiny_patch16_224.augreg_in21k"
    assert timm.get_pretrained_cfg(name).custom_load
    module = network(name, num_classes=21843)
    cached(home, f"timm/{name}", {"model.safetensors": published(home, module)})
    encoder = load(ModelSpec(source=f"timm:{name}"))
    batch = images(encoder, 1)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), own_features(module, batch))
    assert encoder.source_head[0].shape == (21843, 192)


def test_a_model_that_someone_pushed_to_the_hub(home):
    module = network("test_vit", num_classes=4, img_size=96)
    config = {
        "architecture": "test_vit",
        "num_classes": 4,
        "model_args": {"img_size": 96},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96], "crop_pct": 0.8, "classifier": "head"},
    }
    files = {"model.safetensors": published(home, module), "config.json": json.dumps(config).encode()}
    cached(home, "org/mine", files)
    encoder = load(ModelSpec(source="timm:hf-hub:org/mine"))
    assert (encoder.preprocess.mean, encoder.preprocess.input_size) == ((0.1, 0.2, 0.3), (3, 96, 96))
    assert encoder.source_head[0].shape == (4, 64)
    batch = images(encoder)
    with torch.no_grad():
        logits = encoder.encode(batch) @ torch.from_numpy(encoder.source_head[0]).T + torch.from_numpy(
            encoder.source_head[1]
        )
        torch.testing.assert_close(logits, module(batch), rtol=1e-3, atol=1e-4)
    recipe = json.loads(json.dumps(encoder.recipe(2)))
    (home / "hub").rename(home / "gone")
    again = registry.get("timm").build(recipe)  # the saved model needs no hub
    again.load_state_dict(encoder.with_head(2).state_dict())
    assert again(batch).shape == (3, 2)


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay", "features_only"])
def test_a_pushed_model_cannot_make_timm_fetch_or_load_something_else(home, key):
    config = {"architecture": "test_vit", "model_args": {key: True}}
    cached(home, "org/evil", {"model.safetensors": b"x", "config.json": json.dumps(config).encode()})
    with pytest.raises(SourceError, match=rf"kwargs\.{key} is not passed on"):
        load(ModelSpec(source="timm:hf-hub:org/evil"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kwargs": {"pretrained": True}}, r"kwargs\.pretrained is not passed on"),
        ({"kwargs": {"checkpoint_path": "weights.bin"}}, r"kwargs\.checkpoint_path is not passed on"),
        ({"model": "hf-hub:org/mine"}, r"expected the plain name of an architecture"),
        ({"model": "local-dir:folder"}, r"expected the plain name of an architecture"),
        ({"model": "hf-hub:org/resnet18"}, r"expected the plain name of an architecture"),
    ],
)
def test_a_recipe_cannot_make_timm_fetch_or_load_weights(change, said):
    recipe = {"model": "resnet18", "kwargs": {}, "head": "native", "outputs": 2, "features": 512}
    with pytest.raises(SourceError, match=said):
        registry.get("timm").build(recipe | change)


def test_a_recipes_configuration_says_nothing_of_where_weights_come_from():
    config = {"file": "elsewhere.bin", "hf_hub_id": "org/evil", "mean": [0.1, 0.2, 0.3]}
    recipe = {"model": "test_vit", "kwargs": {}, "config": config, "head": "native", "outputs": 2, "features": 64}
    built: Any = registry.get("timm").build(recipe)
    assert built.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert not built.pretrained_cfg.get("file")
    assert not built.pretrained_cfg.get("hf_hub_id")


def test_a_hub_repository_of_another_library(home):
    cached(home, "org/bert", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"})
    with pytest.raises(SourceError, match=r"config\.json: not the configuration of a timm model \(no 'architecture'\)"):
        load(ModelSpec(source="timm:hf-hub:org/bert"))
    with pytest.raises(SourceError, match="'a/b/c' is not the name of a hub repository"):
        load(ModelSpec(source="timm:hf-hub:a/b/c"))


def test_missing_weights_offline_say_what_to_do(home):
    for act in (registry.get("timm").identify, load):
        with pytest.raises(WeightsMissing) as error:
            act(ModelSpec(name="mine", source=f"timm:{MODEL}"))
        assert str(error.value) == (
            f"mine: the weights of hub repository timm/{MODEL} are not on this machine and fetching is off; "
            f"run once without --offline (and without HF_HUB_OFFLINE), or: hf download timm/{MODEL}"
        )


ONLINE = """
import json, sys
from selector.core.errors import WeightsMissing
from selector.sources import registry
from selector.zoo import ModelSpec
source = registry.get("timm")
model = ModelSpec(source="timm:test_resnet.r160_in1k")
before = source.identify(model)
assert "torch" not in sys.modules
encoder = source.load(model)
after = source.identify(model)
try:
    source.identify(ModelSpec(source="timm:hf-hub:org/nowhere"))
except WeightsMissing as error:
    missing = str(error)
fc = encoder.module.state_dict()["fc.bias"][:3].tolist()
print(json.dumps([before, after, encoder.identity, fc, missing]))
"""


def test_a_hub_that_is_reachable_is_asked_once_and_the_weights_are_fetched(tmp_path, hub, known_names):
    module = network("test_resnet")
    file = Hub.root / "timm" / MODEL / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(published(tmp_path, module))
    environment = {**hub.environment, "SELECTOR_CACHE": str(cache_folder())}
    done = subprocess.run(
        [sys.executable, "-c", ONLINE], env=environment, check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    before, after, loaded, bias, missing = json.loads(done.stdout)
    assert before["weights"] == f"hub:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert before == after == loaded
    assert bias == pytest.approx(module.state_dict()["fc.bias"][:3].tolist())
    assert sum(line.startswith("GET") and line.endswith("model.safetensors") for line in Hub.log) == 1, Hub.log
    assert "the hub has no public repository org/nowhere; check the name, or run: hf auth login" in missing


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    from selector.sources import _weights

    file = tmp_path / "w.pth"
    file.write_bytes(b"first")
    os.utime(file, (1, 1))
    model = spec("timm:test_resnet", weights=WeightsFile(file="w.pth", base=str(tmp_path)))
    first = registry.get("timm").identify(model)["weights"]
    with monkeypatch.context() as patch:
        patch.setattr(_weights.xxhash, "xxh3_128", lambda: pytest.fail("hashed again"))
        assert registry.get("timm").identify(model)["weights"] == first
    file.write_bytes(b"other")
    os.utime(file, (2, 2))
    assert registry.get("timm").identify(model)["weights"] != first
    (cache_folder() / "weights-hashes.json").write_text("{damaged")
    assert registry.get("timm").identify(model)["weights"] != first


def test_licenses_are_those_that_timm_states():
    source = registry.get("timm")
    stated = {
        "convnextv2_atto.fcmae_ft_in1k": "cc-by-nc-4.0",
        "resnet50.a1_in1k": "apache-2.0",
        "resnet50": "apache-2.0",  # of its default weights
        "hf-hub:org/name": None,
        "no_such_network": None,
    }
    assert {name: source.license(ModelSpec(source=f"timm:{name}")) for name in stated} == stated
    assert source.license(ModelSpec(source="timm:resnet50", weights="none")) is None


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.int8, "is int8, as quantized weights are, whose scale is not applied"),
        (torch.complex64, "is complex64, whose imaginary part would be lost"),
        (torch.float8_e4m3fn, "is float8_e4m3fn, as quantized weights are"),
    ],
)
def test_weights_of_another_type_are_not_cast_without_a_word(tmp_path, dtype, said):
    state = network("test_resnet").state_dict()
    first = next(iter(state))
    state[first] = state[first].to(dtype)
    with pytest.raises(SourceError, match=said):
        load(spec("timm:test_resnet", weights=stored(tmp_path, state, "w.pth")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_floating_point_type_load(tmp_path, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in network("test_resnet").state_dict().items()}
    assert load(spec("timm:test_resnet", weights=stored(tmp_path, state, "w.pth")))


def test_quantized_weights_of_the_hub_are_refused(home):
    state = {k: v.to(torch.int8) if v.ndim == 4 else v for k, v in network("test_vit").state_dict().items()}
    config = b'{"architecture": "test_vit"}'
    cached(home, "org/int8", {"config.json": config, "model.safetensors": published(home, state)})
    with pytest.raises(SourceError, match="is I8, as quantized weights are, whose scale is not applied"):
        load(ModelSpec(source="timm:hf-hub:org/int8"))


@pytest.mark.parametrize(
    "kwargs",
    [{"a": "hf-hub:org/x"}, {"a": ["x.pth"]}, {"a": {"b": "https://example.org/x"}}, {"a": {"org/x": 1}}, {"a": "/x"}],
)
@pytest.mark.parametrize("source", ["timm:test_vit", "torchvision:resnet18"])
def test_settings_name_nothing_elsewhere(kwargs, source):
    name, _, model = source.partition(":")
    with pytest.raises(SourceError, match="name no file, no address and no repository"):
        registry.get(name).load(ModelSpec(source=source, weights="none", kwargs=kwargs))
    with pytest.raises(SourceError, match="name no file, no address and no repository"):
        registry.get(name).build({"model": model, "kwargs": kwargs, "head": "native", "outputs": 2})
