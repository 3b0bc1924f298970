"""Networks that give a mask: maps of an encoder, a decoder on them; imports torch, so tasks import it late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from selector.modalities.pixels.maps import read_points
from selector.tasks._maps import read_places

DECODER_STRIDE = 8  # of the maps that fcn and deeplabv3 read, as torchvision's own dilated backbones give


class Linear(nn.Module):
    """A linear layer on all maps side by side: one 1 x 1 convolution a map, summed at the size of the finest.

    Channels are scaled by fixed factors first, so that one learning rate suits maps that differ in scale.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(c, classes, 1, bias=i == 0) for i, c in enumerate(channels))
        for i, c in enumerate(channels):
            self.register_buffer(f"scale{i}", torch.ones(1, c, 1, 1))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (B, K, h, w) at the size of the first map."""
        total = self.parts[0](maps[0] * self.get_buffer("scale0"))
        for i, part in enumerate(self.parts):
            if i:
                found = part(maps[i] * self.get_buffer(f"scale{i}"))
                total = total + _resized(found, total.shape[2:])
        return cast(torch.Tensor, total)

    def start_from(self, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> None:
        """A probe on all maps side by side: weight (K, D), bias (K,), and the factors (D,) of its columns."""
        begin = 0
        with torch.no_grad():
            for i, part in enumerate(self.parts):
                conv = cast(nn.Conv2d, part)
                end = begin + conv.in_channels
                factors = torch.from_numpy(scale[begin:end].astype(np.float32))
                own = torch.from_numpy(np.ascontiguousarray(weight[:, begin:end], np.float32))
                self.get_buffer(f"scale{i}").copy_(factors[None, :, None, None])
                conv.weight.copy_((own / factors)[:, :, None, None])
                if conv.bias is not None:
                    conv.bias.copy_(torch.from_numpy(np.asarray(bias, np.float32)))
                begin = end


class Deep(nn.Module):
    """One of torchvision's heads on the maps of stride 8 and more, side by side at the size of the finest of them."""

    def __init__(self, head: type[nn.Module], channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        fits = [i for i, stride in enumerate(strides) if stride >= DECODER_STRIDE]
        self.used = fits or [len(channels) - 1]
        self.head = head(sum(channels[i] for i in self.used), classes)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (B, K, h, w) at the size of the first map that is read."""
        first = maps[self.used[0]]
        side_by_side = [first, *(_resized(maps[i], first.shape[2:]) for i in self.used[1:])]
        return cast(torch.Tensor, self.head(torch.cat(side_by_side, 1)))


class Library(nn.Module):
    """A decoder of segmentation-models-pytorch on the maps of any encoder.

    - ``unet`` (Ronneberger et al. 2015): each block doubles the size, or goes to that of the next finer map, which is put
      beside it; the last one goes to twice the size of the finest map.
    - ``segformer`` (Xie et al. 2021): a linear layer per map, put side by side and fused.
    - ``dpt`` (Ranftl et al. 2021): maps are brought to sizes that halve from map to map, then fused from coarse to fine.
      Class tokens are not read.
    """

    def __init__(self, name: str, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
        from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        self.name, self.blocks, width = name, cast(Any, None), _WIDEST
        if name == "unet":
            widths = [max(_NARROWEST, _WIDEST >> i) for i in range(len(channels))]
            self.blocks, width = UnetDecoder((0, *channels), widths, n_blocks=len(widths)), widths[-1]
        elif name == "dpt":
            # strides beside the size of the map where a pyramid would have 16: any patch size fits
            plain = len(set(strides)) == 1
            halving = [16 if plain else 4 << i for i in range(len(channels))]
            between = [_DPT_NARROWEST << i for i in range(len(channels))]
            self.blocks = DPTDecoder(channels, halving, False, "ignore", between, _WIDEST)
        else:
            self.blocks = SegformerDecoder([0, 0, *channels], segmentation_channels=_WIDEST)
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (B, K, h, w) at a size from that of the first map to eight times that."""
        if self.name == "dpt":
            return cast(torch.Tensor, self.head(self._fused(maps)))
        finer = [_empty(maps[0], 2)] if self.name == "unet" else [_empty(maps[0], 4), _empty(maps[0], 2)]
        return cast(torch.Tensor, self.head(self.blocks([*finer, *maps])))

    def _fused(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """The library's own ``forward``, but sizes that are not multiples of each other are resized between the blocks."""
        found = [block(each) for block, each in zip(self.blocks.reassemble_blocks, maps, strict=True)]
        fused: torch.Tensor | None = None
        for block, each in zip(self.blocks.fusion_blocks, reversed(found), strict=True):
            fused = block(each, None if fused is None else _resized(fused, each.shape[2:]))
        return cast(torch.Tensor, fused)


_WIDEST, _NARROWEST = 256, 16  # channels of the blocks, as in the library: halved from block to block of a U-Net
_DPT_NARROWEST = 96  # of the finest map of DPT, doubled from map to map, as published for the base size


def _empty(found: torch.Tensor, factor: int) -> torch.Tensor:
    """No channels at a multiple of the size of a map: stands for a finer one, of which only the size is read."""
    return found[:, :0].repeat_interleave(factor, 2).repeat_interleave(factor, 3)


HEADS: dict[str, type[nn.Module]] = {"fcn": FCNHead, "deeplabv3": DeepLabHead}


def decoder_of(name: str, channels: Sequence[int], strides: Sequence[int], classes: int) -> nn.Module:
    """A fresh decoder; ``name`` is one of ``Segmentation.decoders``."""
    if name == "linear":
        return Linear(channels, classes)
    if name in HEADS:
        return Deep(HEADS[name], channels, strides, classes)
    return Library(name, channels, strides, classes)


class SegmentationNetwork(nn.Module):
    """Normalized images (B, 3, H, W) -> logits (B, K, H, W).

    Args:
        encoder: what ``Encoder.map_module`` gives.
        decoder: maps -> logits at a stride of its own.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def coarse(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w) as the decoder gives them: a class map of any size is read off them bilinearly."""
        return cast(torch.Tensor, self.decoder(self.encoder(batch)))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits at the size of the images."""
        return _resized(self.coarse(batch), batch.shape[2:])


class SegmentationLearner(nn.Module):
    """See ``core.task.Learner``: cross-entropy a pixel, at the size that the network reads.

    Args:
        classes: K.
        weights: (K,) of the classes, or None.
        ignore: value of a mask that is no class.
        smoothing: share of each label that is spread over all classes.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        classes: int,
        weights: np.ndarray | None,
        ignore: int,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.new = ("network.decoder",)
        self._classes, self._ignore, self._smoothing = classes, ignore, smoothing
        self._weights = torch.ones(classes) if weights is None else torch.from_numpy(weights)

    def loss(self, batch: torch.Tensor, annotations: Sequence[object], unlabeled: object = None) -> torch.Tensor:
        """Weighted mean over the pixels that have a class; 0 where none has."""
        outputs = self.network.coarse(batch)
        size = batch.shape[2:]
        masks = torch.stack([_mask(mask, size) for mask in annotations]).to(outputs.device)
        weights = self._weights.to(outputs.device)
        with torch.autocast(outputs.device.type, enabled=False):
            logits = _resized(outputs.float(), size)
            total = functional.cross_entropy(
                logits, masks, weights, ignore_index=self._ignore, reduction="sum", label_smoothing=self._smoothing
            )
            known = masks[masks != self._ignore]
            return total / weights[known].sum().clamp(min=1e-6)

    def weight(self, annotations: Sequence[object]) -> float:
        """Pixels with a class, by their weights; an image of another size than its mask counts by the mask."""
        total = 0.0
        for mask in annotations:
            values = torch.as_tensor(np.asarray(mask)).long().flatten()
            counts = torch.bincount(values[values != self._ignore], minlength=self._classes)
            total += float((counts * self._weights).sum())
        return total

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w) float32 of the decoder."""
        return self.network.coarse(batch).float()

    def rows(self, batch: object, places: Sequence[np.ndarray | None]) -> torch.Tensor:
        """All maps side by side at the places."""
        return read_places(self.network.encoder(batch), places, read_points)


def class_map(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The class (H, W), int64, of largest logit, read bilinearly off coarse logits (K, h, w).

    Some classes at a time, so that many classes on a large image need no more memory than a few.
    """
    classes = len(logits)
    step = max(1, min(classes, 2**26 // (size[0] * size[1])))
    best: torch.Tensor | None = None
    place = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for begin in range(0, classes, step):
        top, which = _resized(logits[None, begin : begin + step], size)[0].max(0)
        if best is None:
            best, place = top, which
        else:
            higher = top > best
            best, place = torch.where(higher, top, best), torch.where(higher, which + begin, place)
    return place


def _resized(found: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(found, size=tuple(size), mode="bilinear", align_corners=False)


def _mask(mask: object, size: Sequence[int]) -> torch.Tensor:
    values = torch.as_tensor(np.asarray(mask)).long()
    if tuple(values.shape) == tuple(size):
        return values
    return functional.interpolate(values[None, None].float(), size=tuple(size), mode="nearest-exact")[0, 0].long()
