"""Few labels where they tell candidates apart: the choice of items, the table and page, answers read back."""

import csv
import json

import numpy as np
import pytest

import selector
from selector.core.errors import ConfigError, OptionError
from selector.core.units import inert
from selector.tuning.labeling import LEFT_FROM, Labeling
from tests.scan.test_adapting import CLASSES, pictures, run, zoo  # noqa: F401  a fixture


def candidates(seed=0, count=600, accuracies=(0.9, 0.8, 0.78, 0.7, 0.6)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, count)
    found = []
    for accuracy in accuracies:
        said = np.where(rng.random(count) < accuracy, truth, (truth + rng.integers(1, 4, count)) % 4)
        found.append(0.1 + 0.6 * np.eye(4)[said])
    return np.array(found), truth


def plain(count):
    """Merits that tell nothing."""
    return np.zeros(count)


def regret(labeling, right):
    return right.max() - right[labeling.standing().leader]


def test_asked_items_find_the_best_candidate_with_fewer_labels_than_random_ones():
    asked, drawn = [], []
    for seed in range(6):
        probabilities, truth = candidates(seed)
        order = np.random.default_rng(seed).permutation(5)  # the best is not the first
        probabilities = probabilities[order]
        right = (probabilities.argmax(axis=2) == truth).mean(axis=1)
        active, random = (Labeling(probabilities, plain(5)) for _ in range(2))
        for item in np.random.default_rng(100 + seed).permutation(600)[:25]:
            (chosen,) = active.batch(1)
            active.label(chosen, int(truth[chosen]))
            random.label(int(item), int(truth[item]))
        asked.append(regret(active, right))
        drawn.append(regret(random, right))
    assert np.mean(asked) <= 0.02
    assert np.mean(asked) <= np.mean(drawn)


def test_the_standing_is_that_of_every_candidate_taken_for_the_truth_in_turn():
    probabilities = np.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.3, 0.7], [0.6, 0.4], [0.1, 0.9]]])
    labeling = Labeling(probabilities, np.array([1.0, 1.0]))
    labeling.label(0, 0)
    foreseen = [(0.85 * p + 0.075) ** 0.5 for p in (0.9, 0.3)]
    belief = np.array(foreseen) / sum(foreseen)
    # the label counts as it is (the first is right, the second wrong), the other items as the one believed says
    first, second = (np.array([1 + 0.6 + 0.8, 0.6 + 0.8]) / 3, np.array([1 + 0.6 + 0.9, 0.6 + 0.9]) / 3)
    standing = labeling.standing()
    assert standing.accuracy == pytest.approx(belief[0] * first + belief[1] * second)
    assert (standing.p_best.tolist(), standing.regret) == ([1, 0], pytest.approx(0))


def test_merits_are_believed_until_labels_tell_better():
    probabilities, truth = candidates(accuracies=(0.9, 0.6, 0.6, 0.6, 0.6))
    merits = np.array([0.0, 1.0, 0.9, 0.8, 0.7])
    labeling = Labeling(probabilities, merits)
    before = labeling.standing().p_best[0]
    assert before < 0.2
    for _ in range(25):
        (item,) = labeling.batch(1)
        labeling.label(item, int(truth[item]))
    after = labeling.standing()
    assert after.leader == 0
    assert after.p_best[0] > before
    assert after.p_best.sum() == pytest.approx(1)


def test_with_every_label_known_accuracies_are_exact():
    probabilities, truth = candidates(count=40)
    labeling = Labeling(probabilities, plain(5))
    for item in labeling.batch(40):
        labeling.label(item, int(truth[item]))
    right = (probabilities.argmax(axis=2) == truth).mean(axis=1)
    assert labeling.standing().accuracy == pytest.approx(right)
    assert labeling.standing().regret == pytest.approx(0)


def test_the_same_items_are_asked_for_again_until_there_are_answers():
    probabilities, truth = candidates()
    labeling, other = Labeling(probabilities, plain(5)), Labeling(probabilities, plain(5))
    assert labeling.batch(8) == other.batch(8)
    first = labeling.batch(8)[0]
    labeling.label(first, int(truth[first]))
    assert first not in labeling.batch(599)


def test_items_on_which_all_agree_are_not_asked_for():
    probabilities, _ = candidates(accuracies=(1.0, 1.0))
    probabilities[1, 17] = probabilities[1, 17][[1, 2, 3, 0]]  # the only difference
    assert Labeling(probabilities, plain(2)).batch(1) == [17]


