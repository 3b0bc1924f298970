"""The public functions: typed keywords that an editor completes, made into one configuration and handed to the scan.

Names, types and defaults repeat the fields of ``selector.config``; ``tests/test_config.py`` holds the
two together. Nothing here imports torch, or the scan, before a function is called.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from selector.config import (
    READ,
    ClassNames,
    ConfirmConfig,
    HistoryLike,
    ProxyLike,
    ScanConfig,
    StoreLike,
    Words,
    ZooLike,
)
from selector.core.contracts import ProgressCallback
from selector.proxies import score
from selector.report.overview import Rankings
from selector.report.ranking import Ranking

if TYPE_CHECKING:
    from selector.core.contracts import Target
    from selector.scan import Plan
    from selector.scan.labels import Asked

__all__ = ["confirm", "label", "plan", "rank", "rank_features", "score"]

P = ParamSpec("P")
T = TypeVar("T")


class _Ranks(Protocol[P]):
    """A function of a target: several give a sequence of rankings."""

    @overload
    def __call__(
        self, target: list[str] | list[Path] | list[Target], *args: P.args, **options: P.kwargs
    ) -> Rankings: ...
    @overload
    def __call__(self, target: Any, *args: P.args, **options: P.kwargs) -> Ranking: ...


def _by_target(made: Callable[Concatenate[Any, P], Any]) -> _Ranks[P]:
    """Types alone; with ``source_domain`` a list of paths is one target, which no type can say."""
    return cast(_Ranks[P], made)


@_by_target
def rank(
    target: Any,
    *,
    source_domain: Any = None,
    num_target_labels: int | None = None,
    image_column: str | None = None,
    text_column: Words | None = None,
    label_column: Words | int | None = None,
    mask_column: str | None = None,
    box_column: str | None = None,
    box_format: Literal["xywh", "xyxy"] | None = None,
    separator: str | None = None,
    class_names: ClassNames = None,
    ignore_index: int | None = None,
    image_root: str | os.PathLike[str] | None = None,
    task: str | None = None,
    max_samples: int | None = None,
    max_pixels: str | int | float | None = None,
    on_invalid: Literal["skip", "raise"] = "skip",
    hash_mode: Literal["mtime", "content"] = "mtime",
    zoo: ZooLike | None = None,
    models: str | Sequence[Any] | None = None,
    tags: Words | None = None,
    layers: Words | None = None,
    pooling: Words | None = None,
    proxies: str | Sequence[ProxyLike] | None = None,
    trust_zoo: bool = False,
    max_params: str | int | float | None = None,
    max_latency: str | int | float | None = None,
    max_memory: str | int | float | None = None,
    license: Words | None = None,
    measure_cost: Literal["auto", "always", "never"] = "auto",
    confirm: bool = False,
    top_k: int | None = None,
    pilot_cost: float = 1.0,
    budget: str | int | float | None = None,
    strategies: Words = ("frozen", "full"),
    resolution: int | None = None,
    metric: str | None = None,
    max_steps: int | None = None,
    decoder: Words | None = None,
    loss: str | None = None,
    device: str = "auto",
    store: StoreLike | None = None,
    out: str | os.PathLike[str] | bool | None = None,
    overwrite: bool = False,
    offline: bool = False,
    history: HistoryLike = READ,
    seed: int = 0,
    intervals: bool = True,
    prune: Literal["auto", "always", "never"] = "auto",
    precision: str = "auto",
    backend: str = "auto",
    isolate: Literal["auto", "on", "off"] = "auto",
    model_timeout: str | int | float | None = None,
    model_memory: str | int | float | None = None,
    scan_budget: str | int | float | None = None,
    engine: Literal["local", "processes", "ray"] = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: ProgressCallback | bool | None = None,
) -> Ranking | Rankings:
    """Rank pretrained models for a labeled target.

    Args:
        target: what ``load_target`` takes (image folder, parquet, manifest, arrays, ...), or a
            ``Target``. With ``source_domain`` it needs no labels: a flat folder of images, a list of paths,
            images or texts, an array. Otherwise a list of paths and ``Target``, or ``"@FILE"`` (a path a line), ranks for
            several targets in one scan: each network is loaded once, and what comes back is a ``Rankings``, in the same
            order.
        source_domain: labeled data of the same classes from elsewhere, as a target is given. Models are ordered by
            the accuracy that is predicted for the target, and ``confirm`` adapts them to it; labels that the target
            has are for the final metric only.
        num_target_labels: learn from so many of them as well.
        image_column, text_column, label_column, mask_column, box_column: of a table, where they have no
            usual name; a sequence of two text columns makes pairs.
        box_format, separator, class_names, ignore_index, image_root: how a table is read, as for
            ``load_target``.
        task: what is learned (classification, multilabel, regression, tagging, ...); told from the
            data when not given.
        max_pixels: pixels that an image may have, e.g. ``"50M"``; 179 million when not given.
        max_samples: score on a stratified subsample of at most so many items.
        on_invalid: ``skip`` leaves items that cannot be used out with a warning, ``raise`` lists all
            of them in one error.
        hash_mode: ``content`` hashes every file again, ``mtime`` believes size and time stamps.
        zoo: a zoo file, a ``Zoo``, or models in a list or by name (``{"mine": module}``): entries made by
            ``selector.Model``, ``source:model`` or torch modules; None for the shipped zoo.
        models, tags: which of its models, by glob and by tag; ``models=[module]`` looks at modules of your own.
        layers, pooling: where features are read: ``last`` and dotted names of submodules; ``own``,
            ``avg``, ``max``, ``cls``. Each combination is a row of its own (``model@layer/pooling``);
            one forward pass serves all of a model's.
        proxies: names or callables ``(FeatureSet) -> Score | float``; None for the default set.
        trust_zoo: let ``python:`` entries of a zoo file run code.
        max_params, max_latency, max_memory, license: what a model may cost at most, e.g. ``"30M"``,
            ``"20ms"`` (a single item, on this device), ``"4GB"`` (at its peak, for a single item)
            and ``"permissive"``; see ``selector.zoo.limits``. Models beyond are rows with the status
            ``excluded`` and a reason.
        measure_cost: ``auto`` measures what a model costs when its network is loaded and the values are not
            known yet (about a second a model), ``always`` measures every model again, ``never`` none.
        confirm: also fine-tune the leading ``top_k`` models within ``budget``, re-order the table
            by what was measured, and save the best model. The library does so only when asked, and never
            where nothing trains on the target's labels; a caveat says so then.
        top_k: how many models to confirm, and the k of P(in top k); None for as many as scores and pilot runs
            leave open (k is then three).
        pilot_cost: see ``confirm``.
        budget: time for the confirmation, e.g. ``"10m"`` or seconds; None for 20 minutes, or for no limit of time
            where ``max_steps`` is given.
        strategies, resolution, metric, max_steps, decoder, loss: for the confirmation; see ``confirm``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        store: folder or URL of the feature store; None for the user's cache folder.
        out: folder of the run; True for ``runs/NAME``; None saves nothing unless ``confirm``.
        overwrite: replace a confirmed run in that folder by one that is not confirmed, or of another target.
        offline: never touch the network; models whose weights are missing become failed rows.
        history: past results that the prior rests on: ``"read"`` for the user's own, to which nothing is added;
            True to add what a confirmation measures as well; False for none (published tables do not enter
            either); or a file, which is read and added to.
        seed: of splits, subsamples and training.
        intervals: compute 90 % intervals and the probabilities that rest on them.
        prune: stop models early whose intervals can no longer reach the top k (``auto``: from 8 models on).
        precision, backend: of the extraction; decided once a model and kept in its entry.
        isolate: run networks in a child process, so that one that crashes, hangs or ends the process costs its own
            row: ``auto`` for ``python:`` and ``onnx:`` entries of a zoo file, ``on`` for all, ``off`` for none.
        model_timeout, model_memory: what an isolated network may take for a round of rows (of a confirmation the time
            from one step to the next), e.g. ``"10m"`` and ``"8GB"``; None for no limit of time, and for nine tenths of the
            machine's memory.
        scan_budget: time for the scan itself (``"30m"``), or a share of what all models on all rows would take
            (``"25%"``): models are looked at by prior and price, about a hundred rows first, the leading ones at more,
            until they stay the same or it is spent. What was not looked at is a row with the status ``pruned`` and
            its reason. Of several targets each gets an equal part of the time.
        engine: ``local`` runs networks one after another in this process, ``processes`` in a pool of processes of
            this machine, ``ray`` on a Ray cluster (extra ``ray``). The table is the same.
        ray_address: ``auto`` or ``HOST:PORT``; None for ``RAY_ADDRESS``, or a cluster of this machine for this run.
        workers: networks that run at once on ``processes`` or ``ray``; None for as many as devices and cores allow.
        progress: called with every step; True for bars, False for silence, None for bars in a notebook only.
    Returns:
        The ranking; models that failed are rows with a status and a reason. For several targets
        ``report.overview.Rankings``: a sequence of rankings, and of ``FailedTarget`` for those that could not be
        ranked, with ``overview()``; ``out`` is then the folder of the overview and of a run folder a target.
    Raises:
        ConfigError: a wrong setting, zoo or target (``OptionError``, ``TargetError``, ``ZooError``).
        StoreError: the store cannot be written; nothing is lost.
    Cost: one forward pass an image and model the first time, none afterwards.
    """
    config = ScanConfig.of(**_options(locals(), "target"))
    from selector import scan

    return scan.rank(target, config)


def confirm(
    ranking: Ranking | str | os.PathLike[str],
    *,
    top_k: int | None = None,
    pilot_cost: float = 1.0,
    budget: str | int | float | None = None,
    strategies: Words = ("frozen", "full"),
    resolution: int | None = None,
    metric: str | None = None,
    max_steps: int | None = None,
    decoder: Words | None = None,
    loss: str | None = None,
    trust_zoo: bool = False,
    device: str = "auto",
    store: StoreLike | None = None,
    out: str | os.PathLike[str] | bool | None = None,
    overwrite: bool = False,
    offline: bool = False,
    history: HistoryLike = READ,
    seed: int | None = None,
    target: Any = None,
    engine: Literal["local", "processes", "ray"] = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: ProgressCallback | bool | None = None,
) -> Ranking:
    """Fine-tune the leading models of a ranking and re-order it by what was measured.

    Args:
        ranking: a ranking or the folder of a saved run.
        top_k: how many of its models to fine-tune; None for as many as scores and pilot runs leave open.
        pilot_cost: what the pilot run of a model may cost, as a multiple of its extraction; 0 for none.
        budget: time for all of it, e.g. ``"10m"``; on an engine with workers time on devices, all of theirs together.
        strategies: ``frozen`` (a new head only), ``full``, ...: each is tried on each model.
        resolution: short side in pixels to train at: smaller than the native one where that is too slow (marked as reduced),
            larger where small things are to be found.
        metric: the metric that decides; None for the task's own (accuracy).
        max_steps: optimizer steps of a finalist's training, at most; the trials before it are shorter.
        loss: of real values ``mse`` (None) or ``huber``.
        decoder: what is put on an encoder's maps: ``linear`` (None), ``fcn``, ``deeplabv3`` for masks;
            ``fasterrcnn`` (None), ``retinanet``, ``fcos``, ``ssd`` for boxes. Several are compared: each is trained by
            each strategy, and measured as ``fcos/full``.
        trust_zoo: let ``python:`` entries of a saved run run code. What the run says of its own trust does not
            count; a ranking that ``rank`` has just made in this process keeps the trust that it was given.
        device, offline, progress: as for ``rank``.
        engine, ray_address, workers: as for ``rank``: configurations of a round train side by side.
        store: the run's own when not given.
        out: the run's folder; None for the ranking's own.
        overwrite: as for ``rank``.
        history: where the measured values are added: True for the user's own, ``"read"`` or False for nowhere,
            or a file.
        seed: of the training; the run's own when not given.
        target: the data, when the ranking was made from objects in memory and then saved.
    Returns:
        The ranking with measurements, saved; ``<folder>/best`` holds the best model.
    Raises:
        ConfigError: no such run, ``top_k`` larger than the models that finished, nothing trains on
            such labels, or the target has changed since.
    """
    config = ConfirmConfig.of(**_options(locals(), "ranking"))
    from selector import scan

    return scan.confirm(ranking, config)


def label(
    ranking: Ranking | str | os.PathLike[str],
    *,
    count: int = 25,
    answers: str | os.PathLike[str] | None = None,
    trust_zoo: bool = False,
    target: Any = None,
    progress: ProgressCallback | bool | None = None,
) -> Asked:
    """Ask for few labels of a target that has none, where they would best tell the adapted models apart.

    Args:
        ranking: a confirmed ranking with a source domain, or its folder.
        count: how many items to ask for.
        answers: the table of an earlier call with its column ``label`` filled in: what it says is kept, decides which
            model is handed over, and the next items are asked for.
        trust_zoo: as for ``confirm``.
        target: the data (``load_target(..., source_domain=...)``), when the ranking was made from objects in memory.
        progress: as for ``rank``.
    Returns:
        Where the table and the page lie, and how the candidates stand.
    Raises:
        ConfigError: nothing was adapted, or a label is no class (``OptionError`` with the line).
    Cost: seconds; features come from the store.
    """
    from selector import scan

    return scan.label(ranking, count, answers, trust_zoo, target, progress)


def rank_features(
    features: Mapping[str, Any],
    labels: Any,
    *,
    proxies: str | Sequence[ProxyLike] | None = None,
    task: str | None = None,
    top_k: int | None = None,
    confirm: bool = False,
    metric: str | None = None,
    store: StoreLike | None = None,
    intervals: bool = True,
    seed: int = 0,
    out: str | os.PathLike[str] | bool | None = None,
    overwrite: bool = False,
) -> Ranking:
    """Compare ready features of the same items: which of them transfers best, and whether that is more than noise.

    Args:
        features: arrays (N, D) by name, such as ``{"clip": F1, "dino": F2}``; row i of each is of the same item. They
            are copied, as float32.
        labels: (N,) classes, (N, L) of 0 and 1, or (N,) and (N, T) real values, as for ``load_target`` of ready features.
        confirm: score rows of train and val alone, fit a head on each array, judge it on test, and save the best one
            as ``<folder>/best``, which predicts from features.
        metric: that decides there; None for the task's own.
        store: keeps the fitted heads.
        proxies, task, top_k, intervals, seed, out, overwrite: as for ``rank``; without ``confirm`` all rows are scored.
    Returns:
        A row an array, with intervals, P(best) and ties from the same resamples of the items.
    Raises:
        OptionError: it is no mapping of arrays, or there is no such metric.
        TargetError: arrays of different items, or of another shape than (N, D).
    Cost: that of the proxies, and of a linear probe an array.

    >>> import numpy as np
    >>> labels = np.arange(90) % 3
    >>> noise = np.random.default_rng(0).standard_normal((90, 8))
    >>> ranking = rank_features({"noise": noise, "seen": noise + 4 * np.eye(8)[labels]}, labels, proxies="knn")
    >>> [model.name for model in ranking]
    ['seen', 'noise']
    """
    config = ScanConfig.of(**_options(locals(), "features", "labels"))
    from selector import scan

    return scan.rank_features(features, labels, config)


def _like(function: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Give a function the parameters of another."""

    def decorate(made: Callable[..., T]) -> Callable[P, T]:
        own = inspect.signature(made)
        shared = inspect.signature(function).replace(return_annotation=own.return_annotation)
        made.__signature__ = shared  # type: ignore[attr-defined]
        return made

    return decorate


@_like(rank)
def plan(target: Any, **options: Any) -> Plan:
    """What ``rank`` would do with the same arguments, and what that costs; nothing is extracted to find out.

    Raises:
        ConfigError: as ``rank`` would, for the same arguments.
    """
    config = ScanConfig.of(**options)
    from selector import scan

    return scan.plan(target, config)  # type: ignore[return-value]  # several targets give a list of plans


def _options(given: dict[str, Any], *others: str) -> dict[str, Any]:
    """The keyword arguments of a call: its ``locals()`` at the first line, without what is no option."""
    return {name: value for name, value in given.items() if name not in others}
