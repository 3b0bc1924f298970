"""What a call's options mean for this target and zoo, checked before anything runs: shared by a scan and its dry run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selector import data as targets
from selector import modalities, tasks
from selector.config import ConfirmConfig, ProxyLike, ScanConfig, StoreLike
from selector.core.contracts import ProgressCallback, Target, noun_of
from selector.core.errors import ConfigError, OptionError, did_you_mean
from selector.core.options import IMAGES, ITEMS, LABELS, NETWORKS
from selector.core.resources import given_threads, resource_limits
from selector.core.system import visible_cards
from selector.core.task import Task
from selector.modalities.image import pixel_limit
from selector.options.data import DataOptions
from selector.options.training import TOP_K, TrainingOptions
from selector.proxies import default_proxies, proxy_name
from selector.report.ranking import Ranking, load_ranking
from selector.results import BEST, RUN_FILE, best_folder
from selector.run.executor import Executor, InProcess, Routed
from selector.run.pool import Pool
from selector.scan.dataset_view import offline_hub, reads_maps
from selector.scan.selection import choose_models, expand, reading_rows_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec, licenses
from selector.zoo.limits import Limits
from selector.zoo.spec import network_of
from selector.zoo.trust import runs_code

log = logging.getLogger(__name__)

_OF_STEPS = ("augment", "balance", "label_smoothing", "averaging")
"""Options that only a training by gradient steps reads."""


def check_names(config: ScanConfig) -> None:
    """Every name of the call is known.

    Raises:
        ConfigError: a proxy, strategy, precision, backend or device that there is not.
    """
    from selector.extract.backends import BACKENDS, PRECISIONS, check_choice

    for proxy in config.proxies or ():
        proxy_name(proxy)
    check_choice("precision", config.precision, PRECISIONS)
    check_choice("backend", config.backend, BACKENDS)
    check_strategies(config)


def proxies_of(config: ScanConfig, target: Target) -> list[ProxyLike]:
    """Those of the call, or what applies to the target's labels."""
    if config.proxies:
        return list(config.proxies)
    task = tasks.task_for(target)
    usual = (task and task.proxies) or default_proxies(target.label_kind)
    return list(dict.fromkeys([*usual, *(task.members.get(target.modality, ()) if task else ())]))


def check_strategies(config: ScanConfig | ConfirmConfig) -> None:
    """Every strategy is known.

    Raises:
        ConfigError: one is not.
    """
    usual = type(config).model_fields["strategies"].default
    if unusual := [name for name in config.strategies if name not in usual]:
        from selector.tuning.strategies import registry  # imports torch, which a scan from the store does without

        for name in unusual:
            if name not in registry:
                registry.get(name)  # raises, with the nearest known one


def load_target(target: object, config: ScanConfig, *, again: bool = False) -> Target:
    """The target of a run, from anything that ``selector.load_target`` takes.

    Args:
        again: the options are those that the run recorded, also where a loaded target is handed over now.
    """
    if isinstance(target, Target) and (config.source_domain is None or tasks.task_of(target).adapts):
        if not again:
            targets.refuse_for_loaded(target, config)
        return target if config.max_samples is None else targets.subsample(target, config.max_samples, config.seed)
    return targets.load_target(
        target, seed=config.seed, **{name: getattr(config, name) for name in DataOptions.model_fields}
    )


