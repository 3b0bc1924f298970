"""Feature maps of a network by stride: where they are read, worked out from real forward passes.

timm's networks give theirs themselves (``forward_intermediates``). Of any other torch network the
outputs of its blocks are read by hooks: the last one at each stride. A plain vision transformer has
one stride; its maps are four depths, evenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selector.core.errors import SourceError

_DEPTHS = 4  # maps of a network of one stride
_FIRST_STRIDE = 4  # finer maps are left out where there are coarser ones: stems know edges, and cost most memory
_PREFIXES = range(6)  # class, distillation and register tokens, where a network does not say how many it has
_COARSEST = 128
_REFUSALS = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError, NotImplementedError)


@dataclass(frozen=True)
class Geometry:
    """What an output is, seen beside the image that it came from: ``height`` x ``width`` cells of ``channels``."""

    layout: Literal["nchw", "nhwc", "tokens"]
    height: int
    width: int
    channels: int
    prefix: int = 0


def geometry_of(
    shape: Sequence[int], size: tuple[int, int], prefix: int | None = None, channels_last: bool = False
) -> Geometry | None:
    """The map that an output (1, ...) of an image of ``size`` (H, W) is, or None where it is none.

    Args:
        prefix: tokens before the patches; None where that is not known.
        channels_last: the network's own word, where the shape leaves both open.
    """
    if len(shape) == 4 and shape[0] == 1:
        nchw = Geometry("nchw", shape[2], shape[3], shape[1])
        nhwc = Geometry("nhwc", shape[1], shape[2], shape[3])
        fitting = [g for g in ((nhwc, nchw) if channels_last else (nchw, nhwc)) if _plausible(g, size)]
        return fitting[0] if fitting else None
    if len(shape) == 3 and shape[0] == 1:
        for count in _PREFIXES if prefix is None else (prefix,):
            cells = shape[1] - count
            height = round(math.sqrt(max(cells, 0) * size[0] / size[1]))
            if height and cells % height == 0:
                found = Geometry("tokens", height, cells // height, shape[2], count)
                exact = size[0] % height == 0 and size[0] // height * found.width == size[1]
                if exact and _plausible(found, size):
                    return found
    return None


def _plausible(found: Geometry, size: tuple[int, int]) -> bool:
    """More than one cell, coarser than pixels, and of the image's shape up to a cell of rounding."""
    if found.height * found.width < 2:
        return False
    down, across = size[0] / found.height, size[1] / found.width
    if not 1 <= min(down, across) <= _COARSEST:
        return False
    return abs(size[0] / across - found.height) <= 1 or abs(size[1] / down - found.width) <= 1


def as_map(out: Tensor, layout: str, prefix: int, stride: int, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) from an output of a batch of images of ``size``.

    Raises:
        SourceError: tokens that do not fill the image.
    """
    if layout == "nchw":
        return out
    if layout == "nhwc":
        return out.permute(0, 3, 1, 2)
    height, width = (round(side / stride) for side in size)
    out = out[:, prefix:]
    if out.shape[1] != height * width:
        raise SourceError(f"{out.shape[1]} tokens are no map of {height} x {width} cells (stride {stride}).")
    return out.transpose(1, 2).reshape(len(out), out.shape[2], height, width)


# ---------------------------------------------------------------------------- where they are read


@dataclass(frozen=True)
class MapTaps:
    """Where the maps of a torch module are read.

    Attributes:
        kind: ``intermediates`` by timm's interface, ``hooks`` on submodules.
        places: numbers of the intermediates, or names of submodules ("" is the output of ``forward_features``).
        strides: pixels a cell, an entry a place, ascending.
        channels: of each.
        layouts, prefixes: of hooks' outputs.
        norm: whether the network's last norm is applied to each (transformers of one stride).
        exact: sides that are multiples of the largest stride give whole cells; else sides are as they come.
    """

    kind: Literal["intermediates", "hooks"]
    places: tuple[Any, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    layouts: tuple[str, ...] = ()
    prefixes: tuple[int, ...] = ()
    norm: bool = False
    exact: bool = True

    @classmethod
    def from_dict(cls, data: Any) -> MapTaps:
        """The inverse of ``asdict`` through JSON."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
        return cls(**fields)

    def read(self, module: Any, batch: Tensor, whole: bool = False) -> tuple[Any, list[Tensor]]:
        """(what the network gives at last, maps (B, C, h, w)) of one forward pass.

        Args:
            whole: run the network's own ``forward``; else ``forward_features``, where it has one.
        """
        if self.kind == "intermediates":
            last, maps = module.forward_intermediates(batch, indices=list(self.places), norm=self.norm)
            return last, list(maps)
        found: dict[str, Tensor] = {}
        size = (batch.shape[2], batch.shape[3])
        settings = zip(self.layouts, self.prefixes, self.strides, strict=True)
        how: dict[str, tuple[str, int, int]] = dict(zip(self.places, settings, strict=True))

        def keep(name: str, out: object) -> None:
            found[name] = as_map(first_of(out), *how[name], size)

        with hooked(module, filter(None, self.places), keep):
            last = run(module, batch, whole)
        if "" in how:
            found[""] = as_map(first_of(last), *how[""], size)
        return last, [found[name] for name in self.places]


