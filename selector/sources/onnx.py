"""Networks as ONNX files: ``onnx:path/to/model.onnx``, run by onnxruntime on the CPU; frozen features only.

A relative path starts at the zoo file's folder. The features are the first output, or the one
that ``layer`` names, pooled to (B, D).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, WeightsMissing, ZooError, did_you_mean, first_line
from selector.core.preprocess import Preprocess, TextPreprocess
from selector.core.resources import given_threads
from selector.sources import _weights, source
from selector.sources._network import running

if TYPE_CHECKING:
    import torch
    from torch import nn

    from selector.modalities.text import Tokens
    from selector.sources._maps import Geometry
    from selector.zoo import ModelSpec

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@source("onnx")
class OnnxSource:
    """The ``onnx:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The path itself; files are not listed by a wildcard."""
        if any(char in pattern for char in "*?["):
            raise ZooError(f"onnx:{pattern}: name the file in full; a wildcard does not list files.")
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``. The hash covers the file and the weights that it keeps beside it."""
        path = _file(spec)
        tokenizer = None if spec.text is None else spec.text.tokenizer
        return {
            "source": "onnx",
            "model": path.name,
            "weights": "+".join(_weights.content_hash(part) for part in [path, *_external(spec, path)]),
            **_weights.settings_identity(spec),
            **({} if tokenizer is None else {"tokenizer": _weights.content_hash(tokenizer.path())}),
            "versions": _weights.versions("onnxruntime", *(() if tokenizer is None else ("tokenizers",))),
        }

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        return _READERS[spec.reads](spec, self.identify(spec))

    def build(self, recipe: Mapping[str, object]) -> nn.Module:
        """Always an error: there is no recipe for a network that cannot be trained."""
        raise SourceError(f"an ONNX network cannot be trained, so there is none to build ({dict(recipe)}).")


class OnnxEncoder(Encoder):
    """What an ONNX network gives for images or for texts; not differentiable, and on the CPU."""

    module = None

    def __init__(self, spec: ModelSpec, identity: dict[str, object]) -> None:
        path = _file(spec)
        self.name = spec.name
        self.identity = identity
        self._session = _session(spec, path)
        self._outputs = {output.name: output for output in self._session.get_outputs()}
        if spec.layer is not None and spec.layer not in self._outputs:
            raise SourceError(
                f"{spec.name}: the network has no output '{spec.layer}'{did_you_mean(spec.layer, self._outputs) or '.'} "
                f"Outputs: {', '.join(self._outputs)}."
            )
        self._pooling = spec.pooling
        self.num_parameters = _count(path)
        self.weights_bytes = sum(part.stat().st_size for part in [path, *_external(spec, path)])

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise SourceError(
            f"{self.name}: an ONNX network gives frozen features only and cannot be fine-tuned; take the model through "
            f"{', '.join(_TRAINABLE[self.modality])} or python: for that."
        )

    with_head = recipe = _refuse


