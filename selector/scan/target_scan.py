"""The scan of one target: what it needs, its rounds, and the ranking that comes of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selector import modalities, proxies, tasks
from selector.config import IN_MEMORY, ConfirmConfig, ScanConfig
from selector.core.contracts import Preprocess, ProgressCallback
from selector.core.documents import plain
from selector.core.errors import ProxyError
from selector.core.label_kinds import noun_of
from selector.core.system import versions
from selector.extract.job import Isolation, layer_specs
from selector.proxies import default_proxies
from selector.ranking.forecast import of_metric
from selector.report.ranking import Ranking
from selector.run.executor import Executor
from selector.scan import dataset_view
from selector.scan.caveats import caveats
from selector.scan.checks import (
    check_for_target,
    check_names,
    choose_specs,
    limits_of,
    load_target,
    open_store,
    run_folder,
    save_run,
    settled_top_k,
)
from selector.scan.dataset_view import ordered, summarize
from selector.scan.extraction import Extraction
from selector.scan.fine_tuning import fine_tune, not_lost
from selector.scan.label_quality import label_quality, write_label_issues
from selector.scan.memory_fit import Room, with_fits
from selector.scan.near_duplicates import leak_caveats
from selector.scan.past import Knowledge, open_history, predicted
from selector.scan.precomputed import rank_rows
from selector.scan.rounds import BudgetedRounds, Rounds, ScanBudget
from selector.scan.scoring import Scoring, feature_set, score_settings
from selector.scan.zero_shot import check_zero_shot, with_zero_shot
from selector.store import Entry, RowsMissing

if TYPE_CHECKING:
    from selector.scan.candidate import Candidate
    from selector.scan.extraction import Extraction

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

    def __init__(self, target: Any, config: ScanConfig, executor: Executor, notify: ProgressCallback) -> None:
        self._started = time.perf_counter()
        self._config = config
        wanted, names = check_names(config)
        self._store = open_store(config.store)
        data = load_target(target, config)
        check_for_target(config, data)
        task = tasks.task_for(data)
        if not config.proxies:  # what applies to the target's labels
            usual = (task and task.proxies) or default_proxies(data.label_kind)
            members = task.members.get(data.modality, ()) if task else ()
            names = list(dict.fromkeys([*usual, *members]))
            wanted = list(names)
        self._names = names
        self.rounds: Rounds | None = None
        self._ready: Ranking | None = None
        if not modalities.of(data).has_models:
            self._ready = rank_rows(data, wanted, names, config, notify)
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
            config.device,
            config.precision,
            config.backend,
            config.on_invalid,
            self._trusted,
            notify,
            replace(limits_of(config), noun=noun_of(data.modality)),
            config.measure_cost,
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
                "proxies": self._names,
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
