"""Models that learned by masked image modeling: probes on frozen maps rank them too low, so one of them is confirmed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selector.core.contracts import Target
from selector.results import Caveat
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import reads_maps
from selector.zoo import ModelSpec

CODE = "masked-pretraining"
_SAID = re.compile(r"\bmask")
_LATER = re.compile(r"supervised|fine-tuned")  # a masked start that labels have followed
_TAG = re.compile(r"\.((fc)?mae|mim|[a-z]*_?mim)(_|$)")  # of timm's weights


def learned_masked(spec: ModelSpec) -> bool:
    """Whether the weights come from masked image modeling alone.

    By what the zoo says of its pretraining; of models that the zoo does not describe by the tag of timm's weights.
    """
    said = (spec.pretraining or "").lower()
    if said:
        return bool(_SAID.search(said)) and not _LATER.search(said.replace("self-supervised", ""))
    return bool(_TAG.search(spec.model_id)) and "_ft" not in spec.model_id


def under_ranked(candidates: Sequence[Candidate], target: Target) -> Caveat | None:
    """Where rows are read off frozen maps: the models whose place says less than that of others, the first of them first."""
    if not reads_maps(target):
        return None
    ranked = sorted(
        (c for c in candidates if c.transferability is not None and c.running),
        key=lambda c: -c.transferability.value if c.transferability is not None else 0.0,
    )
    names = [c.spec.name for c in ranked if learned_masked(c.spec)]
    if not names or len(names) == len(ranked):
        return None
    whom = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return Caveat(
        CODE,
        f"{whom} learned by masked image modeling, which probes on frozen maps rank too low (arXiv:2404.12172): a "
        "confirmation trains the first of them even where it is not among the leading models.",
        {"models": names},
    )
