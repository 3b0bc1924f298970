"""A model on its way through the rounds of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selector.core.contracts import Score
from selector.core.costs import Cost
from selector.ranking.combination import Transferability
from selector.results import ModelResult, ScoreCell, Status
from selector.run.job import Failure
from selector.store.entry import Entry
from selector.zoo import ModelSpec


@dataclass
class Candidate:
    """What is known of a model so far; ``result`` turns it into a row of the ranking.

    ``known`` are facts that no target is needed for, by the names of ``prior.ModelFacts``.
    """

    spec: ModelSpec
    entry: Entry | None = None
    failure: Failure | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    transferability: Transferability | None = None
    seconds: float = 0.0
    rows: int = 0
    layers: dict[str, float] = field(default_factory=dict)
    cached: bool = True
    pruned: str = ""
    over_budget: bool = False  # pruned because the scan budget went to others
    spared: float | None = None  # seconds of forward passes that stopping saved, where the rate is known
    known: dict[str, float] = field(default_factory=dict)
    excluded: str = ""
    cost: Cost | None = None
    texts_cut: int = 0

    @property
    def preprocess(self) -> Mapping[str, object]:
        """How its items were read, as the store recorded it; empty where no features are stored."""
        return {} if self.entry is None else self.entry.meta.get("preprocess", {})

    @property
    def running(self) -> bool:
        """Whether it is still in: neither failed nor pruned nor excluded."""
        return not (self.failure or self.pruned or self.excluded)

    def result(self) -> ModelResult:
        cells = {
            name: ScoreCell(s.value, s.low, s.high, dict(s.details), s.seconds + s.interval_seconds)
            for name, s in self.scores.items()
        }
        cells |= {name: ScoreCell(None, reason=reason) for name, reason in self.reasons.items()}
        facts = self.entry.meta if self.entry is not None else {}
        return ModelResult(
            name=self.spec.name,
            spec=self.spec.model_dump(mode="json", exclude_defaults=True),
            status=self._status(),
            reason=self.failure.reason if self.failure else self.excluded or self.pruned,
            traceback=self.failure.traceback if self.failure else "",
            scores=cells,
            num_features=self.entry.num_features if self.entry is not None else None,
            num_parameters=facts.get("num_parameters") or (self.spec.params if self.excluded else None),
            rows=self.rows,
            layers=dict(self.layers),
            backend=str(facts.get("backend", "")),
            precision=str(facts.get("precision", "")),
            extract_seconds=self.seconds,
            cached=self.cached,
            facts=self.known,
            cost=self.cost,
            prompt=str(self.preprocess.get("prompt", "")),
            texts_cut=self.texts_cut,
            **(self.transferability.fields() if self.transferability else {}),
        )

    def _status(self) -> Status:
        if self.failure:
            return "failed"
        return "excluded" if self.excluded else "pruned" if self.pruned else "ok"
