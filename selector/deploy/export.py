"""Export a saved model to ONNX and check that it says the same."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from selector import modalities
from selector.core.atomic import replacing, write_atomic
from selector.core.contracts import Target
from selector.core.documents import plain
from selector.core.errors import ConfigError, SelectorError
from selector.core.preprocess import Preprocess, RowsPreprocess, TextPreprocess
from selector.deploy import serializers
from selector.deploy.load import SavedModel, load_model
from selector.deploy.save import CARD

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selector.core.task import Traced


log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of the largest probability difference, on seeded noise or on sample texts


def export_onnx(
    model: str | os.PathLike[str] | SavedModel, out: str | os.PathLike[str], *, trust: bool = False
) -> Path:
    """Write an ONNX file: -> ``logits``, ``probabilities``, both float (B, K), of a network that tags words (B, T, K).

    Its inputs are ``images`` float (B, C, H, W), normalized; of ready features ``features`` float (B, D); or, of a
    network that reads texts,
    ``input_ids``, ``attention_mask`` and where it reads token types (which text of a pair a token belongs to)
    ``token_type_ids``, int64 (B, T) with any B and T, and ``tokenizer.json`` is written beside the
    file. A text that is read in windows is one row a window: average the logits. Of words that are
    tagged there is one row per token: a word's logits are those of its first token, or the mean over its
    tokens, as ``word_pooling`` in the metadata says.

    A network that gives masks: float (B, K, H, W), of images of any height and width where its encoder takes them
    (``free_size`` in the metadata).

    A network that finds boxes takes one image and gives ``boxes`` (n, 4) in shares of it (left, top, right, bottom),
    ``labels`` (n,) and ``scores`` (n,), the most confident first; ``min_score`` in the metadata is the score from
    which on validation counts a box.

    The probabilities are calibrated. The file's metadata hold ``task``, ``class_names``, ``class_values`` (what each class is
    written as in a mask), ``preprocess`` and, of images, ``normalization``.
    The file is run through onnxruntime and compared before it gets its name.

    Args:
        model: a saved model or its folder.
        out: the file to write.
        trust: as for ``load_model``.
    Raises:
        ConfigError: the extra ``onnx`` is not installed, the file cannot be written there, or another model's
            tokenizer lies where this one's goes.
        SelectorError: the network cannot be exported, or onnxruntime gives other values.
    """
    try:
        import onnx  # noqa: F401 - here to be told early that it lacks
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - what torch's exporter needs
    except ImportError as error:
        raise ConfigError(
            f"ONNX export needs the extra 'onnx' ({error}); run: pip install 'zoo-selector[onnx]'"
        ) from None
    saved = model if isinstance(model, SavedModel) else load_model(model, trust=trust)
    if reason := getattr(saved.module, "no_onnx", ""):
        raise SelectorError(f"{saved.config['name']} cannot be exported to ONNX: {reason}.")
    out = Path(out)
    _check_place(out)
    files = serializers.of(saved.preprocess).files(saved.preprocess)
    for name, content in files.items():
        _check_own(out.with_name(name), content, out.name)
    try:
        with replacing(out) as temporary:
            _write_checked(saved, temporary)
            for name, content in files.items():
                out.with_name(name).write_text(content, encoding="utf-8")
    except SelectorError:
        raise
    except Exception as error:
        raise SelectorError(
            f"{saved.config['name']} cannot be exported to ONNX: {str(error).splitlines()[0]}"
        ) from error
    return out


CHECKED = 8  # validation items that an ONNX file is measured on
_HEADING = "\n## The ONNX file\n"


def measure_onnx(saved: SavedModel, path: Path, target: Target) -> dict[str, float]:
    """Score an ONNX file and ``predict`` on a few validation items, and say in the model card how they differ.

    Args:
        saved: the model that the file was exported from; its card is rewritten.
        path: the file.
        target: the data that it was fine-tuned on.
    Returns:
        The deciding metric of both, as ``onnx`` and ``predict``, and the ``items``; empty for texts, whose file is
        compared on sample texts, and where there are no validation items.
    """
    import onnxruntime
    import torch

    items = target.indices("val")[:CHECKED]
    if not modalities.of(saved.preprocess).resizable or not len(items):
        return {}
    preprocess, task = cast(Preprocess, saved.preprocess), saved.task
    from selector.modalities.pixels.transform import normalize, prepare

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    own, exported = (task.evaluator(target, saved.context) for _ in range(2))
    for item in items:
        batch = normalize(prepare([target.items[int(item)]], preprocess), preprocess, "cpu")
        with torch.inference_mode():
            own.update(task.output(saved.module, batch), np.array([item]))
        found = dict(zip(names, session.run(None, {"images": batch.numpy()}), strict=True))
        exported.update(found.get("logits", [found]), np.array([item]))
    metric = str(saved.config.get("measured", {}).get("metric") or task.default_metric)
    values = {name: each.stats().value(metric) for name, each in (("predict", own), ("onnx", exported))}
    gap = values["onnx"] - values["predict"]
    same = "the same" if abs(gap) < 5e-5 else f"{gap:+.4f}. {task.onnx_differs}".rstrip()
    told = (
        f"On {len(items)} validation items its {metric} is {values['onnx']:.4f}, that of `predict` "
        f"{values['predict']:.4f}: {same}\n"
    )
    card = saved.path / CARD
    if card.is_file():
        write_atomic(card, (card.read_text(encoding="utf-8").partition(_HEADING)[0] + _HEADING + told).encode())
    return {**values, "items": len(items)}


def files_beside(saved: SavedModel, path: Path) -> list[Path]:
    """What an ONNX file needs beside it: of a model that reads texts its tokenizer."""
    return [path.with_name(name) for name in serializers.of(saved.preprocess).files(saved.preprocess)]


def _write_checked(saved: SavedModel, path: Path) -> None:
    """Write the file and compare it with torch; where images may have any size, on another size as well.

    An encoder that only takes its own size (a plain vision transformer) is exported with that.

    Raises:
        SelectorError: onnxruntime gives other values.
    """
    import onnx
    import onnxruntime

    preprocess = saved.preprocess
    facts = {
        "class_names": json.dumps(list(saved.class_names)),
        "class_values": json.dumps(saved.task.written_as(saved.class_names, saved.context)),
        "task": saved.task.name,
        "preprocess": json.dumps(preprocess.to_dict()),
        "context": json.dumps(plain(saved.context)),
        "name": saved.config["name"],
    }
    form = _EXPORTED[preprocess.modality](saved, path, facts)
    exported: Any = onnx.load(str(path))
    _name_axes(exported.graph)
    onnx.helper.set_model_props(exported, facts)
    onnx.save(exported, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for inputs, expected in form.batches:
        given = {name: value.numpy() for name, value in zip(form.names, inputs, strict=True)}
        found = session.run(list(form.outputs), given)
        if reason := form.differ(found, [value.numpy() for value in expected]):
            raise SelectorError(
                f"the ONNX file of {saved.config['name']} gives other {form.outputs[-1]} than torch ({reason}); "
                "it was not kept."
            )


def _name_axes(graph: Any) -> None:
    """Give open axes of inputs and outputs the names that people know, in place of the exporter's (``s14``)."""
    names = {4: ("batch", "channels", "height", "width"), 3: ("batch", "length", "classes"), 2: ("batch", "length")}
    renamed: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        for place, dim in enumerate(dims):
            if dim.dim_param and dim.dim_param not in _SPOKEN:
                renamed.setdefault(dim.dim_param, names.get(len(dims), ())[place] if len(dims) in names else "batch")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


