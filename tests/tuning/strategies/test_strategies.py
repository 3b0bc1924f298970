"""What every strategy has in common, over timm's tiny architectures, and what each one moves."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest
import timm
import torch
from torch import nn

from selector.core.contracts import Encoder
from selector.core.errors import ConfigError, TrainingError
from selector.linear import solve_head
from selector.modalities.pixels.transform import normalize
from selector.sources import registry as sources
from selector.tasks._learner import HeadLearner, head_layer, head_name
from selector.tasks._linear import LEAST_DAMPING, damping_of, steadied
from selector.tuning import strategies
from selector.tuning.strategies import _loop
from selector.tuning.strategies._loop import Feed, Settings, train
from selector.tuning.strategies._parts import STEM_SHARE, Parts, decayed, parts_of
from selector.zoo import ModelSpec

TINY = list(timm.list_models("test_*"))
QUICK = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


@cache
def encoder_of(name: str) -> Encoder:
    size = timm.get_pretrained_cfg(name).input_size if timm.get_pretrained_cfg(name) else (3, 160, 160)
    spec = ModelSpec.model_validate(
        {"source": f"timm:{name}", "weights": "none", "preprocess": {"input_size": list(size)}}
    )
    return sources.get("timm").load(spec)


class Noise:
    """Random images of one size."""

    def __init__(self, size: tuple[int, ...], n: int = 8) -> None:
        self.images = np.random.default_rng(0).integers(0, 255, (n, size[1], size[2], 3)).astype(np.uint8)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def learner_of(encoder: Encoder, outputs: int) -> HeadLearner:
    return HeadLearner(encoder.with_head(outputs), nn.functional.cross_entropy)


def moved_by(name: str, encoder: Encoder, steps: int = 2) -> tuple[set[str], set[str], nn.Module]:
    """(names that the strategy names, names of everything in the state that changed, the module)."""
    plan = strategies.registry.get(name)
    module = plan.wrap(learner_of(encoder, 2))
    groups = plan.groups(parts_of(module, encoder.blocks), layer_decay=True)
    named = {parameter for group in groups for parameter in group.names}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    feed = Feed(
        Noise(encoder.preprocess.input_size),
        lambda images: normalize(images, encoder.preprocess),
        lambda items: list(items % 2),
        unlabeled=np.arange(4),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_loop, "CLIP", 1e6)
        train(module, groups, feed, np.arange(8), Settings(steps, 8, 0.05, "sgd"))
    changed = {key for key, value in module.state_dict().items() if not torch.equal(before[key], value)}
    return named, changed, module


@pytest.mark.parametrize("architecture", QUICK)
@pytest.mark.parametrize("name", strategies.registry.names())
def test_only_the_named_parameters_move(name: str, architecture: str) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    named, changed, module = moved_by(name, encoder_of(architecture))
    assert changed <= named
    strategies.registry.get(name).unwrap(module)
    assert any(key.startswith(module.new) for key in changed)


def test_full_moves_everything() -> None:
    named, _, module = moved_by("full", encoder_of("test_vit"), steps=1)
    assert named == {name for name, _ in module.named_parameters()}


def test_frozen_takes_no_steps() -> None:
    assert not strategies.registry.get("frozen").trains
    others = [strategies.registry.get(name) for name in strategies.registry.names() if name != "frozen"]
    assert all(one.trains or one.adapts for one in others)  # heads for a target without labels are solved as well


@pytest.mark.parametrize("architecture", TINY)
def test_sections_hold_every_parameter_and_partial_frees_the_end(architecture: str) -> None:
    encoder = encoder_of(architecture)
    module = learner_of(encoder, 3)
    parts = parts_of(module, encoder.blocks)
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    assert sorted(name for section in parts.sections() for name in section) == sorted(sizes)
    assert parts.head
    assert len(parts.blocks) >= 2
    assert all(parts.blocks)
    freed = {n for group in strategies.registry.get("partial").groups(parts, layer_decay=False) for n in group.names}
    assert set(parts.blocks[-1]) | set(parts.head) | set(parts.rest) <= freed
    assert not freed & (set(parts.stem) | set(parts.blocks[0]))
    assert 0 < sum(sizes[name] for name in freed) < sum(sizes.values())


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("resnet50", {"layer4.1", "layer4.2", "fc"}),
        ("vit_tiny_patch16_224", {"blocks.10", "blocks.11", "norm", "head"}),
        ("convnext_atto", {"stages.3.downsample", "stages.3.blocks.0", "stages.3.blocks.1", "head"}),
    ],
)
def test_partial_frees_the_last_blocks_and_the_head_of_the_classics(architecture: str, expected: set[str]) -> None:
    encoder = encoder_of(architecture)
    parts = parts_of(learner_of(encoder, 3), encoder.blocks)
    freed = {n for group in strategies.registry.get("partial").groups(parts, layer_decay=False) for n in group.names}
    assert all(any(name.startswith(f"network.{e}.") for e in expected) for name in freed), sorted(freed)[:5]
    assert all(any(name.startswith(f"network.{e}.") for name in freed) for e in expected)


def test_partial_without_blocks_says_what_to_do() -> None:
    with pytest.raises(
        TrainingError, match="'partial' needs the network's blocks, and its source names none; use full or frozen"
    ):
        strategies.registry.get("partial").groups(Parts((), (), ("a",), ("head",)), layer_decay=False)


def test_layer_decay_falls_geometrically_towards_the_stem() -> None:
    groups = decayed([("stem",), ("b1",), ("b2",), (), ("head",)], layer_decay=True)
    assert [group.names for group in groups] == [("stem",), ("b1",), ("b2",), ("head",)]
    shares = [group.rate_share for group in groups]
    assert shares[0] == pytest.approx(STEM_SHARE)
    assert shares[-1] == 1
    assert shares[1] / shares[0] == pytest.approx(shares[2] / shares[1])
    assert {g.rate_share for g in decayed([("stem",), ("head",)], layer_decay=False)} == {1.0}


@pytest.mark.parametrize("architecture", QUICK)
def test_the_head_reads_the_features_of_encode(architecture: str) -> None:
    encoder = encoder_of(architecture)
    learner = learner_of(encoder, 3).eval()
    batch = normalize(Noise(encoder.preprocess.input_size).images, encoder.preprocess)
    with torch.inference_mode():
        found = learner.rows(batch, []).numpy()
        expected = encoder.encode(batch).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    weight, bias = np.ones((3, encoder.num_features), dtype=np.float32), np.arange(3, dtype=np.float32)
    learner.start_from(weight, bias)
    with torch.inference_mode():
        outputs = learner.predict(batch)
    np.testing.assert_allclose(outputs, found @ weight.T + bias, rtol=1e-3, atol=1e-3)


def test_a_head_that_is_not_linear_is_refused() -> None:
    class Odd(nn.Module):
        def get_classifier(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TrainingError, match=r"the head must be one linear layer\. Got Identity"):
        head_layer(Odd())
    with pytest.raises(TrainingError, match="a layer that is not part of the network"):
        head_name(Odd())


def test_columns_that_hardly_vary_do_not_carry_the_head() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    rows = rng.normal(size=(200, 6)).astype(np.float32)
    rows[:, 0] += 2 * labels
    rows[:, 5] = 1e-4 * labels + 3  # says everything, in differences that no network keeps
    steady = steadied(rows)
    np.testing.assert_array_equal(steady[:, :5], rows[:, :5])
    assert len(np.unique(steady[:, 5])) == 1
    head = solve_head(steady, labels, rows, labels, 2)
    assert (head.weight[:, 5] == 0).all()
    assert np.abs(head.weight[:, 0]).max() > 0.1


@pytest.mark.parametrize("kind", ["classes", "labels"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_damped_probe_loses_on_its_own_rows_what_it_loses_on_others(kind: str, size: float) -> None:
    rng = np.random.default_rng(0)
    outputs = size * rng.normal(size=(60, 4)).astype(np.float32)
    logits, few = torch.from_numpy(outputs).double(), 0.2
    if kind == "classes":
        labels: np.ndarray = outputs.argmax(axis=1)
        loss = lambda factor: float(nn.functional.cross_entropy(factor * logits, torch.from_numpy(labels)))  # noqa: E731
    else:
        labels = (outputs > 0).astype(np.float32)
        known = torch.from_numpy(rng.random(outputs.shape) > 0.2)
        each = nn.functional.binary_cross_entropy_with_logits
        loss = lambda factor: float(each(factor * logits[known], torch.from_numpy(labels)[known].double()))  # noqa: E731
        labels = np.where(known, labels, np.nan)
    damping = damping_of(outputs, labels, few)
    assert damping == 1 if loss(1) >= few else loss(damping) == pytest.approx(few, abs=0.05)
    assert damping_of(outputs, labels, 0.0) == 1
    assert damping_of(outputs, labels, 9.0) == LEAST_DAMPING


@pytest.mark.parametrize("architecture", QUICK)
def test_lora_moves_few_parameters_and_merges_into_the_plain_network(architecture: str) -> None:
    pytest.importorskip("peft")
    encoder = encoder_of(architecture)
    plain = learner_of(encoder, 2)
    named, changed, module = moved_by("lora", encoder, steps=3)
    assert all(".lora_" in name or name.startswith(module.new) for name in named)
    assert any("lora_A" in name for name in changed)
    assert any("lora_B" in name for name in changed)
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    assert len(frozen) == len(list(plain.parameters())) - 2
    batch = torch.randn((2, *encoder.preprocess.input_size), generator=torch.Generator().manual_seed(0))
    module.eval()
    with torch.inference_mode():
        adapted, untouched = module.network(batch), plain.network(batch)
    merged = strategies.registry.get("lora").unwrap(module)
    plain.load_state_dict(merged.state_dict())  # the names and shapes of the plain network again
    with torch.inference_mode():
        torch.testing.assert_close(merged.network(batch), adapted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(plain.network(batch), adapted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(adapted, untouched, atol=1e-4)


def test_lora_without_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"strategy 'lora' needs peft .*pip install 'zoo-selector\[lora\]'"):
        strategies.registry.get("lora").wrap(learner_of(encoder_of("test_vit"), 2))


def test_lora_refuses_a_network_without_fitting_layers() -> None:
    pytest.importorskip("peft")

    class HeadOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def get_classifier(self) -> nn.Module:
            return self.fc

    with pytest.raises(TrainingError, match="no layer that low-rank matrices fit; use partial or full"):
        strategies.registry.get("lora").wrap(HeadLearner(HeadOnly(), nn.functional.cross_entropy))
