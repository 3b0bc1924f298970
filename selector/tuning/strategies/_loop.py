"""The one training loop, and the forward pass that measures its result.

``train`` reads top to bottom: settings, optimiser, resume, then step after step. It touches no
global state: every random number comes from the settings' seed inside a forked generator.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from selector.core.errors import TrainingError
from selector.modalities.tokens import Tokens
from selector.tuning.strategies._checkpoint import read_checkpoint, write_checkpoint
from selector.tuning.strategies._kinds import is_folded
from selector.tuning.strategies._parts import Group

log = logging.getLogger(__name__)

SMALL_BATCH = 16  # below it batch statistics are noise and batch-norm keeps the pretrained ones
CHECKPOINT_SECONDS = 60.0
MAX_TOKENS = 16_384  # whose activations are kept for the gradients at once: 32 texts of 512 tokens

Optimiser = Literal["sgd", "adamw"]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Truth = Callable[[np.ndarray], np.ndarray]
"""Places of training items -> the labels of their rows, item after item."""
Normalise = Callable[[Any], Any]
"""A prepared batch (uint8 (B, H, W, C), or tokens) -> what the network reads, on the network's device."""


class PixelBatches(Protocol):
    """Where prepared items come from; ``Pixels`` and ``TokenTable`` of ``selector.extract`` are two."""

    def batch(self, indices: np.ndarray) -> Any:
        """uint8 (B, H, W, C) of the items at ``indices``, or their tokens: with a length and slices."""
        ...


@dataclass(frozen=True)
class Settings:
    """What a training is; two runs with equal settings on one machine give equal weights."""

    steps: int
    batch_size: int
    rate: float
    optimiser: Optimiser
    seed: int = 0
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    clip: float = 1.0
    renew_norm: bool = False  # batch-norm statistics: the pretrained ones are kept, see docs/confirm.md
    augment: bool = True
    flip: bool = True
    bf16: bool = False
    ema: float | None = None  # decay of an average of the weights that replaces them at the end
    device: str = "cpu"


