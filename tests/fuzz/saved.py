"""Saved models of every task, whose configuration or files beside it are changed; and what ``selector label`` reads."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selector import sources, tasks
from selector.data import load_target
from selector.deploy import load_model, save_model
from selector.scan.adapting import LABELS, PREDICTIONS, _labeling, read_labels, take, write_predictions
from selector.scan.many import listed
from selector.tuning import Trained
from selector.tuning.adapt import AdaptationResult
from selector.zoo import ModelSpec
from tests.data import test_boxes as boxes
from tests.data import test_masks as masks
from tests.fuzz.mutations import byte_mutation, json_mutation, one_changed
from tests.report import samples
from tests.sources.samples import load, spec
from tests.support.text_models import text_model

Case = Callable[[random.Random], None]
NAMES = ("a", "b", "c")
SMALL = {"kwargs": {"img_size": 32}, "preprocess": {"input_size": [3, 32, 32]}}
PIXELS = np.zeros((40, 32, 3), np.uint8)
CONTEXTS: dict[str, dict[str, Any]] = {
    "multilabel": {"thresholds": [0.5, 0.4, 0.3]},
    "regression": {"scale": [1.0, 2.0, 3.0], "mean": [0.0, 1.0, 2.0], "interval": [0.1, 0.2, 0.3]},
    "adaptation": {"temperature": 1.5},
}


def of_images(folder: Path, task: str) -> Case:
    encoder = load(spec("timm:test_vit", **SMALL))
    trained = Trained(
        "m", "full", encoder.with_head(3), "timm", encoder.recipe(3), encoder.preprocess, NAMES, CONTEXTS[task], task
    )
    save_model(folder, trained, {"name": "x"}, [], {})
    return changed_config(folder, PIXELS)


def of_texts(folder: Path, task: str) -> Case:
    words = {"text": {"words": True}} if task == "tagging" else {}
    model = text_model(folder / "bert", "bert")
    named = ModelSpec.model_validate({"source": f"transformers:{model}", "name": "bert", **words})
    encoder: Any = sources.registry.get("transformers").load(named)
    recipe = encoder.recipe(3)
    made = Trained(
        "bert", "full", encoder.with_head(3), "transformers", recipe, encoder.preprocess, NAMES, {"temperature": 2.0}
    )
    saved = save_model(folder / "best", replace(made, task=task), {"name": "words"}, [], {})
    config = changed_config(saved, ["sun", "rain"] if task == "tagging" else "the sun")
    tokenizer = saved / "tokenizer.json"
    kept = tokenizer.read_bytes()

    def case(rng: random.Random) -> None:
        if rng.random() < 0.6:
            tokenizer.write_bytes(kept)
            config(rng)
            return
        changed = json.dumps(json_mutation(json.loads(kept), rng)[1]).encode("utf-8", "surrogatepass")
        tokenizer.write_bytes(changed if rng.random() < 0.5 else byte_mutation(kept, rng))
        load_model(saved).predict(["sun", "rain"] if task == "tagging" else "the sun")

    return case


def dense(folder: Path, task: str) -> Case:
    """A segmenter or a detector with a decoder that was never trained."""
    if task == "segmentation":
        (masks.pairs(folder / "data") / "classes.txt").write_text("sky\nroad\ncar\n")
        target = load_target(folder / "data")
        context: dict[str, Any] = {"values": [0, 1, 2]}
    else:
        boxes.pictures(folder / "data" / "images")
        (folder / "data" / "annotations.json").write_text(json.dumps(boxes.coco(range(boxes.COUNT))))
        target = load_target(folder / "data" / "annotations.json")
        context = {"min_score": 0.0}
    learned = tasks.task_of(target)
    encoder = learned.prepared(load(spec("timm:test_resnet", preprocess={"input_size": [3, 32, 32]})), target)
    torch.manual_seed(0)
    network = learned.learner(encoder, target).network.eval()
    recipe = learned.recipe(encoder, target)
    trained = Trained(
        "m",
        "frozen",
        network,
        str(recipe["source"]),
        recipe,
        encoder.preprocess,
        tuple(target.class_names),
        context,
        task,
    )
    save_model(folder / "best", trained, {"name": "x"}, [], {})
    return changed_config(folder / "best", PIXELS)


def changed_config(folder: Path, item: Any) -> Case:
    tree = json.loads((folder / "config.json").read_text())
    deciding = {
        name: tree[name] for name in ("recipe", "preprocess", "context", "class_names", "task", "source", "modality")
    }

    def case(rng: random.Random) -> None:
        some = deciding if rng.random() < 0.8 else tree  # facts for people decide nothing
        what, changed = json_mutation(some, rng)
        kept = {name: value for name, value in tree.items() if name not in some}
        (folder / "config.json").write_text(json.dumps({**kept, **changed}))
        found = load_model(folder).predict([item])
        for row in found.to_dicts():
            check_finite(row, what)
        str(found)

    return case


def weights(folder: Path) -> Case:
    """A saved model whose weights' bytes are changed."""
    of_images(folder, "multilabel")
    content = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")

    def case(rng: random.Random) -> None:
        changed = byte_mutation(content[:header], rng) + content[header:] if rng.random() < 0.7 else None
        (folder / "model.safetensors").write_bytes(changed or byte_mutation(content, rng))
        check_finite(load_model(folder).predict([PIXELS]).to_dicts(), "weights")

    return case


