"""Models and datasets of a hub: pushed, loaded, read, without a network and with a wrong token; the hub is a local server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard

import selector
from selector.core.errors import ConfigError, TargetError
from selector.deploy.hub import hub_repository
from selector.deploy.save import card_head
from tests.support.hub import COMMIT, serving

TINY = selector.Model("timm:test_resnet", name="tiny", weights="none")

CODE = """
import json, sys
import selector
from selector.core.errors import SelectorError

def target(address, **options):
    found = selector.load_target(address, **options)
    return [found.name, len(found), list(found.class_names), found.counts(), found.origin["path"], found.task]

def run(step):
    try:
        what, *given = step
        if what == "push":
            return selector.load_model(given[0]).push(given[1])
        if what == "predict":
            model = selector.load_model(given[0])
            return model.predict(given[1]).probabilities.tolist()
        if what == "again":
            from selector.data import load_origin
            return load_origin(selector.load_target(given[0], **given[1]).origin).counts()
        return target(given[0], **given[1])
    except SelectorError as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps([run(step) for step in json.loads(sys.argv[1])]))
"""


def ask(environment: dict[str, str], *steps: list[Any]) -> list[Any]:
    """What each step gives, in a process whose hub is another."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(steps)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub-run")
    selector.rank(
        photos, models=[TINY], confirm=True, strategies="frozen", proxies="knn", intervals=False, pilot_cost=0.0,
        measure_cost="never", store=root / "store", out=root / "run",
    )  # fmt: skip
    return root / "run"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    root = tmp_path_factory.mktemp("hub") / "hub"
    reviews = root / "datasets/org/reviews/data"
    reviews.mkdir(parents=True)
    for split, count in (("train", 60), ("test", 20)):
        rows = [
            {"sentence": f"{word} number {i}", "feeling": word, "other": i}
            for i in range(count // 2)
            for word in ("good", "bad")
        ]
        pd.DataFrame(rows).to_parquet(reviews / f"{split}-00000-of-00001.parquet")
    with serving(root) as environment:
        yield root, environment


def test_a_pushed_model_is_loaded_and_used_again_offline(run, hub, photos):
    root, environment = hub
    photo = str(photos / "upright" / "003.png")
    commit, from_hub, missing = ask(
        environment,
        ["push", str(run), "org/stripes"],
        ["predict", "hf:org/stripes", photo],
        ["predict", "hf:org/none", photo],
    )
    assert commit.endswith(f"/org/stripes/commit/{COMMIT}")
    assert {"config.json", "model.safetensors", "README.md"} <= {p.name for p in (root / "org/stripes").iterdir()}
    expected = selector.load_model(run).predict(photo).probabilities
    assert from_hub[0] == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert missing.startswith("WeightsMissing")
    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    cached, absent, refused = ask(
        offline,
        ["predict", "hf:org/stripes", photo],
        ["predict", "hf:org/none", photo],
        ["push", str(run), "org/stripes"],
    )
    assert cached == from_hub
    assert absent.startswith("WeightsMissing")
    assert refused.startswith("ConfigError")


def test_a_wrong_token_is_refused_with_what_to_do(run, hub):
    wrong = {**hub[1], "HF_TOKEN": "hf_wrong"}
    done = subprocess.run(
        [sys.executable, "-m", "selector", "push", str(run), "org/secret"], env=wrong, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (hub[0] / "org/secret").exists()


def test_datasets_of_the_hub_with_splits_and_columns(hub):
    columns = {"text_column": "sentence", "label_column": "feeling"}
    environment = hub[1]
    every, some, again, unknown, bad = ask(
        environment,
        ["target", "hf:org/reviews", columns],
        ["target", "hf:org/reviews", {**columns, "split": "train[:40]"}],
        ["again", "hf:org/reviews", {**columns, "split": ["train", "test"]}],
        ["target", "hf:org/reviews", {**columns, "split": "nowhere"}],
        ["target", "hf:org/none", columns],
    )
    assert (every[:3], every[3]["test"]) == (["reviews", 80, ["bad", "good"]], 20)
    assert every[4:] == ["hf:org/reviews", "classification"]
    assert some[1] == 40
    assert again["test"] == 20
    assert unknown.startswith("TargetError")
    assert bad.startswith("TargetError")
    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    cached, absent = ask(offline, ["target", "hf:org/reviews", columns], ["target", "hf:org/none", columns])
    assert cached == every
    assert absent.startswith("TargetError")


def test_options_of_the_hub_need_an_address(photos):
    with pytest.raises(ConfigError) as caught:
        selector.load_target(photos, split="train")
    assert "split" in getattr(caught.value, "names", ())
    with pytest.raises(TargetError):
        selector.load_target("hf:org/a/b/c")


def test_the_card_is_read_by_the_hubs_own_classes(run):
    card = ModelCard.load(run / "best" / "README.md").data
    assert card.library_name in ("timm", "pytorch")
    assert card.pipeline_tag == "image-classification"
    assert "accuracy" in card.metrics
    assert card.base_model is None  # random weights are of no repository
    result = next(one for one in card.eval_results if one.metric_type == "accuracy")
    measured = selector.load_ranking(run).best.measurements[0]
    assert result.metric_value == pytest.approx(measured.test["accuracy"], abs=1e-5)
    assert (result.dataset_name, result.dataset_split) == ("photos", "test")


@pytest.mark.parametrize(
    ("license", "expected"),
    [("MIT", ("mit", None)), ("Some Terms 1.0", ("other", "some-terms-1.0")), (None, (None, None))],
)
def test_heads_name_license_base_model_and_dataset(license, expected):
    target = {"name": "re: views\n---", "origin": {"path": "hf:org/reviews:plain@main"}}
    spec = {"source": "transformers:org/bert@v1", "license": license}
    text = card_head(
        name="a: 'b'\n", library="transformers", pipeline="text-classification", spec=spec,
        base_model=hub_repository(spec), target=target, chosen=None,
    )  # fmt: skip
    card = ModelCard(f"{text}\n# body\n").data
    assert (card.license, card.license_name) == expected
    assert (card.base_model, card.to_dict()["base_model_relation"]) == ("org/bert", "finetune")
    assert card.datasets == ["org/reviews"]


def test_weights_of_a_folder_are_of_no_repository(tmp_path):
    assert hub_repository({"source": f"transformers:{tmp_path}"}) is None
    assert hub_repository({"source": "timm:test_resnet", "weights": "none"}) is None
    assert hub_repository({"source": "timm:resnet18.a1_in1k"}) == "timm/resnet18.a1_in1k"
    assert hub_repository({"source": "torchvision:resnet18"}) is None
