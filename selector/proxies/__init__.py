"""How transferability is scored: one module a proxy or a family of them, found by name on first use.

A proxy is a function ``(FeatureSet, **params) -> Score | float`` under the ``proxy`` decorator;
higher is better. Adding one is adding one file here, or one decorated function in a module that
is imported with ``--plugin``, or passing a plain callable.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from selector.core.contracts import LabelKind, Score
from selector.core.errors import ConfigError, NotApplicable, ProxyError
from selector.core.stats import t_quantile
from selector.features import FeatureSet
from selector.features.threads import each
from selector.proxies._proxy import Blocks, Proxy, proxy, registry

log = logging.getLogger(__name__)

DEFAULT_PROXIES = ("logme", "hscore", "knn", "probe")
_DEFAULTS = {LabelKind.MULTILABEL: ("logme", "knn", "probe"), LabelKind.REAL: ("logme", "knn", "loo-ridge")}


def default_proxies(*kinds: LabelKind) -> tuple[str, ...]:
    """What is computed when nothing is asked for: what applies to labels of these kinds, in a fixed order."""
    return tuple(dict.fromkeys(name for kind in kinds for name in _DEFAULTS.get(kind, DEFAULT_PROXIES)))


__all__ = [
    "DEFAULT_PROXIES",
    "Proxy",
    "ProxyLike",
    "default_proxies",
    "evaluate",
    "proxy",
    "proxy_name",
    "registry",
    "score",
]


UNBOUNDED = (-math.inf, math.inf)


def with_interval(
    score: Score,
    features: FeatureSet,
    run: Callable[[FeatureSet], Score],
    how: Blocks = "auto",
    bounds: tuple[float, float] = UNBOUNDED,
    together: bool = False,
) -> Score:
    """``score`` with low, high and blocks; unchanged where a block cannot be left out.

    The half-width is the t quantile times the delete-a-block jackknife's standard error,
    √((B - 1)/B · Σ(left out - their mean)²); the ends stay within the score's own bounds.
    ``together``: ``run`` may be called from several threads at once.
    """

    def without(block: int) -> float:
        return run(features.without(block)).value

    left_out = score.blocks
    if left_out is None:
        try:
            if score.per_row is not None and how == "auto":
                left_out = leave_out_rows(score.per_row, features)
            else:
                blocks = features.block_ids.tolist()
                left_out = np.array(each(without, blocks) if together else [without(block) for block in blocks])
                if how == "halfway" and score.per_row is not None:
                    left_out = 0.5 * (left_out + leave_out_rows(score.per_row, features))
        except ProxyError as error:
            log.warning("no interval, a block cannot be left out: %s", str(error))  # its traceback holds the rows
            return score
    count = len(left_out)
    if count < 2:
        return score
    spread = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    half = t_quantile(count - 1) * spread
    return replace(
        score, low=max(score.value - half, bounds[0]), high=min(score.value + half, bounds[1]), blocks=left_out
    )


def leave_out_rows(per_row: np.ndarray, features: FeatureSet) -> np.ndarray:
    """Means of the contributions without each block."""
    blocks = np.searchsorted(features.block_ids, features.blocks)
    counts = np.bincount(blocks)
    sums = np.bincount(blocks, weights=per_row)
    return np.asarray((per_row.sum() - sums) / (len(per_row) - counts))


ProxyLike: TypeAlias = "str | Callable[..., Score | float]"


@overload
def score(
    features: ArrayLike,
    labels: ArrayLike,
    proxy: ProxyLike = "logme",
    *,
    intervals: bool = False,
    seed: int = 0,
    source_logits: ArrayLike | None = None,
    unlabeled: ArrayLike | None = None,
    label_kind: LabelKind | str | None = None,
    mask: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    groups: ArrayLike | None = None,
    keys: Sequence[object] | None = None,
    device: str | None = None,
    **params: Any,
) -> Score: ...


@overload
def score(
    features: Any,
    labels: ArrayLike,
    proxy: Sequence[ProxyLike],
    *,
    intervals: bool = False,
    seed: int = 0,
    source_logits: ArrayLike | None = None,
    unlabeled: ArrayLike | None = None,
    label_kind: LabelKind | str | None = None,
    mask: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    groups: ArrayLike | None = None,
    keys: Sequence[object] | None = None,
    device: str | None = None,
) -> dict[str, Score]: ...


def score(
    features: object,
    labels: object,
    proxy: ProxyLike | Sequence[ProxyLike] = "logme",
    *,
    intervals: bool = False,
    seed: int = 0,
    source_logits: ArrayLike | None = None,
    unlabeled: ArrayLike | None = None,
    label_kind: LabelKind | str | None = None,
    mask: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    groups: ArrayLike | None = None,
    keys: Sequence[object] | None = None,
    device: str | None = None,
    **params: Any,
) -> Score | dict[str, Score]:
    """Score features by how well they are expected to transfer to the labels.

    Args:
        features: (N, D); numpy of any float type, memory-mapped, a torch tensor, or lists.
        labels: (N,) classes (ints, names), (N, L) of 0 and 1, or (N,) / (N, T) floats; NaN where unknown.
        proxy: a name that ``selector proxies`` lists, or a callable ``(FeatureSet) -> Score | float``; or
            several of them, which share what they compute.
        intervals: add a 90% interval for the score of a fresh sample of the same size.
        seed: of folds, blocks and subsamples.
        source_logits: (N, C_s) of the encoder's source head, for the proxies that need them.
        unlabeled: (M, D) rows of another domain, for the proxies that predict how far the labels carry there.
        label_kind: ``classes``, ``multilabel`` or ``real``; inferred when not given.
        mask: (N,) or (N, L), True where a label is known; label_names: of the columns.
        groups: (N,) ids of the items that an interval resamples; each row when not given.
        keys: (N,) names of the rows, from which folds are drawn; their contents when not given.
        device: where torch does the large products; a tensor's own GPU when not given, else the CPU.
        params: passed on to the proxy.
    Returns:
        Score; ``float(score)`` is its value, higher is better. For several proxies their scores by name.
    Raises:
        ProxyError: the arrays cannot be scored; ``NotApplicable`` when only this proxy cannot.
        ConfigError: no proxy has this name.

    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> features = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).standard_normal((60, 3))
    >>> float(score(features, labels, "knn"))
    1.0
    >>> {name: float(found) for name, found in score(features, labels, ["knn", "nearest-class-mean"]).items()}
    {'knn': 1.0, 'nearest-class-mean': 1.0}
    """
    feature_set = FeatureSet(
        features,
        labels,
        label_kind=label_kind,
        mask=mask,
        label_names=label_names,
        groups=groups,
        keys=keys,
        source_logits=source_logits,
        unlabeled=unlabeled,
        seed=seed,
        device=device,
    )
    if isinstance(proxy, str) or callable(proxy):
        return evaluate(feature_set, proxy, intervals=intervals, **params)
    if params:
        raise ConfigError(
            f"{', '.join(params)}: parameters are of one proxy; score it alone to give them. Got {len(proxy)} proxies."
        )
    return {proxy_name(each): evaluate(feature_set, each, intervals=intervals) for each in proxy}


def proxy_name(proxy: ProxyLike) -> str:
    """How a proxy is called in a table.

    Raises:
        ConfigError: no proxy is registered under that name.
    """
    if isinstance(proxy, str):
        registry.get(proxy)  # an unknown name is an error before anything is loaded
        return proxy
    return str(getattr(proxy, "name", None) or getattr(proxy, "__name__", type(proxy).__name__))


def evaluate(
    features: FeatureSet, proxy: ProxyLike, *, intervals: bool = False, seed: int | None = None, **params: Any
) -> Score:
    """Run one proxy on a feature set; what several proxies need is computed once.

    Args:
        seed: other than the feature set's own, whose blocks and folds are then drawn again.

    Raises:
        NotApplicable: the proxy does not take this label kind, or the encoder lacks a source head.
        ProxyError: it cannot give a finite value for these rows.
        ConfigError: no proxy has this name.
    """
    chosen: Any = registry.get(proxy) if isinstance(proxy, str) else proxy
    name = proxy_name(proxy)
    if isinstance(chosen, Proxy):
        check_applies(chosen, features)
    if seed is not None and seed != features.seed:
        features = features.reseeded(seed)

    how = chosen.blocks if isinstance(chosen, Proxy) else "auto"

    def run(part: FeatureSet) -> Score:
        return _as_score(chosen(part, **params), name, len(part))

    started = time.perf_counter()
    if intervals and how == "own":
        params["blocks"] = True
    result = run(features)
    params.pop("blocks", None)
    result = replace(result, seconds=time.perf_counter() - started - result.interval_seconds)
    if intervals:
        started = time.perf_counter()
        registered = isinstance(chosen, Proxy)  # a callable of a person's own may not expect threads
        bounds = chosen.bounds if registered else UNBOUNDED
        result = with_interval(result, features, run, how, bounds, together=registered)
        result = replace(result, interval_seconds=result.interval_seconds + time.perf_counter() - started)
    return result


def check_applies(proxy: Proxy, features: FeatureSet) -> None:
    """Raise ``NotApplicable`` where the proxy's declared needs are not met."""
    if features.label_kind not in proxy.label_kinds:
        takes = " or ".join(sorted(proxy.label_kinds))
        raise NotApplicable(f"{proxy.name} takes {takes} labels; these are {features.label_kind}")
    if proxy.needs_source_logits and not features.has_source_logits:
        raise NotApplicable(f"{proxy.name} needs source logits, and this encoder has no head of its source task")
    if proxy.needs_unlabeled and features.unlabeled is None:
        raise NotApplicable(f"{proxy.name} compares two domains, and there are no rows of a target without labels")


def _as_score(result: Any, name: str, count: int) -> Score:
    if not isinstance(result, Score):
        try:
            result = Score(float(result))
        except (TypeError, ValueError):
            raise ProxyError(f"proxy '{name}' must return a Score or a number. Got {type(result).__name__}.") from None
    made: Score = result
    if not math.isfinite(made.value):
        raise ProxyError(f"proxy '{name}' gave {made.value} for these rows, which is not a score.")
    if made.per_row is not None and np.shape(made.per_row) != (count,):
        raise ProxyError(
            f"proxy '{name}': per_row must have one contribution per row, ({count},). Got {np.shape(made.per_row)}."
        )
    return made
