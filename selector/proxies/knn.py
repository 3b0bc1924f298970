"""Leave-one-out nearest neighbors: several k from one exact search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.features import FeatureSet
from selector.features.device import nearest
from selector.features.threads import processor_named
from selector.proxies._proxy import INVARIANCES, proxy, with_blocks

KS = (1, 5, 20)
VALUE_K = 5
_MOST_OF_A_UNIT = 200  # rows of a unit that are searched beside; a row that needs more is compared with all others
_AS_NEIGHBORS = 0.75
"""Of the way from queries only to neighbors too. Three populations of 400 samples (250 × 40 of 4 classes, 120 × 20 of 2,
400 × 64 of 10) were covered to 93, 91 and 91% with equal class shares and to 94, 94 and 91% with shares drawn with every
sample (``tests/proxies/test_intervals.py``); nominal 90%. Queries only gave 86% over the three."""
TIE = 1e-6  # cosines nearer than single precision can tell
_BLOCK_BYTES = 96 * 2**20


@proxy(
    "knn",
    summary="How often the five nearest neighbors of an item have its label, the item itself left out.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL, LabelKind.REAL),
    good="Classes: 1 is perfect, the sum of squared class shares is chance. Several labels and real values: 1 is perfect, 0 are "
    "the label frequencies or the mean.",
    source="Caron et al., ICCV 2021, arXiv:2104.14294 (protocol); leave-one-out",
    cost="O(N²·D) multiplications in float32",
    bounds=(-float("inf"), 1.0),
    blocks="own",
    version=2,
    invariances=INVARIANCES - {"offset"},
    formula="Classes: mean over rows of the share of the k = 5 nearest rows by cosine that have the row's class. "
    "Several labels: the share of votes that are right, per label, from its expectation under the label's frequency p (0) to "
    "1: 1 − mean|y − v|/(2p(1 − p)). Real values: R² of the neighbors' mean. Both are means over columns; neighbors whose "
    "label is unknown do not vote.",
    deviations="The row itself is removed by index: among duplicates the first hit is another copy. Rows of one unit "
    "(the words of a sentence) are no neighbors of each other. A vote that is tied goes to "
    "the nearest neighbor's class, not to the smallest label; neighbors at equal distance share the remaining votes "
    "equally, so the order of rows cannot matter.",
    domain="Everywhere that rows can be compared; duplicated images raise it. Saturates at 1 on easy targets.",
    answers={
        "Is it a probability?": "For classes it is the chance that a neighbor drawn from the five nearest has the same label.",
        "Can it exceed 1?": "No.",
        "Is 0.76 good?": "It means that about three of four neighbors agree. Compare it with chance, the sum of squared class "
        "shares (0.1 for ten equal classes).",
        "May widths differ?": "Yes, cosines do not depend on the number of features.",
    },
)
def knn(features: FeatureSet, *, blocks: bool = False) -> Score:
    """Leave-one-out vote share of the nearest neighbors, by cosine.

    Args:
        features: any label kind.
        blocks: add the values with each block left out, as rows and as neighbors.
    Returns:
        Classes: vote share at k = 5 in [0, 1], a contribution per row; ``details``: accuracy and share
        at k = 1, 5 and 20. Otherwise the vote above chance, or R², at k = 5, at most 1; ``details``: the
        same, and Pearson's correlation with the neighbors' mean, at k = 1, 5 and 20.
    """
    found = neighbors(features)
    if features.label_kind is not LabelKind.CLASSES:
        return _of_columns(features, found, blocks)
    details: dict[str, float] = {}
    shares: np.ndarray | None = None
    for k in KS:
        share, correct = votes(features, found, k)
        details[f"accuracy@{k}"] = float(correct.mean())
        details[f"share@{k}"] = float(share.mean())
        shares = share if k == VALUE_K else shares
    assert shares is not None
    made = Score(float(shares.mean()), per_row=shares, details=details)
    if not blocks:
        return made
    return with_blocks(
        made, lambda: np.array([_share_without(features, found, block, shares) for block in features.block_ids])
    )


def _share_without(features: FeatureSet, found: Neighbors, block: int, shares: np.ndarray) -> float:
    """Mean share at k = 5 with a block gone.

    Between leaving its rows out as queries only, which is too narrow (a row also serves as a neighbor),
    and leaving them out as neighbors too, which is too wide (every deletion promotes other neighbors at
    random): at ``_AS_NEIGHBORS`` of the way, by simulation.
    """
    rows = np.flatnonzero(features.blocks != block)
    similarity, index = _without(found, features.blocks, block, rows)
    weight = vote_weights(similarity, VALUE_K)
    both = (weight * (features.labels[index] == features.labels[rows, None])).sum(axis=1).mean()
    return float(_AS_NEIGHBORS * both + (1 - _AS_NEIGHBORS) * shares[rows].mean())


def _without(found: Neighbors, blocks: np.ndarray, block: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) neighbors of some rows, those in the block moved last at similarity -2."""
    index = found.index[rows]
    similarity = np.where(blocks[index] == block, np.float32(-2), found.similarity[rows])
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : VALUE_K + 3]
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(index, order, axis=1)


