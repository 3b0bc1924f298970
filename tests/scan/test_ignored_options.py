"""Every option is honored or refused, for every kind of target and with and without a confirmation.

The configuration of a real run records which of its options are read. What is never read must be refused when it is given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import selector
from selector import scan
from selector.config import ConfirmConfig, ScanConfig
from selector.core.errors import OptionError
from selector.options.data import DataOptions
from tests.scan.test_adapting import Tiny

ELSEWHERE = {
    "ray_address": "engine='ray' alone reads it; the configuration refuses it otherwise",
    "workers": "engines with workers alone read it; the configuration refuses it otherwise",
    "target": "read when the ranking holds none",
    "trust_zoo": "read where an entry runs code",
    "tags": "read with a zoo",
    "overwrite": "read where the run folder exists",
    "offline": "nothing is fetched for objects in memory",
    "progress": "given by the caller",
    "device": "ready features are scored on none",
}
"""Options that depend on something else than the kind of target."""
GIVEN: dict[str, Any] = {
    "zoo": "zoo.yaml", "models": "a*", "tags": "cnn", "layers": "last", "pooling": "avg", "prune": "always",
    "precision": "float32", "backend": "eager", "max_params": "3M", "max_latency": "1s", "max_memory": "1GB", "license": "mit",
    "measure_cost": "always", "scan_budget": "50%", "isolate": "on", "model_timeout": "1m", "model_memory": "1GB",
    "pilot_cost": 2.0, "budget": "1m", "strategies": "frozen", "resolution": 32,
    "augment": "strong", "balance": "none", "label_smoothing": 0.1, "averaging": "ema", "decoder": "fcn", "loss": "huber",
    "metric": "macro_f1", "refit": False, "max_steps": 3, "max_pixels": "5M", "on_invalid": "raise", "engine": "processes", "history": "h.sqlite",
    "zero_shot": True,
}  # fmt: skip


def own_zoo() -> dict[str, selector.Model]:
    return {"a": selector.Model(Tiny(0).eval(), transform={"input_size": (3, 24, 24)})}


def images(seed: int, count: int = 36) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    noise = np.random.default_rng(seed).integers(0, 120, (count, 24, 24, 3), dtype=np.uint8)
    return noise + (100 * labels[:, None, None, None]).astype("u1"), labels


def target_of(kind: str) -> tuple[Any, dict[str, Any]]:
    """A target and the options that make it one."""
    pictures, labels = images(0)
    if kind == "images":
        return (pictures, labels), {}
    if kind == "unlabeled":
        return images(1)[0], {"source_domain": (pictures, labels)}
    rows = np.random.default_rng(0).standard_normal((60, 5)) + np.arange(60)[:, None] % 2
    return (rows, rows[:, 0].copy() if kind == "values" else np.arange(60) % 2), {}


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Which options are read, but for what reads all of them: the record, and the check for options that do nothing."""
    read: set[str] = set()
    silent = [0]
    with monkeypatch.context() as patch:
        for config in (ScanConfig, ConfirmConfig):
            plain = config.__getattribute__

            def look(self: Any, name: str, plain: Any = plain, fields: Any = frozenset(config.model_fields)) -> Any:
                if name in fields and not silent[0]:
                    read.add(name)
                return plain(self, name)

            patch.setattr(config, "__getattribute__", look)
            for whole in ("record", "given", "training_record", "model_copy"):
                made = getattr(config, whole, None)
                if made is None:
                    continue

                def quiet(self: Any, *args: Any, made: Any = made, **options: Any) -> Any:
                    silent[0] += 1
                    try:
                        return made(self, *args, **options)
                    finally:
                        silent[0] -= 1

                patch.setattr(config, whole, quiet)
        yield read


