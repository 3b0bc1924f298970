"""Every registered proxy, and the combined evidence, on the saved features of a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from selector.contracts import LabelKind, Score
from selector.errors import NotApplicable, SelectorError
from selector.evidence import LabelFacts, combine
from selector.features import FeatureSet
from selector.proxies import evaluate, registry

EVIDENCE = "evidence"
Scored = dict[str, dict[str, float]]  # score name -> encoder -> value


def of_set(folder: Path, names: Iterable[str], seed: int = 0) -> tuple[Scored, dict[tuple[str, str], str]]:
    """Values by score and encoder, and the reason for every one that is missing.

    Args:
        folder: of one set, with ``<encoder>.npz`` as ``ground_truth`` saves them (train and val rows).
        names: encoders to score.
        seed: of folds and subsamples.
    """
    values: Scored = {name: {} for name in registry.names()}
    missing: dict[tuple[str, str], str] = {}
    members: dict[str, dict[str, Score]] = {}
    facts: LabelFacts | None = None
    for name in names:
        with np.load(folder / f"{name}.npz") as saved:
            labels = saved["labels"]
            logits = saved.get("source_logits")
            features = FeatureSet(saved["features"], labels, source_logits=logits, seed=seed)
        facts = facts or LabelFacts.of(labels, LabelKind.CLASSES)
        members[name] = {}
        for proxy in registry.names():
            try:
                score = evaluate(features, proxy)
            except NotApplicable as error:
                missing[proxy, name] = f"not applicable: {error}"
            except SelectorError as error:
                missing[proxy, name] = f"failed: {error}"
            else:
                values[proxy][name] = score.value
                members[name][proxy] = score
    if facts is not None:
        values[EVIDENCE] = {name: found.value for name, found in combine(members, facts, seed=seed).items()}
    return {proxy: by_name for proxy, by_name in values.items() if by_name}, missing
