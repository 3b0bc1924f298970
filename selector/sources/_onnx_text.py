"""ONNX networks that read token ids: sentence encoders as they are exported; frozen features only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import Encoder, TextPreprocess
from selector.core.errors import SourceError, did_you_mean
from selector.sources._text_files import MAX_LENGTH, probe_tokens, read_tokenizer, word_pooling

if TYPE_CHECKING:
    import torch

    from selector.modalities.text import Tokens
    from selector.zoo import ModelSpec

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxTextEncoder(Encoder):
    """Features of an ONNX network for texts; its tokenizer is named in the zoo (``text.tokenizer``).

    The features are the output that ``layer`` names, else the first one that has a row a text
    (sentence encoders), else the first one that has a row a token, pooled. With a ``pooling``, as
    for words, only an output that has a row a token will do.

    Raises:
        SourceError: other inputs than token ids, no tokenizer, no output that can be read (so).
    """

    module = None
    preprocess: TextPreprocess

    def __init__(self, spec: ModelSpec, path: Path, session: Any, identity: dict[str, Any], size: int) -> None:
        from selector.sources._text import TextPath, text_pooling

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
        pooling: Any = word_pooling(spec, "first") if words else text_pooling(spec.name, spec.pooling, "mean")
        self._asked = spec.pooling
        self._output = spec.layer or _best_output(spec, outputs, words=bool(words))
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
        if self._asked is not None:
            raise SourceError(_rows_only(self.name, self._output, self._asked))
        return batch.per_text(rows)


def _best_output(spec: ModelSpec, outputs: dict[str, Any], *, words: bool) -> str:
    floats = [o for o in outputs.values() if o.type in ("tensor(float)", "tensor(float16)", "tensor(double)")]
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
            f"{' of words (a row a token)' if words else ''}; name one with 'layer'."
        )
    return found


def _rows_only(model: str, output: str, pooling: str) -> str:
    return (
        f"{model}: pooling '{pooling}' needs a row a token, but output '{output}' has a row a text, which is read as it "
        "is; leave 'pooling' out or name another with 'layer'."
    )