@pytest.mark.parametrize("confirm", [False, True], ids=["ranked", "confirmed"])
@pytest.mark.parametrize("kind", ["images", "unlabeled", "features", "values"])
def test_an_option_is_read_or_refused(kind, confirm, tmp_path, monkeypatch):
    target, extra = target_of(kind)
    networks = kind in ("images", "unlabeled")
    asked: dict[str, Any] = {"confirm": confirm, "store": tmp_path / "s", "out": tmp_path / "run", **extra}
    if networks:
        asked |= {"zoo": own_zoo(), "precision": "float32"}
    quick = {"max_steps": 2} if confirm else {}
    config = ScanConfig.of(**asked, **quick, history=False, progress=False)
    with recorded(monkeypatch) as read:
        scan.rank(target, config)
    idle = set(ScanConfig.model_fields) - set(DataOptions.model_fields) - read - set(ELSEWHERE)
    untold = []
    for name in sorted(idle):
        with pytest.raises(OptionError) as refused:  # noqa: PT012
            scan.rank(target, ScanConfig.of(**{**asked, **quick, name: GIVEN[name]}, progress=False))
            untold.append(name)
        if name not in refused.value.names:
            untold.append(name)
    assert not untold


@pytest.mark.parametrize("name", ["augment", "balance", "label_smoothing", "averaging"])
def test_options_of_gradient_steps_do_nothing_for_frozen_models(name, tmp_path):
    asked = {"zoo": own_zoo(), "confirm": True, "store": tmp_path / "s", "out": tmp_path, "strategies": "frozen"}
    with pytest.raises(OptionError, match="has no effect with strategies='frozen'") as refused:
        selector.rank(images(0), **asked, **{name: GIVEN[name]})
    assert refused.value.names == (name, "strategies")


def test_training_options_change_the_training_and_are_recorded(tmp_path):
    pictures, labels = images(0, 60)
    kept = np.flatnonzero((labels == 0) | (np.arange(60) % 10 == 1))
    asked = {"zoo": own_zoo(), "confirm": True, "store": tmp_path / "s", "strategies": "full", "max_steps": 2}
    found = {}
    changed = {"augment": "strong", "balance": "sampling", "label_smoothing": 0.1, "averaging": "ema"}
    for name, options in {"default": {}, "changed": changed}.items():
        asked |= {"out": tmp_path / name, "history": False, **options}
        found[name] = selector.rank((pictures[kept], labels[kept]), **asked)
    assert any("the loss is weighted by class" in note for note in found["default"].warnings)
    assert any("items are drawn by class" in note for note in found["changed"].warnings)
    assert found["changed"].settings["confirm"].items() >= changed.items()
    losses = [ranking["a"].measurements[-1].val["log_loss"] for ranking in found.values()]
    assert losses[0] != losses[1]


DATA: dict[str, Any] = {
    "image_column": "a", "image_root": ".", "text_column": "a", "label_column": "a", "mask_column": "a", "box_column": "a",
    "box_format": "xyxy", "class_names": ["a", "b"], "ignore_index": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DATA))
@pytest.mark.parametrize("kind", ["images", "features"])
def test_what_names_columns_of_no_table_is_refused(kind, name):
    target, _ = target_of(kind)
    with pytest.raises(OptionError, match=f"^{name} has no effect on") as refused:
        selector.load_target(target, **{name: DATA[name]})
    assert refused.value.names == (name,)
    loaded = selector.load_target(target)
    with pytest.raises(OptionError, match=f"^{name} has no effect on .* loaded already"):
        selector.load_target(loaded, **{name: DATA[name]})


def test_columns_of_texts_that_name_masks_or_boxes_are_refused(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,label\n" + "".join(f"words {i},{'ab'[i % 2]}\n" for i in range(40)))
    assert selector.load_target(table, text_column="text", label_column="label").class_names == ("a", "b")
    for name in ("image_root", "mask_column", "box_column", "box_format", "class_names", "ignore_index"):
        with pytest.raises(OptionError, match=f"^{name} has no effect on"):
            selector.load_target(table, **{name: DATA[name]})


def test_an_engine_does_nothing_for_an_adaptation(tmp_path):
    target, extra = target_of("unlabeled")
    asked = {"zoo": own_zoo(), "store": tmp_path / "s", "out": tmp_path / "run", "history": False}
    ranking = selector.rank(target, **asked, **extra)
    with pytest.raises(OptionError, match="engine='processes' has no effect"):
        selector.confirm(ranking, engine="processes", store=tmp_path / "s")
