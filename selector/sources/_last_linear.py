"""The linear head of a network of unknown make: found by looking, taken off, replaced.

Features are the input of the last linear layer where that layer makes the output: its logits say what the network was
trained for and no more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.preprocess import Preprocess
from selector.sources._network import Network

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from selector.zoo import ModelSpec

log = logging.getLogger(__name__)


class WithLastLinear(Network):
    """A network whose head is the layer that ``get_classifier`` names, else the last linear one."""

    def classifier(self, module: nn.Module) -> str:
        """Dotted name of the final linear layer; empty when there is none."""
        from torch.nn import Linear

        if named := super().classifier(module):
            return named
        return next((name for name, layer in reversed(list(module.named_modules())) if isinstance(layer, Linear)), "")

    def with_classes(self, module: Any, num_classes: int | None) -> nn.Module:
        """The module with a last linear layer of that width, 0 takes it off; as it is for None.

        Raises:
            SourceError: it has none.
        """
        from torch import nn

        if num_classes is None:
            return module  # type: ignore[no-any-return]
        if callable(getattr(module, "reset_classifier", None)):
            module.reset_classifier(num_classes)
        elif name := self.classifier(module):
            old: Any = module.get_submodule(name)
            new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None) if num_classes else nn.Identity()
            module.set_submodule(name, new)
        else:
            raise SourceError(
                f"{self.source}:{self.model}: the module has neither reset_classifier nor a linear layer to replace"
            )
        return module  # type: ignore[no-any-return]


def encoder_of(
    spec: ModelSpec, network: Network, module: nn.Module, preprocess: Preprocess, identity: dict[str, object]
) -> Encoder:
    """Features by timm's interface where the module has it, else what feeds its last linear layer, else its output."""
    from selector.sources._encoder import FeaturePath, make_encoder

    timm_like = hasattr(module, "forward_features") and hasattr(module, "forward_head")
    source_head = None if timm_like else _without_head(spec, network, module.eval(), preprocess)
    default = FeaturePath("head" if timm_like else "forward")
    return make_encoder(spec, network, module, preprocess, identity, default, source_head)


def _without_head(
    spec: ModelSpec, network: Network, module: nn.Module, preprocess: Preprocess
) -> tuple[np.ndarray, np.ndarray] | None:
    """Take off the last linear layer where it makes the output, so that the module gives its features.

    Returns:
        Its weights (K, D) and offsets (K,), or None where the module stays as it is.
    """
    head = network.classifier(module)
    if not head or not _makes_the_output(module, head, preprocess):
        return None
    weight, bias = taken_off(module, head)
    log.warning(
        "%s: features are the %d inputs of its last linear layer ('%s'), not its %d outputs.",
        spec.name, weight.shape[1], head, len(weight),
    )  # fmt: skip
    return weight, bias


def taken_off(module: nn.Module, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Replace the linear layer by an identity, so that the network gives its features; its weights."""
    from torch.nn import Identity

    from selector.sources._features import linear_weights

    layer = module.get_submodule(name)
    module.set_submodule(name, Identity())
    return linear_weights(layer)


def _makes_the_output(module: nn.Module, head: str, preprocess: Preprocess) -> bool:
    """Whether what the layer gives (B, K) is what the network gives; from a real pass."""
    import torch

    from selector.sources._encoder import probe_batch
    from selector.sources._maps import hooked

    outputs: list[Any] = []
    try:
        with hooked(module, [head], lambda _, out: outputs.append(out)), torch.no_grad():
            whole = module(probe_batch(preprocess.input_size))
    except Exception as error:  # noqa: BLE001 - reported, with what was tried, when the features are read
        log.debug("a pass on a test image failed: %s", error)
        return False
    return bool(outputs) and isinstance(whole, torch.Tensor) and whole.ndim == 2 and torch.equal(outputs[-1], whole)
