"""A target without labels, from the call to the page with its candidates."""

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.scan.adapting import PREDICTIONS
from tests.scan.test_adapting import CLASSES, Tiny, pictures


def folders(root):
    for part, count, seed in (("labeled_photos", 60, 0), ("new_photos", 24, 5)):
        images, labels = pictures(count, seed)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / part / (CLASSES[label] if part == "labeled_photos" else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")


def test_the_examples(tmp_path, monkeypatch):
    folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = {
        "zoo": {"mine": selector.Model(Tiny(0).eval(), transform={"input_size": (3, 24, 24)}), "other": Tiny(1).eval()}
    }
    found["zoo"].pop("other")
    ranking = selector.rank(
        "new_photos",
        source_domain="labeled_photos",
        zoo=found["zoo"],
        confirm=True,
        out="runs/python",
        top_k=1,
        history=False,
    )
    found["details"] = ranking.best.scores["target-accuracy"].details
    found["model"], _ = ranking.confirmation["adaptation"]["selected"]
    found["predictions"] = selector.load_model("runs/python").predict("new_photos")
    assert 0 < found["details"]["thresholded_confidence"] <= 1
    assert (found["model"], len(found["predictions"])) == ("mine", 24)
    assert {p.label for p in found["predictions"]} <= set(CLASSES)
    check_what_label_says_of_the_choice(tmp_path / "runs" / "python")


def check_what_label_says_of_the_choice(run):
    """The one that was handed over is the first row, with a word where others are expected to be more accurate."""

    def label():
        asked = CliRunner().invoke(app, ["label", str(run), "--count", "3"], env={"COLUMNS": "160"})
        assert asked.exit_code == 0, asked.output
        return asked.output

    told = "was selected without labels and stays first until another model is the best with a probability of 0.75"
    with np.load(run / PREDICTIONS) as kept:
        arrays = dict(kept)
    shape = arrays["probabilities"].shape
    arrays["probabilities"] = np.random.default_rng(0).dirichlet(np.ones(shape[2]), shape[:2])  # that differ
    np.savez(run / PREDICTIONS, **arrays)
    path = run / "run.json"
    document = json.loads(path.read_text())
    standing = {row[1]: row[2] for row in selector.label(run, count=3).standing}
    for strategy in (max(standing, key=standing.get), min(standing, key=standing.get)):
        document["confirmation"]["adaptation"]["selected"] = ["mine", strategy]
        path.write_text(json.dumps(document))
        again = {row[1]: row[2] for row in selector.label(run, count=3).standing}
        assert next(iter(again)) == strategy
        assert (f"mine {strategy} {told}" in " ".join(label().split())) == (again[strategy] < max(again.values()))
    assert again[strategy] < max(again.values())  # the sentence was seen


def test_the_commands_exist_and_say_what_is_wrong(tmp_path, monkeypatch):
    folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    dry = CliRunner().invoke(
        app, ["scan", "new_photos/", "--source-domain", "labeled_photos/", "--dry-run", "--json", "--offline"]
    )
    assert dry.exit_code == 0, dry.output
    same = CliRunner().invoke(app, ["scan", "labeled_photos", "--source-domain", "labeled_photos", "--dry-run"])
    assert same.exit_code == 2
    assert "the target is the source" in same.output
    lone = CliRunner().invoke(app, ["scan", "labeled_photos", "--num-target-labels", "3", "--dry-run"])
    assert lone.exit_code == 2
    assert "--num-target-labels is how many labels of the target are learned from" in lone.output
