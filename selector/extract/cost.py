"""Measures what a network costs on this device: operations, latency, throughput, memory, weights.

Made to take about a second per model beside an extraction, so the passes are few: medians with the
quickest and the slowest pass beside them say how far a busy machine can be trusted.
"""

from __future__ import annotations

import os
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from selector import modalities
from selector.core.contracts import Encoder
from selector.core.costs import Cost, Footprint
from selector.core.errors import SourceError, first_line
from selector.core.resources import is_out_of_memory
from selector.extract.backends import Backend, open_backend
from selector.extract.encode import Runner
from selector.extract.inputs import Batch, NetworkInput, ready
from selector.sources._sketch import Sketch

SECONDS = 0.8  # for the passes of a model; a network that is slower than that runs three times
_FEWEST, _MOST = 3, 15  # passes of one image
_BATCH_PASSES = 3
_TEXT_BATCHES = (8, 32)  # with the extraction's hundreds a pass of long texts would take longer than all others


def measure_cost(encoder: Encoder, runner: Runner, pixels: Batch, *, seconds: float = SECONDS) -> Cost:
    """Measure a network that is ready to run.

    Args:
        encoder: the network.
        runner: the same network made ready for extraction; its device, backend, precision and batch
            size are what the figures are about. A single image runs in torch whatever the backend,
            since that is how the saved model predicts and what compares between models.
        pixels: n >= 1 items prepared for this network (uint8 (n, H, W, 3), or tokens); repeated where a
            batch needs more. Of texts it only says that there are some: a text of ``TEXT_TOKENS`` stands for them.
        seconds: about how long the passes may take.
    Raises:
        RuntimeError: the network does not run; out of memory leaves figures out instead.
    Cost: 5 to 20 forward passes of an image, and some batches where they fit into ``seconds``.
    """
    device, precision = runner.device, runner.identity["precision"]
    sizes: Sequence[int] = (max(2, runner.batch_size // 4), runner.batch_size)
    standard = modalities.of(encoder).standard(encoder.preprocess)
    if standard is not None:
        pixels, sizes = standard, _TEXT_BATCHES
        seconds /= 2  # a scan of short texts takes seconds, which this must not rule
    single = runner.resized(1) if runner.identity["backend"] == "eager" else None
    if single is None:
        single = open_backend("eager", encoder, device, precision, 1, None)
    flops, memory = _counted(single, device, pixels[:1])
    started = time.perf_counter()
    times = _timed(single, pixels[:1], seconds / 2, _FEWEST, _MOST)
    latency = statistics.median(times)
    best, size, backend = latency, 1, single.name
    for batch in sorted(set(sizes)):
        left = seconds - (time.perf_counter() - started)
        candidate = runner.resized(batch)
        if candidate is None or 2 * latency * batch > left:
            continue  # two passes of this size would take too long
        try:
            passes = _timed(candidate, _enough(pixels, batch), left / 2, 1, _BATCH_PASSES)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if statistics.median(passes) / batch < best:
            best, size, backend = statistics.median(passes) / batch, batch, candidate.name
    return Cost(
        flops=flops,
        latency=latency,
        latency_low=min(times),
        latency_high=max(times),
        runs=len(times),
        image_seconds=best,
        batch_size=size,
        backend=backend,
        memory=memory,
        disk=weights_bytes(encoder),
        device=_device_name(device),
        precision=precision,
        threads=torch.get_num_threads() if device == "cpu" else None,
        load=os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None,
    )


def needed_memory(encoder: Encoder, device: str, item: Batch) -> Cost:
    """Bytes of a network's weights (``disk``) and of a forward pass of one item at its peak (``memory``), in float32.

    Cost: one forward pass.
    """
    single = open_backend("eager", encoder, device, "float32", 1, None)
    return Cost(memory=_counted(single, device, item)[1], disk=weights_bytes(encoder))


def weights_bytes(encoder: Encoder) -> int | None:
    """Bytes of all parameters and buffers, which is what their file takes; of the file for a network that is not torch."""
    if encoder.module is None:
        return encoder.weights_bytes
    return module_bytes(encoder.module)


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes of its parameters and buffers, each counted once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _timed(backend: Backend, pixels: Batch, seconds: float, fewest: int, most: int) -> list[float]:
    """Seconds of each of some passes, after one that warms up."""
    times: list[float] = []
    started = time.perf_counter()
    backend.start(pixels)()
    while len(times) < most and (len(times) < fewest or time.perf_counter() - started < seconds):
        begun = time.perf_counter()
        backend.start(pixels)()
        times.append(time.perf_counter() - begun)
    return times


def _counted(backend: Backend, device: str, pixels: Batch) -> tuple[int | None, int | None]:
    """(multiply-adds, bytes at the peak) of a forward pass of one item; None for networks that are not torch."""
    placed: Encoder | None = getattr(backend, "encoder", None)
    if placed is None or placed.module is None:
        return None, None
    weights = next(placed.module.parameters(), None)
    dtype = torch.float32 if weights is None else weights.dtype
    batch = ready(pixels, placed.preprocess, device, dtype)
    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops})
    mixed = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=backend.mixed)
    with torch.no_grad(), mixed, counter, peak_memory(placed.module, device) as peak:
        placed.encode(batch)
    return counter.get_total_flops() // 2, peak()