def rows(folder: Path) -> Case:
    """A head on ready features, and the arrays that it is to read."""
    from selector.core.preprocess import RowsPreprocess
    from selector.sources.features import ReadyEncoder

    encoder = ReadyEncoder(ModelSpec(source="features:clip"), 4)
    recipe = encoder.recipe(3)
    made = Trained(
        "m", "frozen", encoder.with_head(3), "features", recipe, RowsPreprocess(4, "clip"), NAMES, {"temperature": 1.0},
        "classification",
    )  # fmt: skip
    saved = save_model(folder / "best", made, {"name": "x"}, [], {})
    data = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.save(folder / "x.npy", data)
    np.savez(folder / "x.npz", clip=data)
    np.savez_compressed(folder / "y.npz", clip=data)
    kept = {name: (folder / name).read_bytes() for name in ("x.npy", "x.npz", "y.npz")}
    config = changed_config(saved, data)

    def case(rng: random.Random) -> None:
        if rng.random() < 0.4:
            config(rng)
            return
        name = rng.choice(list(kept))
        (folder / name).write_bytes(byte_mutation(kept[name], rng))
        (saved / "config.json").write_text(original)
        check_finite(load_model(saved).predict(folder / name).to_dicts(), name)

    original = (saved / "config.json").read_text()
    return case


def check_finite(value: Any, what: str) -> None:
    """Predictions are numbers, or say why there are none."""
    if isinstance(value, dict):
        for part in value.values():
            check_finite(part, what)
    elif isinstance(value, list | tuple):
        for part in value:
            check_finite(part, what)
    elif isinstance(value, float):
        assert np.isfinite(value), what


def answers(folder: Path) -> Case:
    """The table that a person filled in, labels that were taken before, and what candidates said."""
    hashes = [f"{i:032x}" for i in range(6)]
    said = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 6)).astype(np.float32)
    result = AdaptationResult(
        {}, None, None, (), {}, (("m", "source-only"), ("n", "coral")), said, np.array([0.1, 0.2])
    )
    write_predictions(folder / PREDICTIONS, result, hashes)
    ranking = samples.ranking()
    target = {**ranking.target, "class_names": list(NAMES)}
    ranking = replace(ranking, target=target, confirmation={"adaptation": {"notes": []}}, path=folder)
    table = "item,label,id\n" + "".join(f"{i}.png,{NAMES[i % 3]},{value}\n" for i, value in enumerate(hashes[:4]))
    labels = {value: i % 3 for i, value in enumerate(hashes)}
    kept = {
        "label.csv": table.encode(),
        LABELS: json.dumps(labels).encode(),
        PREDICTIONS: (folder / PREDICTIONS).read_bytes(),
    }

    def case(rng: random.Random) -> None:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        name = rng.choice(list(kept))
        if name == LABELS and rng.random() < 0.7:
            (folder / name).write_text(json.dumps(json_mutation(labels, rng)[1]))
        else:
            (folder / name).write_bytes(byte_mutation(kept[name], rng))
        take(ranking, folder / "label.csv")
        _, _, labeling = _labeling(folder, read_labels(folder))
        assert np.isfinite(labeling.standing().accuracy).all()
        labeling.batch(2)

    return case


def target_lists(folder: Path) -> Case:
    content = b"# targets\nphotos\nmore/photos.csv\nhttps://example.org/x\n"

    def case(rng: random.Random) -> None:
        (folder / "list.txt").write_bytes(byte_mutation(content, rng))
        found = listed(f"@{folder / 'list.txt'}", None)  # type: ignore[arg-type]  # no source domain
        assert found

    return case


def domains(folder: Path) -> Case:
    """A flat folder without labels beside a labeled one, of which one image is changed."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 12, 12, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        path = folder / ("new" if i % 2 else f"source/{'ab'[i % 4 // 2]}") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    files = {path: path.read_bytes() for path in (folder / "new" / "3.png", folder / "source" / "a" / "4.png")}

    def case(rng: random.Random) -> None:
        one_changed(files, rng)
        target = load_target(folder / "new", source_domain=folder / "source")
        assert len(target.indices("unlabeled")) == len(target) - 10

    return case