@dataclass
class Fit:
    """What happened. ``stopped``: the deadline came first; the weights are those of the last step."""

    status: Literal["ok", "diverged", "stopped"]
    steps: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0  # on a GPU the peak of its memory; on the CPU what the process held after a step
    losses: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def train(
    module: nn.Module,
    groups: Sequence[Group],
    pixels: PixelBatches,
    indices: np.ndarray,
    labels: np.ndarray | Truth,
    normalise: Normalise,
    loss_function: LossFunction,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    deadline: float = math.inf,
    on_step: Callable[[int], None] | None = None,
) -> Fit:
    """Move the parameters of ``groups`` for ``settings.steps`` steps; all others stay untouched.

    Args:
        module: images -> logits; is trained in place.
        groups: by parameter name, with their share of the rate.
        pixels, indices, labels: the training items; ``labels`` runs along ``indices``, or gives the labels
            of some of them, where an item has several rows.
        normalise: see ``Normalise``.
        checkpoint: file to go on from and to write every minute; removed by the caller.
        deadline: ``time.perf_counter()`` value after which no step begins.
        on_step: called with the number of steps done.
    Returns:
        The fit; ``diverged`` when the loss is no longer a finite number.
    Raises:
        TrainingError: out of memory with a single image.
    """
    device = torch.device(settings.device)
    _place(module, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    moving = select_parameters(module, groups)
    optimiser = _optimiser(moving, settings)
    average = {name: p.detach().clone() for _, named in moving for name, p in named} if settings.ema else {}
    batch_size = min(settings.batch_size, len(indices))
    truth = labels if callable(labels) else np.ascontiguousarray(labels).__getitem__
    kept_norm = not settings.renew_norm or batch_size < SMALL_BATCH or is_folded(module)
    fit = Fit("ok")
    micro_batch = batch_size
    begun = time.perf_counter()
    with _seeded(settings.seed, device):
        if checkpoint is not None and (state := read_checkpoint(checkpoint)) is not None:
            module.load_state_dict(state["module"])
            optimiser.load_state_dict(state["optimiser"])
            average = {name: value.to(device) for name, value in state["average"].items()}
            torch.set_rng_state(state["rng"])
            fit.steps, fit.losses = int(state["step"]), list(state["losses"])
            fit.notes.append(f"went on from a checkpoint at step {fit.steps}")
        train_mode(module, moving, kept_norm)
        saved = time.perf_counter()
        for step, rows in _batches(len(indices), batch_size, settings, start=fit.steps):
            if time.perf_counter() >= deadline:
                fit.status = "stopped"
                break
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * group["share"] * _schedule(step, settings)
            images = as_batch(pixels.batch(indices[rows]))
            if settings.augment:
                images = augmented(images, flip=settings.flip)
            while True:
                try:
                    loss = _accumulate(module, images, rows, truth, micro_batch, normalise, loss_function, settings)
                    break
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    micro_batch = _smaller(micro_batch, error, fit)
            if not math.isfinite(loss):
                fit.status = "diverged"
                fit.notes.append(f"the loss became {loss} at step {step}")
                break
            nn.utils.clip_grad_norm_([p for _, named in moving for _, p in named], settings.clip)
            optimiser.step()
            fit.losses.append(loss)
            fit.steps = step + 1
            if not fit.memory_bytes:
                fit.memory_bytes = _memory(device)
            if settings.ema:
                _follow(average, moving, settings.ema, fit.steps)
            if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                write_checkpoint(checkpoint, _state(module, optimiser, average, fit))
                saved = time.perf_counter()
            if on_step is not None:
                on_step(fit.steps)
    if settings.ema:
        _copy_into(moving, average)
    optimiser.zero_grad(set_to_none=True)
    module.eval()
    if fit.status == "ok" and not _finite(moving):
        fit.status = "diverged"
        fit.notes.append("a weight is no longer a finite number")
    if device.type == "cuda":
        fit.memory_bytes = _memory(device)
    fit.seconds = time.perf_counter() - begun
    return fit


def predict(
    module: nn.Module,
    pixels: PixelBatches,
    indices: np.ndarray,
    normalise: Normalise,
    *,
    device: str = "cpu",
    bf16: bool = False,
    batch_size: int = 64,
    deadline: float = math.inf,
) -> np.ndarray | None:
    """Outputs (N, K) float32 of ``module`` in eval mode, or None when the deadline came first."""
    target = torch.device(device)
    _place(module, target)
    module.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(indices), batch_size):
            if time.perf_counter() >= deadline:
                return None
            images = as_batch(pixels.batch(indices[start : start + batch_size]))
            with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                found.append(module(normalise(images)).float().cpu().numpy())
    return np.concatenate(found)


def as_batch(prepared: Any) -> Any:
    """Pixels as a tensor, anything else as it is."""
    return torch.from_numpy(prepared) if isinstance(prepared, np.ndarray) else prepared


# ---------------------------------------------------------------------------- the module


def select_parameters(module: nn.Module, groups: Sequence[Group]) -> list[tuple[float, list[tuple[str, nn.Parameter]]]]:
    """Let only the parameters of ``groups`` require gradients; returns them by share of the rate."""
    parameters = dict(module.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    moving = []
    for group in groups:
        named = [(name, parameters[name]) for name in group.names]
        for _, parameter in named:
            parameter.requires_grad_(True)
        moving.append((group.rate_share, named))
    return moving


def train_mode(
    module: nn.Module, moving: Sequence[tuple[float, list[tuple[str, nn.Parameter]]]], kept_norm: bool
) -> None:
    """Train mode, except for batch-norm layers whose weights do not move or whose statistics are kept."""
    moved = {id(p) for _, named in moving for _, p in named}
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            affine = [p for p in child.parameters(recurse=False) if id(p) in moved]
            if kept_norm or (child.affine and not affine):
                child.eval()


def augmented(images: torch.Tensor, *, flip: bool) -> torch.Tensor:
    """uint8 (B, H, W, C): a crop of 70-100 % of each image's area, and a mirror image of half of them."""
    from torchvision.transforms.v2 import RandomHorizontalFlip, RandomResizedCrop

    height, width = images.shape[1:3]
    crop = RandomResizedCrop((height, width), scale=(0.7, 1.0), ratio=(0.9, 1.11), antialias=True)
    mirror = RandomHorizontalFlip(0.5 if flip else 0.0)
    changed = torch.stack([mirror(crop(image)) for image in images.permute(0, 3, 1, 2)])
    return changed.permute(0, 2, 3, 1)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)


