"""The public functions: ``rank`` and ``confirm``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from selector import data as targets
from selector import tasks
from selector.core.contracts import Modality, ProgressCallback, Target, no_progress
from selector.core.engine import LocalEngine
from selector.core.errors import ConfigError, TargetError
from selector.core.system import versions
from selector.core.units import parse_duration
from selector.extract.known_costs import CostMode
from selector.proxies import DEFAULT_PROXIES
from selector.ranking.forecast import of_metric
from selector.results import Ranking, load_ranking, plain
from selector.scan import dataset_view
from selector.scan.caveats import caveats, no_training
from selector.scan.confirmation import ConfirmSettings, confirm_leading
from selector.scan.dataset_view import offline_hub
from selector.scan.extraction import Extraction
from selector.scan.near_duplicates import leak_caveat
from selector.scan.past import HistoryLike, Knowledge, open_history, predicted
from selector.scan.precomputed import rank_rows
from selector.scan.rounds import run_rounds
from selector.scan.scoring import ProxyLike, Scoring, proxy_name
from selector.scan.selection import choose_models
from selector.scan.summary import ordered, summarise
from selector.scan.texts import add_layer_curves, cut_notes
from selector.scan.variants import expand, reading_rows_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec, Zoo, licences
from selector.zoo.limits import Limits
from selector.zoo.variants import network_of

TOP_K = 3
"""How many models are confirmed when nothing is said, where there are so many."""


def rank(
    target: Any,
    *,
    zoo: str | os.PathLike[str] | Zoo | Sequence[ModelSpec | str] | None = None,
    models: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    pooling: str | Sequence[str] | None = None,
    proxies: Sequence[ProxyLike] | None = None,
    max_samples: int | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | int | None = None,
    confirm: bool = False,
    top_k: int | None = None,
    budget: str | float | None = None,
    store: str | os.PathLike[str] | FeatureStore | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    on_bad_image: Literal["fail", "skip"] = "fail",
    offline: bool = False,
    trust_zoo: bool = False,
    strategies: Sequence[str] = ("frozen", "full"),
    resolution: int | None = None,
    metric: str | None = None,
    max_steps: int | None = None,
    intervals: bool = True,
    drop: Literal["auto", "off", "force"] = "auto",
    precision: str = "auto",
    backend: str = "auto",
    max_params: str | float | None = None,
    max_latency: str | float | None = None,
    max_memory: str | float | None = None,
    licence: str | Sequence[str] | None = None,
    cost: CostMode = "auto",
    trust: Literal["stat", "content"] = "stat",
    history: HistoryLike = True,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank pretrained models for a labelled target.

    Args:
        target: what ``load_target`` takes (image folder, parquet, manifest, arrays, ...), or a
            ``Target``.
        zoo: a zoo file, a ``Zoo``, or specs; None for the shipped zoo.
        models, tags: which of its models, by glob and by tag.
        layers, pooling: where features are read: ``last`` and dotted names of submodules; ``own``,
            ``avg``, ``max``, ``cls``. Each combination is a row of its own (``model@layer/pooling``);
            one forward pass serves all of a model's.
        proxies: names or callables ``(FeatureSet) -> Score | float``; None for the default set.
        text_column, label_column: of a table, where they have no usual name; a sequence of
            two text columns makes pairs.
        max_samples: score on a stratified subsample of at most so many items.
        confirm: also fine-tune the leading ``top_k`` models within ``budget``, re-order the table
            by what was measured, and save the best model. The library does so only when asked, and never
            where nothing trains on the target's labels; a caveat says so then.
        top_k: how many models to confirm, and the k of P(in top k); None for three, or all of fewer.
        budget: time for the confirmation, e.g. ``"10m"`` or seconds; None for no limit but the
            strategies' own steps.
        store: folder or URL of the feature store; None for the user's cache folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        out: folder of the run; None saves nothing unless ``confirm``.
        on_bad_image: ``fail`` lists every image that cannot be decoded in one error, ``skip``
            leaves them out with a warning.
        offline: never touch the network; models whose weights are missing become failed rows.
        trust_zoo: let ``python:`` entries of a zoo file run code.
        strategies, resolution, metric, max_steps: for the confirmation; see ``confirm``.
        intervals: compute 90 % intervals and the probabilities that rest on them.
        drop: stop models early whose intervals can no longer reach the top k (``auto``: from 8 models on).
        precision, backend: of the extraction; decided once a model and kept in its entry.
        max_params, max_latency, max_memory, licence: what a model may cost at most, e.g. ``"30M"``,
            ``"20ms"`` (a single image, on this device), ``"4GB"`` (at its peak, for a single image)
            and ``"permissive"``; see ``selector.zoo.limits``. Models beyond are rows with the status
            ``excluded`` and a reason.
        cost: ``auto`` measures what a model costs when its network is loaded and the figures are not
            known yet (about a second a model), ``again`` measures every model anew, ``off`` none.
        trust: ``content`` hashes every file again, ``stat`` believes size and time stamps.
        history: past results that the prior rests on and that a confirmation adds to: True for the
            user's own, False for none (published tables do not enter either), or a file.
        progress: called with every step; None for silence.
    Returns:
        The ranking; models that failed are rows with a status and a reason.
    Raises:
        ConfigError: a wrong setting, zoo or target (``TargetError``, ``ZooError``).
        StoreError: the store cannot be written; nothing is lost.
    Cost: one forward pass an image and model the first time, none afterwards.
    """
    notify = progress or no_progress
    started = time.perf_counter()
    settings = _confirm_settings(top_k, budget, strategies, resolution, metric, max_steps, seed)
    limits = _limits(max_params, max_latency, max_memory, licence, cost)
    if drop == "force" and not intervals:
        raise ConfigError(
            "drop is 'force', but models are stopped by their intervals, and those are off; leave one out."
        )
    wanted = list(proxies or DEFAULT_PROXIES)
    names = [proxy_name(p) for p in wanted]
    with offline_hub(offline):
        features_store = _store(store)
        data = dataset_view.load(target, max_samples, seed, trust, text_column, label_column)
        _check_resolution(resolution, data)
        if data.modality is Modality.ROWS:
            if limits:
                raise ConfigError("limits are on models, and a target of ready features has none; leave them out.")
            ranking = rank_rows(data, wanted, names, seed, intervals)
            return ranking if out is None else ranking.save(out)
        chosen, trusted = choose_models(zoo, models, tags, trust_zoo=trust_zoo, modality=data.modality)
        licences.check(limits.licence, [spec.licence for spec in chosen if spec.licence])
        specs = expand(reading_rows_of(chosen, data), layers, pooling)
        networks = len({network_of(spec) for spec in specs})
        task = tasks.task_for(data)
        confirm = confirm and task is not None
        deciding = None if task is None else metric or task.default_metric
        if top_k is None:
            settings = replace(settings, top_k=min(TOP_K, networks))
        elif confirm and top_k > networks:
            raise ConfigError(
                f"top_k is {top_k}, but only {networks} model(s) are selected; "
                f"lower it to at most {networks} or select more models."
            )
        data = dataset_view.without_known_bad(data, features_store, on_bad_image)
        limits = replace(limits, noun=data.modality.noun)
        extraction = Extraction(
            data, features_store, device, precision, backend, on_bad_image, trusted, notify, limits, cost
        )
        scoring = Scoring(features_store, wanted, seed, intervals, notify)
        past = open_history(history)
        knowledge = Knowledge(past, data)
        candidates = run_rounds(
            specs,
            extraction,
            scoring,
            knowledge,
            top_k=settings.top_k,
            drop=drop if intervals else "off",
            seed=seed,
            engine=LocalEngine(),
        )
        if data.modality is Modality.TEXT:
            add_layer_curves(candidates, extraction)
        data = extraction.target  # without the items that turned out to be bad
        found = list(caveats(candidates, data, len(extraction.rows().indices)))
        if leak := leak_caveat(data, extraction.work.prepared.smallest_pixels, features_store):
            found.insert(0, leak)
        ranking = Ranking(
            target=summarise(data),
            settings={
                "zoo": _zoo_name(zoo),
                "models": models,
                "tags": tags,
                "layers": layers,
                "pooling": pooling,
                "proxies": names,
                "max_samples": max_samples,
                "top_k": settings.top_k,
                "seed": seed,
                "device": device,
                "precision": precision,
                "backend": backend,
                "max_params": max_params,
                "max_latency": max_latency,
                "max_memory": max_memory,
                "licence": licence,
                "cost": cost,
                "drop": drop,
                "intervals": intervals,
                "on_bad_image": on_bad_image,
                "offline": offline,
                "trusted": trusted,
                "store": str(features_store.root),
                "history": past is not None,
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
        if not confirm:
            return ranking if out is None else ranking.save(out)
        # saved before the confirmation, so that a kill in it loses no table
        ranking = ranking.save(out or default_run_folder(data))
        return confirm_leading(ranking, _folder(ranking), extraction, specs, settings, past)


def confirm(
    ranking: Ranking | str | os.PathLike[str],
    *,
    top_k: int | None = None,
    budget: str | float | None = None,
    strategies: Sequence[str] = ("frozen", "full"),
    resolution: int | None = None,
    metric: str | None = None,
    max_steps: int | None = None,
    device: str = "auto",
    store: str | os.PathLike[str] | FeatureStore | None = None,
    out: str | os.PathLike[str] | None = None,
    target: Any = None,
    offline: bool = False,
    trust_zoo: bool = False,
    seed: int | None = None,
    history: HistoryLike = True,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Fine-tune the leading models of a ranking and re-order it by what was measured.

    Args:
        ranking: a ranking or the folder of a saved run.
        top_k: how many of its models to fine-tune; None for three, or all of fewer.
        budget: time for all of it, e.g. ``"10m"``.
        strategies: ``frozen`` (a new head only), ``full``, ...: each is tried on each model.
        resolution: side in pixels to train at, when the native one is too slow; marked as reduced.
        metric: the metric that decides; None for the task's own (accuracy).
        max_steps: optimiser steps of a finalist's training, at most; the trials before it are shorter.
        target: the data, when the ranking was made from objects in memory and then saved.
        trust_zoo: let ``python:`` entries of a saved run run code. What the run says of its own trust does not
            count; a ranking that ``rank`` has just made in this process keeps the trust that it was given.
        out: the run's folder; None for the ranking's own.
        history: where the measured figures are added: True for the user's own, False for nowhere,
            or a file.
    Returns:
        The ranking with measurements, saved; ``<folder>/best`` holds the best model.
    Raises:
        ConfigError: no such run, ``top_k`` larger than the models that finished, nothing trains on
            such labels, or the target has changed since.
    """
    if not isinstance(ranking, Ranking):
        ranking = load_ranking(ranking)
    specs = [ModelSpec.model_validate(dict(m.spec)) for m in ranking if m.status == "ok"]
    networks = len({network_of(spec) for spec in specs})
    if not networks:
        raise ConfigError("no model of this run finished, so there is none to confirm; its report says why.")
    top_k = min(TOP_K, networks) if top_k is None else top_k
    if not 1 <= top_k <= networks:
        raise ConfigError(
            f"top_k must be an int in the range [1, {networks}], the number of models that finished. Got {top_k}."
        )
    made = ranking.settings
    seed = int(made.get("seed", 0)) if seed is None else seed
    settings = _confirm_settings(top_k, budget, strategies, resolution, metric, max_steps, seed)
    with offline_hub(offline or bool(made.get("offline"))):
        features_store = _store(store or made.get("store"))
        data = _target_of(ranking, target, features_store)
        _check_resolution(resolution, data)
        if untrained := no_training(data):
            raise ConfigError(untrained.text)
        if out is not None or ranking.path is None:
            ranking = ranking.save(out or default_run_folder(data))
        extraction = Extraction(
            data,
            features_store,
            device,
            made.get("precision", "auto"),
            made.get("backend", "auto"),
            "skip",
            trust_zoo or ranking.trusted,
            progress or no_progress,
        )
        return confirm_leading(ranking, _folder(ranking), extraction, specs, settings, open_history(history))


def default_run_folder(target: Target) -> Path:
    """``runs/<name>-<fingerprint>``: the same target goes on in the same folder."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in target.name).strip("-") or "target"
    return Path("runs") / f"{safe}-{target.fingerprint[:8]}"


def _zoo_name(zoo: Any) -> str | None:
    """The zoo for the record: None for the shipped one; specs in memory have no name to give."""
    if zoo is None or isinstance(zoo, str | os.PathLike):
        return None if zoo is None else str(zoo)
    return "in memory"


def _target_of(ranking: Ranking, target: Any, store: FeatureStore) -> Target:
    """The target that a ranking was made from, checked to be unchanged."""
    made = ranking.settings
    seed = int(made.get("seed", 0))
    data = ranking.loaded_target
    if target is not None or data is None:
        origin = ranking.target.get("origin")
        if target is None and origin is None:
            raise ConfigError(
                "this run was made from objects in memory; pass the data again: confirm(run, target=...)."
            )
        loaded = dataset_view.load(target, None, seed) if target is not None else targets.load_origin(origin)
        data = dataset_view.load(loaded, made.get("max_samples"), seed)
        data = dataset_view.without_known_bad(data, store, str(made.get("on_bad_image", "fail")))
    if data.fingerprint != ranking.target["fingerprint"]:
        raise TargetError(
            f"the target has changed since this run: its fingerprint is {data.fingerprint[:12]}, the run's is "
            f"{str(ranking.target['fingerprint'])[:12]}; scan it again (unchanged images are not extracted again)."
        )
    return data


def _confirm_settings(
    top_k: int | None,
    budget: str | float | None,
    strategies: Sequence[str],
    resolution: int | None,
    metric: str | None,
    max_steps: int | None,
    seed: int,
) -> ConfirmSettings:
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be an int in the range [1, inf). Got {top_k}.")
    seconds = None if budget is None else parse_duration(budget)
    return ConfirmSettings(
        TOP_K if top_k is None else top_k, seconds, tuple(strategies), resolution, metric, max_steps, seed
    )


def _check_resolution(resolution: int | None, target: Target) -> None:
    if resolution is not None and target.modality is not Modality.IMAGE:
        raise ConfigError(
            f"resolution is the size of the images that models are trained at, and {target.name} holds "
            f"{target.modality.noun}s. Got {resolution}; leave it out (--resolution)."
        )


def _limits(
    max_params: str | float | None,
    max_latency: str | float | None,
    max_memory: str | float | None,
    licence: str | Sequence[str] | None,
    cost: CostMode,
) -> Limits:
    limits = Limits.of(max_params, max_latency, max_memory, licence)
    if limits.measured and cost == "off":
        raise ConfigError(
            "max_latency and max_memory need models to be measured; cost must be 'auto' or 'again'. Got 'off'."
        )
    return limits


def _store(store: str | os.PathLike[str] | FeatureStore | None) -> FeatureStore:
    return store if isinstance(store, FeatureStore) else FeatureStore(None if store is None else str(store))


def _folder(ranking: Ranking) -> Path:
    assert ranking.path is not None
    return ranking.path
