"""The ``elmo:`` source on random weights in the published format, against a numpy computation from the files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import selector
from selector.core.contracts import Words
from selector.core.errors import SelectorError, SourceError, WeightsMissing
from selector.deploy import export_onnx
from selector.modalities.text import TextTokenizer
from selector.sources import registry
from selector.tasks._learner import HeadLearner
from selector.tuning import strategies
from selector.tuning.strategies._parts import parts_of
from selector.zoo import ModelSpec, load_zoo
from tests.sources.samples import check_rows, head_of
from tests.support.elmo_files import OPTIONS, Reference, elmo_folder, options
from tests.support.hub import Asker, Hub
from tests.support.text_models import load_text, per_layer, tokens

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "choose-models.md"
PUBLISHED = "elmo_2x4096_512_2048cnn_2xhighway_"

SENTENCES = [
    Words(("The", "U.S.", "team", "didn't", "win", ",", "though", "!")),
    Words(("Grüße", "aus", "Köln", "日本", "🌧")),
    Words(("a",)),
    Words(("x" * 200, "in", "x" * 48, "and", "x" * 47)),  # a word has 48 bytes at most
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return elmo_folder(tmp_path_factory.mktemp("models") / "elmo")


def load(folder: Path, **more: Any) -> Any:
    return load_text(folder, "elmo", **more)


def of_words(folder: Path, **more: Any) -> Any:
    return load(folder, text={"words": True}, **more)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "tanh", "n_characters": 261, "n_highway": 1, "n_layers": 1},
        {"cell_clip": None, "proj_clip": None, "n_layers": 3},
        {"use_skip_connections": False, "max_characters_per_token": 9},
        {"filters": [[1, 3], [4, 5]], "n_highway": 0},  # as wide as the projection: the file has none
    ],
    ids=str,
)
def test_every_layer_is_what_the_files_say(tmp_path: Path, changes: dict[str, Any]) -> None:
    told = options(**changes)
    for key in [key for key, value in changes.items() if value is None]:
        del told["lstm"][key]
    folder = elmo_folder(tmp_path / "m", told)
    encoder, reference = of_words(folder), Reference(folder)
    encoder.module.double()  # what is compared is the computation, not its rounding
    layers = per_layer(encoder, tokens(encoder, SENTENCES))
    assert len(layers) == told["lstm"]["n_layers"] + 1
    expected = [np.concatenate(rows) for rows in zip(*map(reference.layers, SENTENCES), strict=True)]
    for mine, states in zip(layers, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), states, rtol=1e-6, atol=1e-7)
    assert all(reference.clipped[key] > 10 for key in ("cell_clip", "proj_clip") if key in told["lstm"])
    with torch.no_grad():
        np.testing.assert_allclose(
            encoder.encode(tokens(encoder, SENTENCES)).numpy(), np.mean(expected, axis=0), rtol=1e-4, atol=2e-6
        )
    count = sum(weights.size for weights in reference.weights.values())
    assert (encoder.num_features, encoder.num_parameters) == (16, count)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last", "weighted"])
def test_a_text_is_pooled_over_its_words(folder: Path, pooling: str) -> None:
    encoder, reference = load(folder, pooling=pooling), Reference(folder)
    texts = ["The sun shines.", "It didn't rain in the well-known U.S. for 1,000.5 days... it's true"]
    cut = [
        ["The", "sun", "shines", "."],
        ["It", "did", "n't", "rain", "in", "the", "well-known", "U.S.", "for", "1,000.5", "days", "...", "it", "'s", "true"],
    ]  # fmt: skip
    with torch.no_grad():
        found = encoder.encode(tokens(encoder, texts)).numpy()
    for row, words in zip(found, cut, strict=True):
        places = np.arange(1, len(words) + 1)
        ways = {
            "mean": lambda rows: rows.mean(0),
            "max": lambda rows: rows.max(0),
            "cls": lambda rows: rows[0],
            "last": lambda rows: rows[-1],
            "weighted": lambda rows, w=places: (rows * w[:, None]).sum(0) / w.sum(),
        }
        expected = np.mean([ways[pooling](layer) for layer in reference.layers(words)], axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=2e-6)


def test_tokens_are_bytes_that_say_where_words_begin(folder: Path) -> None:
    encoder = load(folder)
    blanks = {*range(9, 14), 0x20, 0x85, 0xA0}  # of Unicode, which Python adds four separators to
    letters = [chr(code) for code in [*range(1, 256), 0x20AC, 0x1F327] if code not in blanks]
    (found,) = TextTokenizer(encoder.preprocess)([" ".join(letters) + "".join(map(chr, blanks))])
    (ids,) = found.ids
    assert bytes(i % 256 for i in ids.tolist()) == "".join(letters).encode()
    assert int((ids < 256).sum()) == len(letters)
    (word,) = TextTokenizer(of_words(folder).preprocess)([Words(("Köln", "a"))])
    assert word.ids[0].tolist() == [ord("K"), 256 + 0xC3, 256 + 0xB6, 256 + ord("l"), 256 + ord("n"), ord("a")]
    assert word.words[0].tolist() == [0, 0, 0, 0, 0, 1]


def test_features_do_not_depend_on_the_batch(folder: Path) -> None:
    encoder = load(folder)
    texts = ["one", "A text that is longer, and has some words that others have: one, two.", "two one", "Ü"]
    batch = tokens(encoder, texts)
    together = check_rows(encoder, batch, [tokens(encoder, [text]) for text in texts])
    again = check_rows(encoder, batch, [batch[i : i + 1] for i in range(4)])
    assert torch.equal(again, together)  # nothing is carried on from call to call


def test_a_pair_is_read_as_one_text(folder: Path) -> None:
    encoder = load(folder)
    with torch.no_grad():
        pair = encoder.encode(tokens(encoder, [("the sun", "and rain")]))
        whole = encoder.encode(tokens(encoder, ["the sun and rain"]))
    torch.testing.assert_close(pair, whole)


def test_a_prefix_is_read_before_the_words(folder: Path) -> None:
    for prefix, first in (("go ", ["go", "sun"]), ("go", ["gosun"])):
        encoder = load(folder, text={"words": True, "prompt": prefix})
        with torch.no_grad():
            found = encoder.encode(tokens(encoder, [Words(("sun", "rain"))])).numpy()
        expected = np.mean(Reference(folder).layers([*first, "rain"]), axis=0)
        np.testing.assert_allclose(found, expected[-2:], rtol=1e-4, atol=2e-6)


def test_windows_keep_every_word_and_cut_none(folder: Path) -> None:
    encoder = load(folder, text={"words": True, "max_length": 800})
    rng = np.random.default_rng(0)
    words = Words(tuple("".join(rng.choice(list("abcdeü"), rng.integers(1, 30))) for _ in range(200)))
    batch = tokens(encoder, [words, SENTENCES[0]])
    assert batch.windows
    with torch.no_grad():
        found = encoder.encode(batch)
        layer = per_layer(encoder, batch)[0].numpy()
    assert found.shape == (208, 16)
    expected = Reference(folder).layers(words)[0]  # of the characters: it needs each word whole, whatever the window
    np.testing.assert_allclose(layer[:200], expected, rtol=1e-4, atol=2e-6)
    for encoder in (load(folder, text={"max_length": 800, "long_texts": "window"}), load(folder)):
        batch = tokens(encoder, [words.text, "a"])
        assert batch.windows == (encoder.preprocess.long_texts == "window")
        with torch.no_grad():
            assert encoder.encode(batch).shape == (2, 16)


def test_many_windows_are_read_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folder, text={"max_length": 800, "long_texts": "window"})
    batch = tokens(encoder, ["the sun and the rain " * 200, "one"])
    with torch.no_grad():
        whole = encoder.encode(batch)
        monkeypatch.setattr(encoder.module, "at_once", (1600, 1600))
        torch.testing.assert_close(encoder.encode(batch), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["mean", "last", "1", "2"])
@pytest.mark.parametrize("words", [False, True])
def test_a_head_is_linear_on_the_features_and_a_recipe_builds_it_again(folder: Path, layer: str, words: bool) -> None:
    encoder = load(folder, layer=layer, **({"text": {"words": True}} if words else {}))
    batch = tokens(encoder, SENTENCES if words else ["the sun", "rain"])
    headed = head_of(encoder, batch)
    assert len(encoder.blocks) == {"mean": 3, "last": 3, "1": 1, "2": 2}[layer]
    headed(batch).sum().backward()
    assert headed.backbone.characters.embedding.weight.grad.abs().sum() > 0
    extra = sum(p.numel() for p in headed.get_classifier().parameters()) + (4 if layer == "mean" else 0)
    assert encoder.num_parameters == sum(p.numel() for p in headed.parameters()) - extra
    with pytest.raises(SourceError, match="a text model has no image size"):
        encoder.with_head(5, (32, 32))


def test_the_mix_of_layers_is_learned(folder: Path) -> None:
    encoder = of_words(folder)
    batch = tokens(encoder, SENTENCES)
    headed = encoder.with_head(2)
    layers = per_layer(encoder, batch)
    with torch.no_grad():
        headed.mix.weights.copy_(torch.tensor([0.0, 2.0, -1.0]))
        headed.mix.scale.fill_(3.0)
        shares = np.exp([0.0, 2.0, -1.0]) / np.exp([0.0, 2.0, -1.0]).sum()
        mixed = 3 * sum(float(share) * layer for share, layer in zip(shares, layers, strict=True))
        torch.testing.assert_close(headed(batch), headed.get_classifier()(mixed), rtol=1e-4, atol=1e-5)
    headed(batch).square().sum().backward()
    assert headed.mix.weights.grad.abs().min() > 0
    assert headed.mix.scale.grad.abs() > 0


@pytest.mark.parametrize(("strategy", "free"), [("full", "characters"), ("partial", "layers.1"), ("lora", "lora_")])
def test_strategies_train_it(folder: Path, strategy: str, free: str) -> None:
    if strategy == "lora":
        pytest.importorskip("peft")
    encoder = load(folder)
    batch = tokens(encoder, ["the sun", "rain falls on the city"])
    chosen: Any = strategies.registry.get(strategy)
    headed = encoder.with_head(2)
    with torch.no_grad():
        before = headed(batch)
        module = chosen.wrap(HeadLearner(headed, torch.nn.functional.cross_entropy))
        torch.testing.assert_close(module.network(batch), before)
    names = [
        name for group in chosen.groups(parts_of(module, encoder.blocks), layer_decay=True) for name in group.names
    ]
    assert any(free in name for name in names)
    moved = dict(module.named_parameters())
    for name, parameter in moved.items():
        parameter.requires_grad_(name in names)
    if strategy == "partial":
        assert not any("characters" in name or "layers.0" in name for name in names)
        assert {"network.mix.weights", "network.mix.scale"} <= set(names)
    torch.nn.functional.cross_entropy(module.network(batch), torch.tensor([0, 1])).backward()
    with torch.no_grad():
        for name in names:
            moved[name].sub_(0.5 * moved[name].grad)
    trained = module.network(batch).detach()
    assert (trained - before).abs().max() > 1e-4
    torch.testing.assert_close(chosen.unwrap(module).network(batch).detach(), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", [False, True])
def test_it_runs_and_trains_in_half_precision(folder: Path, words: bool) -> None:
    encoder = of_words(folder) if words else load(folder)
    batch = tokens(encoder, SENTENCES if words else ["the sun", "rain falls on the city"])
    headed = encoder.with_head(2)
    with torch.no_grad():
        logits, features = headed(batch), encoder.encode(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = headed(batch)
        mixed.square().sum().backward()
    torch.testing.assert_close(mixed.float(), logits, rtol=0.1, atol=0.05)
    assert all(bool(torch.isfinite(p.grad).all()) for p in headed.parameters())
    encoder.module.bfloat16()
    with torch.no_grad():
        rows = encoder.encode(batch).float()
    assert float(torch.nn.functional.cosine_similarity(rows, features).min()) > 0.99


def test_a_reading_is_what_loading_there_gives(folder: Path) -> None:
    encoder = load(folder)
    batch = tokens(encoder, ["the sun", "rain falls"])
    for place in ({"layer": "2"}, {"layer": "last", "pooling": "max"}, {"pooling": "cls"}):
        spec = ModelSpec.model_validate({"source": f"elmo:{folder}", **place})
        read, loaded = encoder.variant(spec), load(folder, **place)
        assert read.identity == loaded.identity != encoder.identity
        assert (read.blocks, read.num_parameters) == (loaded.blocks, loaded.num_parameters)
        with torch.no_grad():
            torch.testing.assert_close(encoder.encode_variants(batch, [read])[0], loaded.encode(batch))
    assert registry.get("elmo").layers(spec) == ["1", "2", "3"]  # type: ignore[attr-defined]


def test_the_identity_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    def identity(folder: Path, **more: Any) -> dict[str, Any]:
        return registry.get("elmo").identify(ModelSpec.model_validate({"source": f"elmo:{folder}", **more}))

    told = identity(folder)
    assert identity(elmo_folder(tmp_path / "copy", prefix=PUBLISHED)) == told
    beside = {"file": f"{PUBLISHED}weights.hdf5", "base": str(tmp_path / "copy")}
    assert {k: v for k, v in identity(folder, weights=beside).items() if k != "mapping"} == told
    assert identity(elmo_folder(tmp_path / "other", options(cell_clip=1.0))) != told
    assert identity(folder, weights="none") == {**told, "weights": "random:0"}
    first, second = (load(folder, weights="none") for _ in range(2))
    batch = tokens(first, ["the sun"])
    with torch.no_grad():
        torch.testing.assert_close(first.encode(batch), second.encode(batch))
        assert not torch.allclose(first.encode(batch), load(folder).encode(batch))


def test_costs_and_batches_count_words(folder: Path) -> None:
    from selector import modalities
    from selector.modalities.text import text_hash
    from selector.modalities.tokens.table import open_tokens

    encoder = load(folder)
    assert modalities.of(encoder).standard(encoder.preprocess).ids.shape == (1, 512)
    texts = ["the sun and the rain, one and all"] * 400
    table, _ = open_tokens(texts, [text_hash(t) for t in texts], [str(i) for i in range(400)], encoder.preprocess)
    length = int(table.lengths[0])
    assert len(table.cut(np.arange(400), 1000)[0]) == 4 * 2048 // length
    again = type(encoder.preprocess).from_dict(encoder.preprocess.to_dict(), encoder.preprocess.tokenizer)
    assert again.tokens_per_word == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["lstm"].update(cell_clp=3), "unknown option 'lstm.cell_clp'; did you mean 'cell_clip'? Known in lstm: cell_clip, dim, n_layers, proj_clip, projection_dim, use_skip_connections."),
        (lambda o: o.update(vocab=3), "unknown option 'vocab'. Known: char_cnn, lstm."),
        (lambda o: o["char_cnn"]["embedding"].update(kind="x"), "unknown option 'char_cnn.embedding.kind'. Known in char_cnn.embedding: dim."),
        (lambda o: o["lstm"].pop("dim"), "option 'lstm.dim' is missing."),
        (lambda o: o.pop("char_cnn"), "option 'char_cnn' is missing."),
        (lambda o: o["char_cnn"].update(activation="gelu"), "option 'char_cnn.activation' is 'gelu': input should be 'relu' or 'tanh'."),
        (lambda o: o["char_cnn"].update(n_characters=300), "option 'char_cnn.n_characters' is 300: input should be 261 or 262."),
        (lambda o: o["lstm"].update(n_layers=65), "option 'lstm.n_layers' is 65: input should be less than or equal to 64."),
        (lambda o: o["char_cnn"].update(filters=[[60, 4]]), "char_cnn.filters are up to 60 characters wide, but a word has at most 50 (char_cnn.max_characters_per_token)."),
        (lambda o: o.update(bidirectional=False), "bidirectional is False; only models that read both ways are read."),
    ],
)  # fmt: skip
def test_options_that_are_wrong_are_named(tmp_path: Path, change: Any, message: str) -> None:
    told = options()
    change(told)
    elmo_folder(tmp_path)
    (tmp_path / "options.json").write_text(json.dumps(told))
    with pytest.raises(SourceError) as refused:
        load(tmp_path, name="elmo")
    assert str(refused.value).replace("; Did", "; did") in (
        f"elmo: {tmp_path / 'options.json'}: {message}",
        f"elmo: {tmp_path / 'options.json'}: {message}".replace("; did", ". Did"),
    )


def test_options_of_the_training_decide_nothing(folder: Path, tmp_path: Path) -> None:
    training = {"batch_size": 128, "dropout": 0.1, "n_tokens_vocab": 793471, "unroll_steps": 20, "bidirectional": True}
    elmo_folder(tmp_path)
    (tmp_path / "options.json").write_text(json.dumps({**OPTIONS, **training}))
    encoder = load(tmp_path)
    batch = tokens(encoder, ["the sun"])
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), load(folder).encode(batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CNN_high_1/W_carry": np.zeros((28, 27), np.float32)}, r"^elmo: \S*weights.hdf5: dataset 'CNN_high_1/W_carry' is float32 of shape \(28, 27\); "
         r"options.json says floats of shape \(28, 28\). Do the two files belong together\?$"),
        ({"char_embed": np.zeros((261, 5), np.int64)}, r"dataset 'char_embed' is int64 of shape \(261, 5\)"),
        ({"RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B": None}, "has no dataset 'RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B'; expected the layout"),
        ({"CNN_proj/b_proj": np.full(8, np.nan, np.float32)}, "features of a test text are not finite"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(elmo_folder(tmp_path / "a", **changes), name="elmo")


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = elmo_folder(tmp_path / "a")
    whole = (folder / "weights.hdf5").read_bytes()
    for content, told in ((b"no weights", "it is damaged or no HDF5 file: OSError"), (whole[: len(whole) // 2], "damaged or no HDF5 file")):  # fmt: skip
        (folder / "weights.hdf5").write_bytes(content)
        with pytest.raises(SourceError, match=rf"weights.hdf5 cannot be read, .*{told}"):
            load(folder)


def test_a_file_of_weights_leads_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 8))
    elmo_folder(tmp_path / "other")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((8,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other" / "weights.hdf5"), "CNN_proj/b_proj", (8,))
        file.create_virtual_dataset("CNN_proj/b_proj", layout)

    def external(file: h5py.File) -> None:
        file.create_dataset("CNN_proj/b_proj", (8,), np.float32, external=[(str(secret), 0, 32)])

    def linked(file: h5py.File) -> None:
        file["CNN_proj/b_proj"] = h5py.ExternalLink(str(tmp_path / "other" / "weights.hdf5"), "CNN_proj/b_proj")

    def soft(file: h5py.File) -> None:
        file["CNN_proj/b_proj"] = h5py.SoftLink("/CNN_proj/W_proj")

    for lead in (virtual, external, linked, soft):
        folder = elmo_folder(tmp_path / lead.__name__)
        with h5py.File(folder / "weights.hdf5", "a") as file:
            del file["CNN_proj/b_proj"]
            lead(file)
        with pytest.raises(SourceError, match=r"'CNN_proj/b_proj' (is a link to elsewhere|lies in other files)"):
            load(folder)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsMissing, match=r"there is no folder .*nowhere; give one with options.json and weights.hdf5"
    ):
        load(tmp_path / "nowhere")
    with pytest.raises(WeightsMissing, match=r"has no weights.hdf5; expected the published files of an ELMo"):
        load(tmp_path)
    folder = elmo_folder(tmp_path / "m")
    (folder / "options.json").unlink()
    with pytest.raises(WeightsMissing, match=r"folder .*m has no options.json"):
        load(folder)
    with pytest.raises(WeightsMissing, match=r"weights.hdf5 needs its options.json beside it"):
        load(folder, weights={"file": "weights.hdf5", "base": str(folder)})
    assert registry.get("elmo").layers(ModelSpec(source=f"elmo:{folder}")) == []  # type: ignore[attr-defined]
    (folder / "options.json").write_text("{")
    with pytest.raises(SourceError, match=r"options.json cannot be read: JSONDecodeError"):
        load(folder)
    (folder / "options.json").write_text("[]")
    with pytest.raises(SourceError, match="expected a mapping with 'lstm' and 'char_cnn', found list"):
        load(folder)
    for prefix in ("a_", "b_"):
        elmo_folder(tmp_path / "two", prefix=prefix)
    with pytest.raises(SourceError, match=r"has several files \*.hdf5 \(a_weights.hdf5, b_weights.hdf5\)"):
        load(tmp_path / "two")
    weights = {"file": "b_weights.hdf5", "base": str(tmp_path / "two")}
    assert load(tmp_path / "two", weights=weights).num_features == 16
    with pytest.raises(WeightsMissing, match="hub repository some/elmo are not on this machine and fetching is off"):
        registry.get("elmo").load(ModelSpec(source="elmo:some/elmo"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kwargs": {"n_layers": 1}}, r"kwargs.n_layers is not read; the network is what options.json says"),
        ({"text": {"tokenizer": {"file": "tokenizer.json"}}}, r"ELMo reads characters and has no tokenizer"),
        ({"layer": "4"}, r"no layer '4'; expected 'mean', 'last' or a number in 1..3"),
        ({"pooling": "avg"}, "pooling 'avg' is for images"),
        ({"text": {"words": True}, "pooling": "cls"}, "pooling 'cls' is over whole texts; words take first or mean"),
        ({"text": {"words": True, "max_length": 799}}, r"text.max_length 799 counts bytes .* give 800 or more"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(folder, **settings)


def test_without_h5py_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SourceError, match=r"weights.hdf5 needs h5py .*; run: pip install 'zoo-selector\[elmo\]'"):
        load(folder)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo that the page shows, its folder filled with random weights."""
    root = tmp_path_factory.mktemp("zoo")
    match = re.search(
        r"<!-- not run: the published files are not in a pip package -->\n```yaml\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert match is not None
    (root / "zoo.yaml").write_text(match[1])
    elmo_folder(root / "elmo_2x4096_512_2048cnn_2xhighway", prefix=PUBLISHED)
    return root / "zoo.yaml"


def test_the_zoo_entry_of_the_page_is_read(zoo: Path) -> None:
    specs = {spec.name: spec for spec in load_zoo(zoo).models}
    assert {spec.reads for spec in specs.values()} == {"text"}
    assert registry.get("elmo").load(specs["elmo"]).num_features == 16
    assert registry.get("elmo").load(specs["elmo-top"]).identity["layer"] == "last"


def test_a_text_target_is_ranked_confirmed_saved_and_predicted(zoo: Path, tmp_path: Path) -> None:
    texts = [f"{('sun', 'rain')[i % 2]} and {i}" for i in range(60)]
    labels = ["sr"[i % 2] for i in range(60)]
    ranking = selector.rank(
        (texts, labels), zoo=zoo, models="elmo", store=tmp_path / "s", out=tmp_path / "r", history=False, confirm=True,
        strategies=("frozen", "full"), top_k=1, max_steps=8, layers="own,1,3",
    )  # fmt: skip
    assert {model.name for model in ranking if model.status == "ok"} == {"elmo", "elmo@1", "elmo@3"}
    assert all(model.cost.flops > 0 for model in ranking if model.status == "ok")  # type: ignore[union-attr]
    measured = [m for model in ranking for m in model.measurements if m.status == "ok"]
    assert {m.strategy for m in measured} == {"frozen", "full"}
    saved = selector.load_model(tmp_path / "r")
    assert saved.predict(["sun and 3", "rain and 7"]).labels == ["s", "r"]
    with pytest.raises(SelectorError, match=r"cannot be exported to ONNX: ELMo's LSTMs clip their cells"):
        export_onnx(tmp_path / "r" / "best", tmp_path / "model.onnx")


def test_tagged_words_are_ranked_confirmed_saved_and_predicted(zoo: Path, tmp_path: Path) -> None:
    words = [[("Sonne", "Köln")[i % 2], "and", str(i)] for i in range(60)]
    tags = [[("B-A", "B-B")[i % 2], "O", "O"] for i in range(60)]
    ranking = selector.rank(
        (words, tags), zoo=zoo, store=tmp_path / "s", out=tmp_path / "r", confirm=True, top_k=1, max_steps=8, history=False
    )  # fmt: skip
    assert {model.name for model in ranking if model.status == "ok"} == {"elmo", "elmo-top"}
    best = next(model for model in ranking if model.best_measurement() is not None)
    assert best.best_measurement().test["entity_f1"] > 0.9  # type: ignore[union-attr]
    (said,) = selector.load_model(tmp_path / "r").predict(["Köln and Sonne"])
    assert said.labels == ("B-B", "O", "B-A")


def test_a_saved_model_needs_no_h5py(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = json.loads(json.dumps(load(folder).recipe(3)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert registry.get("elmo").build(recipe).get_classifier().out_features == 3  # type: ignore[operator]


def test_the_hub_holds_the_published_files(hub: Asker) -> None:
    elmo_folder(Hub.root / "some" / "elmo", prefix=PUBLISHED)
    code = (
        "from selector.sources import registry\n"
        "from selector.zoo import ModelSpec\n"
        "spec = ModelSpec(source='elmo:some/elmo')\n"
        "source = registry.get('elmo')\n"
        "told = source.identify(spec)\n"
        "print(source.load(spec).num_features, told == source.identify(spec), told['weights'][:4])"
    )
    for environment in (hub.environment, {**hub.environment, "HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
        )
        assert done.stdout == "16 True hub:\n"
    assert any(line.startswith("GET") and line.endswith(f"{PUBLISHED}weights.hdf5") for line in Hub.log)
