"""ONNX networks that read token ids: sentence encoders as they are exported; frozen features only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.contracts import Encoder, TextPreprocess
from selector.errors import SourceError, did_you_mean
from selector.sources._text_files import MAX_LENGTH, probe_tokens, read_tokenizer, word_pooling

if TYPE_CHECKING:
    import torch

    from selector.texts import Tokens
    from selector.zoo import ModelSpec

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxTextEncoder(Encoder):
    """Features of an ONNX network for texts; its tokenizer is named in the zoo (``text.tokenizer``).

    The features are the output that ``layer`` names, else the first one that has a row a text
    (sentence encoders), else the first one that has a row a token, pooled.

    Raises:
        SourceError: other inputs than token ids, no tokenizer, no output that can be read.
    """

    module = None
    preprocess: TextPreprocess

    def __init__(self, spec: ModelSpec, path: Path, session: Any, identity: dict[str, Any], size: int) -> None:
        from selector.sources._text import TextPath

        names = [i.name for i in session.get_inputs()]
        if "input_ids" not in names or not set(names) <= set(_INPUTS):
            raise SourceError(f"{spec.name}: expected the inputs {', '.join(_INPUTS)}, found {', '.join(names)}.")
        if spec.text is None or spec.text.tokenizer is None:
            raise SourceError(
                f"{spec.name}: an ONNX file has no tokenizer; name one with 'text: {{tokenizer: {{file: tokenizer.json}}}}'."
            )
        outputs = {o.name: o for o in session.get_outputs()}
        if spec.layer is not None and spec.layer not in outputs:
            raise SourceError(
                f"{spec.name}: the network has no output '{spec.layer}'{did_you_mean(spec.layer, outputs) or '.'} "
                f"Outputs: {', '.join(outputs)}."
            )
        changes = {"max_length": MAX_LENGTH, **spec.text.changes()}
        self.name = spec.name
        self.identity = identity
        self.preprocess = TextPreprocess(tokenizer=read_tokenizer(spec), **changes)
        self.num_parameters = size
        self._session, self._names = session, names
        words = self.preprocess.words
        self._output = spec.layer or _best_output(spec, outputs, (3,) if words else (2, 3))
        pooling: Any = word_pooling(spec, "first") if words else spec.pooling or "mean"
        self._path = TextPath("last", pooling, specials=True)
        self._probe_tokens = probe_tokens(self.preprocess)
        try:
            features = self.encode(self._probe_tokens)
        except SourceError:
            raise
        except Exception as error:  # onnxruntime's own exceptions have no common base
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise SourceError(f"{spec.name}: the network {path.name} does not run on a text: {first}") from error
        self.num_features = int(features.shape[1])

    def probe(self) -> Tokens:
        """See ``contracts.Encoder``."""
        return self._probe_tokens

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
        return batch.per_text(rows)


def _best_output(spec: ModelSpec, outputs: dict[str, Any], kinds: Sequence[int]) -> str:
    floats = [o for o in outputs.values() if o.type in ("tensor(float)", "tensor(float16)", "tensor(double)")]
    for axes in kinds:
        for output in floats:
            shape: Sequence[Any] = output.shape
            if len(shape) == axes and isinstance(shape[-1], int):
                return str(output.name)
    raise SourceError(
        f"{spec.name}: none of the outputs {', '.join(outputs)} can be read as features"
        f"{'' if 2 in kinds else ' of words (a row a token)'}; name one with 'layer'."
    )
