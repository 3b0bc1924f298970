"""The prior knowledge of the models, and what a run adds to it: the history around a scan.

Models are identified by what they are (source, weights, layer), never by the name that a zoo gives
them, so that two zoos share what was measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from selector.config import READ, HistoryLike
from selector.core.contracts import Target
from selector.core.costs import Cost
from selector.core.errors import HistoryError
from selector.ranking.forecast import best_line, confirmed_pairs
from selector.ranking.history import SCORE_METRIC, History, Result, published_results, snapshot
from selector.ranking.prior import FEWEST_OWN_TARGETS, OWN_RESULTS, ModelFacts, Prior, pretraining_images, static_prior
from selector.report.ranking import Ranking
from selector.results import ModelResult, final_measurements
from selector.scan.candidate import Candidate
from selector.tasks import task_for
from selector.zoo import ModelSpec
from selector.zoo.timm_facts import timm_facts


def open_history(history: HistoryLike) -> History | None:
    """True or ``"read"`` for the user's own, False for none, or a file."""
    if isinstance(history, bool) or history == READ:
        return History() if history else None
    return history if isinstance(history, History) else History(history)


def written_history(history: HistoryLike) -> History | None:
    """Where a confirmation adds what it measured: nowhere for ``"read"`` and False."""
    return None if history == READ else open_history(history)


class Knowledge:
    """What a run may know before it measures anything.

    Args:
        history: past runs; None for none, and then no published table enters either.
        target: that is about to be ranked; its own rows are left out.

    Attributes:
        results: measured rows that may enter a prior, and predicted ones beside them.
        notes: what went wrong with the history; a run goes on without it.
    """

    def __init__(self, history: History | None, target: Target) -> None:
        self.history = history
        self.target = target
        self._adapts = (task := task_for(target)) is not None and task.adapts
        self.notes: list[str] = []
        self.results: list[Result] = []
        if history is not None:
            try:
                self.results = history.results()
            except HistoryError as error:
                self.notes.append(f"no past results were used: {error}")
        self._prior: Prior | None = None
        self._models: tuple[str, ...] = ()

    def prior(self, candidates: Sequence[Candidate]) -> Prior | None:
        """The prior of some models by their names in the zoo; None of a target without labels, of which results on
        labeled ones do not tell."""
        if self._adapts or not candidates:
            return None
        names = tuple(c.spec.name for c in candidates)
        if self._prior is None or not set(names) <= set(self._models):
            identities = {c.spec.name: identity_of(c.spec) for c in candidates}
            facts = {identities[c.spec.name]: facts_of_candidate(c) for c in candidates}
            made = static_prior(
                facts, self._entering(), target=self.target.fingerprint, target_name=self.target.name,
                fewest_own=FEWEST_OWN_TARGETS,
            )  # fmt: skip
            scores = {name: made.scores[identity] for name, identity in identities.items()}
            self._prior, self._models = replace(made, scores=scores), names
        return self._prior

    def record(self) -> dict[str, object]:
        """How the prior was made, for the run: plain JSON, without the scores."""
        if self._prior is None:
            return {}
        told = {k: v for k, v in asdict(self._prior).items() if k != "scores"}
        own = [r for r in self.results if r.kind == "measured" and r.target != self.target.fingerprint]
        return {
            **told,
            "history": None if self.history is None else snapshot(own),
            "own": 0 if any(why.startswith(OWN_RESULTS) for why in self._prior.left_out) else len(own),
            "published": 0 if self.history is None else len(published_results()),
        }

    def _entering(self) -> list[Result]:
        if self.history is None:
            return []
        return [*(replace(r, model=r.source) for r in self.results if r.source), *published_results()]


def identity_of(spec: ModelSpec) -> str:
    """What a model is, whatever a zoo calls it: its source, and what makes its weights others than the source's own.

    timm's copies of torchvision's first weights are torchvision's.
    """
    source = spec.source
    if spec.source_name == "timm" and spec.model_id.endswith(".tv_in1k"):
        source = f"torchvision:{spec.model_id.removesuffix('.tv_in1k')}.IMAGENET1K_V1"
    other: dict[str, object] = {}
    if spec.weights is not None:
        other["weights"] = (
            spec.weights if isinstance(spec.weights, str) else f"{spec.weights.package or ''}/{spec.weights.file}"
        )
    if spec.kwargs:
        other["kwargs"] = spec.kwargs
    if spec.layer is not None:
        other["layer"] = spec.layer
    return f"{source} {json.dumps(other, sort_keys=True, default=str)}" if other else source