def check_for_target(config: ScanConfig | ConfirmConfig, target: Target) -> None:
    """Options that depend on what the target holds.

    Raises:
        ConfigError: the task has no such decoder.
        OptionError: the metric is none of its task, or an option would do nothing for such a target.
    """
    task = tasks.task_for(target)
    config.refuse(_lacking(target, task), target.name)
    if isinstance(config, ScanConfig) and not config.confirm:
        training = set(TrainingOptions.model_fields) - {"top_k", "metric"}  # these two count in the ranking as well
        if idle := next((name for name in config.given() if name in training), None):
            raise OptionError(
                f"{idle} has no effect without confirm=True. Set confirm=True, or leave it out.", idle, "confirm"
            )
    if isinstance(config, ConfirmConfig) and config.engine != "local" and task is not None and task.adapts:
        raise OptionError(
            f"engine={config.engine!r} has no effect on {target.name}: models are adapted to a target without labels in this "
            "process. Leave it out.",
            "engine",
        )
    frozen = set(config.strategies) == {"frozen"} and task is not None and not reads_maps(target)
    if frozen and (idle := next((name for name in config.given() if name in _OF_STEPS), None)):
        raise OptionError(
            f"{idle} has no effect with strategies='frozen', which solves a head on stored features. Add a strategy, or "
            "leave it out.", idle, "strategies",
        )  # fmt: skip
    _check_adaptation(config, task)
    known = [] if task is None else list(task.metrics)
    if config.metric is not None and task is not None and config.metric not in known:
        raise OptionError(
            f"metric must be one of {', '.join(known)}{did_you_mean(config.metric, known) or '.'} "
            f"Got '{config.metric}'.",
            "metric",
        )
    if task is not None:
        for name in config.decoders:
            task.configured(decoder=name)  # raises, with the nearest known one
        task.configured(loss=config.loss, balance=config.balance, label_smoothing=config.label_smoothing)


def _lacking(target: Target, task: Task | None) -> dict[str, str]:
    """What a target does not have that options may need, and what it has instead."""
    modality, lacking = modalities.of(target), {}
    if task is not None and task.adapts:
        lacking[LABELS] = "has none to decide by: models are adapted to it"
    if not modality.has_models:
        lacking[NETWORKS] = lacking[ITEMS] = "holds ready features"
    if not modality.resizable:
        lacking[IMAGES] = f"holds {noun_of(target.modality)}s"
    return lacking


def _check_adaptation(config: ScanConfig | ConfirmConfig, task: Task | None) -> None:
    """Strategies for a target without labels, and only those, go with one."""
    if tuple(config.strategies) == type(config).model_fields["strategies"].default:
        return
    from selector.tuning.strategies import registry

    adapts = task is not None and task.adapts
    for name in config.strategies:
        if registry.get(name).adapts and not adapts:
            raise OptionError(
                f"strategies: '{name}' adapts to a target without labels; give source_domain as well.",
                "strategies", "source_domain",
            )  # fmt: skip
        if adapts and not registry.get(name).adapts:
            known = ", ".join(other for other in registry.names() if registry.get(other).adapts)
            raise OptionError(
                f"strategies: '{name}' learns from labels, and this target has none; use one of {known}.", "strategies"
            )


def limits_of(config: ScanConfig) -> Limits:
    """What a model may cost."""
    return Limits.of(config.max_params, config.max_latency, config.max_memory, config.license)


def choose_specs(target: Target, config: ScanConfig) -> tuple[list[ModelSpec], bool]:
    """The models to look at, each once a layer and pooling, and whether ``python:`` entries may run code.

    Raises:
        ConfigError: nothing matches, a license is none, or every model runs code that nobody trusts on this call.
    """
    chosen, trusted = choose_models(
        config.zoo, config.models, config.tags, trust_zoo=config.trust_zoo, modality=target.modality
    )
    _tell_untrusted(chosen, trusted)
    licenses.check(limits_of(config).license, [spec.license for spec in chosen if spec.license])
    return expand(reading_rows_of(chosen, target), config.layers, config.pooling, of_maps=reads_maps(target)), trusted


def _tell_untrusted(chosen: Sequence[ModelSpec], trusted: bool) -> None:
    """Say before anything runs which models will be refused when their turn comes.

    Raises:
        OptionError: all of them.
    """
    refused = [] if trusted else [spec.name for spec in chosen if runs_code(spec.source_name, spec.model_id)]
    if not refused:
        return
    named = ", ".join(refused[:5]) + (f" and {len(refused) - 5} more" if len(refused) > 5 else "")
    fault = f"{named}: refused, because building them runs code of a zoo that is not trusted ('python:')"
    then = "read that code, then say"
    if len(refused) == len(chosen):
        raise OptionError(f"trust_zoo: {fault}, and no other model is selected; {then} trust_zoo=True.", "trust_zoo")
    log.warning("%s; %s --trust-zoo (trust_zoo=True). The other models are ranked.", fault, then)


