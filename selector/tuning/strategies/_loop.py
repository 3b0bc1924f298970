"""The one training loop, and the forward pass that measures its result.

``train`` reads top to bottom: settings, optimizer, resume, then step after step. It touches no
global state: every random number comes from the settings' seed inside a forked generator. It knows no
task: a ``Learner`` says its loss and its outputs, and an annotation travels with its item.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import nn

from selector import modalities
from selector.core.errors import TrainingError
from selector.core.resources import is_out_of_memory, memory_limit, threads_for
from selector.core.task import Learner
from selector.core.units import format_size
from selector.extract.cost import module_bytes, peak_memory
from selector.tuning.strategies._parts import Group, WeightAverage
from selector.tuning.weights import read_checkpoint, write_checkpoint

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
MAX_TOKENS = 16_384  # whose activations are kept for the gradients at once: 32 texts of 512 tokens
WARMUP = 0.1  # share of the steps
CLIP = 1.0  # norm of the gradient
AHEAD = 2  # batches that are read while a step runs
COOL_DOWN = 0.25  # share of the steps done that a cool-down takes when time runs out
LEAST_COOL_DOWN = 3  # steps
_MEASURED = 2  # items whose gradients tell what each takes; one alone has no variance to normalize by

Optimizer = Literal["sgd", "adamw"]
Averaging = Literal["none", "ema", "last"]
Moving = Sequence[tuple[float, list[tuple[str, nn.Parameter]]]]
"""Parameters that are trained, by their share of the rate."""
Annotated = Callable[[np.ndarray], Sequence[Any]]
"""Positions of items -> what is known of each, as ``Task.annotations`` gives it."""
Normalize = Callable[[Any], Any]
"""A prepared batch (uint8 (B, H, W, C), or tokens) -> what the network reads, on the network's device."""
Augment = Callable[[Any, Sequence[Any]], tuple[Any, Sequence[Any]]]
"""A prepared batch and its annotations, both changed; draws from torch's global generator."""


class PixelBatches(Protocol):
    """Where prepared items come from; ``Pixels`` and ``TokenTable`` of ``selector.extract`` are two."""

    def batch(self, indices: np.ndarray) -> Any:
        """uint8 (B, H, W, C) of the items at ``indices``, or their tokens: with a length and slices."""
        ...


@dataclass(frozen=True)
class _Read:
    """What a step takes.

    Attributes:
        prepared, known: a batch and its annotations; ``beside``: items without labels, of learners that look at them.
        generator: state of torch's generator before the batch was made, where it was made ahead of its step.
    """

    step: int
    prepared: Any
    known: Sequence[Any]
    beside: Any = None
    generator: torch.Tensor | None = None


@dataclass(frozen=True)
class Feed:
    """Items as a learner gets them: inputs with the annotations of the same items.

    Attributes:
        inputs: prepared items by position in the target.
        normalize: see ``Normalize``.
        annotations: see ``Annotated``; None where nothing is learned from them.
        augment: of training batches; None leaves them as they are.
        unlabeled: positions of items of another domain, for learners that look at them (``adapts``).
        sampling_weights: (N,) with what weight each training item is drawn; None where each is drawn once an epoch.
    """

    inputs: PixelBatches
    normalize: Normalize
    annotations: Annotated | None = None
    augment: Augment | None = None
    unlabeled: np.ndarray | None = None
    sampling_weights: np.ndarray | None = None

    def beside(self, step: int, count: int, seed: int) -> Any:
        """Items without labels for a step, before they are changed and normalized: drawn from seed and step, so any step can be
        the first."""
        assert self.unlabeled is not None
        rng = np.random.default_rng((seed, step, 1))
        return self.prepared(rng.choice(self.unlabeled, count, replace=count > len(self.unlabeled)))

    def prepared(self, items: np.ndarray) -> Any:
        """A batch before it is normalized."""
        return as_batch(self.inputs.batch(items))

    def batch(self, items: np.ndarray) -> tuple[Any, Sequence[Any]]:
        """A training batch before it is changed and normalized, with its annotations: an entry per item, of any size."""
        assert self.annotations is not None
        return self.prepared(items), self.annotations(items)

    def augmented(self, batch: _Read) -> _Read:
        """The batch changed at random, and then what is beside it."""
        if self.augment is None:
            return batch
        prepared, known = self.augment(batch.prepared, batch.known)
        beside = None if batch.beside is None else self.augment(batch.beside, [0] * len(batch.beside))[0]
        return replace(batch, prepared=prepared, known=known, beside=beside)


