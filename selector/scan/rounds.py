"""Rounds of rows: extract, score, stop the models that can no longer reach the top k."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from selector.core.engine import Engine
from selector.core.errors import SourceError, StoreError
from selector.ranking.combination import LabelFacts, combine, out_of_reach
from selector.scan.candidate import Candidate
from selector.scan.extraction import Extraction
from selector.scan.past import Knowledge, facts_of_candidate, known_facts
from selector.scan.scoring import Scoring
from selector.scan.variants import SameNetwork, by_network
from selector.store import RowsMissing
from selector.zoo import ModelSpec

log = logging.getLogger(__name__)

DROP_FROM = 8  # models: below, a pool is too small for early stopping to pay
ROUNDS = (0.25, 0.5, 1.0)


def run_rounds(
    specs: Sequence[ModelSpec],
    extraction: Extraction,
    scoring: Scoring,
    knowledge: Knowledge,
    *,
    top_k: int,
    drop: str,
    seed: int,
    engine: Engine,
) -> list[Candidate]:
    """Rounds of rows: extract, score, stop the models that can no longer reach the top k."""
    candidates = [Candidate(spec) for spec in specs]
    dropping = drop == "force" or (drop == "auto" and len(by_network(candidates)) >= max(DROP_FROM, top_k + 1))
    for share in ROUNDS if dropping else (1.0,):
        running = [c for c in candidates if c.running]
        # features of every model first: an item found to be bad on the way leaves the target for all
        extraction.run(by_network(running), share)
        running = [c for c in running if c.running]
        rows = extraction.rows(share)
        score = partial(_score, share=share, extraction=extraction, scoring=scoring)
        for outcome in engine.map(score, running, fatal=(StoreError,)):
            outcome.item.failure = outcome.failure
        running = [c for c in running if c.running]
        labels = {name: LabelFacts.of(facet.labels, facet.kind) for name, facet in rows.facets.items()}
        scores = {c.spec.name: c.scores for c in running}
        transferability = combine(scores, labels, prior=knowledge.prior(running), top_k=top_k, seed=seed)
        for c in running:
            c.transferability, c.rows = transferability.get(c.spec.name), len(rows)
            c.known = known_facts(facts_of_candidate(c))
        if share < 1:
            left = len(extraction.rows().indices) - len(rows.indices)
            for c in _lost([c for c in running if c.transferability], top_k):
                c.stopped = (
                    f"stopped after {len(rows)} rows: {top_k} others are ahead by more than their paired interval"
                )
                c.spared = extraction.estimate(c.spec, left)
    return candidates


def _lost(running: Sequence[Candidate], top_k: int) -> list[Candidate]:
    """Candidates whose network cannot reach the top k: its readings stop together, because one pass gives them all."""
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
