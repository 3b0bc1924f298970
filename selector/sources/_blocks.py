"""Which submodules of a network are its blocks: what ``layer`` names and partial fine-tuning frees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from selector.sources._maps import hooked

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks_by_matcher(module: nn.Module, matcher: object, classifier: str) -> list[str]:
    """Blocks by an architecture's own patterns over parameter names (timm's ``group_matcher``).

    A pattern such as ``^layer(\\d+)\\.(\\d+)`` spells the path of the block that a parameter is
    in. Where an architecture only tells its stages, their members are taken.

    Args:
        module: the network.
        matcher: ``stem`` and ``blocks``: a pattern, or pairs (pattern, suffix) of which those with
            a suffix belong to their neighbor (downsampling, a final norm).
        classifier: dotted name of the head.
    """
    if not isinstance(matcher, Mapping) or not matcher.get("blocks"):
        return []
    spelled: Any = matcher["blocks"]
    patterns: list[tuple[str, Any]] = [(spelled, None)] if isinstance(spelled, str) else list(spelled)
    stem = re.compile(matcher["stem"]) if isinstance(matcher.get("stem"), str) else None
    names: dict[str, int] = {}
    for parameter, _ in module.named_parameters():
        for pattern, suffix in patterns:
            match = re.match(pattern, parameter)
            if match:
                if suffix is None and not (stem and stem.match(parameter)):
                    names[match[0].rstrip(".")] = len(match.groups())
                break
    modules = dict(module.named_modules())
    blocks: list[str] = []
    for name, numbers in names.items():
        if name not in modules or not _mixes(modules[name]) or f"{classifier}.".startswith(f"{name}."):
            continue
        members = _members(modules[name]) if numbers == 1 else []
        blocks += [f"{name}.{member}" for member in members] or [name]
    return blocks


def _members(stage: nn.Module) -> list[str]:
    """The blocks of a stage: the members of its only list, if they are composite and of one kind."""
    holders = [("", stage)] if isinstance(stage, _LISTS) else [(f"{n}.", c) for n, c in stage.named_children()]
    lists = [(prefix, child) for prefix, child in holders if isinstance(child, _LISTS) and _mixes(child)]
    if len(lists) != 1:
        return []
    prefix, members = lists[0]
    kinds = {type(member) for member in members.children()}
    composite = all(any(True for _ in member.children()) for member in members.children())
    return [f"{prefix}{name}" for name, _ in members.named_children()] if composite and len(kinds) == 1 else []


def blocks_by_structure(module: nn.Module, classifier: str) -> list[str]:
    """Blocks of a network of unknown make: the members of its lists, or else its children.

    Lists inside lists, and members that hold one list of blocks, are stages; a list of bare
    layers inside another list is one block.
    """
    names = list(_listed(module, "", inside=False)) or [n for n, c in module.named_children() if _mixes(c)]
    return [name for name in names if not classifier or not f"{name}.".startswith(f"{classifier}.")]


def _listed(module: nn.Module, prefix: str, inside: bool) -> Iterator[str]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if not _mixes(child):
            continue
        if isinstance(child, _LISTS):
            bare = not any(any(True for _ in member.children()) for member in child.children())
            if bare and inside:
                yield path
            else:
                yield from _listed(child, f"{path}.", inside=True)
        elif inside:
            yield from [f"{path}.{member}" for member in _members(child)] or [path]
        else:
            yield from _listed(child, f"{path}.", inside=False)


def _mixes(module: nn.Module) -> bool:
    """Whether it holds a weight of two or more dimensions: a norm or a scale alone is no block."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def in_forward_order(module: nn.Module, names: list[str], run: Callable[[], Tensor]) -> tuple[Tensor, list[str]]:
    """Run the network once; the names in the order in which they were called, uncalled ones left out."""
    called: dict[str, None] = {}
    with hooked(module, _callable(module, names), lambda name, _: called.setdefault(name)), torch.no_grad():
        output = run()
    return output, list(called)


def _callable(module: nn.Module, names: list[str]) -> Iterator[str]:
    """Containers that a network only reads from are never called themselves: their members stand for them."""
    for name in names:
        block = module.get_submodule(name)
        if isinstance(block, nn.ModuleDict | nn.ModuleList):
            yield from _callable(module, [f"{name}.{n}" for n, member in block.named_children() if _mixes(member)])
        else:
            yield name
