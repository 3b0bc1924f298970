"""A target without labels, from the call to the page with its candidates."""

import json

import numpy as np
from PIL import Image

import selector
from selector.scan.adapting import PREDICTIONS
from tests.scan.test_adapting import CLASSES, Tiny, pictures
from tests.support.commands import fails, ok


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
    zoo = {"mine": selector.Model(Tiny(0).eval(), transform={"input_size": (3, 24, 24)})}
    ranking = selector.rank(
        "new_photos", source_domain="labeled_photos", zoo=zoo, confirm=True, out="runs/python", top_k=1, history=False
    )
    assert 0 < ranking.best.scores["target-accuracy"].details["thresholded_confidence"] <= 1
    assert ranking.confirmation["adaptation"]["selected"][0] == "mine"
    found = selector.load_model("runs/python").predict("new_photos")
    assert (len(found), set(found.labels) <= set(CLASSES)) == (24, True)
    check_what_label_says_of_the_choice(tmp_path / "runs" / "python")


def check_what_label_says_of_the_choice(run):
    """The one that was handed over is the first row, with a word where others are expected to be more accurate."""

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
        assert (f"mine {strategy} {told}" in " ".join(ok("label", run, "--count", 3).output.split())) == (
            again[strategy] < max(again.values())
        )
    assert again[strategy] < max(again.values())  # the sentence was seen


def test_the_commands_exist_and_say_what_is_wrong(tmp_path, monkeypatch):
    folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    ok("scan", "new_photos/", "--source-domain", "labeled_photos/", "--dry-run", "--json", "--offline")
    same = fails(2, "scan", "labeled_photos", "--source-domain", "labeled_photos", "--dry-run")
    assert "the target is the source" in same
    lone = fails(2, "scan", "labeled_photos", "--num-target-labels", "3", "--dry-run")
    assert "--num-target-labels is how many labels of the target are learned from" in lone
