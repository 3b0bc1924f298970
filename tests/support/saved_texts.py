"""Models of texts as a training hands them over, ready to be saved."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selector.sources import registry as sources
from selector.tuning import Trained
from selector.zoo import ModelSpec

CLASSES = ("money", "sport", "weather")


def trained_text(
    folder: Path, *, words: bool = False, changes: Mapping[str, Any] | None = None, **spec: Any
) -> Trained:
    """A folder of ``text_models.text_model`` with a random head of three classes.

    Args:
        words: whether it tags words.
        changes: of how it prepares texts.
        spec: of its zoo entry.
    """
    asked = {"source": f"transformers:{folder}", **({"text": {"words": True}} if words else {}), **spec}
    encoder: Any = sources.get("transformers").load(ModelSpec.model_validate(asked))
    module = encoder.with_head(3)
    with torch.no_grad():
        module.get_classifier().weight.normal_(generator=torch.Generator().manual_seed(0))
    return Trained(
        "bert", "full", module, "transformers", encoder.recipe(3), replace(encoder.preprocess, **changes or {}),
        CLASSES, task="tagging" if words else "classification",
    )  # fmt: skip
