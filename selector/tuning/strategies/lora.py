"""Low-rank matrices beside the linear and convolutional layers move; the weights themselves stay.

Needs the extra ``lora`` (peft).   Source: Hu et al., ICLR 2022, arXiv:2106.09685.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

from torch import nn

from selector.core.errors import ConfigError, TrainingError
from selector.core.task import Learner
from selector.tuning.strategies import Strategy, strategy
from selector.tuning.strategies._parts import Group, Parts

RANK = 8
ALPHA = 16  # the update is scaled by alpha / rank


@strategy("lora")
class Lora(Strategy):
    """Matrices of rank 8 on every linear layer and every convolution that is not grouped, and the head."""

    name = "lora"
    optimizer = "adamw"
    rate_factor = 10.0  # matrices that start at zero bear, and need, more

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with peft's layers put in place; still a learner.

        Raises:
            ConfigError: peft is not installed.
            TrainingError: no layer of the network can take the matrices.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError(f"strategy 'lora' needs peft ({error}); run: pip install 'zoo-selector[lora]'") from None
        targets = lora_layers(module)
        if not targets:
            raise TrainingError("this network has no layer that low-rank matrices fit; use partial or full.")
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.0, bias="none")
        with warnings.catch_warnings():
            # of GPT-2's layers, whose weights lie the other way round; peft sees that itself, and says so each time
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            wrapped: nn.Module = inject_adapter_in_model(config, module)
        return wrapped

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The added matrices and the head, all at the full rate."""
        names = [name for section in parts.sections() for name in section if ".lora_" in name]
        return [Group(tuple(names)), Group(parts.head)]

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The plain module with the matrices added into its weights."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(module.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                tuned: Any = layer
                tuned.merge()
                module.set_submodule(name, tuned.get_base_layer())
        return module


def lora_layers(module: nn.Module) -> list[str]:
    """Names of the layers that take matrices: linear ones and convolutions that are not grouped, but none of the new ones."""
    new = cast(Learner, module).new
    return [
        name
        for name, layer in module.named_modules()
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in new)
        and (
            type(layer) is nn.Linear
            or type(layer).__name__
            == "Conv1D"  # the linear layers of GPT-2, which transformers lays the other way round
            or (type(layer) is nn.Conv2d and layer.groups == 1 and isinstance(layer.padding, tuple))
        )
    ]