def run(module: Any, batch: Tensor, whole: bool) -> Any:
    """``forward_features`` where there is one and that is enough, else the network's own ``forward``."""
    if not whole and hasattr(module, "forward_features"):
        return module.forward_features(batch)
    return getattr(type(module), "selector_base", type(module)).forward(module, batch)


@contextmanager
def hooked(module: nn.Module, names: Iterable[str], keep: Callable[[str, Any], object]) -> Iterator[None]:
    """While it is entered, ``keep`` is told the name and the output of each of these submodules when it has run."""

    def hook(name: str) -> Callable[[object, object, object], None]:
        def told(_module: object, _inputs: object, out: object) -> None:
            keep(name, out)

        return told

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(module.get_submodule(name).register_forward_hook(hook(name)))
        yield


def find_taps(
    module: nn.Module, blocks: Sequence[str], input_size: tuple[int, int, int], whole: bool, layer: str = ""
) -> MapTaps:
    """Look for the maps of a network in a forward pass or two.

    Args:
        blocks: its blocks in forward order; where they give no maps, every submodule is looked at.
        input_size: (C, H, W), native. Where the strides do not divide it, a multiple of 64 is tried as well.
        whole: features are read from the network's own ``forward``.
        layer: of a network that is read at one submodule: its map is the only one.

    Raises:
        SourceError: it gives no maps.
    """
    channels, *native = input_size
    rounded = [math.ceil(side / 64) * 64 for side in native]
    best: MapTaps | None = None
    reason = "none of its submodules gives one"
    for height, width in dict.fromkeys([tuple(native), tuple(rounded)]):
        batch = torch.randn((1, channels, height, width), generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                found = _find(module, blocks, batch, whole, layer)
        except (*_REFUSALS, SourceError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            continue
        if found is not None and (best is None or found.exact > best.exact):
            best = found
        if best is not None and best.exact:
            break
    if best is None:
        raise SourceError(f"the network gives no feature maps: {reason}")
    return best


def _find(module: Any, blocks: Sequence[str], batch: Tensor, whole: bool, layer: str) -> MapTaps | None:
    size = (batch.shape[2], batch.shape[3])
    if hasattr(module, "forward_intermediates") and not whole and not layer:
        last, maps = module.forward_intermediates(batch)
        if alike(last, module.forward_features(batch)):
            shapes = [geometry_of(found.shape, size) for found in maps]
            taps = _chosen("intermediates", [(i, g) for i, g in enumerate(shapes) if g is not None], size)
            return None if taps is None else _normed(module, batch, taps)
    declared = getattr(module, "num_prefix_tokens", None)
    nhwc = str(getattr(module, "output_fmt", "")) == "NHWC"
    outputs = _outputs(module, batch, whole)
    seen = [(name, geometry_of(shape, size, declared, nhwc)) for name, shape in outputs.items()]
    maps = [(name, found) for name, found in seen if found is not None]
    if layer:
        return _chosen("hooks", [place for place in maps if place[0] == layer], size)
    return _chosen("hooks", _of_blocks(module, maps, blocks) or maps, size)


def _of_blocks(
    module: nn.Module, maps: Sequence[tuple[str, Geometry]], blocks: Sequence[str]
) -> list[tuple[str, Geometry]]:
    """Of maps in the order in which they were made those of the blocks, and what comes behind the last one."""
    places = [i for i, (name, _) in enumerate(maps) if name in blocks]
    taken = []
    for i, following in zip(places, [*places[1:], len(maps)], strict=True):
        name, found = maps[i]
        # a stage that ends with this block has its output, and what a dense block puts beside it
        around = [m for m in maps[i:following] if name.startswith(f"{m[0]}.") and _same_grid(m[1], found)]
        taken.append(around[-1] if around else maps[i])
    for name, found in maps[places[-1] + 1 :] if places else ():
        before = taken[-1][1]
        adaptive = name and isinstance(module.get_submodule(name), nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        if adaptive or any(name.startswith(f"{block}.") for block in blocks):
            continue
        if not _same_grid(found, before):
            taken.append((name, found))  # coarser, or what a decoder has enlarged
        elif found.channels == before.channels:
            taken[-1] = (name, found)  # a last norm: what the features are pooled from
    return taken


def _same_grid(a: Geometry, b: Geometry) -> bool:
    return (a.height, a.width) == (b.height, b.width)


def _outputs(module: nn.Module, batch: Tensor, whole: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of what the submodules give, in the order in which they finish; "" is ``forward_features``'s."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, out: object) -> None:
        if isinstance(first := first_of(out), Tensor):
            shapes.pop(name, None)  # a block that runs twice counts where it ran last
            shapes[name] = tuple(first.shape)

    with hooked(module, [name for name, _ in module.named_modules() if name], note):
        last = run(module, batch, whole)
    if hasattr(module, "forward_features") and not whole and isinstance(first := first_of(last), Tensor):
        shapes[""] = tuple(first.shape)
    return shapes


def _chosen(kind: Any, maps: Sequence[tuple[object, Geometry]], size: tuple[int, int]) -> MapTaps | None:
    """Of maps in forward order the last one a stride; of one stride four depths; None where there are none."""
    by_grid: dict[tuple[int, int], list[tuple[object, Geometry]]] = {}
    for place, found in maps:
        by_grid.setdefault((found.height, found.width), []).append((place, found))
    if not by_grid:
        return None
    grids = sorted(by_grid, reverse=True)
    coarse = [grid for grid in grids if size[0] / grid[0] > _FIRST_STRIDE - 1]
    grids = coarse if len(coarse) > 1 or (coarse and len(by_grid[coarse[0]]) >= _DEPTHS) else grids
    if len(grids) == 1:
        depths = by_grid[grids[0]]
        count = min(_DEPTHS, len(depths))
        picked = [depths[round((i + 1) * len(depths) / count) - 1] for i in range(count)]
    else:
        picked = [by_grid[grid][-1] for grid in grids]
    strides, exact = _strides([(g.height, g.width) for _, g in picked], size)
    return MapTaps(
        kind,
        tuple(place for place, _ in picked),
        strides,
        tuple(g.channels for _, g in picked),
        tuple(g.layout for _, g in picked),
        tuple(g.prefix for _, g in picked),
        exact=exact,
    )


def _strides(grids: Sequence[tuple[int, int]], size: tuple[int, int]) -> tuple[tuple[int, ...], bool]:
    """Pixels a cell, and whether they divide the image; of convolutions without padding the next power of two."""
    ratios = [size[0] / height for height, _ in grids]
    whole = all(size[0] % h == 0 and size[1] % w == 0 and size[0] // h == size[1] // w for h, w in grids)
    nested = all((b / a).is_integer() for a, b in pairwise(ratios))
    if whole and nested:
        return tuple(round(ratio) for ratio in ratios), True
    return tuple(2 ** round(math.log2(ratio)) for ratio in ratios), False


def _normed(module: object, batch: Tensor, taps: MapTaps) -> MapTaps:
    """With the last norm on every depth of a network of one stride, so that all maps are on the scale of the features."""
    if len(set(taps.strides)) > 1:
        return taps
    normed = MapTaps(**{**taps.__dict__, "norm": True})
    try:
        _, maps = normed.read(module, batch)
    except _REFUSALS:
        return taps
    return normed if all(bool(torch.isfinite(found).all()) for found in maps) else taps


def first_of(out: Any) -> Any:
    """What a submodule gives, or the first part of it."""
    while isinstance(out, list | tuple) and out:
        out = out[0]
    return out


def alike(a: object, b: object) -> bool:
    """Whether the outputs of two networks are equal up to rounding."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max())))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return all(alike(x, y) for x, y in zip(a, b, strict=True))
    return False


# ---------------------------------------------------------------------------- a trainable module


class MapNetwork(nn.Module):
    """A network as a module from a normalized batch (B, C, H, W) to its maps, finest first.

    Attributes:
        network: the architecture, its submodules under their own names.
        strides, channels: of the maps.
    """

    def __init__(self, network: nn.Module, taps: MapTaps, whole: bool) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        self.strides = taps.strides
        self.channels = taps.channels
        self._whole = whole
        self.classes: int | None = None
        """Width of the head that the architecture was built with: 0 where it was taken off."""

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w), finest first."""
        return self.taps.read(self.network, batch, self._whole)[1]
