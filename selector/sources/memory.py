"""Networks that were handed over as torch modules of this process: ``selector.Model(module)``; see ``selector.zoo.own``.

Features are timm's ``forward_head(forward_features(x), pre_logits=True)`` where the module has that
interface, else the input of its last linear layer when that layer makes its output, else its output.
A zoo file cannot name such a network: it is known by its content, and only where it was made.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.contracts import Encoder, Preprocess
from selector.core.errors import SourceError, ZooError
from selector.sources import _weights, source
from selector.sources._network import Network
from selector.zoo.own import live

if TYPE_CHECKING:
    from torch import nn

    from selector.zoo import ModelSpec

log = logging.getLogger(__name__)


@source("memory")
class MemorySource:
    """The ``memory:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The network itself; what is in memory is not listed."""
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, Any]:
        """See ``contracts.Source``. The id is the content."""
        return {
            "source": "memory",
            "model": spec.model_id,
            **_weights.settings_identity(spec),
            "versions": _weights.versions("torch"),
        }

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``; the module that was handed over stays as it is."""
        from selector.sources._encoder import FeaturePath, make_encoder, run_quietly

        network = MemoryNetwork(spec.model_id, spec.kwargs)
        module = run_quietly(lambda: network.create(None), spec, "the module cannot be copied").cpu().eval()
        preprocess = Preprocess().overridden(spec.preprocess.changes())
        timm_like = hasattr(module, "forward_features") and hasattr(module, "forward_head")
        source_head = None
        if not timm_like and (head := network.classifier(module)):
            from selector.sources.torchvision import _taken_off

            if _makes_the_output(module, head, preprocess):
                source_head = _taken_off(module, head)
                log.info("%s: features are the input of its last linear layer, %s.", spec.name, head)
        default = FeaturePath("head" if timm_like else "forward")
        return make_encoder(spec, network, module, preprocess, self.identify(spec), default, source_head)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``; where the module was handed over, in this process too."""
        from selector.sources._encoder import build_headed

        return build_headed(MemoryNetwork(recipe["model"], recipe["kwargs"]), recipe)


@dataclass(frozen=True)
class MemoryNetwork(Network):
    """A copy of the module that was handed over."""

    source: ClassVar[str] = "memory"

    def create(self, num_classes: int | None) -> nn.Module:
        """The module with a last linear layer of that width; 0 takes it off."""
        from torch import nn

        try:
            module: Any = copy.deepcopy(live(self.model, f"memory:{self.model}"))
        except ZooError as error:
            raise SourceError(str(error)) from None
        if num_classes is None:
            return module  # type: ignore[no-any-return]
        if callable(getattr(module, "reset_classifier", None)):
            module.reset_classifier(num_classes)
            return module  # type: ignore[no-any-return]
        name = self.classifier(module)
        if not name:
            raise SourceError(f"memory:{self.model}: the module has no linear layer of its own to replace")
        parent, _, child = name.rpartition(".")
        old: Any = module.get_submodule(name)
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None) if num_classes else nn.Identity()
        setattr(module.get_submodule(parent) if parent else module, child, new)
        return module  # type: ignore[no-any-return]

    def classifier(self, module: nn.Module) -> str:
        """The layer that ``get_classifier`` names, else the last linear one."""
        from torch.nn import Linear

        if named := super().classifier(module):
            return named
        return next((name for name, layer in reversed(list(module.named_modules())) if isinstance(layer, Linear)), "")


def _makes_the_output(module: nn.Module, head: str, preprocess: Preprocess) -> bool:
    """Whether what the layer gives (B, K) is what the network gives; from a real pass."""
    import torch

    from selector.sources._encoder import probe_batch

    outputs: list[Any] = []
    handle = module.get_submodule(head).register_forward_hook(lambda _module, _input, out: outputs.append(out))
    try:
        with torch.no_grad():
            whole = module(probe_batch(preprocess.input_size))
    except Exception as error:  # noqa: BLE001 - reported, with what was tried, when the features are read
        log.debug("a pass on a test image failed: %s", error)
        return False
    finally:
        handle.remove()
    return bool(outputs) and isinstance(whole, torch.Tensor) and whole.ndim == 2 and torch.equal(outputs[-1], whole)