_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Of the CPU's fused attention, which torch's own table leaves out; takes shapes (B, heads, N, D)."""
    batch, heads, rows, width = query
    columns = key[-2]
    return int(2 * batch * heads * rows * columns * (width + value[-1]))


@contextmanager
def peak_memory(module: torch.nn.Module, device: str) -> Iterator[Callable[[], int]]:
    """What the block takes at its peak on top of the weights, plus the weights."""
    weights = module_bytes(module)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: weights + torch.cuda.max_memory_allocated(device) - before
        return
    live = LiveBytes((*module.parameters(), *module.buffers()))
    with live:
        yield lambda: weights + live.peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of the tensors that are alive, beside those that were there before (a network's own).

    The process's memory would not do: what was freed earlier hides what is taken now, and other
    threads work beside this one.
    """

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in before}

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return  # a view, or written in place
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def _enough(pixels: Batch, size: int) -> Batch:
    enough: Batch = modalities.of_batch(pixels).repeated(pixels, size)
    return enough


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    from selector.core.system import cpu_model

    return cpu_model() if device == "cpu" else device


ITEMS = 64  # of the batch that is looked at: its activations outweigh the gradients, which are counted with the weights


def footprint(sketch: Sketch, *, bf16: bool = False) -> Footprint:
    """Follow a forward pass and a training step over tensors without content.

    Args:
        bf16: whether the step runs in mixed precision; a pass alone is looked at in single precision.

    Raises:
        SourceError: what the network does depends on the content of its tensors, so that its shapes do not tell.

    Cost: half a second for a network of 25 million parameters, whatever its weights.
    """
    try:
        item = _peak(sketch, training=False, bf16=False)
        step = _peak(sketch, training=True, bf16=bf16)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        raise SourceError(f"its memory use cannot be inferred from its shapes: {first_line(error)}") from error
    area = sketch.extent[0] * sketch.extent[1]
    return Footprint(module_bytes(sketch.module), item // ITEMS, step // ITEMS, area, "bfloat16" if bf16 else "float32")


class _Called(nn.Module):
    """A network behind another way to call it."""

    def __init__(self, sketch: Sketch) -> None:
        super().__init__()
        self.network = sketch.module
        self._call = sketch.call

    def forward(self, batch: NetworkInput) -> object:
        return self._call(self.network, batch)


def _peak(sketch: Sketch, *, training: bool, bf16: bool) -> int:
    """Bytes beside the weights; of a step with those gradients that are there at its peak."""
    modes = [(child, child.training) for child in sketch.module.modules()]
    called = _Called(sketch).train(training)
    for child in called.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()  # as a training of pretrained weights has them
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shared: dict[int, torch.Tensor] = {}

    def without_content(tensor: torch.Tensor, moves: bool) -> torch.Tensor:
        # on the processor by name, so that mixed precision and attention go the way that they will
        if id(tensor) not in shared:
            fake = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
            shared[id(tensor)] = fake.requires_grad_(moves and tensor.is_floating_point())
        return shared[id(tensor)]

    state = {name: without_content(tensor, training) for name, tensor in called.named_parameters()}
    state |= {name: without_content(tensor, False) for name, tensor in called.named_buffers()}
    live = LiveBytes(state.values())
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    try:
        with mode, mixed, torch.set_grad_enabled(training):
            batch = sketch.items(ITEMS)
            with live:
                out = functional_call(called, state, (batch,))
                if training:
                    floats = [o for o in tree_leaves(out) if isinstance(o, torch.Tensor) and o.requires_grad]
                    torch.stack([o.float().sum() for o in floats]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for child, trained in modes:
            child.training = trained
    return live.peak
