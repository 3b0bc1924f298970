"""The training loop against a bare torch loop, and what it does when something goes wrong."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import tv_tensors

from selector import modalities
from selector.core.errors import TrainingError
from selector.modalities.pixels.augmentation import augmented
from selector.tuning.strategies import _loop
from selector.tuning.strategies._loop import Feed, Settings, predict, train
from selector.tuning.strategies._parts import Group, is_classic, is_modern


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


def normalize(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 128 - 1


def everything(module: nn.Module) -> list[Group]:
    return [Group(tuple(name for name, _ in module.named_parameters()))]


class Simple(nn.Module):
    """The smallest learner: cross-entropy of a network's outputs."""

    new = ()

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: torch.Tensor, annotations: Sequence[Any], unlabeled: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch), torch.tensor(np.array(annotations)))

    def weight(self, annotations: Sequence[Any]) -> float:
        return len(annotations)

    def predict(self, batch: torch.Tensor) -> np.ndarray:
        outputs: np.ndarray = self.network(batch).float().numpy()
        return outputs


SETTINGS = Settings(steps=12, batch_size=20, rate=0.05, optimizer="sgd", weight_decay=1e-3)
pixels = Pixels()
INDICES = np.arange(60)
PLAIN = Feed(pixels, normalize, lambda items: list(pixels.labels[items]))
AUGMENTED = replace(PLAIN, augment=augmented)


def fit(
    module: nn.Module,
    settings: Settings = SETTINGS,
    groups: list[Group] | None = None,
    feed: Feed = PLAIN,
    **options: object,
) -> _loop.Fit:
    """Train a network; names of ``groups`` are its own."""
    chosen = groups or everything(module)
    named = [replace(group, names=tuple(f"network.{name}" for name in group.names)) for group in chosen]
    return train(Simple(module), named, feed, INDICES, settings, **options)  # type: ignore[arg-type]


