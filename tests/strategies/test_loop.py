"""The training loop against a bare torch loop, and what it does when something goes wrong."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from selector.core.errors import TrainingError
from selector.tuning.strategies import _loop
from selector.tuning.strategies._kinds import is_classic, is_folded, is_modern
from selector.tuning.strategies._loop import Settings, predict, train
from selector.tuning.strategies._parts import Group


class Pixels:
    """60 images of 8 x 8 whose brightest channel is their class."""

    def __init__(self, n: int = 60) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(3, size=n)
        self.images = rng.integers(0, 150, (n, 8, 8, 3)).astype(np.uint8)
        self.images[np.arange(n), :, :, self.labels] += 60

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def network(norm: bool = False, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conv = nn.Conv2d(3, 8, 3, stride=2, bias=not norm)  # a bias before batch norm has no gradient but noise
        layers = [conv, nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 9, 3))


def normalise(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 128 - 1


def everything(module: nn.Module) -> list[Group]:
    return [Group(tuple(name for name, _ in module.named_parameters()))]


SETTINGS = Settings(steps=12, batch_size=20, rate=0.05, optimiser="sgd", augment=False, weight_decay=1e-3)
pixels = Pixels()
INDICES = np.arange(60)


def fit(
    module: nn.Module, settings: Settings = SETTINGS, groups: list[Group] | None = None, **options: object
) -> _loop.Fit:
    return train(
        module,
        groups or everything(module),
        pixels,
        INDICES,
        pixels.labels,
        normalise,
        nn.functional.cross_entropy,
        settings,
        **options,  # type: ignore[arg-type]
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_equals_a_bare_torch_loop(optimiser: str) -> None:
    settings = Settings(
        steps=12,
        batch_size=20,
        rate=0.01,
        optimiser=optimiser,
        augment=False,
        weight_decay=0.01,
        seed=3,
        renew_norm=True,
    )  # type: ignore[arg-type]
    module = network(norm=True)
    bare = copy.deepcopy(module)
    result = fit(module, settings)

    bare.train()
    decayed = [p for p in bare.parameters() if p.ndim > 1]
    others = [p for p in bare.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optim: torch.optim.Optimizer
    if optimiser == "sgd":
        optim = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    else:
        optim = torch.optim.AdamW(groups, lr=0.01)
    for step in range(12):
        epoch, place = divmod(step, 3)
        rows = np.random.default_rng((3, epoch)).permutation(60)[20 * place : 20 * place + 20]
        for group in optim.param_groups:
            group["lr"] = 0.01 * (1.0 if step < 1 else 0.5 * (1 + np.cos(np.pi * (step - 1) / 11)))
        optim.zero_grad()
        loss = nn.functional.cross_entropy(
            bare(normalise(torch.from_numpy(pixels.images[rows]))), torch.from_numpy(pixels.labels[rows])
        )
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optim.step()
    assert result.status == "ok"
    assert result.steps == 12
    assert result.losses[-1] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_learns() -> None:
    module = network()
    fit(module, Settings(steps=60, batch_size=20, rate=0.05, optimiser="sgd"))
    outputs = predict(module, pixels, INDICES, normalise)
    assert outputs is not None
    assert (outputs.argmax(axis=1) == pixels.labels).mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generators_alone() -> None:
    settings = Settings(steps=6, batch_size=20, rate=0.05, optimiser="sgd", augment=True, seed=1)
    before = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    first, second, third = network(dropout=0.5), network(dropout=0.5), network(dropout=0.5)
    fit(first, settings)
    torch.rand(7)
    middle = torch.get_rng_state()
    fit(second, settings)
    fit(third, Settings(steps=6, batch_size=20, rate=0.05, optimiser="sgd", augment=True, seed=2))
    assert same(first, second)
    assert not same(first, third)
    assert torch.equal(middle, torch.get_rng_state())
    torch.set_rng_state(before[0])


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 0.0)
    settings = Settings(steps=10, batch_size=20, rate=0.05, optimiser="adamw", augment=True, ema=ema)
    whole = network(norm=True, dropout=0.3)
    fit(whole, settings)

    def interrupt(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(network(norm=True, dropout=0.3), settings, checkpoint=checkpoint, on_step=interrupt)
    resumed = network(norm=True, dropout=0.3, seed=9)  # its own start must not matter
    result = fit(resumed, settings, checkpoint=checkpoint)
    assert result.notes == ["went on from a checkpoint at step 5"]
    assert len(result.losses) == 10
    assert same(whole, resumed)


def test_a_truncated_checkpoint_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "state.pt"
    fit(network(), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    module, untouched = network(), network()
    result = fit(module, checkpoint=checkpoint)
    fit(untouched)
    assert result.steps == 12
    assert "is damaged" in caplog.text
    assert "starts again" in caplog.text
    assert same(module, untouched)


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"module": Evil()}, tmp_path / "state.pt")
    assert fit(network(), checkpoint=tmp_path / "state.pt").steps == 12
    assert not (tmp_path / "ran").exists()
    assert "is damaged" in caplog.text


def test_a_checkpoint_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(torch, "save", full)
    assert fit(network(), checkpoint=tmp_path / "state.pt").status == "ok"
    assert "could not be written" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_is_marked_as_diverged() -> None:
    result = fit(network(), Settings(steps=200, batch_size=20, rate=1e30, optimiser="sgd", augment=False, clip=1e30))
    assert result.status == "diverged"
    assert "the loss became" in result.notes[0] or "a weight is no longer" in result.notes[0]


class Hungry(nn.Module):
    """Runs out of memory above so many images, as torch says it on a GPU."""

    def __init__(self, inner: nn.Module, limit: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.limit, self.error = inner, limit, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise self.error
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_gives_the_same_weights(error: Exception) -> None:
    hungry, plain = Hungry(network(), 6, error), network()
    result = fit(hungry)
    fit(plain)
    assert result.status == "ok"
    assert result.notes == [
        "out of memory with 20 items: gradients are summed over pieces of 10",
        "out of memory with 10 items: gradients are summed over pieces of 5",
    ]
    for a, b in zip(hungry.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_out_of_memory_with_one_image_says_what_to_do() -> None:
    hungry = Hungry(network(), 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(TrainingError, match="out of memory with a single item; train at a smaller resolution"):
        fit(hungry)


def test_another_error_of_the_network_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match="boom"):
        fit(Hungry(network(), 0, RuntimeError("boom")))


def test_past_the_deadline_no_step_begins() -> None:
    module = network()
    result = fit(module, deadline=time.perf_counter() - 1)
    assert result.status == "stopped"
    assert result.steps == 0
    assert same(module, network())
    assert predict(module, pixels, INDICES, normalise, deadline=time.perf_counter() - 1) is None


def statistics(module: nn.Sequential) -> torch.Tensor:
    assert isinstance(module[1], nn.BatchNorm2d)
    assert module[1].running_mean is not None
    return module[1].running_mean


def test_batch_norm_keeps_its_statistics_unless_asked_and_in_small_batches_always() -> None:
    kept, small, large = network(norm=True), network(norm=True), network(norm=True)
    fit(kept)
    fit(small, Settings(steps=4, batch_size=8, rate=0.01, optimiser="sgd", renew_norm=True))
    fit(large, Settings(steps=4, batch_size=20, rate=0.01, optimiser="sgd", renew_norm=True))
    assert (statistics(kept) == 0).all()
    assert (statistics(small) == 0).all()
    assert (statistics(large) != 0).any()


def test_batch_norm_that_does_not_move_keeps_its_statistics() -> None:
    module = network(norm=True)
    renewing = Settings(steps=4, batch_size=20, rate=0.05, optimiser="sgd", renew_norm=True)
    fit(module, renewing, groups=[Group(("5.weight", "5.bias"))])
    assert (statistics(module) == 0).all()
    assert torch.equal(module[0].weight, network(norm=True)[0].weight)
    assert not torch.equal(module[5].weight, network(norm=True)[5].weight)


def test_folded_statistics_are_recognised_and_kept() -> None:
    module = network(norm=True)
    assert not is_folded(module)  # untrained: statistics are 0 and 1, but nothing was folded
    assert isinstance(module[1], nn.BatchNorm2d)
    nn.init.uniform_(module[1].bias)
    assert is_folded(module)
    fit(module, Settings(steps=4, batch_size=20, rate=0.01, optimiser="sgd", renew_norm=True))
    assert (statistics(module) == 0).all()


def test_classic_networks_are_told_from_modern_ones() -> None:
    import timm

    assert is_classic(timm.create_model("test_resnet"))
    assert is_classic(timm.create_model("vgg11_bn"))
    for name, modern in (
        ("test_efficientnet", False),
        ("test_vit", True),
        ("test_convnext", True),
        ("test_resnet", False),
    ):
        assert is_modern(timm.create_model(name)) == modern
        assert is_classic(timm.create_model(name)) == (name == "test_resnet")


def test_an_average_of_the_weights_lies_between_start_and_end() -> None:
    averaged, plain = network(), network()
    settings = Settings(steps=6, batch_size=20, rate=0.05, optimiser="sgd", augment=False, ema=0.99)
    fit(averaged, settings)
    fit(plain, Settings(steps=6, batch_size=20, rate=0.05, optimiser="sgd", augment=False))
    start = network()[0].weight
    moved = (plain[0].weight - start).norm()
    assert 0 < (averaged[0].weight - start).norm() < moved


def test_augmented_images_differ_but_keep_size_type_and_seed() -> None:
    images = torch.from_numpy(pixels.images[:8])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = _loop.augmented(images, flip=True)
        torch.manual_seed(0)
        second = _loop.augmented(images, flip=True)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
