"""A saved model as its library reads it: ``timm.create_model("local-dir:…")``, ``AutoModel.from_pretrained(…)``.

``config.json`` holds the fields of this package beside those of the library, and weights have the library's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from selector.core.contracts import AnyPreprocess

_BACKBONE, _HEAD = "backbone.", "selector_head."


def hub_repository(spec: Mapping[str, Any]) -> str | None:
    """The hub repository ``org/name`` of the weights that a zoo entry names; None where they are from elsewhere."""
    from selector.sources import registry
    from selector.zoo import ModelSpec

    if spec.get("weights") is not None or not spec.get("source"):
        return None
    known = ModelSpec.model_validate(dict(spec))
    asked: Any = getattr(registry.get(known.source_name), "repository", None)
    return None if asked is None else asked(known)


def library_of(source: str, recipe: Mapping[str, Any]) -> str:
    """The ``library_name`` of a model card: the library that loads the folder as it lies there.

    timm does where the head is the network's own; a linear layer that this package added, or a decoder, it does not know.
    """
    if source == "timm" and recipe.get("head") == "native" and not recipe.get("config"):
        return "timm"
    return "transformers" if source == "transformers" else "pytorch"


def library_fields(
    source: str, recipe: Mapping[str, Any], preprocess: AnyPreprocess, names: list[str]
) -> dict[str, Any]:
    """What the library looks for in ``config.json``; empty where none loads the folder."""
    library = library_of(source, recipe)
    if library == "transformers":
        return dict(recipe["config"])
    if library != "timm":
        return {}
    asked = {
        name: getattr(preprocess, name)
        for name in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    }
    return {
        "architecture": recipe["model"],
        "num_classes": recipe["outputs"],
        "num_features": recipe["features"],
        "label_names": names,
        "model_args": dict(recipe["kwargs"]),
        "pretrained_cfg": asked,
    }


def to_library(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that the library gives them; the head keeps its own."""
    if source != "transformers":
        return dict(state)
    return {name.removeprefix(_BACKBONE): value for name, value in state.items()}


def from_library(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``to_library``; weights that were saved before it are returned as they are."""
    if source != "transformers" or any(name.startswith(_BACKBONE) for name in state):
        return dict(state)
    return {name if name.startswith(_HEAD) else f"{_BACKBONE}{name}": value for name, value in state.items()}
