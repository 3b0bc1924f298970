"""A scan and a confirmation from beginning to end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from selector import data as targets
from selector import modalities, tasks
from selector.config import TOP_K, ConfirmConfig, HistoryLike, ScanConfig
from selector.core.contracts import ProgressCallback, Target
from selector.core.documents import plain
from selector.core.engine import LocalEngine
from selector.core.errors import ConfigError, OptionError, SourceError, TargetError
from selector.core.progress import listening
from selector.core.system import versions
from selector.extract.isolated import Isolation
from selector.proxies import default_proxies
from selector.ranking.forecast import of_metric
from selector.report.ranking import Ranking, load_ranking
from selector.scan import dataset_view
from selector.scan.adapting import adapt_leading
from selector.scan.caveats import caveats, no_training
from selector.scan.checks import (
    check_for_target,
    check_names,
    check_strategies,
    choose_specs,
    default_run_folder,
    limits_of,
    load_target,
    open_store,
    run_folder,
    save_run,
    settled_top_k,
)
from selector.scan.confirmation import confirm_leading, leading
from selector.scan.dataset_view import offline_hub
from selector.scan.engines import open_engine
from selector.scan.extraction import Extraction
from selector.scan.near_duplicates import leak_caveat
from selector.scan.parcel import score_settings
from selector.scan.past import Knowledge, open_history, predicted
from selector.scan.precomputed import rank_rows
from selector.scan.rounds import run_rounds
from selector.scan.scoring import Scoring
from selector.scan.summary import ordered, summarise
from selector.scan.texts import add_layer_curves, cut_notes
from selector.store import FeatureStore
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.variants import network_of


def rank(target: Any, config: ScanConfig) -> Ranking:
    """Rank pretrained models for a labelled target; see ``selector.rank``."""
    with listening(config.progress) as notify:
        try:
            return _rank(target, config, notify)
        finally:
            open_store(config.store).trim()


def confirm(ranking: Ranking | str | os.PathLike[str], config: ConfirmConfig) -> Ranking:
    """Fine-tune the leading models of a ranking; see ``selector.confirm``."""
    with listening(config.progress) as notify:
        return _confirm(ranking, config, notify)


def _rank(target: Any, config: ScanConfig, notify: ProgressCallback) -> Ranking:
    started = time.perf_counter()
    wanted, names = check_names(config)
    with offline_hub(config.offline), open_engine(config, notify) as engine:
        features_store = open_store(config.store)
        data = load_target(target, config)
        check_for_target(config, data)
        task = tasks.task_for(data)
        if not config.proxies:  # what applies to the target's labels
            names = list((task and task.proxies) or default_proxies(data.label_kind))
            wanted = list(names)
        if not modalities.of(data).has_models:
            return save_run(rank_rows(data, wanted, names, config), run_folder(config, data, confirming=False))
        specs, trusted = choose_specs(data, config)
        confirming = config.confirm and task is not None
        deciding = None if task is None else config.metric or task.default_metric
        top_k = settled_top_k(config, specs, confirming)
        folder = run_folder(config, data, confirming=confirming)
        data = dataset_view.without_known_bad(data, features_store, config.on_bad_image)
        extraction = Extraction(
            data,
            features_store,
            config.device,
            config.precision,
            config.backend,
            config.on_bad_image,
            trusted,
            notify,
            replace(limits_of(config), noun=data.modality.noun),
            config.cost,
            engine=engine,
            isolation=Isolation(
                config.isolate,
                isinstance(config.zoo, str | os.PathLike),
                None if config.model_timeout is None else float(config.model_timeout),
                None if config.model_memory is None else int(config.model_memory),
            ),
            scores=score_settings(wanted, config.seed, config.intervals),
        )
        scoring = Scoring(features_store, wanted, config.seed, config.intervals, notify)
        past = None if task is not None and task.adapts else open_history(config.history)
        knowledge = Knowledge(past, data)
        candidates = run_rounds(
            specs,
            extraction,
            scoring,
            knowledge,
            top_k=top_k,
            drop=config.drop if config.intervals else "off",
            seed=config.seed,
            engine=LocalEngine(),
        )
        if modalities.of(data).layer_curves:
            add_layer_curves(candidates, extraction)
        data = extraction.target  # without the items that turned out to be bad
        found = list(caveats(candidates, data, len(extraction.rows().indices)))
        if leak := leak_caveat(data, extraction.work.prepared.smallest_pixels, features_store):
            found.insert(0, leak)
        ranking = Ranking(
            target=summarise(data),
            settings={
                **config.record(),
                "proxies": names,
                "top_k": top_k,
                "store": str(features_store.root),
                "history": past is not None,
                "trusted": trusted,
            },
            versions=versions(),
            models=predicted(
                ordered([candidate.result() for candidate in candidates]),
                data.fingerprint,
                of_metric(knowledge.results, deciding),
            ),
            warnings=(
                *data.notes,
                *knowledge.notes,
                *cut_notes(candidates, extraction),
                *(caveat.text for caveat in found),
            ),
            caveats=tuple(found),
            prior=plain(knowledge.record()),
            seconds={**extraction.seconds, **scoring.seconds, "total": time.perf_counter() - started},
            loaded_target=data,
            trusted=trusted,
        )
        if not confirming or folder is None:
            return save_run(ranking, folder)
        # saved before the confirmation, so that a kill in it loses no table; a model of before stays until then
        ranking = ranking.save(folder)
        training = ConfirmConfig.of(**{name: getattr(config, name) for name in ConfirmConfig.training_fields()})
        return _tuned(ranking, extraction, specs, training, top_k, config.history)


def _confirm(ranking: Ranking | str | os.PathLike[str], config: ConfirmConfig, notify: ProgressCallback) -> Ranking:
    if not isinstance(ranking, Ranking):
        ranking = load_ranking(ranking)
    specs = [ModelSpec.model_validate(dict(m.spec)) for m in ranking if m.status == "ok"]
    networks = len({network_of(spec) for spec in specs})
    if not networks:
        raise ConfigError("no model of this run finished, so there is none to confirm; its report says why.")
    top_k = min(TOP_K, networks) if config.top_k is None else config.top_k
    if top_k > networks:
        raise OptionError(
            f"top_k must be an int in the range [1, {networks}], the number of models that finished. Got {top_k}.",
            "top_k",
        )
    made = ScanConfig.from_record(ranking.settings)
    if config.seed is None:
        config = config.model_copy(update={"seed": made.seed})
    check_strategies(config)
    trusted = config.trust_zoo or ranking.trusted
    _check_trust(ranking, specs, top_k, trusted)
    with offline_hub(config.offline or made.offline):
        features_store = open_store(config.store or made.store)
        data = _target_of(ranking, config.target, made, features_store)
        check_for_target(config, data)
        if untrained := no_training(data):
            raise ConfigError(untrained.text)
        if config.out or ranking.path is None:
            ranking = ranking.save(run_folder(config, data, confirming=True) or default_run_folder(data))
        extraction = Extraction(
            data,
            features_store,
            config.device,
            made.precision,
            made.backend,
            "skip",
            trusted,
            notify,
        )
        return _tuned(ranking, extraction, specs, config, top_k, config.history)


def _tuned(
    ranking: Ranking,
    extraction: Extraction,
    specs: Sequence[ModelSpec],
    config: ConfirmConfig,
    top_k: int,
    history: HistoryLike,
) -> Ranking:
    """The leading models fine-tuned on the target's labels, or adapted to a target without any."""
    if tasks.task_of(extraction.target).adapts:
        return adapt_leading(ranking, extraction, specs, config, top_k)
    return confirm_leading(ranking, extraction, specs, config, top_k, history)


