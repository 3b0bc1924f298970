"""The model of a run: saved, loaded, used, exported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = [
    "Prediction",
    "Predictions",
    "SavedModel",
    "TaggedText",
    "TaggedTexts",
    "export_onnx",
    "load_model",
    "save_model",
]

if TYPE_CHECKING:
    from selector.core.prediction import Prediction as Prediction
    from selector.core.prediction import Predictions as Predictions
    from selector.deploy.export import export_onnx as export_onnx
    from selector.deploy.load import SavedModel as SavedModel
    from selector.deploy.load import load_model as load_model
    from selector.deploy.save import save_model as save_model
    from selector.tasks._tag_predictions import TaggedText as TaggedText
    from selector.tasks._tag_predictions import TaggedTexts as TaggedTexts

_PLACES = {
    "Prediction": "selector.core.prediction",
    "Predictions": "selector.core.prediction",
    "TaggedText": "selector.tasks._tag_predictions",
    "TaggedTexts": "selector.tasks._tag_predictions",
    "export_onnx": "selector.deploy.export",
    "save_model": "selector.deploy.save",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'selector.deploy' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES.get(name, "selector.deploy.load")), name)
