"""A text encoder on a set of texts: its tokens, its optimizer, its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.suite import text_encoders
from benchmarks.suite.text_sets import TextSet
from benchmarks.suite.training import Head
from selector.core.contracts import Encoder
from selector.extract.encode import open_runner
from selector.modalities.text import Tokens, text_hash
from selector.modalities.tokens.table import open_tokens
from selector.sources._transformer import Transformer
from selector.zoo import ModelSpec

RATES = (3e-5, 1e-4, 3e-4)  # AdamW
PIECE = 8  # texts of like length that are run together: short ones are not filled up to the longest of the batch


class TextLearner:
    """See ``training.Learner``."""

    rates = RATES
    tries_every_rate = False
    precision = "bfloat16"
    size = text_encoders.MAX_LENGTH

    def __init__(self, spec: ModelSpec, data: TextSet) -> None:
        self._encoder: Encoder = text_encoders.load(spec)
        self._data = data
        hashes = [text_hash(text) for text in data.texts]
        names = [f"{data.name}:{i}" for i in range(len(hashes))]
        self._tokens, _ = open_tokens(data.texts, hashes, names, self._encoder.preprocess)  # type: ignore[arg-type]
        self._module: Transformer = text_encoders.with_head(self._encoder, spec, data.classes)
        self._places = self._only_own_words()

    @property
    def features_precision(self) -> str:
        return "float32" if self._encoder.module is None else "bfloat16"

    @property
    def module(self) -> nn.Module:
        return self._module

    def features(self) -> tuple[np.ndarray, np.ndarray | None]:
        """As a scan extracts them on a machine that multiplies bfloat16 faster."""
        every = np.arange(len(self._data.texts))
        runner = open_runner(
            self._encoder,
            device="cpu",
            precision=self.features_precision,
            backend="auto" if self._encoder.module is None else "eager",
            sample=self._tokens.batch(self._tokens.longest_first(every[:128])),
            rows_expected=len(every),
        )
        rows = np.empty((len(every), self._encoder.num_features), np.float32)
        parts = self._tokens.cut(every, runner.batch_size)
        for part, found in zip(parts, runner.stream(self._tokens.batch(p) for p in parts), strict=True):
            rows[part] = found
        return rows, None

    def set_head(self, head: Head) -> None:
        linear = self._module.get_classifier()
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(head.weight))
            linear.bias.copy_(torch.from_numpy(head.bias))

    def train_mode(self) -> None:
        self._module.train()

    def optimizer(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, rate, weight_decay=0.01, fused=True)

    def backward(self, rows: np.ndarray, rng: torch.Generator) -> float:
        by_length = rows[np.argsort(self._tokens.lengths[rows], kind="stable")]
        total = 0.0
        for start in range(0, len(rows), PIECE):
            piece = by_length[start : start + PIECE]
            with torch.autocast("cpu", torch.bfloat16):
                logits = self._module(self._batch(piece))
            truth = torch.from_numpy(self._data.labels[piece]).long()
            loss = F.cross_entropy(logits.float(), truth) * (len(piece) / len(rows))
            loss.backward()
            total += float(loss.detach())
        return total

    def forward(self, rows: np.ndarray) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self._module(self._batch(rows))  # type: ignore[no-any-return]

    @torch.no_grad()
    def logits(self, rows: np.ndarray) -> torch.Tensor:
        self._module.eval()
        found = torch.empty(len(rows), self._data.classes)
        order = np.argsort(self._tokens.lengths[rows], kind="stable")
        for start in range(0, len(rows), 2 * PIECE):
            part = order[start : start + 2 * PIECE]
            with torch.autocast("cpu", torch.bfloat16):
                found[part] = self._module(self._batch(rows[part])).float()
        return found

    def _batch(self, rows: np.ndarray) -> Tokens:
        found = self._tokens.batch(rows)
        return Tokens(self._places[found.ids], found.mask, found.content, found.types, found.owner)

    def _only_own_words(self) -> torch.Tensor:
        """Cut the table of word vectors down to the tokens of the set; returns the place of each token id in it.

        The others get no gradient and are never read, so that the outcome is the same; but most of the
        parameters, and with them most of an optimizer's step, would be theirs.
        """
        backbone = cast(Any, self._module.backbone)
        table = backbone.get_input_embeddings()
        pad = self._tokens.preprocess.pad_id
        used = torch.tensor([pad, *self._tokens.batch(np.arange(len(self._tokens))).ids.unique().tolist()]).unique()
        places = torch.full((table.num_embeddings,), -1)
        places[used] = torch.arange(len(used))
        small = nn.Embedding(len(used), table.embedding_dim, padding_idx=int(places[pad]))
        with torch.no_grad():
            small.weight.copy_(table.weight[used])
        backbone.set_input_embeddings(small)
        return places