def test_a_batch_holds_different_items_and_changes_nothing():
    probabilities, _ = candidates()
    labeling = Labeling(probabilities, plain(5))
    before = labeling.standing().accuracy.copy()
    assert len(set(labeling.batch(10))) == 10
    assert not labeling.labels
    assert (labeling.standing().accuracy == before).all()
    small = Labeling(probabilities[:, :3], plain(5))
    assert sorted(small.batch(10)) == [0, 1, 2]
    for item in range(3):
        small.label(item, 0)
    assert small.batch(1) == []


def test_no_more_than_half_are_believed_alike_before_a_label_came():
    """What the validators say counts with few candidates too; with eight and more it is four that lead."""
    for count, leading in ((2, 1), (3, 1), (4, 2), (8, 4), (32, 4)):
        merits = np.random.default_rng(count).permutation(count).astype(float)
        belief = Labeling(np.full((count, 5, 2), 0.5), merits)._belief()
        assert (belief == belief.max()).nonzero()[0].tolist() == (merits >= count - leading).nonzero()[0].tolist()


def test_what_was_chosen_without_a_label_leads_until_another_is_surely_better():
    probabilities, truth = candidates(accuracies=(0.9, 0.7, 0.6, 0.5, 0.4))
    merits = np.array([1.0, 0.9, 0.8, 0.7, 0.6])
    labeling = Labeling(probabilities, merits, first=3)
    before = labeling.standing()
    assert before.leader == 3
    assert before.regret == pytest.approx(
        float(Labeling(probabilities, merits, first=3)._belief() @ (labeling._right / 600).max(axis=1))
        - before.accuracy[3]
    )
    keys = [("m", str(k)) for k in range(5)]
    assert before.rows(keys)[0][1] == "3"
    belief = labeling._belief()
    assert belief[3] == belief[0] == belief[1] > belief[2]
    changed = None
    for item in range(40):
        labeling.label(item, int(truth[item]))
        standing = labeling.standing()
        best = int(standing.accuracy.argmax())
        assert standing.leader == (best if standing.p_best[best] >= LEFT_FROM else 3)
        assert standing.regret == pytest.approx(
            float(labeling._belief() @ (labeling._right / 600).max(axis=1)) - standing.accuracy[standing.leader]
        )
        changed = item if changed is None and standing.leader != 3 else changed
    assert changed > 0  # one label is not enough
    assert (labeling.standing().leader, labeling.standing().rows(keys)[0][1]) == (0, "0")


def test_copies_of_an_item_are_asked_for_once_and_share_the_label():
    probabilities, _ = candidates(count=12)
    twice = np.concatenate([probabilities, probabilities[:, :6]], axis=1)
    contents = [str(i) for i in (*range(12), *range(6))]
    labeling = Labeling(twice, plain(5), contents=contents)
    asked = labeling.batch(18)
    assert sorted(int(contents[i]) for i in asked) == list(range(12))
    disputed = next(i for i in range(6) if len(set(labeling.predicted[:, i])) > 1)
    label = int(labeling.predicted[0, disputed])
    alone, once = Labeling(probabilities, plain(5)), Labeling(twice, plain(5))
    for item in (disputed, 7, disputed + 12):  # a copy again says nothing
        labeling.label(item, label)
        assert sorted(labeling.labels) == sorted({disputed, disputed + 12} | ({7} if item != disputed else set()))
        once.label(item, label)
    alone.label(disputed, label)
    alone.label(7, label)
    assert labeling.answers == 2
    assert np.ptp(alone._belief()) > 0
    assert labeling._belief() == pytest.approx(alone._belief())
    assert labeling._right == pytest.approx(once._right)  # both copies count as right or wrong
    assert not {contents[i] for i in labeling.batch(18)} & {str(disputed), "7"}


def answered(asked, labels, path):
    """The table of an ``Asked`` filled in with the true classes."""
    with asked.table.open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["item", "label", "id"])
        writer.writeheader()
        writer.writerows({**row, "label": CLASSES[labels[int(row["item"].split()[-1])]]} for row in rows)
    return path


def test_networks_are_not_trained_again_for_answers_and_the_report_is_renewed(zoo, tmp_path):  # noqa: F811
    images, labels = pictures(45, 7, low=60, high=255)
    ranking = run(zoo, tmp_path, images, strategies="dann", max_steps=3, top_k=1)
    before = {m.strategy: m for m in ranking.best.measurements}
    answers = answered(selector.label(ranking, count=6), labels, tmp_path / "answers.csv")
    selector.label(ranking, count=2, answers=answers)
    after = {m.strategy: m for m in selector.load_ranking(tmp_path / "run").best.measurements}
    assert after["dann"].steps == before["dann"].steps == 3
    assert dict(after["dann"].val) == dict(before["dann"].val)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "6 labels of the target " in page
    assert "combined is the expected accuracy with the labels" in page


