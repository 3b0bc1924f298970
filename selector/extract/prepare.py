"""The items of a target, prepared once for all models that prepare them alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from selector import data as targets
from selector.core.contracts import AnyPreprocess, Preprocess, ProgressCallback, Target, TextPreprocess
from selector.store import FeatureStore

if TYPE_CHECKING:
    from selector.extract.pixels import Pixels
    from selector.extract.tokens import TokenTable

ToCome: TypeAlias = Callable[[], Iterable[Preprocess]]


class Prepared:
    """Pictures decoded and texts tokenised, once for all networks that read them alike.

    Attributes:
        target: what is left of it: items that turn out to be unusable leave it, for every model.
        bad: content hash -> reason, of the items that left it.
        seconds: time spent, by stage.
    """

    def __init__(
        self,
        target: Target,
        store: FeatureStore,
        device: str,
        on_bad: Literal["fail", "skip"],
        notify: ProgressCallback,
    ) -> None:
        self.target = target
        self.bad: dict[str, str] = {}
        self.seconds: dict[str, float] = {"decode": 0.0}
        self._store, self._device, self._on_bad, self._notify = store, device, on_bad, notify
        self._pixels: dict[str, Pixels] = {}
        self._tokens: dict[str, TokenTable] = {}

    @property
    def smallest_pixels(self) -> Pixels | None:
        """Of the pictures that were decoded the smallest; None when none were."""
        return min(self._pixels.values(), key=lambda pixels: pixels.shape, default=None)

    def inputs(self, preprocess: AnyPreprocess, to_come: ToCome = tuple) -> Pixels | TokenTable:
        """Every item as an encoder reads it.

        Args:
            to_come: what later models will probably ask for: other sizes are made of the same decoded
                pictures, as far as there is room. A wrong guess costs some decoding.
        """
        return self.pixels(preprocess, to_come) if isinstance(preprocess, Preprocess) else self.tokens(preprocess)

    def pixels(self, preprocess: Preprocess, to_come: ToCome = tuple) -> Pixels:
        """Every picture, decoded and resized once for all models that share the size."""
        from selector.extract.pixels import open_pixels_many

        key = preprocess.pixels_key()
        while key not in self._pixels:
            started = time.perf_counter()
            opened, bad = open_pixels_many(
                self.target.items,
                self.target.hashes,
                self.target.names,
                [preprocess, *self._with_room(preprocess, to_come)],
                folder=self._store.pixels_folder,
                max_size=self._store.pixels_ceiling,
                on_bad=self._on_bad,
                progress=self._notify,
            )
            self.seconds["decode"] += time.perf_counter() - started
            if bad:
                self._leave_out(bad)
            else:
                self._pixels |= opened
        return self._pixels[key]

    def _with_room(self, preprocess: Preprocess, to_come: ToCome) -> list[Preprocess]:
        from selector.extract.pixels import DEFAULT_MAX_SIZE

        known: dict[str, Preprocess] = {}
        room = DEFAULT_MAX_SIZE / 4
        for expected in to_come():
            if expected.pixels_key() in {preprocess.pixels_key(), *self._pixels, *known}:
                continue
            room -= len(self.target) * 3 * expected.input_size[1] * expected.input_size[2]
            if room < 0:
                break
            known[expected.pixels_key()] = expected
        return list(known.values())

    def tokens(self, preprocess: TextPreprocess) -> TokenTable:
        """Every text, tokenised once for all models that share the tokenizer and the length."""
        from selector.extract.encode import resolve_device
        from selector.extract.tokens import open_tokens

        key = preprocess.tokens_key()
        while key not in self._tokens:
            started = time.perf_counter()
            table, bad = open_tokens(
                self.target.items,
                self.target.hashes,
                self.target.names,
                preprocess,
                device=resolve_device(self._device),
                on_bad=self._on_bad,
                progress=self._notify,
            )
            self.seconds["tokenise"] = self.seconds.get("tokenise", 0.0) + time.perf_counter() - started
            if bad:
                self._leave_out(bad)
                continue
            self._remember_cut(preprocess, table)
            self._tokens[key] = table
        return self._tokens[key]

    def texts_cut(self, preprocess: Mapping[str, Any]) -> int:
        """How many texts are longer than a model reads, as was found when they were tokenised, for whichever target."""
        cut = self._known_cut(preprocess)
        return sum(content in cut for content in self.target.hashes)

    def _known_cut(self, preprocess: Mapping[str, Any]) -> set[str]:
        return set((self._store.get("cut", {"preprocess": dict(preprocess)}) or {"hashes": []})["hashes"])

    def _remember_cut(self, preprocess: TextPreprocess, table: TokenTable) -> None:
        """By content, so that another target with some of these texts counts them without tokenising."""
        key = {"preprocess": preprocess.to_dict()}
        found = {self.target.hashes[i] for i in np.flatnonzero(table.cut_off > 0)}
        with self._store.lock(json.dumps({"cut": key}, sort_keys=True)):
            known = self._known_cut(key["preprocess"])
            if not found <= known:
                self._store.put("cut", key, {"hashes": sorted(found | known)})

    def leave_out(self, bad: Mapping[str, str]) -> None:
        """Take items that cannot be used (content hash -> reason) out of the target; what was prepared of it
        is prepared anew."""
        found = {i: bad[content] for i, content in enumerate(self.target.hashes) if content in bad}
        if found:
            self._leave_out(found)

    def _leave_out(self, bad: Mapping[int, str]) -> None:
        reasons = {self.target.hashes[i]: reason for i, reason in bad.items()}
        self._store.add_bad_images(reasons)
        self.bad |= reasons
        self.target = targets.without(self.target, bad)
        self._pixels.clear()
        self._tokens.clear()
