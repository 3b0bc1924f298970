"""How a model is adapted to a target. One module a strategy or a family of them, found by name on first use.

A strategy decides which parameters move and at which share of the learning rate; the loop that
moves them (``_loop.py``) is one and the same for all. In every strategy the head starts from the
solved probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from selector.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from selector.tuning.strategies._parts import Group, Parts


class Strategy(Protocol):
    """One answer to "what moves?".

    Attributes:
        trains: whether steps are taken at all: ``frozen`` takes none, its head is solved.
        adapts: whether it learns for a target without labels, from the labels of another domain.
        mends: what an adaptation is made for: ``items`` that look different, class ``shares`` alone; None for nothing in
            particular.
        optimizer: ``sgd`` or ``adamw`` where the strategy decides; None for what suits the network.
        rate_factor: on the grid of learning rates.
        version: of what it does; trainings by another one are not taken from the journal.
    """

    name: str
    trains: bool = True
    adapts: bool = False
    mends: str | None = None
    optimizer: str | None = None
    rate_factor: float = 1.0
    version: int = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to train; most strategies return it as it is, lora adds its matrices."""
        return module

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The parameters that move, in groups; all others stay as they are. Here stem, blocks, rest and, at the full rate, the
        head with whatever ``wrap`` added.

        Args:
            parts: the network in forward order.
            layer_decay: let the rate fall towards the stem (transformers and ConvNeXt).
        """
        from selector.tuning.strategies._parts import decayed

        return decayed(parts.sections(), layer_decay)

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The plain module of ``with_head`` with what was learned in it; undoes ``wrap``."""
        return module


def address_of(adaptation: str) -> str:
    """What names the trainings of an adaptation's strategy in a journal."""
    plan = plan_of(adaptation)
    return plan.name if plan.version == 1 else f"{plan.name} {plan.version}"


def plan_of(adaptation: str) -> Strategy:
    """The strategy of an adaptation: ``full``, or where several decoders are compared ``fcos/full``."""
    return registry.get(adaptation.rpartition("/")[2])


registry: Registry[Strategy] = Registry(
    "selector.tuning.strategies",
    "strategy",
    families={
        "adapted_heads": ("coral", "label-shift", "reweight", "source-only"),
        "alignment": ("cdan", "dann", "deep-coral", "mcc"),
        "labeled": ("frozen", "full", "partial"),
    },
)
strategy = registry.instance
"""Class decorator: ``@strategy("name")`` files one instance of the class."""
