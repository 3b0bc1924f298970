"""Data that mislead: images of one split that tell of another (the same photo saved again, frames of one sequence in two
splits), and labels that are most likely wrong, by out-of-fold predictions of a linear probe on stored features.

Two images count as the same when their thumbnails (luminance, 32 x 32, brightness and contrast
taken out) correlate by 0.995 or more. ``benchmarks/bench_near_duplicates.py`` says what that finds and
what it takes for a copy by mistake; crops and rotations are not found.

The order of a sequence is that of the numbers in names (of files, or of rows in a table). Neighbors in it are compared
with images that are far apart in the same sequence: where a sequence is cut at random between splits, its neighbors
across the cut are alike far more often than those; where numbers mean nothing, just as often.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from selector import modalities
from selector.core.atomic import write_atomic
from selector.core.contracts import Target
from selector.core.errors import NotApplicable, ProxyError
from selector.core.resources import threads_for
from selector.core.stats import binomial_tail
from selector.core.units import inert
from selector.features import FeatureSet
from selector.proxies.probe import out_of_fold
from selector.results import Caveat
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows, previewed
from selector.scan.scoring import feature_set
from selector.store import FeatureStore
from selector.store.entry import RowsMissing

if TYPE_CHECKING:
    from selector.modalities.pixels.prepared import Pixels


LISTED = 20
USUAL = 0.95  # quantile of the images that are far apart: two that are more alike count as alike
LEAST_SHARE = 0.2  # of neighbors across the cut that are alike, where by chance it is 0.05
CHANCE = 1e-4  # that as many are alike by chance
_FAR, _MOST_FAR = 20, 20_000  # pairs that are far apart, an image and at most
_APART = 10  # far is a tenth of the sequence
_NUMBERED = re.compile(r"(.*?)(\d{1,18})\D*")


Likeness = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of images at some positions (n,) and at others (n,), pair by pair (n,)."""


@dataclass(frozen=True)
class Pair:
    """Positions of a held-out image and of the one that it is like, and how they correlate."""

    held_out: int
    other: int
    similarity: float


def alike_neighbors(target: Target, likeness: Likeness) -> tuple[list[Pair], int]:
    """Held-out images that are like a neighbor of theirs in another split, and how many images have such a
    neighbor; no pairs where they are not alike more often than chance has it.

    Cost: O(N log N), and some 20 comparisons an image.
    """
    cut, similarity, usual = across_splits(target, likeness)
    pairs = [_from_held_out(pair, value, target) for pair, value in zip(cut.tolist(), similarity, strict=True)]
    checked, alike = len({pair.held_out for pair in pairs}), int((similarity > usual).sum())
    if alike < max(1, LEAST_SHARE * len(cut)) or binomial_tail(alike, len(cut), 1 - USUAL) > CHANCE:
        return [], checked
    closest = {p.held_out: p for p in sorted(pairs, key=lambda pair: pair.similarity) if p.similarity > usual}
    return list(closest.values()), checked


def across_splits(target: Target, likeness: Likeness) -> tuple[np.ndarray, np.ndarray, float]:
    """Neighbors in a sequence that are in different splits, (n, 2) positions, how alike they are (n,), and what 95% of
    the images that are far apart do not reach."""
    sequences = numbered(target)
    beside = [np.stack([order[:-1], order[1:]], 1) for order in sequences]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *beside])
    cut = pairs[target.splits[pairs[:, 0]] != target.splits[pairs[:, 1]]]
    far = _far_apart(sequences)
    if not len(cut) or not len(far):
        return cut[:0], np.empty(0), np.inf
    usual = float(np.quantile(likeness(far[:, 0], far[:, 1]), USUAL))
    return cut, likeness(cut[:, 0], cut[:, 1]), usual


def numbered(target: Target) -> list[np.ndarray]:
    """Positions of the images of each sequence, in its order: the same name but for the last number in it, the same
    class where an item has one (neighbors of sorted classes are alike for another reason)."""
    classes = target.item_classes
    known = []
    for position, name in enumerate(target.names):
        parts = _NUMBERED.fullmatch(name.rsplit("/", 1)[-1])
        if parts is not None:
            known.append((parts[1], -1 if classes is None else int(classes[position]), int(parts[2]), position))
    groups = (list(group) for _, group in groupby(sorted(known), key=lambda one: one[:2]))
    return [np.array([one[3] for one in group]) for group in groups if len(group) > 1]


