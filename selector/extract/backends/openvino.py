"""OpenVINO on the CPU: converted straight from the torch module, normalization inside the graph.

The compiled model is kept on disk, by weights, shape, precision and versions, so that conversion is
paid once a machine. OpenVINO reports its use to its makers unless told otherwise: its telemetry
package is hidden from it before it is imported.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from selector.core.atomic import replacing
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.resources import given_threads
from selector.extract.inputs import Batch

logger = logging.getLogger(__name__)

_TELEMETRY = "openvino_telemetry"
_CHECKSUM_BYTES = 16
_TRACED_BATCH = 2  # not 1, which networks may treat as a special case


def why_not(device: str) -> str:
    """Why OpenVINO cannot run here; empty when it can."""
    if device != "cpu":
        return f"OpenVINO is used on the CPU, not on {device}"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install 'zoo-selector[openvino]')"
    return ""


@functools.cache
def quiet_openvino() -> Any:
    """The package, imported without its telemetry: no thread, no file, no connection."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == _TELEMETRY}
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # its own stand-in is used then
    try:
        import openvino
        import openvino.tools.ovc.convert_impl  # what converts, and would import telemetry when first used
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(hidden)
    return openvino


class OpenVinoBackend:
    """A network compiled for one batch shape and precision.

    Raises:
        SourceError: the network cannot be converted or compiled.
    """

    name = "openvino"
    mixed = False

    def __init__(
        self, encoder: Encoder, device: str, precision: str, batch_size: int, cache: Path | None, model: Any = None
    ) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self._encoder, self._device, self._cache = encoder, device, cache
        ov = quiet_openvino()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # one stream with all the cores: a batch is large already
        }
        if (
            threads := given_threads()
        ) is not None:  # the CPU plugin compiles with as many; it has no setting of its own
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        kept = cache / "openvino" / f"{_key(encoder, precision, batch_size)}.blob" if cache is not None else None
        core = ov.Core()
        compiled = _load(core, kept, settings) if kept is not None else None
        if compiled is None:
            model = model if model is not None else _converted(ov, encoder, batch_size)
            try:
                compiled = core.compile_model(model, "CPU", settings)
            except RuntimeError as error:  # where in its source stands first, the reason last
                reason = next(
                    (line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
                )
                raise SourceError(f"{encoder.name} cannot be compiled by OpenVINO: {reason.strip()}") from error
            if kept is not None:
                _keep(compiled, kept)
        self._model = model
        self._request = compiled.create_infer_request()

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Features (B, D)."""
        assert isinstance(batch, np.ndarray)
        outputs = self._request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        features: NDArray[np.float32] = np.array(outputs[0], dtype=np.float32)
        return lambda: features

    def resized(self, batch_size: int) -> None:
        """Another shape is converted anew."""
        return

    def in_precision(self, precision: str) -> OpenVinoBackend:
        """The converted network, compiled for another precision."""
        return OpenVinoBackend(self._encoder, self._device, precision, self.batch_size, self._cache, self._model)


def _converted(ov: object, encoder: Encoder, batch_size: int) -> Any:
    """An OpenVINO model from uint8 (B, H, W, 3) to features.

    Tracing runs the network, so it is traced on two images and the batch is set afterwards; a network that keeps the traced batch as a constant is traced on a whole batch.
    """
    try:
        model = _traced(ov, encoder, _TRACED_BATCH)
        model.reshape([batch_size, *_pixel_shape(encoder)])
        if model.output(0).partial_shape.to_shape()[0] == batch_size:
            return model
    except (RuntimeError, SourceError) as error:
        logger.info("%s keeps the batch that it is traced on: %s", encoder.name, str(error).splitlines()[:1])
    model = _traced(ov, encoder, batch_size)
    model.reshape([batch_size, *_pixel_shape(encoder)])
    return model


def _traced(ov: Any, encoder: Encoder, batch_size: int) -> Any:
    """The network with its normalization, traced as a function: its weights become constants at once.

    A trace of a module copies every layer of it first, and torch runs the network two times more to check the trace;
    together they took four fifths of a conversion. What the check would see, the comparison of the features with
    torch's sees too.
    """
    import torch

    from selector.extract.backends.folding import folded, shared_copy

    quick = copy.copy(encoder)
    quick.module = shared_copy(folded(encoder))
    channels = encoder.image_preprocess.input_size[0]
    mean, std = (torch.tensor(v[:channels]) for v in (encoder.image_preprocess.mean, encoder.image_preprocess.std))
    shift, scale = (-mean / std).view(1, -1, 1, 1), (1 / (255 * std)).view(1, -1, 1, 1)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        """The arithmetic of ``pixels.normalize``, written so that its trace holds for any batch."""
        values = pixels.permute(0, 3, 1, 2).float()
        if channels == 1:  # whole numbers below 2**24, so float32 is exact
            weights = torch.tensor([19595.0, 38470.0, 7471.0]).view(1, 3, 1, 1)
            values = torch.floor(((values * weights).sum(1, keepdim=True) + 0x8000) / 65536)
        return quick.encode(values * scale + shift)

    example = torch.zeros((batch_size, *_pixel_shape(encoder)), dtype=torch.uint8)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # tracing keeps shapes, means and the like as constants, and says so: here they are constants
            warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO reads traces of torch.jit
            traced = torch.jit.trace(features, example, check_trace=False)  # type: ignore[no-untyped-call]
            shape = ov.PartialShape([-1, *_pixel_shape(encoder)])
            return ov.convert_model(traced, example_input=example, input=[shape], verbose=False)
    except Exception as error:  # a converter raises whatever the traced network and its own rules raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{encoder.name} cannot be converted to OpenVINO: {reason}") from error


def _pixel_shape(encoder: Encoder) -> tuple[int, int, int]:
    _, height, width = encoder.image_preprocess.input_size
    return height, width, 3


def _key(encoder: Encoder, precision: str, batch_size: int) -> str:
    from selector.core.system import cpu_model
    from selector.store.documents import digest

    return digest(
        {
            "encoder": encoder.identity,
            "preprocess": encoder.preprocess.to_dict(),
            "precision": precision,
            "batch": batch_size,
            "versions": [metadata.version(name) for name in ("openvino", "torch")],
            "machine": [cpu_model(), platform.machine()],
        }
    )


def _keep(compiled: Any, path: Path) -> None:
    """Write the compiled model; a failure costs a conversion next time, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = compiled.export_model().getvalue()
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(xxhash.xxh3_128_digest(blob))
            file.write(blob)
    except (OSError, RuntimeError) as error:
        logger.warning("the compiled model could not be kept in %s: %s", path.parent, error)


def _load(core: Any, path: Path, settings: dict[str, str]) -> Any:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    blob = content[_CHECKSUM_BYTES:]
    if xxhash.xxh3_128_digest(blob) != content[:_CHECKSUM_BYTES]:
        logger.warning("the compiled model %s is damaged; it is made again", path)
        return None
    try:
        return core.import_model(blob, "CPU", settings)
    except RuntimeError as error:
        logger.info("the compiled model %s is not taken (%s); it is made again", path, error)
        return None
