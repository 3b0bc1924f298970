"""The scan of one target: what it needs, its rounds, and the ranking that comes of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from selector import modalities, proxies, tasks
from selector.config import IN_MEMORY, ConfirmConfig, ScanConfig
from selector.core.contracts import ProgressCallback, noun_of
from selector.core.documents import plain
from selector.core.errors import ProxyError, SourceError, StoreError
from selector.core.preprocess import Preprocess
from selector.core.system import versions
from selector.core.units import format_duration
from selector.extract.job import ExtractSettings, Isolation, layer_specs
from selector.ranking.combination import OUT, LabelFacts, combine, out_of_reach
from selector.ranking.forecast import of_metric
from selector.ranking.outlook import Outlook
from selector.report.ranking import Ranking
from selector.run.executor import Executor, InProcess
from selector.scan import dataset_view
from selector.scan.candidate import Candidate
from selector.scan.caveats import caveats
from selector.scan.checks import (
    check_for_target,
    check_names,
    choose_specs,
    limits_of,
    load_target,
    open_store,
    proxies_of,
    run_folder,
    save_run,
    settled_top_k,
)
from selector.scan.data_quality import label_quality, leak_caveats, write_label_issues
from selector.scan.dataset_view import Rows, ordered, summarize
from selector.scan.extraction import Extraction
from selector.scan.fine_tuning import fine_tune, not_lost
from selector.scan.memory_fit import Room, with_fits
from selector.scan.past import Knowledge, facts_of_candidate, known_facts, open_history, predicted
from selector.scan.precomputed import rank_rows
from selector.scan.scoring import Scoring, feature_set, score_settings
from selector.scan.selection import SameNetwork, by_network
from selector.scan.zero_shot import check_zero_shot, with_zero_shot
from selector.store.entry import Entry, RowsMissing
from selector.zoo import ModelSpec

CURVE_PROXY, CURVE_DETAIL = "knn", "accuracy@5"  # scale-free, so that layers compare, and easily read
CURVE_ROWS = 2000
SCAN_SHARE = 0.5  # of the budget of a call that scans and fine-tunes, at most


def count_cut_texts(candidates: Sequence[Candidate], extraction: Extraction) -> None:
    """Give each candidate the number of texts that its model did not read to their end."""
    for candidate in candidates:
        if candidate.preprocess.get("max_length"):
            candidate.texts_cut = extraction.work.prepared.texts_cut(candidate.preprocess)


def cut_notes(candidates: Sequence[Candidate], items: int) -> Iterator[str]:
    """A sentence for each model that did not read all of every text."""
    for candidate in candidates:
        if candidate.texts_cut:
            of, longest = f"{candidate.spec.name}: {candidate.texts_cut} of {items}", candidate.preprocess["max_length"]
            if candidate.preprocess.get("long_texts") == "window":
                yield f"{of} pairs hold two long texts: the shorter one was cut to half of {longest} tokens."
            else:
                yield (
                    f"{of} texts have more than {longest} tokens and were cut ('long_texts: window' in the zoo reads "
                    "all of them)."
                )


def add_layer_curves(candidates: Sequence[Candidate], extraction: Extraction) -> None:
    """Give each candidate the 5-nearest-neighbor accuracy of every layer whose rows are stored.

    Cost: one neighbor search of at most 2,000 rows a layer; kept in the store.
    """
    share = min(1.0, CURVE_ROWS / max(1, len(extraction.rows(1.0))))
    rows = extraction.rows(share)
    for candidate in candidates:
        if candidate.failure or candidate.pruned or candidate.excluded:
            continue
        for spec in layer_specs(candidate.spec):
            entry = extraction.stored(spec)
            if entry is None or len(entry.missing(rows.hashes)):
                continue
            key = {"entry": entry.key, "rows": rows.digest, "version": proxies.registry.get(CURVE_PROXY).version}
            known = extraction.store.get("layer", key)
            if known is None:
                known = {"value": _accuracy(entry, rows)}
                extraction.store.put("layer", key, known)
            if known["value"] is not None:
                candidate.layers[str(spec.layer)] = float(known["value"])


def _accuracy(entry: Entry, rows: Any) -> float | None:
    try:
        features = feature_set(entry, rows)
        value = proxies.evaluate(features, CURVE_PROXY, intervals=False, seed=0).details.get(CURVE_DETAIL)
    except (ProxyError, RowsMissing):
        return None  # no classes, or a damaged chunk: the curve has a gap
    return None if value is None else float(value)


class TargetScan:
    """One target on its way from the call to its ranking.

    Attributes:
        rounds: of its models; None for ready features, which no model reads.
        spent: seconds of the budget that the scan took; None for all since the beginning.
    """

    spent: float | None = None

    def __init__(self, target: object, config: ScanConfig, executor: Executor, notify: ProgressCallback) -> None:
        self._started = time.perf_counter()
        self._config = config
        check_names(config)
        self._store = open_store(config.store)
        data = load_target(target, config)
        check_for_target(config, data)
        task = tasks.task_for(data)
        wanted = proxies_of(config, data)
        self.rounds: Rounds | None = None
        self._ready: Ranking | None = None
        if not modalities.of(data).has_models:
            self._ready = rank_rows(data, wanted, config, notify)
            return
        self._specs, self._trusted = choose_specs(data, config)
        if config.zero_shot:
            check_zero_shot(data, self._specs)
        self._confirming = config.confirm and task is not None
        self._deciding = None if task is None else config.metric or task.default_metric
        self._top_k = settled_top_k(config, self._specs, self._confirming)
        self._folder = run_folder(config, data, confirming=self._confirming)
        data = dataset_view.without_known_bad(data, self._store, config.on_invalid)
        self.extraction = Extraction(
            data,
            self._store,
            ExtractSettings(
                config.device,
                config.precision,
                config.backend,
                self._trusted,
                config.on_invalid,
                config.measure_cost,
                replace(limits_of(config), noun=noun_of(data.modality)),
            ),
            notify,
            executor=executor,
            isolation=isolation_of(config),
            scores=score_settings(wanted, config.seed, config.intervals),
        )
        self._scoring = Scoring(self._store, wanted, config.seed, config.intervals, notify)
        self._past = None if task is not None and task.adapts else open_history(config.history)
        self._knowledge = Knowledge(self._past, data)
        prune = config.prune if config.intervals else "never"
        made: dict[str, Any] = {"top_k": self._top_k, "prune": prune, "seed": config.seed}
        kind: Any = Rounds
        budget = self._budget()
        if budget is not None and budget.share != 1:  # rates change while a scan runs: all of it is no limit
            kind, made["budget"] = BudgetedRounds, budget
        self.rounds = kind(self._specs, self.extraction, self._scoring, self._knowledge, **made)

    def _budget(self) -> ScanBudget | None:
        value, total = self._config.scan_budget, self._config.seconds
        if isinstance(value, str):
            return ScanBudget(share=float(value.removesuffix("%")) / 100)
        if value is not None:
            return ScanBudget(seconds=float(value))
        shared = self._confirming and self._config.budget is not None and total is not None
        return ScanBudget(seconds=SCAN_SHARE * float(total or 0.0)) if shared else None

    def finish(self) -> Ranking:
        """The ranking, saved and confirmed as the call asks for."""
        if self._ready is not None:
            return self._ready
        assert self.rounds is not None
        config, extraction, candidates = self._config, self.extraction, self.rounds.candidates
        data = extraction.target  # without the items that turned out to be bad
        if modalities.of(data).layer_curves:
            add_layer_curves(candidates, extraction)
        scored = max((c.rows for c in candidates if c.running and c.transferability is not None), default=0)
        found = list(caveats(candidates, data, scored or len(extraction.rows().indices)))
        if extraction.work.prepared.smallest_pixels is None:  # other processes decoded them, or other targets' scans
            self._open_pictures()
        found[:0] = leak_caveats(data, extraction.work.prepared.smallest_pixels, self._store)
        count_cut_texts(candidates, extraction)
        results = ordered([candidate.result() for candidate in candidates])
        leader = next((c for c in candidates if c.running and [c.spec.name] == [m.name for m in results[:1]]), None)
        ranking = Ranking(
            target=summarize(data),
            settings={
                **config.record(),
                "proxies": [name for name, _ in self._scoring.proxies],
                "top_k": self._top_k,
                "store": str(self._store.root),
                "history": self._past is not None,
                "trusted": self._trusted,
            },
            versions=versions(),
            models=with_fits(
                predicted(
                    results,
                    data.fingerprint,
                    of_metric(self._knowledge.results, self._deciding),
                ),
                self._specs,
                Room.of(data, config),
                self._store,
            ),
            warnings=(
                *data.notes,
                *self._knowledge.notes,
                *cut_notes(candidates, len(extraction.target)),
                *(caveat.text for caveat in found),
            ),
            caveats=tuple(found),
            label_quality={} if leader is None else label_quality(leader, extraction.rows(), self._store, config.seed),
            prior=plain(self._knowledge.record()),
            seconds={**extraction.seconds, **self._scoring.seconds, "total": time.perf_counter() - self._started},
            loaded_target=data,
            trusted=self._trusted,
        )
        if config.zero_shot:
            ranking = with_zero_shot(ranking, extraction, self._specs, test=self._confirming)
        with not_lost(ranking):
            if self._folder is not None:
                write_label_issues(self._folder, ranking.label_quality)
            if not self._confirming or self._folder is None:
                return save_run(ranking, self._folder)
            # saved before the confirmation, so that a kill in it loses no table; a model of before stays until then
            ranking = ranking.save(self._folder)
        training = ConfirmConfig.of(
            **{name: getattr(config, name) for name in ConfirmConfig.training_fields()}, history=config.history
        )
        # the usual budget is that of the fine-tuning alone: a large zoo may take as long as it takes
        elapsed = time.perf_counter() - self._started if self.spent is None else self.spent
        spent = 0.0 if config.budget is None else elapsed
        return fine_tune(ranking, extraction, self._specs, training, self._top_k, spent)

    def _open_pictures(self) -> None:
        """Open the decoded images that near duplicates are looked for in, where this run has not looked yet."""
        assert self.rounds is not None
        fresh = (c for c in self.rounds.candidates if c.entry is not None and not c.cached and not c.failure)
        found = next(fresh, None)
        if found is not None and found.entry is not None and modalities.of(self.extraction.target).resizable:
            self.extraction.inputs(Preprocess.from_dict(found.entry.meta["preprocess"]))


def isolation_of(config: ScanConfig) -> Isolation:
    """Which networks of a scan, or of the run that one recorded, give their features in a child process."""
    import os

    return Isolation(
        config.isolate,
        isinstance(config.zoo, str | os.PathLike) and config.zoo != IN_MEMORY,
        None if config.model_timeout is None else float(config.model_timeout),
        None if config.model_memory is None else int(config.model_memory),
    )


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
        """All rounds; one that stops no model is followed by the last: more rows change less than training may."""
        before = 0
        for share in self.shares:
            if share < 1 and len(self.running) == before:
                continue
            before = len(self.running)
            self.step(share)

    def step(self, share: float) -> None:
        """One round: extract, score, prune the models that can no longer reach the top k."""
        # features of every model first: an item found to be bad on the way leaves the target for all
        self.extraction.run(by_network(self.running), share)
        self.judge(share)

    def judge(self, share: float) -> None:
        """Score the rows of a round, and prune the models that can no longer reach the top k."""
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


FIRST_ROWS = 100  # of the first round, at least: fewer tell hardly anything
FIRST_SHARE = 0.25  # at most
BREADTH = 0.5  # of what is left: spent on a round while another follows
EXPENSIVE = 0.25  # of what a first round may spend: a network that takes more waits until the others are chosen
CHEAP = (
    0.02  # of what a first round may spend: one that takes less is looked at before all others, whatever is known of it
)
_SETUP = 1.0  # seconds to load a network, which its price an item does not hold
_DECADE = 0.5  # deviations of the prior that a network must be better by to cost ten times as much


@dataclass(frozen=True)
class ScanBudget:
    """What a scan may take: seconds, or a share of what all models on all rows would take.

    >>> ScanBudget(seconds=90).told, ScanBudget(share=0.25).told
    ('1 min 30 s', '25% of the full scan')
    """

    seconds: float | None = None
    share: float | None = None

    @property
    def told(self) -> str:
        """For messages."""
        if self.seconds is not None:
            return format_duration(self.seconds)
        return f"{100 * (self.share or 0):g}% of the full scan"


class BudgetedRounds(Rounds):
    """The rounds of one target within a budget."""

    def __init__(
        self, *args: Any, budget: ScanBudget, clock: Callable[[], float] = time.monotonic, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._budget, self._clock = budget, clock
        self._prices = self.extraction.prices
        self._specs = [network.members[0].spec for network in by_network(self.candidates)]
        self._read = dict.fromkeys((spec.name for spec in self._specs), 0)  # items, by the network's first variant
        self._items = len(self.extraction.rows().every_item)
        self._begun = clock()
        # of its own: what a network turns out to be is not known yet, and the ranking's prior is made when it is
        self._expected = Knowledge(self._knowledge.history, self._knowledge.target)

    def run(self) -> None:
        """All rounds that the budget allows and the result needs."""
        self._begun = self._clock()
        if self._budget.seconds is not None:  # a share is of the full scan, whatever is stored
            self._read.update({spec.name: self.extraction.stored_items(spec) for spec in self._specs})
        # for every model on every item: the rounds are those of a scan without a budget
        enough = self._unread() <= self._left()
        shares = list(self.shares) if enough else self._shares()
        before: tuple[frozenset[str], frozenset[str]] | None = None
        for number, share in enumerate(shares):
            last = number == len(shares) - 1
            chosen = self._affordable(share, self._left() * (1.0 if last else BREADTH), first=number == 0)
            if not chosen and not last:
                chosen = self._affordable(share, self._left(), first=False)
            if not chosen:
                log.info("%s: the scan budget of %s is spent", self.extraction.target.name, self._budget.told)
                return
            self._bring(chosen, share, 0.0 if last or number else self._left() * (1 - BREADTH))
            self.judge(share)
            leading = self._leading()
            if leading == before and not enough:
                log.info("%s: the leading models stay the same", self.extraction.target.name)
                return
            before = leading

    def _shares(self) -> list[float]:
        """Of the rows, a round each: the first such that half of the budget pays for all models, within bounds."""
        whole = self._unread()
        left = self._left()
        if self._budget.seconds is not None:
            left = max(0.0, left - _SETUP * sum(read < self._items for read in self._read.values()) / BREADTH)
        part = left / whole if whole else 1.0
        share = min(1.0, max(min(FIRST_SHARE, part * BREADTH), FIRST_ROWS / max(1, self._items)))
        shares = [share]
        while shares[-1] < 1:
            shares.append(min(1.0, 2 * shares[-1]))
        return shares

    # ---------------------------------------------------------------- money

    def _unread(self) -> float:
        """Seconds for all models on the items that they have not read."""
        return sum(price * (self._items - self._read[name]) for name, price in self._prices(self._specs).items())

    def _left(self) -> float:
        """Seconds; of a share those that prices say, as they are known by now."""
        if self._budget.seconds is not None:
            return self._budget.seconds - (self._clock() - self._begun)
        prices = self._prices(self._specs)
        whole = sum(prices.values()) * self._items
        return (self._budget.share or 0.0) * whole - sum(prices[name] * n for name, n in self._read.items())

    def _affordable(self, share: float, allotted: float, *, first: bool) -> list[SameNetwork]:
        """The networks of a round, in order; the others stop, or none where it cannot pay for the first k."""
        running = by_network(self.running)
        prices = self._prices(self._specs)
        items = len(self.extraction.rows(share).every_item)
        order = sorted(running, key=(lambda n: self._promise(n, prices)) if first else self._merit, reverse=True)
        if first:  # whatever the budget, there is something to compare
            least = {n.name for n in sorted(running, key=lambda n: prices[n.name])[: self._top_k]}
            # what is known before a target is seen says too little to leave several unseen for a single one
            cost = {n.name: prices[n.name] * items / max(allotted, 1e-9) for n in running}
            order.sort(key=lambda n: (cost[n.name] > EXPENSIVE) - (cost[n.name] < CHEAP))
        chosen: list[SameNetwork] = []
        for network in order:
            price = prices[network.name] * max(0, items - self._read[network.name])
            if first and self._budget.seconds is not None:
                price = 0.0  # a guess as yet: the clock ends the round
            if price <= allotted or (first and network.name in least):
                chosen.append(network)
                allotted -= price
        if not first and len(chosen) < min(self._top_k, len(running)):
            return []
        for network in running:
            if network not in chosen:
                self._stop(network)
        return chosen

    def _bring(self, chosen: Sequence[SameNetwork], share: float, kept: float) -> None:
        """Extract a round, a few networks at a time, so that a budget of time ends it when ``kept`` seconds are left."""
        width = self.extraction.executor.width
        items = len(self.extraction.rows(share).every_item)
        lacking = [network for network in chosen if self._read[network.name] < items]
        self.extraction.run([network for network in chosen if network not in lacking], share)  # only looks them up
        for at in range(0, len(lacking), width):
            late = self._budget.seconds is not None and self._left() <= kept
            if late and len(chosen) - len(lacking) + at >= self._top_k:
                for network in lacking[at:]:
                    self._stop(network)
                return
            batch = lacking[at : at + width]
            self.extraction.run(batch, share)
            self._read.update(dict.fromkeys((network.name for network in batch), items))

    def _stop(self, network: SameNetwork) -> None:
        rows = self._read[network.name]
        when = f"pruned after {network.members[0].rows} rows" if network.members[0].rows else "not looked at"
        for candidate in network.members:
            if candidate.running:
                candidate.pruned = (
                    f"{when}: the scan budget of {self._budget.told} went to models that promise more for their price"
                )
                candidate.over_budget = True
                candidate.spared = self.extraction.estimate(candidate.spec, self._items - rows)

    # ---------------------------------------------------------------- order

    def _promise(self, network: SameNetwork, prices: dict[str, float]) -> float:
        """Before anything is seen of the target: what is known of a network, less what it costs."""
        known = self._expected.prior(self.candidates)
        value = 0.0 if known is None else max(known.scores[c.spec.name].value for c in network.members)
        return value - _DECADE * math.log10(max(prices[network.name], 1e-9))

    def _merit(self, network: SameNetwork) -> float:
        """The upper end of its interval: what it may turn out to be worth."""
        found = [c.transferability for c in network.members if c.transferability is not None]
        return max((t.value if t.high is None else t.high for t in found), default=-math.inf)

    def _leading(self) -> tuple[frozenset[str], frozenset[str]]:
        """The first k networks, and the models that are not significantly different from the best."""
        known = {c.spec.name: c.transferability for c in self.running if c.transferability is not None}

        def value(network: SameNetwork) -> float:
            return max(known[c.spec.name].value for c in network.members)

        networks = by_network(c for c in self.running if c.spec.name in known)
        first = sorted(networks, key=value, reverse=True)[: self._top_k]
        return frozenset(n.name for n in first), frozenset(name for name, found in known.items() if found.tied)
