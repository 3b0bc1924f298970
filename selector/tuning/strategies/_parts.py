"""A network as strategies see it: sections of parameters in forward order, and the head; averages of the weights over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from selector.core.task import Learner

STEM_SHARE = 0.05  # of the head's learning rate, under layer decay; in between it falls geometrically


@dataclass(frozen=True)
class Group:
    """Parameters that move together: their names and their share of the learning rate."""

    names: tuple[str, ...]
    rate_share: float = 1.0


@dataclass(frozen=True)
class Parts:
    """Parameter names by section.

    Attributes:
        stem: before the first block (patch embedding, position embedding, first convolution).
        blocks: one entry a block, in forward order.
        rest: after the last block but before the head (final norm, last convolution).
        head: what did not come pretrained: head, decoder, detector.
    """

    stem: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    rest: tuple[str, ...]
    head: tuple[str, ...]

    def sections(self) -> list[tuple[str, ...]]:
        """Stem, blocks, rest, head; each may be empty."""
        return [self.stem, *self.blocks, self.rest, self.head]


def parts_of(module: nn.Module, blocks: Sequence[str], new: Sequence[str] | None = None) -> Parts:
    """Sort the parameters of ``module`` into sections.

    Args:
        module: a ``core.task.Learner``.
        blocks: ``Encoder.blocks``; names may lack the prefix that a wrapping module adds.
        new: prefixes of what did not come pretrained: ``Learner.new`` when not given.
    """
    new = cast(Learner, module).new if new is None else new
    children = [name for name, _ in module.named_modules()]
    prefixes = [found for block in blocks if (found := _resolve(children, block)) is not None]
    names = [name for name, _ in module.named_parameters()]
    owner = {name: _innermost(name, prefixes) for name in names}
    in_head = [name for name in names if any(_inside(name, prefix) for prefix in new)]
    fresh = set(in_head)
    positions = [i for i, name in enumerate(names) if owner[name] is not None and name not in fresh]
    first, last = (positions[0], positions[-1]) if positions else (len(names), len(names))
    stem: list[str] = []
    rest: list[str] = []
    by_block: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for i, name in enumerate(names):
        block = owner[name]
        if name in fresh:
            continue
        if block is not None:
            by_block[block].append(name)
        elif i < first:
            stem.append(name)
        elif i > last:
            rest.append(name)
        else:  # between two blocks (a downsampling layer): it feeds the block after it
            following = next(owner[names[later]] for later in positions if later > i)
            by_block[str(following)].append(name)
    return Parts(tuple(stem), tuple(tuple(by_block[p]) for p in prefixes), tuple(rest), tuple(in_head))


def decayed(sections: Sequence[tuple[str, ...]], layer_decay: bool) -> list[Group]:
    """Groups of the last ``len(sections)`` sections; the last one (the head) at the full rate."""
    depth = max(len(sections) - 1, 1)
    shares = [STEM_SHARE ** ((len(sections) - 1 - i) / depth) if layer_decay else 1.0 for i in range(len(sections))]
    return [Group(names, share) for names, share in zip(sections, shares, strict=True) if names]


def _resolve(children: Sequence[str], block: str) -> str | None:
    if block in children:
        return block
    return next((name for name in children if name.endswith(f".{block}")), None)


def _inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _innermost(name: str, prefixes: Sequence[str]) -> str | None:
    return max((p for p in prefixes if _inside(name, p)), key=len, default=None)


def is_modern(module: nn.Module) -> bool:
    """A transformer, or a network built like one (ConvNeXt): layer norm or attention somewhere."""
    kinds = {type(child).__name__ for child in module.modules()}
    return any(word in kind for kind in kinds for word in ("LayerNorm", "RmsNorm", "RMSNorm", "GroupNorm", "Attention"))


def is_classic(module: nn.Module) -> bool:
    """A plain convolutional network (ResNet, VGG, Inception): neither modern nor depthwise (EfficientNet)."""
    convolutions = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    depthwise = any(c.groups == c.in_channels > 1 for c in convolutions)
    return bool(convolutions) and not depthwise and not is_modern(module)


def is_depthwise(module: nn.Module) -> bool:
    """Whether three tenths of the layers or more are depthwise convolutions (EfficientNet, MobileNet v2, ConvNeXt): their
    backward passes are slow in bfloat16 on a CPU, more than the other layers gain."""
    layers = [child for child in module.modules() if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear)]
    depthwise = [c for c in layers if not isinstance(c, nn.Linear) and c.groups == c.in_channels > 1]
    return len(depthwise) >= 0.3 * max(1, len(layers))


def bf16_helps(device: str) -> bool:
    """Whether this device multiplies bfloat16 faster than float32."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return torch.cuda.get_device_capability(kind)[0] >= 8
    flags = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return kind.type == "cpu" and bool(flags() or amx())


def mixed_precision(module: nn.Module | None, device: str, multiplies: bool) -> bool:
    """Whether a network trains in bfloat16 beside float32: by a rule, not by the clock.

    Precision is part of the address of a training and of its figures, so that two runs of the same seed would differ by how
    busy the machine was. On a CPU depthwise networks train in float32, all others in bfloat16 where the device multiplies in it
    (``multiplies``, see ``bf16_helps``).
    """
    on_cpu = torch.device(device).type == "cpu"
    return multiplies and not (on_cpu and module is not None and is_depthwise(module))


DECAY = 0.999  # of the exponential average, at most
LAST = 0.25  # share of the steps that the plain average is over


class WeightAverage:
    """What a training ends with in place of its last weights.

    Args:
        kind: ``none``; ``ema``, an exponential average whose memory grows with the steps, as short trainings need it
            (decay (1 + t) / (10 + t), at most ``DECAY``); ``last``, the mean over the last quarter of the steps.
        parameters: those that are trained.
        steps: that are planned. A training that is cut short before its last quarter ends with its last weights.
    """

    def __init__(self, kind: Literal["none", "ema", "last"], parameters: Sequence[nn.Parameter], steps: int) -> None:
        self._kind = kind
        self._parameters = [] if kind == "none" else list(parameters)
        self._first = 0 if kind == "ema" else int((1 - LAST) * steps)
        self._taken = 0
        self._mean: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after a step in."""
        if not self._parameters or step < self._first:
            return
        current: Any = [parameter.detach() for parameter in self._parameters]
        mean: object = self._mean
        if not self._taken:
            self._mean = [value.clone() for value in current]
        elif self._kind == "ema":
            decay = min(DECAY, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(mean, current, self._taken)  # type: ignore[no-untyped-call]
        else:
            get_swa_multi_avg_fn()(mean, current, torch.tensor(self._taken))  # type: ignore[no-untyped-call]
        self._taken += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in place of the weights, where there is one."""
        if self._mean:
            for parameter, mean in zip(self._parameters, self._mean, strict=True):
                parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"taken": self._taken, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._taken = int(state.get("taken", 0))
        self._mean = [mean.to(at.device) for mean, at in zip(state.get("mean", []), self._parameters, strict=False)]
