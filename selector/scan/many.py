"""Several targets in one scan: each network is loaded once and reads them all; a run folder per target, one overview."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from selector.config import ScanConfig
from selector.core.contracts import ProgressCallback, Target
from selector.core.errors import ConfigError, OptionError, StoreError, TargetError
from selector.data._items import ConcatItems, SubsetItems
from selector.report.html import write_report
from selector.report.overview import FailedTarget, Rankings, write_overview
from selector.report.ranking import Ranking
from selector.run.job import Failure
from selector.scan.candidate import Candidate
from selector.scan.checks import open_executor
from selector.scan.dataset_view import Rows
from selector.scan.extraction import Extraction
from selector.scan.scoring import ToScore
from selector.scan.selection import by_network
from selector.scan.target_scan import Rounds, TargetScan
from selector.zoo import ModelSpec
from selector.zoo.spec import network_of

log = logging.getLogger(__name__)

LIST = "@"
"""Before the name of a file that lists targets."""


def listed(target: object, config: ScanConfig) -> list[object] | None:
    """The targets of a call that names several: a list of paths and ``Target``, or ``@FILE``; None for a single one.

    With a source domain a list of paths is one target: its images or texts.

    Raises:
        OptionError: the file cannot be read, or names none.
    """
    if isinstance(target, str) and target.startswith(LIST):
        return _read_list(Path(target.removeprefix(LIST)))
    if config.source_domain is not None or not isinstance(target, list) or not target:
        return None
    if all(isinstance(each, str | os.PathLike | Target) for each in target):
        return list(target)
    return None


def _read_list(file: Path) -> list[object]:
    """Paths, one a line, relative to the file; empty lines and those that begin with # are left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, NUL in the name
        raise OptionError(f"target: the list of targets {file} cannot be read: {error}.", "target") from None
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not named:
        raise OptionError(f"target: {file} names no targets; write one path per line.", "target")
    return [name if "://" in name else str(file.parent / name) for name in named]


