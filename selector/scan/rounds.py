"""Rounds of rows: extract, score, stop the models that can no longer reach the top k."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from selector import tasks
from selector.core.errors import SourceError, StoreError
from selector.ranking.combination import OUT, LabelFacts, combine, out_of_reach
from selector.ranking.outlook import Outlook
from selector.run.executor import InProcess
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.scan.extraction import Extraction
from selector.scan.past import Knowledge, facts_of_candidate, known_facts
from selector.scan.scoring import Scoring
from selector.scan.variants import SameNetwork, by_network
from selector.store import RowsMissing
from selector.zoo import ModelSpec

log = logging.getLogger(__name__)

DROP_FROM = 8  # models: below, a pool is too small for early stopping to pay
ROUNDS = (0.25, 0.5, 1.0)


class Rounds:
    """The rounds of one target.

    Attributes:
        candidates: the models, with what is known of each so far.
        shares: of the rows, a round each.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        extraction: Extraction,
        scoring: Scoring,
        knowledge: Knowledge,
        *,
        top_k: int,
        prune: str,
        seed: int,
    ) -> None:
        self.candidates = [Candidate(spec) for spec in specs]
        self.extraction, self._scoring, self._knowledge = extraction, scoring, knowledge
        self._top_k, self._seed = top_k, seed
        enough = len(by_network(self.candidates)) >= max(DROP_FROM, top_k + 1)
        self.shares = ROUNDS if prune == "always" or (prune == "auto" and enough) else (1.0,)

    @property
    def running(self) -> list[Candidate]:
        """Those that are still in."""
        return [c for c in self.candidates if c.running]

    def run(self) -> None:
        """All rounds."""
        for share in self.shares:
            self.step(share)

    def step(self, share: float) -> None:
        """One round: extract, score, stop the models that can no longer reach the top k."""
        # features of every model first: an item found to be bad on the way leaves the target for all
        self.extraction.run(by_network(self.running), share)
        self.judge(share)

    def judge(self, share: float) -> None:
        """Score the rows of a round, and stop the models that can no longer reach the top k."""
        extraction = self.extraction
        rows = extraction.rows(share)
        score = partial(_score, share=share, extraction=extraction, scoring=self._scoring)
        for result in InProcess().map(score, self.running, fatal=(StoreError,)):
            result.job.failure = result.failure
        self._combine(rows)
        if share < 1:
            left = len(extraction.rows().indices) - len(rows.indices)
            for c in _lost([c for c in self.running if c.transferability], self._top_k):
                c.pruned = (
                    f"pruned after {len(rows)} rows: it is among the first {self._top_k} after training with a probability "
                    f"below {100 * OUT:.0f}%"
                )
                c.spared = extraction.estimate(c.spec, left)

    def _combine(self, rows: Rows) -> None:
        running = self.running
        target = self.extraction.target
        task = tasks.task_for(target)
        members = task.members.get(target.modality, ()) if task else ()
        labels = {name: LabelFacts.of(facet.labels, facet.kind, members) for name, facet in rows.facets.items()}
        scores = {c.spec.name: c.scores for c in running}
        sources = {c.spec.name: c.spec.source for c in running}
        trains = task is not None and not task.adapts
        outlook = Outlook.of(sources, target.modality, target.label_kind) if trains else None
        transferability = combine(
            scores, labels, prior=self._knowledge.prior(running), outlook=outlook, top_k=self._top_k, seed=self._seed
        )
        for c in running:
            c.transferability, c.rows = transferability.get(c.spec.name), len(rows)
            c.known = known_facts(facts_of_candidate(c))


def _lost(running: Sequence[Candidate], top_k: int) -> list[Candidate]:
    """Candidates whose network cannot reach the top k: its variants stop together, because one pass gives them all."""
    networks = {c.spec.name: network.name for network in by_network(running) for c in network.members}
    transferability = {c.spec.name: c.transferability for c in running if c.transferability}
    lost = set(out_of_reach(transferability, top_k, networks))
    return [c for c in running if c.spec.name in lost]


def _score(candidate: Candidate, share: float, extraction: Extraction, scoring: Scoring) -> None:
    try:
        scoring.run(candidate, extraction.rows(share))
    except RowsMissing as error:  # a damaged chunk was set aside, or the store was pruned beside this scan
        log.warning(
            "%s: %d of its rows vanished from the store while this scan ran; they are extracted again",
            candidate.spec.name, len(error.indices),
        )  # fmt: skip
        extraction.run([SameNetwork((candidate,))], share)
        if candidate.failure:
            raise candidate.failure.error from None
        try:
            scoring.run(candidate, extraction.rows(share))
        except RowsMissing:
            raise SourceError(
                f"{candidate.spec.name}: its rows vanish from the store as fast as they are extracted; end what removes "
                "them, and run the same command again."
            ) from None