@dataclass(frozen=True)
class Settings:
    """What a training is; two runs with equal settings on one machine give equal weights."""

    steps: int
    batch_size: int
    rate: float
    optimizer: Optimizer
    seed: int = 0
    weight_decay: float = 0.01
    bf16: bool = False
    device: str = "cpu"
    averaging: Averaging = "none"


@dataclass
class Fit:
    """What happened. ``stopped``: the deadline came before a step; the weights are those of the last step."""

    status: Literal["ok", "diverged", "stopped"]
    steps: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0  # on a GPU the peak of its memory; on the CPU what the process held after a step
    losses: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: bool = False  # whether time ran out and the training was cooled down before its last step


def train(
    module: nn.Module,
    groups: Sequence[Group],
    feed: Feed,
    items: np.ndarray,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    deadline: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    on_loss: Callable[[int, float], None] | None = None,
) -> Fit:
    """Move the parameters of ``groups`` for ``settings.steps`` steps; all others stay untouched.

    The rate warms up and then falls to zero by half a cosine. Where the deadline comes nearer than the steps
    that are left, the rate falls to zero from wherever it is within a quarter of the steps done, so that what
    was begun ends as a finished training.

    Args:
        module: a ``core.task.Learner``; is trained in place.
        groups: by parameter name, with their share of the rate.
        feed, items: where batches come from, and the positions of the training items.
        checkpoint: file to go on from and to write every minute; removed by the caller.
        deadline: value of ``clock`` after which no step begins.
        on_loss: called with the number of steps done and the loss of the last one.
    Returns:
        The fit; ``diverged`` when the loss is no longer a finite number.
    Raises:
        TrainingError: out of memory with a single item.
    """
    device = torch.device(settings.device)
    _place(module, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    moving = select_parameters(module, groups)
    optimizer = _optimizer(moving, settings)
    batch_size = min(settings.batch_size, len(items))
    fit = Fit("ok")
    micro_batch = batch_size
    average = WeightAverage(settings.averaging, [p for _, named in moving for _, p in named], settings.steps)
    begun = clock()
    adapts = bool(getattr(module, "adapts", False))
    with _seeded(settings.seed, device):
        if checkpoint is not None and (state := read_checkpoint(checkpoint)) is not None:
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            average.load_state_dict(state.get("average", {}))
            torch.set_rng_state(state["rng"])
            if "device_rng" in state and device.type == "cuda":
                torch.cuda.set_rng_state(state["device_rng"], device)
            fit.steps, fit.losses = int(state["step"]), list(state["losses"])
            fit.notes.append(f"went on from a checkpoint at step {fit.steps}")
        train_mode(module, moving)
        saved, started = clock(), fit.steps
        cooling: tuple[int, int] | None = None  # first step of the cool-down, and the one behind its last
        ahead = _ReadAhead(feed, items, batch_size, settings, fit.steps, adapts)
        with closing(ahead):
            for read in ahead:
                step = read.step
                now = clock()
                if now >= deadline:
                    fit.status = "stopped" if fit.steps == 0 else "ok"
                    fit.cut = fit.steps > 0
                    break
                if cooling is None and step > started and math.isfinite(deadline):
                    cooling = _cool_down(step, settings.steps, (now - begun) / (step - started), deadline - now)
                if cooling is not None and step >= cooling[1]:
                    fit.cut = True
                    break
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate * group["share"] * _schedule(step, settings.steps, cooling)
                batch = read if read.generator is not None else feed.augmented(read)
                if step == started and (limit := memory_limit()) is not None:
                    micro_batch = min(micro_batch, _fitting(module, moving, batch, feed.normalize, settings, limit))
                if adapts:
                    module.progress = step / settings.steps  # type: ignore[assignment]
                while True:
                    try:
                        loss = _accumulate(module, batch, micro_batch, feed.normalize, settings)
                        break
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                    # outside the except block: the traceback would keep the tensors of the failed pass alive
                    micro_batch = _smaller(micro_batch, device, fit)
                if not math.isfinite(loss):
                    fit.status = "diverged"
                    fit.notes.append(f"the loss became {loss} at step {step}")
                    break
                nn.utils.clip_grad_norm_([p for _, named in moving for _, p in named], CLIP)
                optimizer.step()
                average.update(step)
                fit.losses.append(loss)
                fit.steps = step + 1
                if not fit.memory_bytes:
                    fit.memory_bytes = _memory(device)
                if checkpoint is not None and clock() - saved > CHECKPOINT_SECONDS:
                    write_checkpoint(checkpoint, _state(module, optimizer, average, fit, device, ahead.before_next))
                    saved = clock()
                if on_loss is not None:
                    on_loss(fit.steps, loss)
    if fit.cut:
        fit.notes.append(f"cooled down after {fit.steps} of {settings.steps} steps: the time for it was over")
        if adapts and (reached := module.reached()):  # type: ignore[operator]
            fit.notes.append(reached)
    optimizer.zero_grad(set_to_none=True)
    average.apply()
    module.eval()
    if fit.status == "ok" and not _finite(moving):
        fit.status = "diverged"
        fit.notes.append("a weight is no longer a finite number")
    if device.type == "cuda":
        fit.memory_bytes = _memory(device)
    fit.seconds = clock() - begun
    return fit


def predict(
    module: nn.Module,
    feed: Feed,
    items: np.ndarray,
    take: Callable[[Any, np.ndarray], None],
    *,
    call: Callable[[Any, np.ndarray], Any] | None = None,
    device: str = "cpu",
    bf16: bool = False,
    batch_size: int = 64,
    deadline: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Hand the outputs of ``module`` (a ``core.task.Learner``) in eval mode to ``take``, batch by batch.

    Args:
        take: called with outputs and the positions of their items: ``Evaluator.update`` is one.
        call: (batch, positions) -> what to take; the learner's ``predict`` when not given.
    Returns:
        False when the deadline came first.
    """
    target = torch.device(device)
    _place(module, target)
    module.eval()
    learner = cast(Learner, module)

    def outputs(some: np.ndarray) -> Any:
        prepared = feed.prepared(some)
        with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
            batch = feed.normalize(prepared)
            return learner.predict(batch) if call is None else call(batch, some)

    with torch.inference_mode():
        if (limit := memory_limit()) is not None and len(items):
            with peak_memory(module, device) as peak:
                outputs(items[:1])
            weights = module_bytes(module)
            batch_size = max(1, min(batch_size, (limit - weights) // max(1, peak() - weights)))
        for start in range(0, len(items), batch_size):
            if clock() >= deadline:
                return False
            some = items[start : start + batch_size]
            take(outputs(some), some)
    return True


def as_batch(prepared: object) -> object:
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


def train_mode(module: nn.Module, moving: Moving) -> None:
    """Train mode, except for pretrained batch-norm layers: they keep their statistics (docs/explanation/fine-tuning-stage.md says what
    renewing them costs). Those of new layers (a decoder) have none yet and learn them."""
    new = getattr(module, "new", ())
    module.train()
    for name, child in module.named_modules():
        fresh = any(name == prefix or name.startswith(f"{prefix}.") for prefix in new)
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not fresh:
            child.eval()


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)


def _place(module: nn.Module, device: torch.device) -> None:
    module.to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# ---------------------------------------------------------------------------- one step


def _accumulate(module: nn.Module, batch: _Read, micro_batch: int, normalize: Normalize, settings: Settings) -> float:
    """Gradients of the mean loss of the batch, in pieces of at most ``micro_batch`` items."""
    learner = cast(Learner, module)
    prepared, known, beside = batch.prepared, batch.known, batch.beside
    module.zero_grad(set_to_none=True)
    total, whole = 0.0, learner.weight(known)
    for part in modalities.of_batch(prepared).pieces(prepared, micro_batch, MAX_TOKENS):
        piece, annotations = normalize(prepared[part]), known[part]
        with torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16, enabled=settings.bf16):
            more = () if beside is None else (normalize(beside[part]),)
            loss = learner.loss(piece, annotations, *more)
        loss = loss * (learner.weight(annotations) / whole if whole else 0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _fitting(
    module: nn.Module, moving: Moving, batch: _Read, normalize: Normalize, settings: Settings, limit: int
) -> int:
    """Items whose gradients can be taken at once within ``limit`` bytes, with the optimizer's state; nothing is changed.

    Raises:
        TrainingError: not even two, on which new normalization layers need to be trained.
    """
    weights = module_bytes(module)
    gradients = sum(p.numel() * p.element_size() for _, named in moving for _, p in named)
    held = weights + gradients * (1 + (1 if settings.optimizer == "sgd" else 2))
    few = next(iter(modalities.of_batch(batch.prepared).pieces(batch.prepared, _MEASURED, MAX_TOKENS)))
    two = replace(
        batch, prepared=batch.prepared[few], known=batch.known[few],
        beside=None if batch.beside is None else batch.beside[few],
    )  # fmt: skip
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    generator = torch.get_rng_state()
    with peak_memory(module, settings.device) as peak:
        _accumulate(module, two, _MEASURED, normalize, settings)
    torch.set_rng_state(generator)
    module.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
    each = max(1, peak() - weights - gradients) / max(1, len(two.known))
    if held + _MEASURED * each > limit:
        needed = format_size(held + _MEASURED * each)
        raise TrainingError(
            f"its training takes about {needed} of memory, more than {format_size(limit)}; raise max_memory "
            "(--max-memory), train at a smaller resolution, or use 'frozen'."
        )
    return int((limit - held) / each)


def _smaller(micro_batch: int, device: torch.device, fit: Fit) -> int:
    """Half the micro batch after a lack of memory."""
    if micro_batch == 1:
        raise TrainingError(
            "out of memory with a single item; train at a smaller resolution, on another device, or use 'frozen'."
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    half = max(1, micro_batch // 2)
    fit.notes.append(f"out of memory with {micro_batch} items: gradients are summed over pieces of {half}")
    return half


def _optimizer(moving: Moving, settings: Settings) -> torch.optim.Optimizer:
    groups: list[dict[str, object]] = []
    for share, named in moving:
        for decays in (True, False):  # norms and biases are not decayed
            chosen = [p for _, p in named if (p.ndim > 1) == decays]
            if chosen:
                groups.append(
                    {"params": chosen, "share": share, "weight_decay": settings.weight_decay if decays else 0.0}
                )
    # one pass over the weights instead of several; on a CPU it is not the default
    fused = torch.device(settings.device).type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.rate, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.rate, fused=fused)


def _schedule(step: int, steps: int, cooling: tuple[int, int] | None = None) -> float:
    """Linear warm-up, then half a cosine down to zero; a cool-down falls linearly from where the rate is.

    >>> [round(_schedule(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    >>> [round(_schedule(step, 20, (4, 8)), 2) for step in (4, 5, 6, 7)]
    [0.78, 0.58, 0.39, 0.19]
    """
    if cooling is not None:
        first, end = cooling
        return _schedule(first, steps) * (end - step) / (end - first + 1)
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _cool_down(step: int, steps: int, seconds: float, left: float) -> tuple[int, int] | None:
    """(first step of a cool-down, the one behind its last) when no more time is left than it takes.

    Args:
        step: the one about to begin; ``steps`` are planned.
        seconds: a step takes, measured; ``left`` until the deadline.

    >>> _cool_down(40, 100, 1.0, 60.0), _cool_down(40, 100, 1.0, 11.5), _cool_down(40, 100, 4.0, 20.0)
    (None, (40, 50), (40, 44))
    """
    fits = int(left / seconds) if seconds > 0 else steps
    length = max(LEAST_COOL_DOWN, round(COOL_DOWN * step))
    if step + fits >= steps or fits > length + 1:
        return None
    return step, step + max(1, min(length, fits - 1))


def _batches(
    count: int, batch_size: int, settings: Settings, *, start: int, sampling_weights: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(step, row numbers); each epoch's order comes from seed and epoch, so any step can be the first. Where items are
    ``sampling_weights`` weights, an epoch has some of them several times."""
    per_epoch = count // batch_size
    order = np.empty(0, dtype=np.int64)
    known = -1
    for step in range(start, settings.steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != known:
            rng, known = np.random.default_rng((settings.seed, epoch)), epoch
            order = rng.permutation(count) if sampling_weights is None else rng.choice(count, count, p=sampling_weights)
        yield step, order[position * batch_size : (position + 1) * batch_size]


class _ReadAhead:
    """Batches in the order of the steps, read in a thread while earlier steps run.

    On a CPU they are read alone: what changes them at random draws from the generator that the network draws from, in
    turn with it. Another device has a generator of its own, so there they are changed ahead as well, and copied over.
    """

    def __init__(
        self, feed: Feed, items: np.ndarray, batch_size: int, settings: Settings, start: int, adapts: bool
    ) -> None:
        self._feed, self._items, self._seed, self._adapts = feed, items, settings.seed, adapts
        self._device = torch.device(settings.device)
        self._steps = _batches(len(items), batch_size, settings, start=start, sampling_weights=feed.sampling_weights)
        self._pool = threads_for(1, "feed")
        self._waiting: deque[Future[_Read]] = deque()

    def __iter__(self) -> Iterator[_Read]:
        for step, rows in self._steps:
            self._waiting.append(self._pool.submit(self._read, step, rows))
            if len(self._waiting) > AHEAD:
                yield self._waiting.popleft().result()
        while self._waiting:
            yield self._waiting.popleft().result()

    def before_next(self) -> torch.Tensor | None:
        """State of torch's generator before the next batch was made; None where the steps draw from it themselves."""
        return self._waiting[0].result().generator if self._waiting else None

    def close(self) -> None:
        """End the thread: after it nothing draws from the generator."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, step: int, rows: np.ndarray) -> _Read:
        apart = self._device.type != "cpu"
        generator = torch.get_rng_state() if apart else None
        prepared, known = self._feed.batch(self._items[rows])
        beside = self._feed.beside(step, len(rows), self._seed) if self._adapts else None
        batch = _Read(step, prepared, known, beside, generator)
        if not apart:
            return batch
        batch = self._feed.augmented(batch)
        return replace(batch, prepared=self._copied(batch.prepared), beside=self._copied(batch.beside))

    def _copied(self, prepared: object) -> object:
        """Pixels on the device, by way of page-locked memory where that lets the copy run beside a step."""
        if not isinstance(prepared, torch.Tensor):
            return prepared
        return (prepared.pin_memory() if self._device.type == "cuda" else prepared).to(self._device, non_blocking=True)


def _finite(moving: Moving) -> bool:
    return all(bool(torch.isfinite(p).all()) for _, named in moving for _, p in named)


def _state(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    fit: Fit,
    device: torch.device,
    upcoming: Callable[[], torch.Tensor | None],
) -> dict[str, Any]:
    # dropout on a GPU draws from a generator of its own
    own = {"device_rng": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {
        **own,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict(),
        "rng": torch.get_rng_state() if (before := upcoming()) is None else before,
        "step": fit.steps,
        "losses": fit.losses,
    }


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and augmentation draw from ``seed``; the caller's generators are left as they were."""
    # ``manual_seed`` seeds every GPU, whatever trains
    begun = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cards = range(torch.cuda.device_count()) if begun else ()
    with torch.random.fork_rng(devices=list(cards)):
        torch.manual_seed(seed)
        yield


__all__ = ["Feed", "Fit", "PixelBatches", "Settings", "predict", "train"]
