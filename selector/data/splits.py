"""Which items are for training, validation and test, where the data do not say: drawn by content and seed.

Shares of what the task names as strata are kept: of classes and quantiles item by item, of several labels (or what
images contain) by iterative stratification.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xxhash

from selector.core.contracts import SPLITS, Annotations, noun_of
from selector.core.errors import TargetError
from selector.core.table import Table

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_MOST = 10  # classes that one error names


def draw_order(hashes: Sequence[str], seed: int) -> list[int]:
    """A number per item that orders draws: from content and seed, not from the position."""
    return [xxhash.xxh3_64_intdigest(f"{seed}:{value}".encode()) for value in hashes]


def split(
    table: Table, annotations: Annotations, seed: int, notes: list[str]
) -> tuple[np.ndarray, Literal["given", "drawn"]]:
    """Splits (N,), and whether the data gave them; what was drawn is noted.

    Raises:
        TargetError: some items have a split and others none, no train, a class too small for the parts.
    """
    splits = np.array(table.splits if table.splits is not None else [""] * len(table), dtype="<U5")
    given = set(splits.tolist()) - {""}
    if given == set(SPLITS) and "" not in splits:
        return splits, "given"
    if len(given) <= 1 and (not given or "" not in splits):
        if given:
            notes.append(f"only a split '{next(iter(given))}' was found, so it was divided again")
        pool, text = np.ones(len(splits), bool), "train, val and test were drawn (70/15/15, {how})"
        parts: tuple[str, ...] = ("val", "test")
    else:
        if "" in splits:
            row = int(np.flatnonzero(splits == "")[0])
            raise TargetError(
                f"{table.where}: {table.names[row]} has no split while others have; give all of them one, or none."
            )
        if "train" not in given:
            raise TargetError(f"{table.where}: splits {' and '.join(sorted(given))} were found but no train; add one.")
        pool, parts = splits == "train", tuple(part for part in ("val", "test") if part not in given)
        rest = " and ".join(split for split in SPLITS if split in given)
        text = f"{parts[0]} was drawn from train (15/85, {{how}}); {rest} were given"
    # with one part missing, the ratio train : part stays that of 70/15/15 as far as one can know it
    share = SHARES["val"] if len(parts) == 2 else SHARES["val"] / (1 - SHARES["test"])
    splits[pool] = "train"
    how = _Draw(table, splits, pool, parts, share, seed).run(annotations)
    notes.append(text.format(how=f"{how}, seed {seed}" if how else f"seed {seed}"))
    return splits, "drawn"


@dataclass
class _Draw:
    """Moves a share of ``pool`` from train to each of ``parts``, in place; copies of an item stay together."""

    table: Table
    splits: np.ndarray
    pool: np.ndarray
    parts: tuple[str, ...]
    share: float
    seed: int

    def run(self, annotations: Annotations) -> str:
        """By what it was drawn; empty when by chance alone."""
        strata = annotations.strata
        if strata.ndim == 1:
            by_class = bool(annotations.class_names)
            names = annotations.class_names if by_class else ("",) * (int(strata.max()) + 1)
            if not by_class:  # quantiles of all items: of the pool some may be too small
                need = len(self.parts) + 1
                if any(len(self._members(strata)[group]) < need for group in range(len(names))):
                    strata, names = np.zeros_like(strata), ("",)
            self._by_group(strata, names)
            return "by class" if by_class else "by quantile" if len(names) > 1 else ""
        nothing = np.zeros(len(self.splits), np.int64)
        if not strata.shape[1]:
            self._by_group(nothing, ("",))
            return ""
        self._check_sizes(nothing, self._members(nothing), ("",))
        self._iteratively(strata)
        return f"by {getattr(annotations, 'stratum', 'label')}"

    def _members(self, groups: np.ndarray) -> Mapping[int, Mapping[str, list[int]]]:
        members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in np.flatnonzero(self.pool).tolist():
            members[int(groups[index])][self.table.hashes[index]].append(index)
        return members

    def _by_group(self, groups: np.ndarray, names: Sequence[str]) -> None:
        members = self._members(groups)
        self._check_sizes(groups, members, names)
        for group in range(len(names)):
            contents = members[group]
            number = sum(len(copies) for copies in contents.values())
            ranks = dict(zip(contents, draw_order(list(contents), self.seed), strict=True))
            order = sorted(contents, key=lambda value: (ranks[value], value))
            for place, part in enumerate(self.parts):
                wanted, taken = max(1, round(self.share * number)), 0
                still_needed = len(self.parts) - place  # distinct images for the later parts and for train
                while taken < wanted and len(order) > still_needed:
                    copies_of = contents[order.pop(0)]
                    self.splits[copies_of] = part
                    taken += len(copies_of)

    def _iteratively(self, strata: np.ndarray) -> None:
        copies: dict[str, list[int]] = defaultdict(list)
        for index in np.flatnonzero(self.pool).tolist():
            copies[self.table.hashes[index]].append(index)
        ranks = draw_order(list(copies), self.seed)
        contents = [value for _, value in sorted(zip(ranks, copies, strict=True))]
        labels = np.array([strata[copies[value]].max(axis=0) for value in contents])
        weights = np.array([len(copies[value]) for value in contents])
        shares = [1 - self.share * len(self.parts), *[self.share] * len(self.parts)]
        for value, part in zip(contents, stratify(labels, weights, shares), strict=True):
            self.splits[copies[value]] = ("train", *self.parts)[part]

    def _check_sizes(
        self, groups: np.ndarray, members: Mapping[int, Mapping[str, list[int]]], names: Sequence[str]
    ) -> None:
        """Each class has enough different items for train and each of ``parts``; those that have not are reported together."""
        need = len(self.parts) + 1
        small = [group for group in range(len(names)) if len(members[group]) < need]
        if not small:
            return

        def told(group: int) -> tuple[int, str]:
            number = sum(len(copies) for copies in members[group].values())
            copies = f", {len(members[group])} of them different" if len(members[group]) < number else ""
            elsewhere = Counter(self.splits[(groups == group) & ~self.pool].tolist())
            counted = ", ".join(f"{split} {number_there}" for split, number_there in elsewhere.items())
            return number, copies + (f" in train ({counted})" if counted else "")

        noun = noun_of(self.table.modality)
        number, rest = told(small[0])
        items = f"{number} {'item' if number == 1 else 'items'}{rest}"
        who, each, instead = f"class '{names[small[0]]}' has {items}", "", " or remove the class"
        if not names[small[0]]:  # items that have no class
            who, instead = f"there {'is' if number == 1 else 'are'} {items}", ""
        elif len(small) > 1:
            lines = [f"'{names[group]}' has {number}{rest}" for group in small for number, rest in [told(group)]]
            more = f" and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
            who = f"{len(small)} of {len(names)} classes have too few items: {', '.join(lines[:_MOST])}{more}"
            each, instead = " of each", " or remove the classes"
        raise TargetError(
            f"{self.table.where}: {who}; {need}{each} are needed, at least one for each of "
            f"{', '.join(('train', *self.parts[:-1]))} and {self.parts[-1]}; add {noun}s{instead}."
        )


def stratify(labels: np.ndarray, weights: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Iterative stratification: the part (N,) of each item, so that every part has its share of every label.

    The rarest label is dealt out first, each item of it to the part that lacks most of that label, then most items
    at all; of equals to the first one. Items without labels fill up what is left. No part stays empty.

    Args:
        labels: 0/1 (N, L), in the order in which items are dealt.
        weights: (N,) what an item counts (its copies).
        shares: of each part; they sum to 1.

    Cost: O(N · (L + parts)) beside O(L²).   Source: Sechidis, Tsoumakas and Vlahavas, ECML 2011, algorithm 1.
    """
    weights = weights.astype(np.float64)
    wanted_items = np.outer(shares, [weights.sum()])[:, 0]
    wanted = np.outer(shares, weights @ labels)  # (parts, L) positives that each part still lacks
    parts = np.full(len(labels), -1)
    left = weights @ labels

    def deal(index: int, need: np.ndarray) -> None:
        best = max(range(len(shares)), key=lambda p: (round(float(need[p]), 9), round(float(wanted_items[p]), 9), -p))
        parts[index] = best
        wanted[best] -= weights[index] * labels[index]
        wanted_items[best] -= weights[index]

    while (left > 0).any():
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for index in np.flatnonzero((labels[:, label] > 0) & (parts < 0)).tolist():
            deal(index, wanted[:, label])
            left = left - weights[index] * labels[index]
        left[label] = 0
    for index in np.flatnonzero(parts < 0).tolist():
        deal(index, wanted_items)
    for part in range(len(shares)):
        if not (parts == part).any():  # fewer items than a part needs: the fullest one gives its last
            counts = np.bincount(parts, minlength=len(shares))
            parts[np.flatnonzero(parts == counts.argmax())[-1]] = part
    return parts
