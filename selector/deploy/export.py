"""Export a saved model to ONNX and check that it says the same."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from selector.contracts import Preprocess
from selector.deploy.load import SavedModel, load_model
from selector.errors import ConfigError, SelectorError

TOLERANCE = 1e-3  # of the largest probability difference on seeded noise


def export_onnx(
    model: str | os.PathLike[str] | SavedModel, out: str | os.PathLike[str], *, trust: bool = False
) -> Path:
    """Write an ONNX file: ``images`` float (B, C, H, W), normalised -> ``logits``, ``probabilities``.

    The probabilities are calibrated. Class names, mean, std and resizing are in the file's
    metadata. The file is run through onnxruntime and compared before it gets its name.

    Args:
        model: a saved model or its folder.
        out: the file to write.
        trust: as for ``load_model``.
    Raises:
        ConfigError: the extra ``onnx`` is not installed.
        SelectorError: the network cannot be exported, or onnxruntime gives other values.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch's exporter needs
    except ImportError as error:
        raise ConfigError(
            f"ONNX export needs the extra 'onnx' ({error}); run: pip install 'zoo-selector[onnx]'"
        ) from None
    import torch

    saved = model if isinstance(model, SavedModel) else load_model(model, trust=trust)
    if not isinstance(saved.preprocess, Preprocess):
        raise ConfigError(
            f"{saved.config['name']} reads texts, and only networks for images are exported to ONNX; use "
            "selector.load_model(...).predict, or the lines in its README.md."
        )
    preprocess = saved.preprocess
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    network = _calibrated(saved.module, saved.temperature)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((2, *preprocess.input_size), generator=generator)
    temporary = out.with_name(f".{out.name}.partial")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            previous = logging.root.manager.disable
            logging.disable(logging.WARNING)
            try:
                torch.onnx.export(
                    network,
                    (sample,),
                    str(temporary),
                    input_names=["images"],
                    output_names=["logits", "probabilities"],
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    external_data=False,
                    dynamo=True,
                    verbose=False,
                )
            finally:
                logging.disable(previous)
        exported: Any = onnx.load(str(temporary))
        facts = {
            "class_names": json.dumps(list(saved.class_names)),
            "preprocess": json.dumps(preprocess.to_dict()),
            "name": saved.config["name"],
        }
        onnx.helper.set_model_props(exported, facts)
        onnx.save(exported, str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        for images in (sample, torch.randn((5, *preprocess.input_size), generator=generator)):
            with torch.inference_mode():
                expected = network(images)[1].numpy()
            found = session.run(["probabilities"], {"images": images.numpy()})[0]
            gap = float(np.abs(found - expected).max())
            if not gap <= TOLERANCE:
                raise SelectorError(
                    f"the ONNX file of {saved.config['name']} gives other probabilities than torch (difference {gap:.2g}, "
                    f"at most {TOLERANCE:g} is allowed); it was not kept."
                )
        temporary.replace(out)
    except SelectorError:
        raise
    except Exception as error:
        raise SelectorError(
            f"{saved.config['name']} cannot be exported to ONNX: {str(error).splitlines()[0]}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _calibrated(module: Any, temperature: float) -> Any:
    from torch import nn

    class Calibrated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: Any) -> Any:
            logits = self.network(images)
            return logits, (logits / temperature).softmax(dim=1)

    return Calibrated().eval()
