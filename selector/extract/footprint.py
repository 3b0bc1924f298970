"""The memory that a network takes, told from the shapes of its tensors: nothing is computed and no weights are needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from selector.core.costs import Footprint
from selector.core.errors import SourceError, first_line
from selector.extract.cost import LiveBytes, module_bytes
from selector.sources._sketch import Sketch

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

    def forward(self, batch: Any) -> Any:
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