@dataclass
class _Member:
    """One target of a scan of several."""

    name: str
    scan: TargetScan | None = None
    result: Ranking | FailedTarget | None = None

    def fail(self, error: BaseException) -> None:
        failure = Failure.of(error)
        log.warning("%s: %s", self.name, failure.reason)
        self.scan, self.result = None, FailedTarget(self.name, failure.reason, failure.traceback)

    @contextlib.contextmanager
    def own_failure(self) -> Iterator[None]:
        """One target's failure must not end the scan of the others; that of the store ends it."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001
            self.fail(error)


def rank_many(targets: Sequence[Any], config: ScanConfig, notify: ProgressCallback) -> Rankings:
    """Rank the models of a zoo for several targets; see ``selector.rank``.

    Raises:
        StoreError: the store cannot be written.
        ConfigError: what is wrong with the first target, where something is wrong with every one; a single target that
            cannot be ranked is a ``FailedTarget``.
    """
    started = time.perf_counter()
    root = _root(config, targets)
    members = [_Member(name) for name in _names(targets)]
    errors: list[ConfigError] = []
    with open_executor(config, notify, config) as executor:
        for member, target in zip(members, targets, strict=True):
            changes: dict[str, object] = {} if root is None else {"out": root / member.name}
            if isinstance(config.scan_budget, float):
                changes["scan_budget"] = config.scan_budget / len(members)
            own = config.model_copy(update=changes)
            try:
                member.scan = TargetScan(target, own, executor, notify)
            except ConfigError as error:
                member.fail(error)
                errors.append(error)
        if len(errors) == len(members):
            raise errors[0]
        racing = [(m, m.scan.rounds) for m in members if m.scan is not None and m.scan.rounds is not None]
        if config.scan_budget is None:
            _side_by_side(racing)
        else:  # which models are looked at is each target's own question
            for member, rounds in racing:
                with member.own_failure():
                    rounds.run()
        scanned = (time.perf_counter() - started) / len(members)
        for member in members:
            if member.scan is not None:
                member.scan.spent = scanned
                with member.own_failure():
                    member.result = member.scan.finish()
                if isinstance(member.result, Ranking) and member.result.path is not None:
                    write_report(member.result)
    rankings = Rankings([m.result for m in members if m.result is not None], time.perf_counter() - started, root)
    if root is not None:
        write_overview(rankings, root)
    return rankings


def _side_by_side(racing: Sequence[tuple[_Member, Rounds]]) -> None:
    """The rounds of all targets: what several want of a network is extracted in one go before each."""
    for share in sorted({share for _, rounds in racing for share in rounds.shares}):
        running = [(m, rounds) for m, rounds in racing if m.scan is not None and share in rounds.shares]
        groups: dict[str, list[Rounds]] = {}
        for _, rounds in running:
            if joinable(rounds.extraction):
                groups.setdefault(str(rounds.extraction.target.modality), []).append(rounds)
        for group in groups.values():
            if len(group) > 1:
                _bring(group, share)
        for member, rounds in running:
            with member.own_failure():
                rounds.step(share)


def _bring(group: Sequence[Rounds], share: float) -> None:
    try:
        joint = JoinedExtraction(group, share)
        failed, seconds = joint.bring()
    except TargetError as error:  # whose items those are, its own round says
        log.info("the targets are read one by one: %s", error)
        return
    for rounds in group:
        rounds.extraction.failed = {**rounds.extraction.failed, **failed}
        rounds.extraction.work.prepared.leave_out(joint.work.prepared.bad)
        for candidate in rounds.running:
            if (spent := seconds.get(network_of(candidate.spec))) is not None:
                candidate.cached = False
                candidate.seconds += spent


def _names(targets: Sequence[Any]) -> list[str]:
    """A name per target for its folder: the last part of its path, and a number where that is taken."""
    names: list[str] = []
    for target in targets:
        name = target.name if isinstance(target, Target) else Path(target).stem or "target"
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], numbered) if each not in names))
    return names


def _root(config: ScanConfig, targets: Sequence[Any]) -> Path | None:
    """The folder of the overview and of the runs below it.

    Raises:
        ConfigError: it is a file.
    """
    if not config.out and not config.confirm:
        return None
    first, number = _names(targets)[0], len(targets) - 1
    named = None if config.out is None or isinstance(config.out, bool) else Path(config.out)
    root = named or Path("runs") / f"{first}-and-{number}-more"
    if root.exists() and not root.is_dir():
        raise ConfigError(f"out: {root} is a file, expected a folder; name another one.")
    return root


WHOLE_ITEMS = "pooled"
"""The row reader of targets that are joined."""


def joinable(extraction: Extraction) -> bool:
    """Whether rows of a target are whole items: words of texts and places in images are read target by target."""
    return extraction.job_settings.reader == WHOLE_ITEMS


def joined(targets: Sequence[Target]) -> Target:
    """The distinct items of several targets of one modality, without labels."""
    hashes: dict[str, int] = {}
    everything = [content for target in targets for content in target.hashes]
    for position, content in enumerate(everything):
        hashes.setdefault(content, position)
    keep = np.fromiter(hashes.values(), np.int64, len(hashes))
    names = [name for target in targets for name in target.names]
    fingerprints = xxhash.xxh3_128_hexdigest("+".join(target.fingerprint for target in targets).encode())
    return Target(
        name="+".join(target.name for target in targets[:3]) + ("…" if len(targets) > 3 else ""),
        modality=targets[0].modality,
        label_kind=targets[0].label_kind,
        items=SubsetItems(ConcatItems([target.items for target in targets]), keep),
        names=[names[i] for i in keep.tolist()],
        labels=np.zeros(len(keep)),
        class_names=(),
        splits=np.full(len(keep), "train"),
        split_origin="given",
        hashes=tuple(hashes),
        fingerprint=fingerprints,
        task="none",  # items are read and nothing is learned from them
    )


class JoinedExtraction(Extraction):
    """Extraction for several targets at once, of one round.

    What ``rows`` and the like take for the share of a round are here the numbers of the targets that want a network.
    """

    def __init__(self, group: Sequence[Rounds], share: float) -> None:
        first = group[0].extraction
        targets = joined([rounds.extraction.target for rounds in group])
        super().__init__(
            targets, first.store, first.job_settings, first.notify, executor=first.executor, isolation=first.isolation
        )
        self._group, self._share = group, share
        self._chosen: dict[object, Rows] = {}

    def bring(self) -> tuple[dict[str, Failure], dict[str, float]]:
        """Extract what the targets want of this round.

        Returns:
            by ``network_of``, why networks failed, so that no target loads them again, and seconds that a network took,
            per target.
        """
        wanting: dict[str, set[int]] = {}
        specs: dict[str, ModelSpec] = {}
        for number, rounds in enumerate(self._group):
            for candidate in rounds.running:
                wanting.setdefault(network_of(candidate.spec), set()).add(number)
                specs.setdefault(candidate.spec.name, candidate.spec)
        by_targets: dict[frozenset[int], list[ModelSpec]] = {}
        for spec in specs.values():
            by_targets.setdefault(frozenset(wanting[network_of(spec)]), []).append(spec)
        failed: dict[str, Failure] = {}
        seconds: dict[str, float] = {}
        for numbers, models in by_targets.items():
            networks = by_network(Candidate(spec) for spec in models)
            self.run(networks, numbers)  # type: ignore[arg-type]  # what names a round is passed on as it is
            for network in networks:
                name = network_of(network.members[0].spec)
                if all(member.failure for member in network.members) and (why := network.members[0].failure):
                    failed[name] = why
                elif not all(member.cached for member in network.members):
                    seconds[name] = sum(member.seconds for member in network.members) / len(numbers)
        return failed, seconds

    def rows(self, share: Any = 1.0) -> Rows:
        """Items that some targets see in this round."""
        known = self._chosen.get(share)
        if known is None or known.target is not self.target:
            place = {content: i for i, content in enumerate(self.target.hashes)}
            wanted = (self._group[number].extraction.rows(self._share) for number in sorted(share))
            hashes = {rows.target.hashes[i] for rows in wanted for i in rows.every_item}
            found = {place[content] for content in hashes if content in place}
            known = self._chosen[share] = Rows(self.target, np.array(sorted(found), np.int64))
        return known

    def scored(self, share: Any) -> tuple[ToScore, ...]:
        """What the targets that want a network score of it."""
        return tuple(each for number in sorted(share) for each in self._group[number].extraction.scored(self._share))
