"""A layer of a torch module put in the place of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def replace_submodule(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer where the submodule of that dotted name is (``Module.set_submodule`` of torch 2.5 and later)."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
