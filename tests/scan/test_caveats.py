"""What a table warns of: every caveat with its code and numbers, and none where nothing is wrong."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import selector
from selector.core.contracts import LabelKind
from selector.ranking.agreement import Calibration, CalibrationSet
from selector.ranking.combination import Transferability
from selector.ranking.prior import PriorScore
from selector.report.html import write_report
from selector.report.ranking import load_ranking
from selector.results import Measurement
from selector.scan import caveats
from selector.scan.caveats import majority
from selector.scan.data_quality import SIDE, near_duplicates
from tests.conftest import draw, image_folder
from tests.scan.test_scan import FAST

BASE = Transferability(0.5, 0.4, 0.6, 0.2, 0.5, False, 0.5)


def pool(*columns, known=None, **changes):
    """Models whose members have these normalized scores; their value is the mean."""
    rows = np.array(columns, dtype=float).T
    found = {}
    for i, row in enumerate(rows):
        members = {f"p{j}": float(v) for j, v in enumerate(row)}
        prior = None if known is None else PriorScore(known[i], "facts", 0, 0.25)
        value = float(row.mean())
        found[f"m{i}"] = replace(BASE, value=value, normalized_score=value, members=members, known=prior, **changes)
    return found


def test_no_signal_looks_at_the_normalized_score_not_at_the_prior():
    hopeless = {"m": replace(BASE, normalized_score=0.01, value=0.4)}
    assert caveats.no_signal(hopeless).code == "no-signal"
    assert caveats.no_signal({"m": replace(BASE, normalized_score=0.2, value=-0.1)}) is None


def test_the_number_of_images_that_would_settle_it_grows_with_the_square():
    tied = {
        "first": replace(BASE, value=0.60, tied=True),
        "second": replace(BASE, value=0.58, tied=True, half_to_first=0.06),
        "third": replace(BASE, value=0.2, tied=False, half_to_first=0.06),
    }
    found = caveats.too_small(tied, 500)
    assert found.numbers["items_needed"] == 500 * 9
    assert found.text == (
        "2 models are not significantly different (90%) on these 500 items: first, second. "
        "About 4,500 items would settle which of the first two has the higher transferability."
    )
    equal = {**tied, "second": replace(tied["second"], value=0.5999)}
    assert "Even 100 times as many would not separate" in caveats.too_small(equal, 500).text
    assert caveats.too_small(equal, 500).numbers["items_needed"] is None
    assert caveats.too_small({k: replace(e, tied=k == "first") for k, e in tied.items()}, 500) is None
    without = {k: replace(e, half_to_first=0.0) for k, e in tied.items()}
    assert "About" not in caveats.too_small(without, 500).text
    assert "About" not in caveats.too_small(tied, 500, settles=False).text


def test_classes_of_few_items_are_named() -> None:
    labels = ["rust"] * 40 + ["mold"] * 9 + ["crack"] * 4
    target = selector.load_target((np.random.default_rng(0).normal(size=(53, 3)), labels))
    found = caveats.rare_classes(target)
    assert found.numbers == {"few": {"crack": 4, "mold": 9}, "absent": {}}
    assert found.text.startswith("2 classes have fewer than 10 rows: crack (4), mold (9)")
    assert caveats.rare_classes(selector.load_target((np.eye(40), ["a", "b"] * 20))) is None
    values = selector.load_target((np.eye(40), np.linspace(0, 1, 40)))
    assert caveats.rare_classes(values) is None


def test_labels_that_a_split_lacks_are_named() -> None:
    sides = np.random.default_rng(0).integers(0, 2, (60, 3))
    sides[:, 2] = 0
    sides[:10, 2] = 1
    splits = {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}
    rows = np.random.default_rng(1).normal(size=(60, 4))
    target = selector.load_target({split: (rows[part], sides[part]) for split, part in splits.items()})
    found = caveats.rare_classes(target)
    assert found.numbers == {"few": {}, "absent": {"2": ["val", "test"]}}
    assert found.text == "1 class has no row in a split and is not evaluated there: 2 (val, test)."


def test_proxies_that_order_the_models_differently_are_named():
    up, noise = np.arange(8) / 10, np.array([3, 0, 7, 1, 6, 2, 5, 4]) / 10
    assert caveats.proxies_disagree(pool(up, up + 0.1)) is None
    found = caveats.proxies_disagree(pool(up, noise))
    from scipy.stats import spearmanr

    assert found.numbers["mean_spearman"] == pytest.approx(spearmanr(up, noise).statistic)
    assert found.numbers["first"] == {"p0": "m7", "p1": "m2"}
    assert "first by p0 m7, p1 m2" in found.text
    assert caveats.proxies_disagree(pool(up[:4], noise[:4])) is None  # four models are in any order by chance
    leaders = caveats.proxies_disagree(pool([0, 1, 2, 3, 4, 9, 8, 7, 6, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert "the 5 leading models" in leaders.text
    assert leaders.numbers["mean_spearman"] > 0.6


def test_a_static_order_that_agrees_is_told():
    up = np.arange(6) / 10
    found = caveats.static_explains(pool(up, known=up))
    assert (found.code, found.numbers["weighted_tau"]) == ("explained-by-prior", pytest.approx(1))
    assert caveats.static_explains(pool(up, known=up[::-1])) is None
    assert caveats.static_explains(pool(up)) is None
    assert caveats.static_explains(pool(up, known=np.zeros(6))) is None


@pytest.fixture
def calibrated(monkeypatch):
    sets = {"a": CalibrationSet(800, 2, 20, 0.6, 0.3), "b": CalibrationSet(1000, 10, 20, 0.9, 0.5)}
    made = Calibration(3, 0.15, sets)
    monkeypatch.setattr(caveats, "calibration", lambda: made)


def target(classes=5, **changes):
    base = {"modality": "image", "label_kind": LabelKind.CLASSES, "class_names": ["c"] * classes}
    return SimpleNamespace(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "rows", "normalized_score", "text"),
    [
        ({}, 900, 0.7, None),
        ({"classes": 20}, 900, 0.7, None),
        ({"classes": 21}, 900, 0.7, "21 classes (calibrated: 2 to 10)"),
        ({}, 4001, 0.7, "4001 items (calibrated: 800 to 1000)"),
        ({}, 199, 0.7, "199 items (calibrated: 800 to 1000)"),
        ({}, 900, 0.55, "a best normalized score of 0.55 (calibrated: 0.60 and more)"),
        ({"label_kind": LabelKind.REAL}, 900, 0.7, "images with real labels"),
        ({"modality": "text"}, 900, 0.7, "On texts it was tested with six small encoders only"),
    ],
)
def test_a_target_unlike_the_calibration_is_named(calibrated, changes, rows, normalized_score, text):
    found = caveats.unlike_calibration({"m": replace(BASE, normalized_score=normalized_score)}, target(**changes), rows)
    assert (found is None) == (text is None)
    assert text is None or (text in found.text and found.numbers["calibration"] == 3)


def thumb(image):
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def saved(image, quality=75):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def test_near_duplicates_across_splits_are_found_and_other_pictures_are_not():
    pictures = [draw(label, seed, size=128) for label in range(3) for seed in range(20)]
    copies = [
        saved(pictures[3]),
        pictures[25].resize((96, 96)),
        ImageEnhance.Brightness(pictures[41]).enhance(0.85),
        ImageEnhance.Contrast(pictures[7]).enhance(0.85),
    ]
    thumbs = np.stack([thumb(p) for p in (*pictures, *copies, saved(pictures[50]))])
    splits = np.array(["train"] * 60 + ["val", "test", "test", "val", "train"])
    pairs, checked = near_duplicates(thumbs, splits, [str(i) for i in range(65)])
    assert {(p.held_out, p.other) for p in pairs} == {(60, 3), (61, 25), (62, 41), (63, 7)}  # 64 is in train as well
    assert checked == 4
    same_content = [str(i) for i in range(60)] + ["3", "61", "62", "63", "64"]
    assert len(near_duplicates(thumbs, splits, same_content)[0]) == 3


def test_blank_pictures_are_not_duplicates():
    blank = np.full((4, SIDE, SIDE), 255, np.uint8)
    splits = np.array(["train", "train", "val", "test"])
    assert near_duplicates(blank, splits, list("abcd")) == ([], 0)


def test_a_scan_lists_pictures_that_leak_and_remembers_them(tmp_path):
    root = tmp_path / "photos"
    for split in ("train", "val", "test"):
        image_folder(root / split, per_class=8 if split == "train" else 3)
    for split, shift in (("val", 40), ("test", 80)):  # other images than those of train
        for label, name in enumerate(("across", "leaning", "upright")):
            for i in range(3):
                draw(label, shift + i, size=96).save(root / split / name / f"{i:03d}.png")
    source = draw(0, 500, size=96)
    source.save(root / "train" / "across" / "first.png")
    saved(source, 90).save(root / "test" / "across" / "again.png")
    ranking = selector.rank(root, **FAST, store=tmp_path / "store", out=tmp_path / "run")
    (leak,) = [c for c in ranking.caveats if c.code == "near-duplicates"]
    assert leak.numbers["pairs"] == 1
    (listed,) = leak.numbers["listed"]
    assert (listed["held_out"], listed["like"]) == ("test/across/again.png", "train/across/first.png")
    assert leak.text in ranking.warnings
    assert f"Note: {leak.text}" in str(ranking).replace("\n", " ")
    assert load_ranking(tmp_path / "run").caveats == ranking.caveats
    warm = selector.rank(root, **FAST, store=tmp_path / "store")  # decodes nothing
    assert [c for c in warm.caveats if c.code == "near-duplicates"] == [leak]
    apart = selector.rank(root, **{**FAST, "isolate": "on"}, store=tmp_path / "other")  # a child decodes
    assert [c for c in apart.caveats if c.code == "near-duplicates"] == [leak]


def target_of(counts: dict[str, dict[str, int]], **changes):
    """Labels only: how many of each class, by split."""
    names = sorted({name for classes in counts.values() for name in classes})
    rows = [
        (split, names.index(name)) for split, classes in counts.items() for name, n in classes.items() for _ in range(n)
    ]
    splits, labels = np.array([split for split, _ in rows]), np.array([label for _, label in rows])
    return SimpleNamespace(
        labels=labels,
        item_classes=labels,
        class_names=names,
        label_kind=LabelKind.CLASSES,
        row_starts=None,
        indices=lambda *wanted: np.flatnonzero(np.isin(splits, wanted)),
        **changes,
    )


def test_a_model_that_may_be_no_better_than_one_answer_is_told():
    uneven = target_of({"train": {"ham": 190, "spam": 10}, "val": {"ham": 58, "spam": 2}})
    val = {"accuracy": 58 / 60, "balanced_accuracy": 0.5, "macro_f1": 0.4915}
    found = majority("m", Measurement("full", "accuracy", val), uneven)
    assert found.code == "no-better-than-majority"
    assert found.text == (
        "m (full) is not significantly better than always predicting ham, the most frequent class of train: that is right "
        "for 96.7% of the 60 val items, and the model has accuracy 0.967, balanced_accuracy 0.500, macro_f1 0.491. Select by "
        "another metric (--metric balanced_accuracy, macro_f1), or label more items of the other classes."
    )
    assert found.numbers == {**val, "split": "val", "items": 60, "class": "ham", "share": 58 / 60}
    assert majority("m", Measurement("full", "macro_f1", val), uneven) is None  # it does not decide by accuracy
    tagged = target_of({"train": {"O": 9}, "val": {"O": 9}})
    tagged.item_classes = None  # words have labels
    assert majority("m", Measurement("full", "accuracy", {"accuracy": 1.0}), tagged) is None


def test_as_many_right_answers_as_chance_gives_do_not_count_as_better():
    even = target_of({"train": {"a": 50, "b": 50}, "val": {"a": 50, "b": 50}, "test": {"a": 50, "b": 50}})

    def told(accuracy, **changes):
        return majority("m", Measurement("frozen", "accuracy", {"accuracy": accuracy}, **changes), even)

    assert told(0.5)
    assert told(0.58).numbers == {"split": "val", "items": 100, "class": "a", "share": 0.5, "accuracy": 0.58}  # p 0.067
    assert told(0.59) is None  # p 0.044
    assert told(0.59, test={"accuracy": 0.5}).numbers["split"] == "test"
    # the most frequent class is train's: what the split itself has most of is not known when one answers
    other = target_of({"train": {"a": 60, "b": 40}, "val": {"a": 2, "b": 98}})
    assert majority("m", Measurement("frozen", "accuracy", {"accuracy": 0.5}), other) is None


@pytest.mark.timeout(300)
def test_the_majority_is_told_by_table_and_report_once(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    labels = ["rare" if i % 10 == 0 else "often" for i in range(60)]
    given = {"store": tmp_path / "store", "out": tmp_path / "run", "history": False, "top_k": 1, "max_steps": 2}
    target = selector.load_target((list(pictures), labels))
    ranking = selector.rank(target, **FAST, confirm=True, strategies=("frozen",), **given)
    (caveat,) = [c for c in ranking.caveats if c.code == "no-better-than-majority"]
    assert ranking.caveats[0] == caveat
    assert caveat.numbers["class"] == "often"
    assert caveat.text in " ".join(str(ranking).split())
    given["top_k"] = 2
    again = selector.confirm(ranking, strategies=("frozen",), target=target, **given)
    kept = load_ranking(tmp_path / "run")
    assert sum(c.code == "no-better-than-majority" for c in kept.caveats) == 1
    assert sum("most frequent class of train" in w for w in again.warnings) == 1
    assert "most frequent class of train" in write_report(kept).read_text()
    by_f1 = selector.confirm(ranking, strategies=("frozen",), metric="macro_f1", target=target, **given)
    assert not any("most frequent class of train" in w for w in by_f1.warnings)