def facts_of(spec: ModelSpec, meta: Mapping[str, Any], cost: Cost | None = None) -> ModelFacts:
    """Static facts of a model.

    Args:
        spec: the zoo's entry; what it states wins.
        meta: of the model's entry in the store: parameters and input size as they were found.
        cost: as it was measured, for the FLOPs; what is published of a model of timm stands in for it.
    """
    size = spec.preprocess.input_size or (meta.get("preprocess") or {}).get("input_size")
    parameters = spec.params or meta.get("num_parameters")
    tag = spec.pretraining or spec.model_id.partition(".")[2]
    known = timm_facts(spec)
    return ModelFacts(
        parameters=float(parameters) if parameters else None,
        upstream_accuracy=spec.upstream_accuracy,
        pretraining_images=0.0 if spec.weights == "none" else pretraining_images(tag),
        flops=float(cost.flops) if cost is not None and cost.flops else None if known is None else known.operations,
        input_size=float(size[-1]) if size else None,
    )


def facts_of_candidate(candidate: Candidate) -> ModelFacts:
    """As far as a scan has come with it."""
    return facts_of(candidate.spec, candidate.entry.meta if candidate.entry is not None else {}, candidate.cost)


def known_facts(facts: ModelFacts) -> dict[str, float]:
    """Those that are there, as a run and the history keep them."""
    return {name: float(getattr(facts, name)) for name in facts.known()}


def confirmed_results(ranking: Ranking) -> list[Result]:
    """What a confirmation adds to the history: every value it measured, and the normalized score it had before.

    The last and best validation value of each model and strategy. The same confirmation made again
    replaces its own rows, since it is no second piece of evidence.
    """
    target, confirm = ranking.target, ranking.settings.get("confirm") or {}
    asked = json.dumps([target["fingerprint"], confirm], sort_keys=True, default=str)
    run = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return [row for model in ranking for row in _rows_of(model, target, run)]


def predicted(models: Sequence[ModelResult], fingerprint: str, results: Sequence[Result]) -> tuple[ModelResult, ...]:
    """The models with what their normalized score lets expect, where confirmed pairs calibrate it.

    A model that was measured in that way needs no prediction and gets none.
    """
    metric = next((normalized_score_metric(m) for m in models if m.normalized_score is not None), None)
    line = None if metric is None else best_line(confirmed_pairs(results, metric), fingerprint)
    if line is None:
        return tuple(replace(m, predicted=None) for m in models)
    return tuple(
        replace(
            m,
            predicted=None
            if m.status != "ok" or m.normalized_score is None or line.strategy in final_measurements(m)
            else line.at(m.normalized_score),
        )
        for m in models
    )


def _rows_of(model: ModelResult, target: Mapping[str, Any], run: str) -> Iterable[Result]:
    common: dict[str, Any] = {
        "target": str(target["fingerprint"]),
        "target_name": str(target.get("name") or ""),
        "model": model.name,
        "source": identity_of(ModelSpec(**model.spec)),
        "run": run,
        "facts": dict(model.facts),
        "items": int((target.get("splits") or {}).get("val", 0)),
    }
    measured = {s: m for s, m in final_measurements(model).items() if m.status == "ok" and m.val_value == m.val_value}
    for strategy, m in measured.items():
        yield Result(metric=m.metric, value=m.val_value, strategy=strategy, **common)
    if measured and model.normalized_score is not None:
        yield Result(metric=normalized_score_metric(model), value=model.normalized_score, kind="predicted", **common)


def normalized_score_metric(model: ModelResult) -> str:
    """Normalized scores over other members cannot be compared."""
    return f"{SCORE_METRIC}{'+'.join(sorted(model.members))}"