def report_frames(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
    """The warning, where there are such images."""
    if not pairs:
        return None
    such, listed = _listed(pairs, target)
    return Caveat(
        "neighboring-frames",
        f"{len(pairs)} of {checked} held-out images whose neighbor by number is in another split resemble it, {such}, as "
        "frames of one video or slices of one scan do: metrics of these splits are likely optimistic. Give train/, val/ "
        "and test/ by recording; run.json lists them.",
        {"pairs": len(pairs), "checked": checked, "listed": listed},
    )


def _listed(pairs: Sequence[Pair], target: Target) -> tuple[str, list[Mapping[str, object]]]:
    """The pair that is most alike, in words, and the leading ones by name."""
    leading = sorted(pairs, key=lambda pair: -pair.similarity)[:LISTED]
    listed: list[Mapping[str, object]] = [
        {
            "held_out": target.names[pair.held_out],
            "split": str(target.splits[pair.held_out]),
            "like": target.names[pair.other],
            "like_split": str(target.splits[pair.other]),
            "similarity": round(pair.similarity, 4),
        }
        for pair in leading
    ]
    return "such as {held_out} ({split}) and {like} ({like_split})".format(**listed[0]), listed


def _far_apart(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2) positions of images of one sequence that are at least two places and a tenth of it apart."""
    rng = np.random.default_rng(0)
    found = [np.empty((0, 2), np.int64)]
    for order in sequences:
        first, second = rng.integers(0, len(order), (2, _FAR * len(order)))
        far = np.abs(first - second) > max(1, len(order) // _APART)
        found.append(np.stack([order[first[far]], order[second[far]]], 1))
    pairs = np.concatenate(found)
    return pairs[rng.permutation(len(pairs))[:_MOST_FAR]]


def _from_held_out(pair: tuple[int, int], value: float, target: Target) -> Pair:
    """Of two images the one of test comes first, or of val where none is."""
    rank = {"test": 0, "val": 1}
    held_out, other = sorted(pair, key=lambda position: rank.get(str(target.splits[position]), 2))
    return Pair(held_out, other, float(value))


SAME = 0.995
SIDE = 32
_SEARCH = 16  # side of what the nearest image is searched with
_FLAT = 3.0  # gray levels of deviation: a blank image is like every other blank one
_PRODUCTS = 3e9  # compared pairs: seconds on two cores; beyond, an even share of the held-out images is looked at
_BATCH = 256
_LEAKS_VERSION = 2


def leak_caveats(target: Target, pixels: Pixels | None, store: FeatureStore) -> list[Caveat]:
    """The warnings of a target about images of one split that tell of another, from the store where it was looked
    for before: near duplicates, and neighbors in a sequence.

    ``pixels`` are its decoded images; None when this run decoded nothing, and then only what an
    earlier run found is told.
    """
    if not modalities.of(target).resizable:
        return []
    key = {"leaks of": target.fingerprint, "version": _LEAKS_VERSION}
    found = store.get("caveat", key)
    if found is None:
        if pixels is None:
            return []
        thumbs = thumbnails(pixels)
        pairs, checked = near_duplicates(thumbs, target.splits, target.hashes)
        frames, compared = alike_neighbors(target, partial(likeness_of, thumbs))
        found = {
            "duplicates": {"checked": checked, "pairs": [astuple(pair) for pair in pairs]},
            "frames": {"checked": compared, "pairs": [astuple(pair) for pair in frames]},
        }
        store.put("caveat", key, found)
    told = ((found["duplicates"], _report_copies), (found["frames"], report_frames))
    caveats = [tell([Pair(*pair) for pair in part["pairs"]], int(part["checked"]), target) for part, tell in told]
    return [caveat for caveat in caveats if caveat is not None]


def thumbnails(pixels: Pixels) -> np.ndarray:
    """Luminance (N, 32, 32) in uint8, each pixel the mean of the area that it stands for."""
    made = np.empty((len(pixels), SIDE, SIDE), np.uint8)

    def shrink(start: int) -> None:
        rows = pixels.batch(np.arange(start, min(start + _BATCH, len(pixels))))
        for i, row in enumerate(rows):
            made[start + i] = np.asarray(Image.fromarray(row).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))

    with threads_for(2, "thumbnails") as pool:
        list(pool.map(shrink, range(0, len(pixels), _BATCH)))
    return made


def near_duplicates(thumbs: np.ndarray, splits: np.ndarray, hashes: Sequence[str]) -> tuple[list[Pair], int]:
    """Held-out images that are nearly one of another split, and how many were looked at.

    Args:
        thumbs: (N, 32, 32) in uint8.
        splits: (N,) of train, val, test: val is compared with train, test with both.
        hashes: of the contents; equal ones are no *near* duplicates.
    Cost: O(held out · others) products of 256 numbers; memory for 256 floats an image.
    """
    busy = thumbs.reshape(len(thumbs), -1).std(axis=1) > _FLAT
    pairs: list[Pair] = []
    checked = 0
    for split, against in (("val", ("train",)), ("test", ("train", "val"))):
        base = np.flatnonzero(np.isin(splits, against) & busy)
        queries = np.flatnonzero((splits == split) & busy)
        if not len(base) or not len(queries):
            continue
        most = max(1, int(_PRODUCTS / len(base)))
        queries = queries[:: -(-len(queries) // most)]
        checked += len(queries)
        others = nearest(thumbs, queries, base)
        pairs += [
            Pair(i, j, float(value))
            for i, j, value in zip(
                queries.tolist(), others.tolist(), likeness(thumbs[queries], thumbs[others]), strict=True
            )
            if value >= SAME and hashes[i] != hashes[j]
        ]
    return pairs, checked


def nearest(thumbs: np.ndarray, queries: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Of the images at ``base`` the one most like each of ``queries``: positions (len(queries),)."""
    coarse = thumbs.reshape(len(thumbs), _SEARCH, 2, _SEARCH, 2).mean(axis=(2, 4), dtype=np.float32)
    units = _units(_flat(coarse))
    known = units[base].T
    best = [np.argmax(units[queries[i : i + _BATCH]] @ known, axis=1) for i in range(0, len(queries), _BATCH)]
    return np.asarray(base[np.concatenate(best)])


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of thumbnails pair by pair: (n,) in -1..1."""
    return np.asarray(np.einsum("ij,ij->i", _units(_flat(first)), _units(_flat(second))))


def likeness_of(thumbs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``likeness`` of the thumbnails at some positions and at others."""
    parts = [
        likeness(thumbs[first[i : i + _BATCH]], thumbs[second[i : i + _BATCH]]) for i in range(0, len(first), _BATCH)
    ]
    return np.concatenate(parts)


def _flat(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.reshape(len(thumbs), -1).astype(np.float32)


def _units(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) without their mean, of length 1."""
    centered = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-9))


def _report_copies(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
    if not pairs:
        return None
    such, listed = _listed(pairs, target)
    other_label = sum(not np.array_equal(target.labels[p.held_out], target.labels[p.other]) for p in pairs)
    labels = f" {other_label} of them have another label than the image they are like." if other_label else ""
    return Caveat(
        "near-duplicates",
        f"{len(pairs)} of {checked} held-out images are nearly one of another split, {such}: test metrics are likely "
        f"optimistic (data leakage).{labels} run.json lists them.",
        {"pairs": len(pairs), "checked": checked, "other_label": other_label, "listed": listed},
    )


LABEL_ISSUES = "label-issues.csv"
MOST_ITEMS, MOST_SHOWN = 500, 24  # in the table, and in the report with what they are
_MOST_CELLS = 2_000_000_000  # rows × columns × classes: half a minute on two cores; fewer rows are judged beyond
_LABELS_VERSION = 1


def label_quality(candidate: Candidate, rows: Rows, store: FeatureStore, seed: int) -> dict[str, object]:
    """The items whose labels the features of a model contradict most, as ``StoredRanking.label_quality``.

    Args:
        candidate: the model; its rows are in the store.
        rows: train and validation items; the test split is not looked at.

    Returns:
        Nothing where an item has no single class, or the rows cannot be judged.

    Cost: one cross-validated logistic regression, at the strength that ``probe`` found where it was asked for; kept in
    the store.
    """
    if rows.target.item_classes is None or candidate.entry is None or len(rows.hashes) != len(rows.indices):
        return {}
    key = {
        "entry": candidate.entry.key, "rows": rows.digest, "seed": seed, "version": _LABELS_VERSION, "method": _method(),
    }  # fmt: skip
    found = store.get("labels", key)
    if found is None:
        score = candidate.scores.get("probe")
        try:
            found = judge(
                feature_set(candidate.entry, rows, seed),
                rows.hashes,
                None if score is None else float(score.details["strength"]),
            )
        except (NotApplicable, ProxyError, RowsMissing):
            return {}
        store.put("labels", key, found)
    return {"model": candidate.spec.name, **found, "items": _items(found["items"], rows)}


def judge(features: FeatureSet, addresses: Any, strength: float | None = None) -> dict[str, object]:
    """Rank rows by how much a linear probe that did not see them doubts their labels.

    By cleanlab's confident learning (Northcutt et al., JAIR 2021, arXiv:1911.00068) where it is installed: classes that
    the probe confuses anyway need more evidence. Otherwise all rows of which another class is more probable. Both list
    the highest log-loss first.

    Args:
        addresses: (N,) what names each row.
        strength: of the probe; see ``out_of_fold``.

    Returns:
        ``method``, ``judged`` rows, ``suspects`` among them, and ``items``, at most 500: address, label, predicted label,
        probability of the predicted label and of its own.
    """
    most = max(2, _MOST_CELLS // (features.width * len(features.classes)))
    if len(features) > most:
        kept = features.sample(most)
        features, addresses = features.take(kept), [addresses[i] for i in kept]
    probabilities, classes = out_of_fold(features, strength), features.classes
    rows = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    probabilities, labels = probabilities[rows], features.labels[rows]
    own = probabilities[np.arange(len(rows)), labels]
    if (method := _method()) == "log-loss":
        doubted = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    else:
        from cleanlab.filter import find_label_issues

        doubted = np.flatnonzero(find_label_issues(labels, probabilities, n_jobs=1))
        doubted = doubted[probabilities[doubted].argmax(axis=1) != labels[doubted]]
    order = doubted[np.argsort(own[doubted], kind="stable")]
    items = [
        [
            addresses[rows[i]], int(classes[labels[i]]), int(classes[probabilities[i].argmax()]),
            round(float(probabilities[i].max()), 4), round(float(own[i]), 4),
        ]
        for i in order[:MOST_ITEMS]
    ]  # fmt: skip
    return {"method": method, "judged": len(rows), "suspects": len(order), "items": items}


def write_label_issues(folder: Path, found: Mapping[str, Any]) -> None:
    """The table of a run, the most doubtful label first; one of an earlier run is removed where there is nothing."""
    path = folder / LABEL_ISSUES
    if not found.get("items"):
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    columns = ("name", "split", "label", "predicted", "probability", "of_label")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([inert(str(item[column])) for column in columns] for item in found["items"])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _method() -> str:
    """How suspects are found: part of what addresses them in the store."""
    found = find_spec("cleanlab") is not None
    return f"cleanlab {version('cleanlab')}" if found else "log-loss"


def _items(found: Any, rows: Rows) -> list[dict[str, object]]:
    target: Target = rows.target
    places: dict[tuple[str, int], list[int]] = defaultdict(list)  # copies of an item may bear different labels
    for index, address, label in zip(rows.indices[::-1], rows.hashes[::-1], rows.labels[::-1], strict=True):
        places[address, int(label)].append(int(index))
    items: list[dict[str, object]] = []
    for address, label, predicted, probability, of_label in found:
        index = places[address, label].pop()
        items.append(
            {
                "index": index,
                "name": str(target.names[index]),
                "split": str(target.splits[index]),
                "label": target.class_names[label],
                "predicted": target.class_names[predicted],
                "probability": probability,
                "of_label": of_label,
            }
        )
    return [*previewed(items[:MOST_SHOWN], target), *items[MOST_SHOWN:]]
