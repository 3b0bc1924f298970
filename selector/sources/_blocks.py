"""Which submodules of a network are its blocks: what ``layer`` names and partial fine-tuning frees."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks_from_groups(groups: Iterable[list[str]]) -> list[str]:
    """Blocks out of parameter names that an architecture's author grouped by depth.

    A group is a block when its names share the path of one numbered module: the parameters of
    ``layer1.0.*`` do, those of a stem (``conv1``, ``bn1``) or a final norm do not.

    >>> blocks_from_groups([["conv1.weight", "bn1.bias"], ["layer1.0.conv1.weight", "layer1.0.bn1.bias"]])
    ['layer1.0']
    """
    names: list[str] = []
    for group in groups:
        paths = [name.rpartition(".")[0] for name in group]
        columns = zip(*(path.split(".") for path in paths), strict=False)
        shared = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
        numbered = [i for i, part in enumerate(shared) if part.isdigit()]
        if numbered:
            shared = shared[: numbered[-1] + 1]
        elif len(shared) < 2 and len(group) < 3:  # a lone layer such as norm1
            continue
        name = ".".join(shared)
        if re.search(r"\d", name) and not name.startswith(("stem", "patch_embed")) and name not in names:
            names.append(name)
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def blocks_by_structure(module: nn.Module, classifier: str) -> list[str]:
    """Blocks of a network of unknown make: the members of its lists, or else its children.

    Lists inside lists are stages; a list of bare layers inside another list is one block.
    """
    names = list(_listed(module, "", inside=False)) or [n for n, c in module.named_children() if _trains(c)]
    return [name for name in names if not classifier or not f"{name}.".startswith(f"{classifier}.")]


def _listed(module: nn.Module, prefix: str, inside: bool) -> Iterable[str]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if not _trains(child):
            continue
        if isinstance(child, _LISTS):
            bare = all(not any(True for _ in c.children()) for c in child.children())
            if bare and inside:
                yield path
            else:
                yield from _listed(child, f"{path}.", inside=True)
        elif inside:
            yield path
        else:
            yield from _listed(child, f"{path}.", inside=False)


def _trains(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def in_forward_order(module: nn.Module, names: list[str], run: Callable[[], Tensor]) -> tuple[Tensor, list[str]]:
    """Run the network once; the names in the order in which they were called, uncalled ones left out."""
    called: dict[str, None] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: called.setdefault(name))
        for name in names
    ]
    try:
        with torch.no_grad():
            output = run()
    finally:
        for handle in handles:
            handle.remove()
    return output, list(called)