def settled_top_k(config: ScanConfig, specs: Sequence[ModelSpec], confirming: bool) -> int:
    """How many models are confirmed.

    Raises:
        OptionError: more than there are.
    """
    networks = len({network_of(spec) for spec in specs})
    if config.top_k is None:
        return min(TOP_K, networks)
    if confirming and config.top_k > networks:
        raise OptionError(
            f"top_k is {config.top_k}, but only {networks} model(s) are selected; "
            f"lower it to at most {networks} or select more models.",
            "top_k",
        )
    return config.top_k


def run_folder(config: ScanConfig | ConfirmConfig, target: Target, *, confirming: bool) -> Path | None:
    """Where a run is saved, None for nowhere; what lies there already may be replaced.

    The same scan of the same target goes on in its folder. A confirmed run, whose measurements took long, is
    replaced by a run that is not confirmed, or of another target, only when the caller says so.

    Raises:
        OptionError: there is such a run, and ``force`` is not set.
    """
    if not config.out and not confirming:
        return None
    named = config.out if config.out and not isinstance(config.out, bool) else None
    folder = default_run_folder(target) if named is None else Path(named)
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():  # said now, and not when the table is written
        raise OptionError(f"out: {nearest} is a file, expected a folder; name another one.", "out")
    if config.overwrite or not (folder / RUN_FILE).is_file():
        return folder
    try:
        there = load_ranking(folder)
    except ConfigError:
        return folder  # no run that this version could show
    before = there.target.get("identity", there.target.get("fingerprint"))
    if there.confirmation and not (confirming and before == target.identity):
        new = "of another target" if confirming else "that is not confirmed"
        raise OptionError(
            f"out: {folder} holds a confirmed run, and this one, {new}, would replace it; name another folder, or "
            "say overwrite=True.",
            "out", "overwrite",
        )  # fmt: skip
    return folder


def save_run(ranking: Ranking, folder: Path | None) -> Ranking:
    """The ranking in its folder, without a model there that is not its own."""
    if folder is None:
        return ranking
    saved = ranking.save(folder)
    if (folder / BEST).is_dir() and best_folder(saved) is None:
        shutil.rmtree(folder / BEST)
    return saved


def default_run_folder(target: Target) -> Path:
    """``runs/<name>-<identity>``: the same target goes on in the same folder, whichever of its items can be used."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in target.name).strip("-") or "target"
    return Path("runs") / f"{safe}-{target.identity[:8]}"


def open_store(store: StoreLike | None) -> FeatureStore:
    """The feature store of a call."""
    return store if isinstance(store, FeatureStore) else FeatureStore(None if store is None else str(store))


@contextmanager
def open_executor(config: ScanConfig | ConfirmConfig, notify: ProgressCallback, made: ScanConfig) -> Iterator[Executor]:
    """The executor of a run, within its limits on network, pixels, threads and memory; closed behind it: its workers end
    with it.

    Args:
        made: the options of the scan, which a confirmation goes on with.

    Raises:
        OptionError: Ray is not installed.
    """
    with (
        offline_hub(config.offline or made.offline),
        pixel_limit(made.pixels),
        resource_limits(config.threads, made.max_memory),
    ):
        executor = Routed(_main(config, notify), Pool(1, notify=notify, pinned=False))
        try:
            yield executor
        finally:
            executor.close()


def _main(config: ScanConfig | ConfirmConfig, notify: ProgressCallback) -> Executor:
    on_gpu = config.device == "auto" or config.device.startswith("cuda")
    if config.engine == "processes":
        cards = visible_cards() if on_gpu and ":" not in config.device else []
        return Pool(config.workers, cards, notify, threads=given_threads())
    if config.engine == "ray":
        from selector.run.ray import RayCluster

        return RayCluster(config.ray_address, config.workers, on_gpu)
    return InProcess()