_SPOKEN = ("batch", "length", "found")


def _gap(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str:
    """How the last output (probabilities, values) differs; values have a unit of their own, so differences are held against their size."""
    size = max(1.0, float(np.abs(wanted[-1]).max()))
    gap = float(np.abs(found[-1] - wanted[-1]).max() / size)
    return "" if gap <= TOLERANCE else f"difference {gap:.2g}, at most {TOLERANCE:g} is allowed"


def _exported_image(saved: SavedModel, path: Path, facts: dict[str, str]) -> _Form:
    preprocess = cast(Preprocess, saved.preprocess)
    facts["normalization"] = json.dumps({"scale": 1 / 255, "mean": list(preprocess.mean), "std": list(preprocess.std)})
    traced = saved.task.traced(saved.module, saved.context)
    if traced is not None:
        facts |= traced.facts
        form = _traced_form(traced, preprocess)
        _export(form, path)
    else:
        form = _pictures_exported(saved, preprocess, path)
    if saved.task.free_size:
        facts["free_size"] = json.dumps(form.free)
    return form


def _exported_text(saved: SavedModel, path: Path, facts: dict[str, str]) -> _Form:
    from selector.deploy.onnx_text import word_pooling

    form = _text_form(saved)
    _export(form, path)
    if cast(TextPreprocess, saved.preprocess).words:
        facts["word_pooling"] = word_pooling(saved)
    return form


def _exported_rows(saved: SavedModel, path: Path, facts: dict[str, str]) -> _Form:
    width = cast(RowsPreprocess, saved.preprocess).width
    form = _tensor_form(saved, "features", (width,), (width,))
    _export(form, path)
    return form


_EXPORTED = {"image": _exported_image, "text": _exported_text, "rows": _exported_rows}
"""Write the file of a network, and what else its metadata say."""


def _pictures_exported(saved: SavedModel, preprocess: Preprocess, path: Path) -> _Form:
    if saved.task.free_size:
        try:
            if reason := why_not(saved.module) or pads_by_size(saved.module, preprocess.input_size):
                raise ConfigError(reason)
            form = _image_form(saved, preprocess, free=True)
            with padding_in_the_graph(saved.module):
                _export(form, path)
        except Exception as error:  # noqa: BLE001 - networks and the exporter refuse other sizes in many ways
            log.warning(
                "%s takes images of its own size only (%s)", saved.config["name"], (str(error).splitlines() or [""])[0]
            )
        else:
            return form
    form = _image_form(saved, preprocess)
    _export(form, path)
    return form


def _check_own(path: Path, content: str, out: str) -> None:
    """Whether a file beside the ONNX file may be written.

    Raises:
        ConfigError: another model's lies there.
    """
    if path.is_file() and path.read_text(encoding="utf-8") != content:
        raise ConfigError(
            f"{path} is the tokenizer of another model; write {out} to a folder of its own, or remove that file."
        )


def _check_place(out: Path) -> None:
    """Before the work, not after it."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name the file to write, such as {out / 'model.onnx'}.")
    if out.exists() and not out.is_file():
        raise ConfigError(f"{out} is a device or a pipe; name the file to write, such as model.onnx.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); name a file in another folder.") from None


@dataclass(frozen=True)
class _Form:
    """What is exported.

    Attributes:
        network: tensors -> outputs.
        names: of its inputs.
        batches: inputs, and the outputs that the file must give; the first is what torch traces.
        outputs: their names.
        shapes: of each input the axes that may have any length.
        free: images may have any height and width.
        traced: by torch's older exporter, which follows one run; the newer one refuses lengths that depend on data.
        differ: see ``core.task.Traced``.
    """

    network: nn.Module
    names: tuple[str, ...]
    batches: Sequence[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    outputs: tuple[str, ...]
    shapes: tuple[Mapping[int, object], ...] = ()
    free: bool = False
    traced: bool = False
    differ: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], str] = _gap


def _traced_form(traced: Traced, preprocess: Preprocess) -> _Form:
    import torch

    generator = torch.Generator().manual_seed(0)
    module = traced.module.eval()
    batches = []
    for contrast in (1.0, 0.3, 2.0):
        picture = contrast * torch.randn((1, *preprocess.input_size), generator=generator)
        with torch.inference_mode():
            batches.append(((picture,), tuple(module(picture))))
    return _Form(module, ("images",), batches, traced.names, traced=True, differ=traced.differ)


def _image_form(saved: SavedModel, preprocess: Preprocess, *, free: bool = False) -> _Form:
    channels, height, width = preprocess.input_size
    other = (height + 64, max(32, width - 32)) if free else (height, width)
    return _tensor_form(saved, "images", (channels, height, width), (channels, *other), free=free)


def _tensor_form(
    saved: SavedModel, name: str, size: tuple[int, ...], other: tuple[int, ...], *, free: bool = False
) -> _Form:
    """Of a network whose one input is a float tensor (B, *size); compared on items of the ``other`` size as well."""
    import torch

    network = _activated(saved.module, _activation(saved))
    generator = torch.Generator().manual_seed(0)
    batches = []
    for count, shape in ((2, size), (5, other)):
        items = torch.randn((count, *shape), generator=generator)
        with torch.inference_mode():
            batches.append(((items,), tuple(network(items))))
    axes: dict[int, object] = {0: torch.export.Dim("batch", min=1)}
    if free:
        axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return _Form(network, (name,), batches, ("logits", _output_name(saved)), (axes,), free)


def _text_form(saved: SavedModel) -> _Form:
    import torch

    from selector.deploy.onnx_text import ReadsIds, text_batches

    preprocess = cast(TextPreprocess, saved.preprocess)
    names = ("input_ids", "attention_mask", "token_type_ids")[: 3 if preprocess.token_types else 2]
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=preprocess.max_length)}
    network = ReadsIds(saved.module, preprocess, _activation(saved)).eval()
    return _Form(network, names, text_batches(saved, network), ("logits", _output_name(saved)), (axes,) * len(names))


def _export(form: _Form, path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            how: dict[str, Any] = (
                {"dynamo": False, "dynamic_axes": {name: {0: "found"} for name in form.outputs}}
                if form.traced
                else {"dynamo": True, "dynamic_shapes": form.shapes, "external_data": False, "verbose": False}
            )
            with torch.no_grad():
                torch.onnx.export(
                    form.network,
                    form.batches[0][0],
                    str(path),
                    input_names=list(form.names),
                    output_names=list(form.outputs),
                    **how,
                )
        finally:
            logging.disable(previous)


def _output_name(saved: SavedModel) -> str:
    import torch

    outputs = torch.zeros(1, max(1, int(saved.config["recipe"].get("outputs", len(saved.class_names)))))
    found = saved.task.activation(outputs, saved.context)
    return "probabilities" if found is None else found[0]


def _activation(saved: SavedModel) -> Callable[[Tensor], Tensor]:
    """What the task makes of the outputs: calibrated probabilities."""

    def activation(outputs: Tensor) -> Tensor:
        found = saved.task.activation(outputs, saved.context)
        return outputs if found is None else found[1]

    return activation


def _activated(module: nn.Module, activation: Callable[[Tensor], Tensor]) -> nn.Module:
    from torch import nn

    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.network(images)
            return logits, activation(logits)

    return Activated().eval()


# Networks that pad as TensorFlow's 'SAME' does. How much such a layer pads is a formula of the size of what comes in,
# which torch's exporter would trace through all layers before it. ONNX's own operators pad so by themselves
# (``auto_pad``): while a network is exported, its layers are these.


def why_not(module: nn.Module) -> str:
    """Why such a network cannot be exported for any size; nothing where it can."""
    for name, layer in module.named_modules():
        if not _pads(layer):
            continue
        if type(layer).__name__ not in _FORWARDS:
            return f"{name} is a {type(layer).__name__}, whose padding ONNX has no operator for"
        if any(step != 1 for step in _pair(getattr(layer, "dilation", 1))):
            return f"{name} is dilated, and onnxruntime does not pad by the size then"
    return ""


def pads_by_size(module: nn.Module, size: tuple[int, ...]) -> str:
    """Why a network whose own code pads by the size of what comes in cannot be exported for any size: torch's exporter
    follows the formula through all layers and does not end. Nothing where what is padded is the same at another size.

    Args:
        size: of an image, (C, H, W).
    """
    import torch

    channels, height, width = size
    with torch.inference_mode():
        own = _paddings(module, torch.zeros((1, channels, height, width)))
        try:
            other = _paddings(module, torch.zeros((1, channels, height + 17, width + 13)))
        except (AssertionError, RuntimeError, ValueError):  # it takes some sizes, and not this one
            return ""
    return "" if own == other else "its code pads by the size of the images"


def _paddings(module: nn.Module, pictures: Tensor) -> list[list[int]]:
    """What ``torch.nn.functional.pad`` adds in a forward pass, outside of layers that ONNX has operators for."""
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    found: list[list[int]] = []
    inside: list[nn.Module] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
            if function is functional.pad and not inside:
                found.append([int(side) for side in (args[1] if len(args) > 1 else kwargs["pad"])])
            return function(*args, **(kwargs or {}))

    hooks = []
    for layer in filter(_pads, module.modules()):
        hooks.append(layer.register_forward_pre_hook(lambda one, _: inside.append(one)))
        hooks.append(layer.register_forward_hook(lambda *_: inside.clear()))
    try:
        with Watch():
            module(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextlib.contextmanager
def padding_in_the_graph(module: nn.Module) -> Iterator[None]:
    """Inside, layers that pad by the size are ONNX's operators: the network can be exported, not run."""
    layers = [layer for layer in module.modules() if _pads(layer)]
    for layer in layers:
        layer.forward = MethodType(_FORWARDS[type(layer).__name__], layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _pads(layer: nn.Module) -> bool:
    return type(layer).__name__.endswith("2dSame")


def _convolution(layer: Any, x: Tensor) -> Tensor:
    given = [x, layer.weight] + ([] if layer.bias is None else [layer.bias])
    return _operator("Conv", given, layer, layer.out_channels, {"group": layer.groups})


def _maximum(layer: object, x: Tensor) -> Tensor:
    return _operator("MaxPool", [x], layer, x.shape[1], {})


def _operator(name: str, given: list[Tensor], layer: Any, channels: int, attributes: dict[str, Any]) -> Tensor:
    import torch

    down, across = _pair(layer.stride)
    x = given[0]
    made: Tensor = torch.onnx.ops.symbolic(
        name,
        given,
        {"auto_pad": "SAME_UPPER", "kernel_shape": _pair(layer.kernel_size), "strides": [down, across], **attributes},
        dtype=x.dtype,
        shape=(x.shape[0], channels, (x.shape[2] + down - 1) // down, (x.shape[3] + across - 1) // across),
    )
    return made


_FORWARDS = {"Conv2dSame": _convolution, "MaxPool2dSame": _maximum}


def _pair(value: Any) -> list[int]:
    return [int(one) for one in value] if isinstance(value, tuple | list) else [int(value)] * 2