def test_a_run_is_labeled_and_chosen_again(zoo, tmp_path):  # noqa: F811
    images, labels = pictures(60, 7, low=60, high=255)
    ranking = run(zoo, tmp_path, images)
    asked = selector.label(ranking, count=8)
    assert len(asked.items) == 8
    voted = ranking.confirmation["adaptation"]["selected"]
    assert list(asked.standing[0][:2]) == voted
    page = asked.page.read_text()
    assert page.count("data:image/jpeg") == 8
    assert "script-src &#39;sha256-" in page
    answers = answered(asked, labels, tmp_path / "answers.csv")
    with answers.open() as file:
        assert [row["item"] for row in csv.DictReader(file)] == list(asked.items)
    again = selector.label(ranking, count=5, answers=answers)
    assert not set(again.items) & set(asked.items)
    after = selector.load_ranking(tmp_path / "run")
    found = after.confirmation["adaptation"]
    assert (found["labeled"]["labels"], found["labeled"]["voted"]) == (8, voted)
    leader = found["labeled"]["standing"][0]
    assert found["selected"] == [leader["model"], leader["strategy"]]
    rows = found["labeled"]["standing"]
    surer = max(rows, key=lambda row: row["accuracy"])
    stays = leader != surer
    assert not stays or surer["p_best"] < LEFT_FROM
    told = "are too few to leave what was chosen without them" if stays else "decide"
    assert any(f"8 labels of the target {told}: {' '.join(found['selected'])} " in text for text in after.warnings)
    saved = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert (saved["name"], saved["strategy"]) == (leader["model"], leader["strategy"])
    assert selector.label(tmp_path / "run", count=2, target=ranking.loaded_target).items == again.items[:2]


@pytest.fixture(scope="module")
def solved(zoo, tmp_path_factory):  # noqa: F811
    """A run of heads alone, on images of which six occur twice."""
    images, _ = pictures(30, 7, low=60, high=255)
    return run(
        zoo, tmp_path_factory.mktemp("solved"), np.concatenate([images, images[:6]]), strategies="coral", top_k=1
    )


def test_a_content_is_asked_for_once_under_a_name_of_it(solved):
    asked = selector.label(solved, count=36)
    assert sorted(int(name.split()[-1]) for name in asked.items) == list(range(30))
    with asked.table.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == 30
    target = solved.loaded_target
    assert all(target.hashes[target.names.index(row["item"], 90)] == row["id"] for row in rows)  # behind the source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,label\na,plain\n", "expected the columns item, label, id"),
        ("item,label,id\nrow 1,plane,{id}\n", "label must be one of across, down, plain; did you mean 'plain'"),
        ("item,label,id\nrow 1,plain,abc\n", "answers.csv:2: 'row 1' is no item of this run's target"),
        ("item,label,id\nrow 1,,{id}\n", "holds no label; fill in the column 'label'"),
        (
            "item,label,id\nrow 1,plain,{id}\n\nrow 1,plain,{id}\nrow 9,down,{id}\n",
            "answers.csv:5: 'row 9' is 'down', and 'plain' in line 2 .both have the id .*expected one label for it. Remove",
        ),
    ],
)
def test_answers_that_cannot_be_read(solved, tmp_path, text, message):
    known = np.load(solved.path / "target_predictions.npz")["hashes"][0]
    (tmp_path / "answers.csv").write_text(text.format(id=known))
    with pytest.raises(OptionError, match=message):
        selector.label(solved, answers=tmp_path / "answers.csv")


def test_a_run_without_adaptation_has_nothing_to_label(zoo, tmp_path):  # noqa: F811
    images, _ = pictures(30, 7, low=60, high=255)
    ranking = run(zoo, tmp_path, images, confirm=False)
    with pytest.raises(ConfigError, match="has adapted nothing to a target without labels; scan with --source-domain"):
        selector.label(ranking)


@pytest.mark.parametrize("name", ["=1+1", "+a", "-1", "@a", "\ta", "\ra", "a"])
def test_cells_are_no_formulas_and_labels_are_read_back(tmp_path, name):
    from selector.scan.adapting import _answers

    cell = inert(name)
    assert cell[0] not in "=+-@\t\r"
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item", "label", "id"], [cell, inert(name.strip()), "x"]])
    assert _answers(tmp_path / "answers.csv", {"x"}, ["b", name.strip()]) == {"x": 1}