@dataclass(frozen=True)
class Neighbors:
    """The nearest rows of every row, itself left out, and all others of its unit (the words of one sentence).

    Attributes:
        similarity: float32 (N, m) cosines, descending.
        index: int64 (N, m).
        complete: whether all other rows are listed.
        reach: (N,) rows that are not listed are at most so similar.
    """

    similarity: np.ndarray
    index: np.ndarray
    complete: bool
    reach: np.ndarray


def neighbors(features: FeatureSet) -> Neighbors:
    """The search, shared by all k. Memory: two blocks of rows and (N, 22) results."""
    return features.shared("neighbors", lambda: _search(features, max(KS) + 1))


def votes(features: FeatureSet, found: Neighbors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of the k votes for the row's own class (N,), and whether the vote is right (N,).

    Both are expectations over the order of neighbors that are equally far.
    """
    codes, count = features.labels, len(features)
    share, correct = np.empty(count), np.empty(count)
    for rows, similarity, index in _candidates(features, found, k):
        classes = codes[index]
        weight = vote_weights(similarity, k)
        own = classes == codes[rows, None]
        share[rows] = (weight * own).sum(axis=1)
        correct[rows] = _vote(similarity, classes, weight, own)
    return share, correct


def vote_weights(similarity: np.ndarray, k: int) -> np.ndarray:
    """Weights (n, m) that sum to one: 1/k a nearer neighbor, equal parts among ties at the k-th."""
    k = min(k, similarity.shape[1])
    last = similarity[:, k - 1 : k]
    nearer = similarity > last + TIE
    tied = (similarity >= last - TIE) & ~nearer
    rest = (k - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    return np.asarray((nearer + tied * rest) / k)


def _vote(similarity: np.ndarray, classes: np.ndarray, weight: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(n,) 1 where the class with most votes is the row's own; ties go to the nearest."""
    voting = weight > 0
    used = int(voting.any(axis=0).sum())
    similarity, classes, weight, own, voting = (a[:, :used] for a in (similarity, classes, weight, own, voting))
    same = classes[:, :, None] == classes[:, None, :]
    tally = np.einsum("nij,nj->ni", same, weight)
    leading = voting & (tally >= tally.max(axis=1, keepdims=True) - 1e-9)
    nearest = np.where(leading, similarity, -np.inf).max(axis=1, keepdims=True)
    leading &= similarity >= nearest - TIE
    # equally many votes and equally near: each of those classes with equal chance
    first = leading & ~(same & leading[:, None, :] & np.tri(used, k=-1, dtype=bool)).any(axis=2)
    return np.asarray((first & own).sum(axis=1) / first.sum(axis=1))


def _candidates(
    features: FeatureSet, found: Neighbors, k: int, step: int = 2048
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, similarity, index) in chunks; rows whose ties run past the list get all other rows."""
    similarity, index = found.similarity, found.index
    last = similarity[:, min(k, similarity.shape[1]) - 1]
    cut = np.zeros(len(features), dtype=bool) if found.complete else found.reach >= last - TIE
    whole = np.flatnonzero(~cut)
    for start in range(0, len(whole), step):
        rows = whole[start : start + step]
        yield rows, similarity[rows, : k + 1 if k < 5 else None], index[rows, : k + 1 if k < 5 else None]
    for row in np.flatnonzero(cut):
        yield np.array([row]), *_all_others(features, int(row))


def _all_others(features: FeatureSet, row: int) -> tuple[np.ndarray, np.ndarray]:
    query = _unit(features.rows[row : row + 1])
    similarity = np.concatenate([(_unit(chunk) @ query[0]) for _, chunk in features.chunks()])
    order = np.argsort(-similarity, kind="stable")
    order = order[order != row if features.groups is None else features.groups[order] != features.groups[row]]
    reach = int((similarity[order] >= similarity[order[min(max(KS), len(order)) - 1]] - 2 * TIE).sum())
    return similarity[order[None, :reach]], order[None, :reach]


def _search(features: FeatureSet, count: int) -> Neighbors:
    with processor_named():
        import faiss

    n = len(features)
    groups = None if features.groups is None else np.unique(features.groups, return_inverse=True)[1].ravel()
    own = 1 if groups is None else min(int(np.bincount(groups).max()), _MOST_OF_A_UNIT)
    wanted = min(count + own, n)  # the row itself, and those of its unit, are dropped below
    block = max(1024, _BLOCK_BYTES // (4 * features.width))
    similarity = np.empty((n, wanted), dtype=np.float32)
    index = np.empty((n, wanted), dtype=np.int64)
    for start, queries in features.chunks(block):
        unit = _unit(queries)
        best: tuple[np.ndarray, np.ndarray] | None = None
        for other, rows in features.chunks(block):
            base = unit if other == start else _unit(rows)
            few = min(wanted, len(base))
            if features.device is not None:
                near, where = nearest(unit, base, few, features.device)
            else:
                near, where = faiss.knn(unit, base, few, metric=faiss.METRIC_INNER_PRODUCT)
            best = _merge(best, near, where + other, wanted)
        assert best is not None
        similarity[start : start + len(unit)], index[start : start + len(unit)] = best
    if groups is not None:
        reach = similarity[:, -1].copy()
        similarity[groups[index] == groups[:, None]] = -2
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        return Neighbors(
            np.take_along_axis(similarity, order, axis=1), np.take_along_axis(index, order, axis=1), wanted == n, reach
        )
    itself = index == np.arange(n)[:, None]
    itself[~itself.any(axis=1), -1] = True  # crowded out by duplicates
    keep = ~itself
    similarity, index = similarity[keep].reshape(n, wanted - 1), index[keep].reshape(n, wanted - 1)
    return Neighbors(similarity, index, wanted == n, similarity[:, -1])


def _merge(
    best: tuple[np.ndarray, np.ndarray] | None, near: np.ndarray, where: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    if best is None:
        return near, where
    near, where = np.hstack([best[0], near]), np.hstack([best[1], where])
    order = np.argsort(-near, axis=1, kind="stable")[:, :wanted]
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(where, order, axis=1)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float32))
    return np.asarray(rows / np.maximum(norms, np.float32(1e-30))[:, None])


def _of_columns(features: FeatureSet, found: Neighbors, blocks: bool) -> Score:
    labels, everyone = features.labels, np.arange(len(features))
    measure = _above_chance if features.label_kind is LabelKind.MULTILABEL else _r2
    name = "vote" if features.label_kind is LabelKind.MULTILABEL else "r2"
    details, votes_at = {}, {}
    for k in KS:
        means = np.empty_like(labels)
        for rows, similarity, index in _candidates(features, found, k):
            means[rows] = _mean_of(labels, similarity, index, k)
        details[f"{name}@{k}"], details[f"pearson@{k}"] = measure(means, labels), _pearson(means, labels)
        votes_at[k] = means
    made = Score(details[f"{name}@{VALUE_K}"], details=details)

    def without(block: int) -> float:
        rows = everyone[features.blocks != block]
        similarity, index = _without(found, features.blocks, block, rows)
        both = measure(_mean_of(labels, similarity, index, VALUE_K), labels[rows])
        asked = measure(votes_at[VALUE_K][rows], labels[rows])
        return _AS_NEIGHBORS * both + (1 - _AS_NEIGHBORS) * asked

    return with_blocks(made, lambda: np.array([without(block) for block in features.block_ids])) if blocks else made


def _mean_of(labels: np.ndarray, similarity: np.ndarray, index: np.ndarray, k: int) -> np.ndarray:
    """(n, T) mean label of the k nearest whose label is known; the mean of all where none of them is."""
    weight = vote_weights(similarity, k)
    votes = labels[index]
    known = ~np.isnan(votes)
    if known.all():
        return np.asarray(np.einsum("nm,nmt->nt", weight, votes))
    total = np.einsum("nm,nmt->nt", weight, known)
    means = np.broadcast_to(np.nanmean(labels, axis=0), total.shape).copy()
    np.divide(np.einsum("nm,nmt->nt", weight, np.where(known, votes, 0.0)), total, out=means, where=total > 0)
    return means


def _above_chance(votes: np.ndarray, labels: np.ndarray) -> float:
    """Share of right votes a label, 0 at its frequency and 1 at most, averaged over labels that vary."""
    rate = np.nanmean(labels, axis=0)
    varying = (rate > 0) & (rate < 1)
    wrong = np.nanmean(np.abs(votes - labels), axis=0)[varying]
    return float((1 - wrong / (2 * rate * (1 - rate))[varying]).mean())


def _r2(means: np.ndarray, labels: np.ndarray) -> float:
    """R² averaged over the columns that vary."""
    total = np.nansum((labels - np.nanmean(labels, axis=0)) ** 2, axis=0)
    rest = np.nansum((labels - means) ** 2, axis=0)
    return float((1 - rest[total > 0] / total[total > 0]).mean())


def _pearson(means: np.ndarray, labels: np.ndarray) -> float:
    """Correlation averaged over the columns that vary; 0 for one whose predictions do not."""
    means = np.where(np.isnan(labels), np.nan, means)
    a, b = means - np.nanmean(means, axis=0), labels - np.nanmean(labels, axis=0)
    varying = np.nansum(b**2, axis=0) > 0
    product = np.nansum(a**2, axis=0) * np.nansum(b**2, axis=0)
    correlation = np.zeros(len(product))
    np.divide(np.nansum(a * b, axis=0), np.sqrt(product), out=correlation, where=product > 0)
    return float(np.clip(correlation[varying].mean(), -1, 1))
