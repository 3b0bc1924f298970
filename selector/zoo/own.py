"""Networks that live in this process, as entries of a zoo: ``selector.Model(module, transform=..., layer=...)``.

A module is known by its content (weights and architecture), so that its features are found again by
a later process that hands the same module over. Nothing here imports torch: whoever has a module
has imported it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import xxhash
from pydantic import ValidationError

from selector.core.errors import OptionError, ZooError
from selector.zoo.spec import ModelSpec, explain

if TYPE_CHECKING:
    from torch import nn

_LIVE: dict[str, nn.Module] = {}


def live(token: str, name: str) -> nn.Module:
    """The module that was given under a token.

    Raises:
        ZooError: not in this process.
    """
    if token not in _LIVE:
        raise ZooError(
            f"{name}: this model was a module in the memory of another process; hand the same module over again: "
            "selector.Model(module). A saved model of it is also a torch program (best/model.pt2)."
        )
    return _LIVE[token]


def is_module(value: object) -> TypeGuard[nn.Module]:
    """Whether a value is a torch module; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def make_spec(
    model: object,
    *,
    name: str | None = None,
    transform: object = None,
    layer: str | None = None,
    pooling: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    **facts: object,
) -> ModelSpec:
    """An entry of a zoo: a module of this process, or a model of any source with weights of your own.

    Args:
        model: a torch module that maps images (B, C, H, W) to features or logits, or ``source:model``.
        name: in the table; the module's class, or the source, when not given.
        transform: how its images are prepared: a torchvision preset (``weights.transforms()``), a ``Compose`` of
            Resize, CenterCrop, ToTensor and Normalize, or a mapping with ``input_size``, ``mean``, ``std``,
            ``interpolation``, ``crop_pct``; what a timm module says of itself, or 224 pixels and the means of
            ImageNet, when not given.
        layer: dotted name of the submodule whose output is read; the input of the last linear layer otherwise.
        pooling: ``avg``, ``max`` or ``cls``.
        weights: for ``source:model``: a checkpoint anywhere on this machine, ``"none"`` for a random start.
        facts: what else an entry may state: tags, license, params, upstream_accuracy, kwargs, ...
    Returns:
        A ``ModelSpec`` for ``zoo=`` and ``models=``.
    Raises:
        ZooError: a fact that an entry has not, or one of a wrong kind.
        OptionError: a transform that is none of these.
    """
    given: dict[str, object] = {"layer": layer, "pooling": pooling, **facts}
    if is_module(model):
        if weights is not None:
            raise OptionError("weights are of 'source:model'; a module has its own. Leave them out.", "weights")
        token = _token(model)
        _LIVE[token] = model
        given |= {"source": f"memory:{token}", "name": name or type(model).__name__}
        if changes := _preprocess(model if transform is None else transform, given_by_user=transform is not None):
            given["preprocess"] = changes
    elif isinstance(model, str):
        given |= {"source": model, "name": name or model}
        if weights is not None:
            given["weights"] = weights if weights == "none" else _file(weights)
        if transform is not None:
            given["preprocess"] = _preprocess(transform, given_by_user=True)
    else:
        raise ZooError(f"a model must be a torch module or a text such as 'timm:resnet18'. Got {_kind(model)}.")
    try:
        return ModelSpec.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise ZooError(explain(error, str(given["name"]))) from None


def as_spec(value: object, name: str | None = None) -> ModelSpec:
    """A value of ``zoo=`` or ``models=`` as an entry: a module, ``source:model``, or an entry already."""
    if isinstance(value, ModelSpec):
        return value if name is None else value.model_copy(update={"name": name})
    if isinstance(value, Mapping):
        return ModelSpec.model_validate({**value, **({} if name is None else {"name": name})})
    return make_spec(value, name=name)


def _file(path: str | os.PathLike[str]) -> dict[str, str]:
    file = Path(path).expanduser().resolve()
    return {"file": file.name, "base": str(file.parent)}


def _token(module: nn.Module) -> str:
    """A module's content: its class, its architecture in words, and every weight."""
    torch = sys.modules["torch"]
    digest = xxhash.xxh3_128(f"{type(module).__module__}.{type(module).__qualname__}\n{module}".encode())
    for key, tensor in module.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {plain.dtype} {tuple(plain.shape)}\n".encode())
        if plain.numel():
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return f"{type(module).__name__}-{digest.hexdigest()[:16]}"


def _preprocess(transform: Any, *, given_by_user: bool) -> dict[str, object]:
    """A transform as fields of a preprocessing; of a module what it says of itself."""
    if isinstance(transform, Mapping):
        return dict(transform)
    if not given_by_user:  # a module: timm's carry their configuration
        config = getattr(transform, "pretrained_cfg", None) or getattr(transform, "default_cfg", None) or {}
        own = getattr(transform, "preprocess", None)
        if isinstance(own, Mapping):
            return dict(own)
        kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        return {key: config[key] for key in kept if isinstance(config, Mapping) and config.get(key) is not None}
    if all(hasattr(transform, field) for field in ("crop_size", "resize_size", "mean", "std")):  # a torchvision preset
        return _fields(transform.resize_size[0], transform.crop_size[0], transform)
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    known = {"Resize", "CenterCrop", "ToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "PILToTensor", "Normalize"}
    if not steps or not set(steps) <= {*known, "MaybeToTensor"} or "Normalize" not in steps:
        odd = ", ".join(sorted(set(steps) - known)) or _kind(transform)
        raise OptionError(
            "transform must be a preset such as weights.transforms(), a Compose of Resize, CenterCrop, ToTensor and "
            f"Normalize, or a mapping such as {{'input_size': (3, 224, 224), 'mean': ..., 'std': ...}}. Got {odd}.",
            "transform",
        )
    sides = [_side(steps[name].size) for name in ("Resize", "CenterCrop") if name in steps]
    if not sides:
        raise OptionError("transform must say the size of the images: it has no Resize and no CenterCrop.", "transform")
    return _fields(sides[0], sides[-1], steps["Normalize"], getattr(steps.get("Resize"), "interpolation", None))


def _fields(resize: int, crop: int, normal: Any, interpolation: object = None) -> dict[str, object]:
    said = getattr(interpolation or getattr(normal, "interpolation", None), "value", None)
    return {
        "input_size": (3, crop, crop),
        "mean": tuple(float(value) for value in normal.mean),
        "std": tuple(float(value) for value in normal.std),
        "crop_pct": min(1.0, crop / resize),
        **({"interpolation": said} if said in ("nearest", "bilinear", "bicubic", "lanczos") else {}),
    }


def _side(size: int | Sequence[int]) -> int:
    return int(size if isinstance(size, int) else min(size))


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"