def _place(module: nn.Module, device: torch.device) -> None:
    module.to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# ---------------------------------------------------------------------------- one step


def _accumulate(
    module: nn.Module,
    images: Any,
    items: np.ndarray,
    truth: Truth,
    micro_batch: int,
    normalise: Normalise,
    loss_function: LossFunction,
    settings: Settings,
) -> float:
    """Gradients of the mean loss over the rows of the batch, in pieces of at most ``micro_batch`` items."""
    module.zero_grad(set_to_none=True)
    total, whole = 0.0, len(truth(items))
    for part in _pieces(images, micro_batch):
        piece = normalise(images[part])
        labels = torch.from_numpy(truth(items[part])).to(piece.device)
        with torch.autocast(piece.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
            logits = module(piece)
        loss = loss_function(logits, labels) * (len(labels) / whole)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _pieces(images: Any, micro_batch: int) -> Iterable[slice]:
    if isinstance(images, Tokens):  # texts read in windows have many rows each
        return images.pieces(micro_batch, MAX_TOKENS)
    return [slice(start, start + micro_batch) for start in range(0, len(images), micro_batch)]


def _smaller(micro_batch: int, error: Exception, fit: Fit) -> int:
    """Half the micro batch after a lack of memory; anything else is passed on."""
    lack = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if not lack:
        raise error
    if micro_batch == 1:
        raise TrainingError(
            "out of memory with a single item; train at a smaller resolution, on another device, or use 'frozen'."
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = max(1, micro_batch // 2)
    fit.notes.append(f"out of memory with {micro_batch} items: gradients are summed over pieces of {half}")
    return half


def _optimiser(
    moving: Sequence[tuple[float, list[tuple[str, nn.Parameter]]]], settings: Settings
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for share, named in moving:
        for decays in (True, False):  # norms and biases are not decayed
            chosen = [p for _, p in named if (p.ndim > 1) == decays]
            if chosen:
                groups.append(
                    {"params": chosen, "share": share, "weight_decay": settings.weight_decay if decays else 0.0}
                )
    # one pass over the weights instead of several; on a CPU it is not the default
    fused = torch.device(settings.device).type in ("cpu", "cuda")
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.rate, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.rate, fused=fused)


def _schedule(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def _batches(count: int, batch_size: int, settings: Settings, *, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """(step, row numbers); each epoch's order comes from seed and epoch, so any step can be the first."""
    per_epoch = count // batch_size
    order = np.empty(0, dtype=np.int64)
    known = -1
    for step in range(start, settings.steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != known:
            order, known = np.random.default_rng((settings.seed, epoch)).permutation(count), epoch
        yield step, order[position * batch_size : (position + 1) * batch_size]


def _follow(
    average: dict[str, torch.Tensor],
    moving: Sequence[tuple[float, list[tuple[str, nn.Parameter]]]],
    decay: float,
    steps: int,
) -> None:
    weight = 1 - min(decay, steps / (steps + 10))  # a young average follows faster
    for _, named in moving:
        for name, parameter in named:
            average[name].lerp_(parameter.detach(), weight)


def _copy_into(
    moving: Sequence[tuple[float, list[tuple[str, nn.Parameter]]]], average: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        for _, named in moving:
            for name, parameter in named:
                parameter.copy_(average[name])


def _finite(moving: Sequence[tuple[float, list[tuple[str, nn.Parameter]]]]) -> bool:
    return all(bool(torch.isfinite(p).all()) for _, named in moving for _, p in named)


def _state(
    module: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor], fit: Fit
) -> dict[str, Any]:
    return {
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average,
        "rng": torch.get_rng_state(),
        "step": fit.steps,
        "losses": fit.losses,
    }


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and augmentation draw from ``seed``; the caller's generators are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


__all__ = ["Fit", "PixelBatches", "Settings", "predict", "train"]