class OnnxImageEncoder(OnnxEncoder):
    """Features and maps of an ONNX network for images."""

    preprocess: Preprocess

    def __init__(self, spec: ModelSpec, identity: dict[str, object]) -> None:
        super().__init__(spec, identity)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise SourceError(f"{spec.name}: expected one float input (B, C, H, W) or (B, H, W, C), found {found}.")
        if spec.pooling not in (None, "avg", "max", "cls"):
            raise SourceError(f"{spec.name}: pooling '{spec.pooling}' is for texts; images take avg, max or cls.")
        if spec.kwargs:
            raise SourceError(f"{spec.name}: an ONNX network takes no kwargs, got {', '.join(spec.kwargs)}.")
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        self._output = spec.layer or next(iter(self._outputs))
        shape = [axis if isinstance(axis, int) and axis > 0 else None for axis in inputs[0].shape]
        self._rows = shape[0]
        self._channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
        own = [shape[3], shape[1], shape[2]] if self._channels_last else shape[1:]
        default = Preprocess()
        self.preprocess = Preprocess(
            input_size=tuple(a or b for a, b in zip(own, default.input_size, strict=True))  # type: ignore[arg-type]
        ).overridden(spec.preprocess.changes())
        self.num_features = self._probe().shape[1]

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Features (B, D) on the CPU, without a gradient."""
        import torch

        (out,) = self._run_all(self._as_input(batch), [self._output])
        return torch.from_numpy(self._pooled(out).astype(np.float32))

    @cached_property
    def _map_outputs(self) -> dict[str, tuple[int, Geometry]]:
        """Stride and geometry of each output that is a map, the finest first; of one stride the last is kept."""
        import torch

        from selector.sources._maps import geometry_of

        size = self.preprocess.input_size[1:]
        names = list(self._outputs)
        blank = self._as_input(torch.zeros((1, *self.preprocess.input_size)))
        found: dict[int, tuple[str, Geometry]] = {}
        for name, out in zip(names, self._run_all(blank, names), strict=True):
            shape = geometry_of(out.shape, size)
            if shape is not None:
                stride = round(size[0] / shape.height)
                found[stride] = (name, shape)
        if not found:
            raise SourceError(
                f"{self.name}: no output is a feature map; export the network with its maps as outputs, found "
                f"{', '.join(names)}."
            )
        return {name: (stride, shape) for stride, (name, shape) in sorted(found.items())}

    @property
    def strides(self) -> tuple[int, ...]:
        """See ``contracts.Encoder``; of the outputs that are maps."""
        return tuple(stride for stride, _ in self._map_outputs.values())

    def encode_maps(self, batch: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]:
        """See ``contracts.Encoder``."""
        import torch

        from selector.sources._maps import as_map

        wanted = self._map_outputs
        features, *maps = self._run_all(self._as_input(batch), [self._output, *wanted])
        size = (batch.shape[2], batch.shape[3])
        found = [
            (stride, as_map(torch.from_numpy(out.astype(np.float32)), shape.layout, shape.prefix, stride, size))
            for out, (stride, shape) in zip(maps, wanted.values(), strict=True)
        ]
        return torch.from_numpy(self._pooled(features).astype(np.float32)), found

    def on_canvas(self, size: tuple[int, int]) -> OnnxImageEncoder:
        """See ``contracts.Encoder``; only files that were exported with a free height and width take another size."""
        import torch

        stride = self.strides[-1]
        other = copy.copy(self)
        other.preprocess = self.preprocess.on_canvas(size)
        other.__dict__["_map_outputs"] = self._map_outputs
        try:
            maps = other.maps(torch.zeros((1, *other.preprocess.input_size)))
        except Exception as error:  # onnxruntime's own exceptions have no common base
            own = "x".join(map(str, self.preprocess.input_size[1:]))
            raise SourceError(
                f"{self.name}: the network gives no maps at {size[0]}x{size[1]} ({first_line(error)}); export it with a "
                f"free height and width, use a multiple of {stride}, or leave it at {own}."
            ) from error
        if any(found.shape[2:] != (size[0] // s, size[1] // s) for s, found in maps):
            raise SourceError(
                f"{self.name}: {size[0]}x{size[1]} pixels are no multiple of the largest stride of the network, {stride}."
            )
        return other

    map_module = map_recipe = OnnxEncoder._refuse

    def _as_input(self, batch: torch.Tensor) -> np.ndarray:
        rows = batch.detach().cpu().numpy().astype(self._type)
        if self._channels_last:
            rows = rows.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(rows)

    def _run_all(self, rows: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """The named outputs, a row per item."""
        names = list(names)
        if self._rows is None:
            return [np.asarray(out) for out in self._session.run(names, {self._input: rows})]
        parts = []
        for start in range(0, len(rows), self._rows):  # exported with a fixed batch: cut to it, fill the last
            part = rows[start : start + self._rows]
            filled = np.concatenate([part, np.zeros((self._rows - len(part), *part.shape[1:]), part.dtype)])
            outputs = [np.asarray(out) for out in self._session.run(names, {self._input: filled})]
            if wrong := [len(out) for out in outputs if len(out) != self._rows]:
                raise SourceError(f"{self.name}: the network gives {wrong[0]} rows for a batch of {self._rows} images.")
            parts.append([out[: len(part)] for out in outputs])
        return [np.concatenate(out) for out in zip(*parts, strict=True)]

    def _pooled(self, out: np.ndarray) -> np.ndarray:
        if out.ndim == 2:
            if self._pooling is not None:
                raise SourceError(
                    f"{self.name}: pooling '{self._pooling}' needs a map or tokens, but output '{self._output}' is "
                    f"{out.shape}; leave 'pooling' out or name another with 'layer'."
                )
            return out
        if self._pooling == "cls":
            if out.ndim != 3:
                raise SourceError(f"{self.name}: pooling 'cls' needs tokens (B, N, D), found {out.shape}.")
            return np.asarray(out[:, 0])
        if out.ndim == 3:
            axes: tuple[int, ...] = (1,)
        elif out.ndim == 4:
            axes = (1, 2) if out.shape[1] == out.shape[2] != out.shape[3] else (2, 3)
        else:
            raise SourceError(f"{self.name}: cannot pool an output of shape {out.shape}; name another with 'layer'.")
        return np.asarray(out.max(axes) if self._pooling == "max" else out.mean(axes))

    def _probe(self) -> torch.Tensor:
        import torch

        batch = torch.zeros((1, *self.preprocess.input_size))
        with running(self.name, self.preprocess.input_size):
            features = self.encode(batch)
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise SourceError(f"{self.name}: features of a test image are not finite (1, D).")
        return features


class OnnxTextEncoder(OnnxEncoder):
    """Features of an ONNX network for texts; its tokenizer is named in the zoo (``text.tokenizer``).

    The features are the output that ``layer`` names, else the first one that has a row per text
    (sentence encoders), else the first one that has one row per token, pooled. With a ``pooling``, as
    for words, only an output that has one row per token will do.

    Raises:
        SourceError: other inputs than token ids, no tokenizer, no output that can be read (so).
    """

    preprocess: TextPreprocess

    def __init__(self, spec: ModelSpec, identity: dict[str, object]) -> None:
        from selector.sources._text import MAX_LENGTH, pooling_of, probe_tokens, read_tokenizer
        from selector.sources._text_path import LAST, TextPath

        super().__init__(spec, identity)
        self._names = [i.name for i in self._session.get_inputs()]
        if "input_ids" not in self._names or not set(self._names) <= set(_TOKENS):
            raise SourceError(f"{spec.name}: expected the inputs {', '.join(_TOKENS)}, found {', '.join(self._names)}.")
        if spec.text is None or spec.text.tokenizer is None:
            raise SourceError(
                f"{spec.name}: an ONNX file has no tokenizer; name one with 'text: {{tokenizer: {{file: tokenizer.json}}}}'."
            )
        changes = {"max_length": MAX_LENGTH, **spec.text.changes()}
        self.preprocess = TextPreprocess(tokenizer=read_tokenizer(spec), **changes)
        pooling = pooling_of(spec, self.preprocess, "first" if self.preprocess.words else "mean")
        self._output = spec.layer or _best_output(spec, self._outputs, words=self.preprocess.words)
        self._path = TextPath(LAST, pooling, specials=True)
        self._tokens = probe_tokens(self.preprocess)
        with running(spec.name):
            self.num_features = int(self.encode(self._tokens).shape[1])

    def probe(self) -> Tokens:
        """See ``contracts.Encoder``."""
        return self._tokens

    def encode(self, batch: Tokens) -> torch.Tensor:
        """Features (B, D) on the CPU, without a gradient."""
        import torch

        given = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        found = self._session.run([self._output], {name: given[name].cpu().numpy() for name in self._names})[0]
        rows = torch.from_numpy(np.asarray(found, np.float32))
        if rows.ndim == 3:
            return self._path.pool(rows, batch)
        if batch.words is not None or rows.ndim != 2 or len(rows) != len(batch.ids):
            raise SourceError(
                f"{self.name}: output '{self._output}' has the shape {tuple(rows.shape)}; name another with 'layer'."
            )
        if self._pooling is not None:
            raise SourceError(_rows_only(self.name, self._output, self._pooling))
        return batch.per_text(rows)


_READERS: dict[str, type[OnnxEncoder]] = {"image": OnnxImageEncoder, "text": OnnxTextEncoder}
"""How the networks of a modality are fed and read."""

_TRAINABLE = {"image": ("timm:", "torchvision:"), "text": ("transformers:",)}


def _best_output(spec: ModelSpec, outputs: dict[str, Any], *, words: bool) -> str:
    floats = [o for o in outputs.values() if o.type in _TYPES]
    of_rank = {len(o.shape): str(o.name) for o in reversed(floats) if o.shape and isinstance(o.shape[-1], int)}
    of_texts, of_tokens = of_rank.get(2), of_rank.get(3)
    if words or spec.pooling is not None:
        if of_tokens is None and of_texts is not None and not words:
            raise SourceError(_rows_only(spec.name, of_texts, str(spec.pooling)))
        found = of_tokens
    else:
        found = of_texts or of_tokens
    if found is None:
        raise SourceError(
            f"{spec.name}: none of the outputs {', '.join(outputs)} can be read as features"
            f"{' of words (one row per token)' if words else ''}; name one with 'layer'."
        )
    return found


def _rows_only(model: str, output: str, pooling: str) -> str:
    return (
        f"{model}: pooling '{pooling}' needs one row per token, but output '{output}' has one row per text, which is read as it "
        "is; leave 'pooling' out or name another with 'layer'."
    )


def _session(spec: ModelSpec, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = given_threads() or 0  # 0: as many as there are cores
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise SourceError(f"{spec.name}: onnxruntime cannot load {path}: {first_line(error)}") from error


def _file(spec: ModelSpec) -> Path:
    for library in ("onnxruntime", "onnx"):
        if importlib.util.find_spec(library) is None:
            raise SourceError(f"{spec.name}: {library} is not installed; run: pip install 'zoo-selector[onnx]'")
    if spec.weights == "none":
        raise SourceError(f"{spec.name}: an ONNX file holds its own weights; leave 'weights' out.")
    if spec.weights is not None:
        return spec.weights.path()  # the file itself, inside a package
    path = Path(spec.base or ".") / spec.model_id
    if not path.is_file():
        raise WeightsMissing(f"{spec.name}: ONNX file {path} does not exist; give a path from the zoo file's folder.")
    return path


def _external(spec: ModelSpec, path: Path) -> list[Path]:
    """Files beside the model that hold its larger weights."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors, whose module moves between its versions
        raise SourceError(f"{spec.name}: {path} is not an ONNX file, or it is damaged: {first_line(error)}") from error
    named = {
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path.parent / name for name in sorted(named)]
    for file in files:
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise SourceError(f"{spec.name}: {path} keeps weights outside its folder ({file}); they are not read.")
        if not file.is_file():
            raise WeightsMissing(f"{spec.name}: {path} keeps weights in {file.name}, which is not beside it.")
    return files


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of a model, wherever it stands: initializers, constants, sparse ones, subgraphs, functions.

    Found by walking the file's own structure, so that a place that a later version of the format adds is found too.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


def _count(path: Path) -> int:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return int(sum(np.prod(list(tensor.dims), dtype=np.int64) for tensor in graph.initializer))
