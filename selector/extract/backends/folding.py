"""Batch norms that follow a convolution, folded into its weights.

In eval mode such a norm is a factor and an offset a channel, which the convolution can apply itself:
one pass over memory less each. Compilers do this on their own; eager torch does not. It makes
depthwise networks up to half as fast again (docs/benchmarks/extraction.md).
"""

from __future__ import annotations

import copy
import logging
import weakref
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from selector.core.contracts import Encoder

log = logging.getLogger(__name__)

# by network and by what is read of it: a reading inside of what is folded would change
_FOLDED: weakref.WeakKeyDictionary[nn.Module, dict[str, nn.Module | None]] = weakref.WeakKeyDictionary()
_REFUSALS = (RuntimeError, AttributeError, TypeError, ValueError)  # of a network that looks into its own norms


def folded(encoder: Encoder) -> nn.Module:
    """The encoder's network with its batch norms folded; the network itself where that is not possible.

    Which norm follows which convolution is seen in a forward pass on ``encoder.probe()``; a second
    one, of the folded network, must give the same features. So whatever else a network does with a
    convolution's output leaves it as it was. Weights that are not folded keep their storage.

    Cost: two forward passes on two items, once a network and reading.
    """
    module = encoder.module
    assert module is not None
    made, reading = _FOLDED.setdefault(module, {}), repr(encoder.identity)
    if reading not in made:
        made[reading] = _made(encoder, module)
    return made[reading] or module


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients whose weights have the storage of the module's."""
    plain = (p for p in module.parameters() if type(p) is nn.Parameter)
    shared: dict[int, object] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in plain}
    return copy.deepcopy(module, shared).eval().requires_grad_(False)


def _made(encoder: Encoder, module: nn.Module) -> nn.Module | None:
    if not any(_foldable(norm) for norm in module.modules()):
        return None
    trial = copy.copy(encoder)
    trial.module = changed = shared_copy(module)
    batch = encoder.probe()
    with torch.inference_mode():
        pairs, plain = _followed(trial, changed, batch)
        if not pairs:
            return None
        for convolution, norm in pairs.items():
            _fold(changed, convolution, norm)
        try:
            quick = trial.encode(batch).float().numpy()
        except _REFUSALS as error:
            log.info("%s: its batch norms are not folded (%s)", encoder.name, error)
            return None
    if not np.allclose(quick, plain, rtol=1e-3, atol=1e-4 * float(np.abs(plain).max())):
        log.info("%s: its batch norms are not folded: that would change the features", encoder.name)
        return None
    return changed


def _foldable(norm: nn.Module) -> bool:
    """A batch norm in its stored statistics, or timm's, which brings its activation along."""
    known = type(norm) is nn.BatchNorm2d or (isinstance(norm, nn.BatchNorm2d) and hasattr(norm, "act"))
    return known and norm.running_mean is not None


def _followed(encoder: Encoder, module: nn.Module, batch: object) -> tuple[dict[str, str], np.ndarray]:
    """Names of convolutions and of the norm that reads each one's output, and the features (B, D)."""
    names = {child: name for name, child in module.named_modules()}
    made: dict[int, str] = {}  # convolution by the identity of its output
    kept: list[torch.Tensor] = []  # an identity is used again once its tensor is gone
    runs: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def produced(convolution: nn.Module, _: object, output: Any) -> None:
        made[id(output)] = names[convolution]
        kept.append(output)
        runs[names[convolution]] = runs.get(names[convolution], 0) + 1

    def consumed(norm: nn.Module, inputs: tuple[object, ...]) -> None:
        runs[names[norm]] = runs.get(names[norm], 0) + 1
        if inputs and (convolution := made.get(id(inputs[0]))) is not None:
            pairs[convolution] = names[norm]

    hooks = []
    for child in names:
        if isinstance(child, nn.Conv2d):
            hooks.append(child.register_forward_hook(produced))
        elif _foldable(child):
            hooks.append(child.register_forward_pre_hook(consumed))
    try:
        features = encoder.encode(batch).float().numpy()
    finally:
        for hook in hooks:
            hook.remove()
    once = {c: n for c, n in pairs.items() if runs[c] == 1 and runs[n] == 1}
    return once, features


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    conv: Any = module.get_submodule(convolution)
    batch_norm: Any = module.get_submodule(norm)
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, batch_norm.running_mean, batch_norm.running_var, batch_norm.eps,
        batch_norm.weight, batch_norm.bias,
    )  # fmt: skip
    conv.weight, conv.bias = weight.requires_grad_(False), bias.requires_grad_(False)
    after = nn.Identity() if type(batch_norm) is nn.BatchNorm2d else batch_norm.act
    module.set_submodule(norm, after)
