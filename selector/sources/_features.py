"""From a torch module that reads images to features (B, D), and to a linear head on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor, nn

from selector.core.errors import SourceError
from selector.sources._maps import MapTaps, first_of, hooked, run
from selector.zoo import Pooling

Layout = Literal["rows", "nchw", "nhwc", "tokens"]


@dataclass(frozen=True)
class FeaturePath:
    """How features (B, D) are read off a module.

    Attributes:
        kind: ``head`` is timm's interface (``forward_head(forward_features(x), pre_logits=True)``),
            ``features`` pools ``forward_features(x)``, ``forward`` takes the module's own output,
            ``layer`` the output of the submodule ``layer``.
        pooling: how what is not yet (B, D) is pooled.
        layout: what the tensor to be pooled is.
        prefix_tokens: tokens before the patches (class and register tokens).
    """

    kind: Literal["head", "features", "forward", "layer"]
    layer: str = ""
    pooling: Pooling = "avg"
    layout: Layout = "rows"
    prefix_tokens: int = 0

    def __call__(self, module: nn.Module, batch: Tensor) -> Tensor:
        """Features (B, D)."""
        return self.pooled(self.raw(module, batch))

    def raw(self, module: Any, batch: Tensor) -> Tensor:
        """What the network gives before pooling."""
        if self.kind == "head":
            return cast(Tensor, module.forward_head(module.forward_features(batch), pre_logits=True))
        if self.kind == "features":
            return cast(Tensor, module.forward_features(batch))
        if self.kind == "forward":
            return _tensor(run(module, batch, whole=True))
        outputs: list[object] = []
        with hooked(module, [self.layer], lambda _, out: outputs.append(out)):
            run(module, batch, whole=False)
        if not outputs:
            raise SourceError(f"layer '{self.layer}' is never reached when features are computed; name another one.")
        return _tensor(outputs[-1])

    def pooled(self, out: Tensor) -> Tensor:
        """(B, D) from ``layout``."""
        if self.layout == "rows":
            return out
        if self.layout == "tokens":
            if self.pooling == "cls":
                return out[:, 0]
            axes: tuple[int, ...] = (1,)
            out = out[:, self.prefix_tokens :]
        else:
            axes = (2, 3) if self.layout == "nchw" else (1, 2)
        return out.amax(axes) if self.pooling == "max" else out.mean(axes)


def read_together(
    module: Any, batch: Tensor, paths: Sequence[FeaturePath], taps: MapTaps | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """What each path reads off a module, (B, D) each, and the maps of ``taps``, in one forward pass.

    An inner layer is pooled as soon as it is there, so that its map need not be kept.
    """
    pooled: dict[FeaturePath, Tensor] = {}

    inner = [path for path in dict.fromkeys(paths) if path.kind == "layer"]

    def keep(layer: str, out: object) -> None:
        pooled.update({path: path.pooled(_tensor(out)) for path in inner if path.layer == layer})

    # as in ``FeaturePath.raw``: layers are read while features are computed
    whole = any(path.kind == "forward" for path in paths)
    maps: list[Tensor] = []
    with hooked(module, {path.layer for path in inner}, keep):
        if taps is None:
            last = run(module, batch, whole)
        else:
            last, maps = taps.read(module, batch, whole)
    for path in dict.fromkeys(paths):
        if path.kind == "head":
            pooled[path] = path.pooled(module.forward_head(last, pre_logits=True))
        elif path.kind != "layer":
            pooled[path] = path.pooled(_tensor(last))
    return [pooled[path] for path in paths], maps


def _tensor(out: object) -> Tensor:
    out = first_of(out)
    if not isinstance(out, Tensor):
        raise SourceError(f"expected a tensor as the network's output, found {type(out).__name__}.")
    return out


def layout_of(out: Tensor, declared: str | None) -> Layout:
    """What a tensor from a square image is: with equal sides the axes tell themselves apart.

    Args:
        out: (B, ...) of any of the layouts.
        declared: the network's own word (timm's ``output_fmt``), for a cube.
    """
    if out.ndim == 2:
        return "rows"
    if out.ndim == 3:
        return "tokens"
    if out.ndim != 4:
        raise SourceError(f"cannot pool an output of shape {tuple(out.shape)}; expected (B, D), (B, N, D) or a map.")
    _, a, b, c = out.shape
    if a == b != c:
        return "nhwc"
    return "nhwc" if a == b == c and str(declared) == "NHWC" else "nchw"


# ---------------------------------------------------------------------------- heads


class _Headed(nn.Module):
    """Makes a network give the outputs of a head on its features."""

    selector_base: type[nn.Module]
    selector_path: FeaturePath
    selector_head: nn.Linear

    def forward(self, batch: Tensor) -> Tensor:
        return cast(Tensor, self.selector_head(self.selector_path(self, batch)))

    def get_classifier(self) -> nn.Linear:
        return self.selector_head


class Named(nn.Module):
    """Gives a network ``get_classifier`` that has its linear head under another name."""

    selector_classifier: str

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.selector_classifier)


class Necked(nn.Module):
    """Gives a network that has a neck timm's interface to maps."""

    @abstractmethod
    def neck_maps(self, batch: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of the neck, the finest first."""

    def forward_intermediates(
        self, batch: Tensor, indices: Any = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(the coarsest map, maps (B, C, h, w) of the neck, the finest first)."""
        maps = self.neck_maps(batch)
        return maps[-1], maps if indices is None else [maps[i] for i in indices]

    def forward_features(self, batch: Tensor) -> Tensor:
        """The coarsest map."""
        return self.neck_maps(batch)[-1]


def mixed(module: nn.Module, mixin: type[nn.Module], **attributes: object) -> nn.Module:
    """The module, in place, with the methods of another class before its own: its submodules keep their names."""
    base = type(module)
    module.__class__ = type(base.__name__, (mixin, base), {"__module__": base.__module__, **attributes})
    return module


def add_linear(module: nn.Module, path: FeaturePath, num_features: int, num_outputs: int) -> nn.Module:
    """The network with a new linear layer on its features as ``forward`` and ``get_classifier()``."""
    headed = cast(_Headed, mixed(module, _Headed, selector_base=type(module)))
    headed.selector_path = path
    headed.selector_head = nn.Linear(num_features, num_outputs)
    return headed


def linear_weights(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, D) and offsets (K,) of a linear layer."""
    weight = layer.weight.detach().float().numpy().copy()
    if layer.bias is None:
        return weight, np.zeros(len(weight), np.float32)
    return weight, layer.bias.detach().float().numpy().copy()


class ReadyHead(nn.Module):
    """(B, D) -> (B, K)."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, outputs)

    def forward(self, batch: Tensor) -> Tensor:
        """Outputs (B, K)."""
        outputs: Tensor = self.head(batch)
        return outputs

    def get_classifier(self) -> nn.Linear:
        """The layer."""
        return self.head
