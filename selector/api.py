"""The public functions: their keywords are the fields of a configuration, where each option is declared once.

Nothing here imports torch, or the scan, before a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from selector.config import ConfirmConfig, ProxyLike, ScanConfig, StoreLike
from selector.core.contracts import ProgressCallback
from selector.core.options import describe
from selector.proxies import score
from selector.report.overview import Rankings
from selector.report.ranking import Ranking

if TYPE_CHECKING:
    from selector.core.contracts import Target
    from selector.scan import Plan
    from selector.scan.adapting import Asked

__all__ = ["confirm", "label", "plan", "rank", "rank_features", "score"]

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")


class _Ranks(Protocol[P]):
    """A function of a target: several give a sequence of rankings."""

    @overload
    def __call__(
        self, target: list[str] | list[Path] | list[Target], *args: P.args, **options: P.kwargs
    ) -> Rankings: ...
    @overload
    def __call__(self, target: Any, *args: P.args, **options: P.kwargs) -> Ranking: ...


def _ranks(config: Callable[P, ScanConfig]) -> Callable[[Callable[..., object]], _Ranks[P]]:
    """The function with the fields of ``ScanConfig`` as keywords; with ``source_domain`` a list of paths is one target,
    which no type can say."""

    def decorate(function: Callable[..., object]) -> _Ranks[P]:
        describe(function, ScanConfig)
        return cast("_Ranks[P]", function)

    return decorate


def _takes(
    config: Callable[P, ScanConfig | ConfirmConfig],
) -> Callable[[Callable[Concatenate[A, ...], R]], Callable[Concatenate[A, P], R]]:
    """The function with the fields of a configuration as keywords."""

    def decorate(function: Callable[Concatenate[A, ...], R]) -> Callable[Concatenate[A, P], R]:
        describe(function, cast("type[ScanConfig | ConfirmConfig]", config))
        return cast("Callable[Concatenate[A, P], R]", function)

    return decorate


@_ranks(ScanConfig)
def rank(target: object, **options: object) -> Ranking | Rankings:
    """Rank pretrained models for a target dataset.

    Args:
        target: what ``load_target`` takes (image folder, parquet, CSV, arrays, ...), or a ``Target``. With
            ``source_domain`` it needs no labels: a flat folder of images, a list of paths, images or texts, an array.
            Otherwise a list of paths and ``Target``, or ``"@FILE"`` (one path per line), ranks for several targets in one
            scan: each model is loaded once.
        {options}
    Returns:
        The ranking; models that failed are rows with a status and a reason. For several targets a ``Rankings``: a sequence
        of rankings, and of ``FailedTarget`` for those that could not be ranked, with ``overview()``; ``out`` is then the
        folder of the overview and of one run folder per target.
    Raises:
        ConfigError: a wrong setting, zoo or target (``OptionError``, ``TargetError``, ``ZooError``). An option that would do
            nothing for this target is refused.
        StoreError: the store cannot be written; nothing is lost.
    Cost: one forward pass per item and model the first time, none afterwards.

    Library calls read the history of earlier results and add nothing to it; commands also add what they measure. Use
    ``history=True`` to add, ``history=False`` to ignore it.

    Example:
        ranking = selector.rank("photos", models="*lite*", confirm=True, budget="10m", out="runs/photos")
        print(ranking.best.name)
    """
    config = ScanConfig.of(**options)
    from selector import scan

    return scan.rank(target, config)


@_takes(ConfirmConfig)
def confirm(ranking: Ranking | str | os.PathLike[str], **options: object) -> Ranking:
    """Fine-tune the leading models of a ranking and re-order it by what was measured.

    Args:
        ranking: a ranking, or the folder of a saved run.
        {options}
    Returns:
        The ranking with measurements, saved; ``<folder>/best`` holds the best model.
    Raises:
        ConfigError: there is no such run, ``top_k`` exceeds the models that finished, nothing trains on such labels, or the
            target has changed since.

    Library calls add nothing to the history of results; commands add what they measure. Use ``history=True`` to add.

    Example:
        ranking = selector.confirm("runs/photos", top_k=3, budget="20m")
    """
    config = ConfirmConfig.of(**options)
    from selector import scan

    return scan.confirm(ranking, config)


def label(
    ranking: Ranking | str | os.PathLike[str],
    *,
    count: int = 25,
    answers: str | os.PathLike[str] | None = None,
    trust_zoo: bool = False,
    target: object = None,
    progress: ProgressCallback | bool | None = None,
) -> Asked:
    """Ask for the few labels of an unlabeled target that best tell the adapted models apart.

    Args:
        ranking: a confirmed ranking with a source domain, or its folder.
        count: how many items to ask for.
        answers: the table of an earlier call with its column ``label`` filled in: what it says is kept, decides which
            model is returned, and the next items are asked for.
        trust_zoo: as for ``confirm``.
        target: the data (``load_target(..., source_domain=...)``), when the ranking was made from objects in memory.
        progress: as for ``rank``.
    Returns:
        Where the table and the page lie, and how the candidates stand.
    Raises:
        ConfigError: nothing was adapted, or a label is no class (``OptionError`` with the line).
    Cost: seconds; features come from the store.

    Example:
        asked = selector.label("runs/new", count=25)  # fill in the column "label" of asked.table, then:
        selector.label("runs/new", answers=asked.table)
    """
    from selector import scan

    return scan.label(ranking, count, answers, trust_zoo, target, progress)


def rank_features(
    features: Mapping[str, object],
    labels: object,
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
        proxies: as for ``rank``; without ``confirm`` all rows are scored.
        task: as for ``rank``.
        top_k: as for ``rank``.
        intervals: as for ``rank``.
        seed: as for ``rank``.
        out: as for ``rank``.
        overwrite: as for ``rank``.
    Returns:
        One row per array, with intervals, P(best) and ties from the same resamples of the items.
    Raises:
        OptionError: it is no mapping of arrays, or there is no such metric.
        TargetError: arrays of different items, or of another shape than (N, D).
    Cost: that of the proxies, and of one linear probe per array.

    >>> import numpy as np
    >>> labels = np.arange(90) % 3
    >>> noise = np.random.default_rng(0).standard_normal((90, 8))
    >>> ranking = rank_features({"noise": noise, "seen": noise + 4 * np.eye(8)[labels]}, labels, proxies="knn")
    >>> [model.name for model in ranking]
    ['seen', 'noise']
    """
    config = ScanConfig.of(
        proxies=proxies, task=task, top_k=top_k, confirm=confirm, metric=metric, store=store, intervals=intervals,
        seed=seed, out=out, overwrite=overwrite,
    )  # fmt: skip
    from selector import scan

    return scan.rank_features(features, labels, config)


@_takes(ScanConfig)
def plan(target: object, **options: object) -> Plan:
    """Estimate what ``rank`` would do with the same arguments, and what that costs; nothing is extracted to find out.

    Args:
        target: as for ``rank``; several targets give a list of plans.
        {options}
    Returns:
        Models that can be used, rows to extract, disk and time.
    Raises:
        ConfigError: as ``rank`` would, for the same arguments.

    Example:
        print(selector.plan("photos", models="*lite*").seconds)
    """
    config = ScanConfig.of(**options)
    from selector import scan

    return scan.plan(target, config)  # type: ignore[return-value]  # several targets give a list of plans