def outputs_of(module: nn.Module, **options: Any) -> np.ndarray | None:
    found: list[np.ndarray] = []
    done = predict(Simple(module), PLAIN, INDICES, lambda outputs, _: found.append(outputs), **options)
    return np.concatenate(found) if done else None


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equals_a_bare_torch_loop(optimizer: str) -> None:
    settings = replace(SETTINGS, rate=0.01, optimizer=optimizer, weight_decay=0.01, seed=3)
    module = network(norm=True)
    bare = copy.deepcopy(module)
    result = fit(module, settings)

    bare.train()
    bare[1].eval()  # pretrained statistics are kept
    decayed = [p for p in bare.parameters() if p.ndim > 1]
    others = [p for p in bare.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    sgd = optimizer == "sgd"
    optim = torch.optim.SGD(groups, momentum=0.9, nesterov=True) if sgd else torch.optim.AdamW(groups)
    for step in range(12):
        epoch, place = divmod(step, 3)
        rows = np.random.default_rng((3, epoch)).permutation(60)[20 * place : 20 * place + 20]
        for group in optim.param_groups:
            group["lr"] = 0.01 * (1.0 if step < 1 else 0.5 * (1 + np.cos(np.pi * (step - 1) / 11)))
        optim.zero_grad()
        loss = nn.functional.cross_entropy(
            bare(normalize(torch.from_numpy(pixels.images[rows]))), torch.from_numpy(pixels.labels[rows])
        )
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optim.step()
    assert result.status == "ok"
    assert result.steps == 12
    assert result.losses[-1] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generators_alone() -> None:
    settings = replace(SETTINGS, steps=6, seed=1)
    before = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    first, second, third = network(dropout=0.5), network(dropout=0.5), network(dropout=0.5)
    fit(first, settings, feed=AUGMENTED)
    torch.rand(7)
    middle = torch.get_rng_state()
    fit(second, settings, feed=AUGMENTED)
    fit(third, replace(settings, seed=2), feed=AUGMENTED)
    assert same(first, second)
    assert not same(first, third)
    assert torch.equal(middle, torch.get_rng_state())
    torch.set_rng_state(before[0])


@pytest.mark.parametrize(
    ("device", "averaging"),
    [("cpu", "none"), ("cpu", "ema"), ("cpu", "last"), pytest.param("cuda", "none", marks=pytest.mark.gpu)],
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    device: str, averaging: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 0.0)
    settings = Settings(steps=11, batch_size=20, rate=0.05, optimizer="adamw", device=device, averaging=averaging)
    whole = network(norm=True, dropout=0.3)
    fit(whole, settings, feed=AUGMENTED)

    def interrupt(step: int, _: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(network(norm=True, dropout=0.3), settings, feed=AUGMENTED, checkpoint=checkpoint, on_loss=interrupt)
    resumed = network(norm=True, dropout=0.3, seed=9)  # its own start must not matter
    result = fit(resumed, settings, feed=AUGMENTED, checkpoint=checkpoint)
    assert result.notes == ["went on from a checkpoint at step 10"]
    assert len(result.losses) == 11
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


def test_a_loss_that_is_no_number_is_marked_as_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "CLIP", 1e30)
    result = fit(network(), Settings(steps=200, batch_size=20, rate=1e30, optimizer="sgd"))
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
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
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
    assert outputs_of(module, deadline=time.perf_counter() - 1) is None


class FakeClock:
    """Ticks so many seconds at every step that is done."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now

    def tick(self, *_: float) -> None:
        self.now += self.seconds


@pytest.mark.parametrize(("deadline", "least", "most"), [(100.0, 90, 100), (30.0, 25, 30), (5.0, 4, 5), (1.5, 1, 2)])
def test_a_training_that_the_deadline_cuts_is_cooled_down_within_it(deadline: float, least: int, most: int) -> None:
    """Whatever the budget, the rate has fallen to nearly nothing before the last step, and no step is late."""
    clock, rates = FakeClock(1.0), []
    module = network()
    original = torch.optim.SGD.step

    def step(self: Any, *rest: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        settings = replace(SETTINGS, steps=500)
        result = fit(module, settings, deadline=deadline, clock=clock, on_loss=clock.tick)
    assert result.status == "ok"
    assert result.cut
    assert least <= result.steps <= most
    assert clock.now <= deadline + 1
    assert result.notes == [f"cooled down after {result.steps} of 500 steps: the time for it was over"]
    if deadline > 10:
        assert rates[-1] < 0.15 * max(rates)
        falling = rates[-max(3, result.steps // 6) :]
        assert falling == sorted(falling, reverse=True)


def test_a_deadline_that_is_far_enough_changes_nothing() -> None:
    clock = FakeClock(1.0)
    cut, plain = network(), network()
    assert not fit(cut, deadline=13.0, clock=clock, on_loss=clock.tick).cut
    fit(plain)
    assert same(cut, plain)


def statistics(module: nn.Sequential) -> torch.Tensor:
    assert isinstance(module[1], nn.BatchNorm2d)
    assert module[1].running_mean is not None
    return module[1].running_mean


def test_pretrained_batch_norm_keeps_its_statistics_and_a_new_one_learns_them() -> None:
    kept, new = network(norm=True), network(norm=True)
    fit(kept, Settings(steps=4, batch_size=20, rate=0.01, optimizer="sgd"))
    assert (statistics(kept) == 0).all()
    learner = Simple(new)
    learner.new = ("network.1",)
    train(learner, everything(learner), PLAIN, INDICES, Settings(4, 20, 0.01, "sgd"))
    assert (statistics(new) != 0).any()


@pytest.mark.parametrize(
    ("name", "classic", "modern"),
    [
        ("test_resnet", True, False),
        ("vgg11_bn", True, False),
        ("test_efficientnet", False, False),
        ("test_vit", False, True),
        ("test_convnext", False, True),
    ],
)
def test_classic_networks_are_told_from_modern_ones(name: str, classic: bool, modern: bool) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    assert (is_classic(network), is_modern(network)) == (classic, modern)


def test_augmented_images_differ_but_keep_size_type_and_seed() -> None:
    images = torch.from_numpy(pixels.images[:8])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, labels = augmented(images, list(range(8)))
        torch.manual_seed(0)
        second, _ = augmented(images, [None] * 8)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert labels == list(range(8))
    assert torch.equal(first, second)
    assert not torch.equal(first, images)


def test_augmentation_moves_a_mask_and_boxes_with_their_picture() -> None:
    """The bright square of the image stays where its mask and its box say that it is."""
    images = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    annotations = []
    for i in range(6):
        x, y = 4 + 2 * i, 20 - 2 * i
        images[i, y : y + 8, x : x + 8] = 250
        mask = tv_tensors.Mask((images[i, :, :, 0] > 0).long())
        boxes = tv_tensors.BoundingBoxes([[x, y, x + 8, y + 8]] * (i + 1), format="XYXY", canvas_size=(32, 32))
        annotations.append({"mask": mask, "boxes": boxes, "labels": np.arange(i + 1)})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        changed, moved = augmented(images, annotations)
    assert not torch.equal(changed, images)
    for image, annotation in zip(changed, moved, strict=True):
        bright = image[:, :, 0] > 125
        assert (bright == annotation["mask"].bool()).float().mean() > 0.97
        rows, columns = torch.nonzero(bright, as_tuple=True)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert len(annotation["boxes"]) == len(annotation["labels"])
        for box in annotation["boxes"]:
            assert torch.allclose(box.float(), torch.tensor(found).float(), atol=2.0)


def test_texts_are_not_augmented() -> None:
    tokens = object()
    assert modalities.of("text").augment(tokens, [1, 2]) == (tokens, [1, 2])


class Asleep(Simple):
    """A network on a device that works by itself: its step takes a while and no processor time."""

    STEP = 0.12

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.ended = time.perf_counter()
        self.waits: list[float] = []

    def loss(self, batch: torch.Tensor, annotations: Sequence[Any], unlabeled: Any = None) -> torch.Tensor:
        self.waits.append(time.perf_counter() - self.ended)
        time.sleep(self.STEP)
        found = super().loss(batch, annotations)
        self.ended = time.perf_counter()
        return found


class Slow(Pixels):
    """Reading a batch takes two thirds of a step."""

    def batch(self, indices: np.ndarray) -> np.ndarray:
        time.sleep(Asleep.STEP * 2 / 3)
        return super().batch(indices)


def test_a_device_that_works_by_itself_does_not_wait_for_data() -> None:
    module = Asleep(network())
    feed = replace(PLAIN, inputs=Slow())
    groups = [Group(tuple(name for name, _ in module.named_parameters()))]
    assert train(module, groups, feed, INDICES, replace(SETTINGS, steps=14)).status == "ok"
    assert float(np.median(module.waits[1:])) <= 0.1 * Asleep.STEP  # 0.08 s where batches are read in turn with steps


def test_ahead_of_another_device_batches_are_changed_as_in_turn() -> None:
    settings = replace(SETTINGS, steps=5, device="meta")
    states, drawn = [], []
    feed = replace(PLAIN, augment=lambda batch, known: (batch, [float(torch.rand(())) for _ in known]))
    with _loop._seeded(0, torch.device("cpu")):
        for _ in range(5):
            states.append(torch.get_rng_state())
            drawn.append([float(torch.rand(())) for _ in range(20)])
    with _loop._seeded(0, torch.device("cpu")):
        ahead = _loop._ReadAhead(feed, INDICES, 20, settings, 0, False)
        for step, read in enumerate(ahead):
            assert read.step == step
            assert read.known == drawn[step]
            assert read.prepared.device.type == "meta"
            assert read.generator is not None
            assert torch.equal(read.generator, states[step])
            following = ahead.before_next()
            assert (
                following is None if step == 4 else torch.equal(following, states[step + 1])
            )  # what a checkpoint keeps
        ahead.close()


def test_an_error_of_reading_is_raised_and_the_thread_ends() -> None:
    class Broken(Pixels):
        def batch(self, indices: np.ndarray) -> np.ndarray:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fit(network(), feed=replace(PLAIN, inputs=Broken()))
    assert not [t for t in threading.enumerate() if t.name.startswith("selector-feed")]
