"""The suite of texts: 6 encoders on 6 sets.

The encoders are what pip packages bring, fewer layers of it, and an untrained control; a package's ONNX file is read as such.
Sets have their own train and test, with a fixed stratified validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.suite.suites import Extracted, Facts, LabeledSet, Suite, draw
from selector import sources
from selector.extract.encode import open_runner
from selector.modalities.text import text_hash
from selector.modalities.tokens.table import open_tokens
from selector.scan.past import facts_of
from selector.tasks.classification import Classification
from selector.zoo import ModelSpec, TextSettings, load_zoo

MAX_LENGTH = 128  # tokens
UNTRAINED = "minilm-untrained"
TRUNCATED = {"sre-minilm-l6-3-layers": ("sre-minilm-l6", 3, 17_241_984)}  # not in the zoo: network, layers, parameters
DEPTHS = {
    "minilm-l6": 6,
    "minilm-l6-3-layers": 3,
    "paraphrase-minilm-l3-onnx": 3,
    UNTRAINED: 6,
    "sre-minilm-l6": 6,
    "sre-minilm-l6-3-layers": 3,
}
"""Layers by encoder, in the order in which they are run."""
VAL_SHARE = 0.2


def specs() -> dict[str, ModelSpec]:
    """Every encoder of the suite as an entry of a zoo, read at ``MAX_LENGTH``."""
    zoo = {spec.name: spec for spec in load_zoo().models}
    for name, (whole, layers, parameters) in TRUNCATED.items():
        zoo[name] = zoo[whole].model_copy(
            update={"name": name, "kwargs": {"num_hidden_layers": layers}, "params": parameters}
        )
    found = {}
    for name in DEPTHS:
        settings = (zoo[name].text or TextSettings()).model_copy(update={"max_length": MAX_LENGTH})
        found[name] = zoo[name].model_copy(update={"text": settings})
    return found


@dataclass(frozen=True)
class TextSet(LabeledSet):
    """Labeled texts."""

    texts: list[str]


class TextSuite(Suite):
    """See ``suites.Suite``."""

    sets = ("trec", "banking77", "sst2", "emotion", "clinc150", "r8")  # r8 has the longest texts and comes last
    prefix = "text_"
    needs = "text/"
    members = Classification.members["text"]
    items = 2000, 1000
    quick = 600, 300
    scopes = MappingProxyType(
        {
            "all": lambda name, column, scores: list(column),
            "without the untrained control": lambda name, column, scores: [e for e in column if e != UNTRAINED],
        }
    )

    def encoders(self, assets: Path) -> dict[str, Facts]:
        """See ``suites.Suite``."""
        del assets  # the networks come from pip packages
        return {name: Facts(facts_of(spec, {}), DEPTHS[name]) for name, spec in specs().items()}

    def load_set(self, name: str, assets: Path, max_train_val: int, max_test: int) -> TextSet:
        """See ``suites.Suite``."""
        import pyarrow.parquet as pq

        own = [pq.read_table(assets / "text" / name / f"{split}.parquet").to_pydict() for split in ("train", "test")]
        texts, labels = ([value for part in own for value in part[column]] for column in ("text", "label"))
        is_test = np.repeat([False, True], [len(part["text"]) for part in own])
        rows, splits = draw(np.asarray(labels), is_test, VAL_SHARE, max_train_val, max_test)
        return TextSet(name, np.asarray(labels)[rows], splits, [texts[i] for i in rows])

    def extract(self, encoder: str, data: LabeledSet, assets: Path) -> Extracted:
        """As a scan extracts features on a machine that multiplies bfloat16 faster."""
        del assets
        assert isinstance(data, TextSet)
        spec = specs()[encoder]
        loaded = sources.registry.get(spec.source_name).load(spec)
        names = [f"{data.name}:{i}" for i in range(len(data.texts))]
        tokens, _ = open_tokens(data.texts, [text_hash(text) for text in data.texts], names, loaded.preprocess)
        every, traced = np.arange(len(data.texts)), loaded.module is None
        runner = open_runner(
            loaded,
            device="cpu",
            precision="float32" if traced else "bfloat16",
            backend="auto" if traced else "eager",
            sample=tokens.batch(tokens.longest_first(every[:128])),
            rows_expected=len(every),
        )
        rows = np.empty((len(every), loaded.num_features), np.float32)
        parts = tokens.cut(every, runner.batch_size)
        for part, found in zip(parts, runner.stream(tokens.batch(p) for p in parts), strict=True):
            rows[part] = found
        return Extracted(rows, None, MAX_LENGTH)


SUITE = TextSuite()
SUITES = {"texts": SUITE}