def _check_trust(ranking: Ranking, specs: Sequence[ModelSpec], top_k: int, trusted: bool) -> None:
    """Refuse before anything is loaded what would be refused when its turn comes.

    Raises:
        ConfigError: one of the models to fine-tune runs code, and nobody trusts it on this call.
    """
    for spec in leading(ranking, specs, top_k):
        try:
            check_trusted(spec, trusted)
        except SourceError as error:
            raise OptionError(f"trust_zoo: {error}", "trust_zoo") from None


def _target_of(ranking: Ranking, target: Any, made: ScanConfig, store: FeatureStore) -> Target:
    """The target that a ranking was made from, checked to be unchanged."""
    data = ranking.loaded_target
    if target is not None or data is None:
        origin = ranking.target.get("origin")
        if target is None and origin is None:
            raise ConfigError(
                "this run was made from objects in memory; pass the data again: confirm(run, target=...)."
            )
        whole = made.model_copy(update={"max_samples": None})
        loaded = targets.load_origin(origin) if target is None else load_target(target, whole)
        data = load_target(loaded, made)
        data = dataset_view.without_known_bad(data, store, made.on_bad_image)
    if data.fingerprint != ranking.target["fingerprint"]:
        raise TargetError(
            f"the target has changed since this run: its fingerprint is {data.fingerprint[:12]}, the run's is "
            f"{str(ranking.target['fingerprint'])[:12]}; scan it again (unchanged images are not extracted again)."
        )
    return data
