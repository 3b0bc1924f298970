"""Lines of Python that use a saved model without this package, for its card: from its folder, or from its ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from selector.core.contracts import Preprocess, TextPreprocess
from selector.deploy.hub import library_of

if TYPE_CHECKING:
    from selector.tuning import Trained

_SESSION = (
    "import json\n"
    "import numpy as np\n"
    "import onnxruntime\n"
    "{imports}"
    "session = onnxruntime.InferenceSession('model.onnx')  # selector export RUN --onnx model.onnx\n"
    "facts = session.get_modelmeta().custom_metadata_map\n"
    "names = json.loads(facts['class_names'])\n"
)


def snippet(trained: Trained, *, program: bool) -> str:
    """Python lines that make ``model`` in the current folder with timm, torch or onnxruntime alone."""
    recipe = trained.recipe
    if library_of(trained.source, recipe) == "timm":
        return "import timm\nmodel = timm.create_model('local-dir:.', pretrained=True).eval()"
    if program:
        return "import torch\nmodel = torch.export.load('model.pt2').module()"
    if trained.source == "elmo" or recipe.get("reads") == "text":
        return (
            "# No public library builds this network (ELMo, or code of your own that reads texts), and few of its kind can be\n"
            "# exported: LSTMs run over any number of words. So these lines need zoo-selector; trust=True lets your code run.\n"
            "import selector\nmodel = selector.load_model('.', trust=True).predict  # texts -> labels, probabilities"
        )
    if recipe.get("head") == "maps" and trained.task == "segmentation":
        return _masks(cast(Preprocess, trained.preprocess))
    return _BY_MODALITY[trained.preprocess.modality](trained.preprocess)


def _rows(_: object) -> str:
    return _SESSION.format(imports="") + "model = lambda rows: session.run(None, {'features': rows})"


def _tensors(preprocess: Preprocess) -> str:
    size = ", ".join(map(str, preprocess.input_size))
    return _SESSION.format(imports="") + (
        f"def model(images):  # float32 (B, {size}), prepared as in the table above\n"
        "    return session.run(None, {'images': np.asarray(images)})  # what the outputs are: see below"
    )


def _masks(preprocess: Preprocess) -> str:
    _, height, width = preprocess.input_size
    return _SESSION.format(imports="from PIL import Image\n") + (
        "values = np.array(json.loads(facts['class_values']))  # what each class is written as in a mask\n"
        "def model(picture):  # a Pillow image -> its mask (H, W)\n"
        f"    small = picture.convert('RGB').resize(({width}, {height}), Image.{preprocess.interpolation.upper()})\n"
        f"    pixels = (np.asarray(small, np.float32) / 255 - {list(preprocess.mean)}) / {list(preprocess.std)}\n"
        "    given = pixels.transpose(2, 0, 1)[None].astype(np.float32)\n"
        "    logits = session.run(['logits'], {'images': given})[0][0]\n"
        "    whole = [np.asarray(Image.fromarray(one).resize(picture.size, Image.BILINEAR)) for one in logits]\n"
        "    return values[np.argmax(whole, axis=0)]"
    )


def _texts(preprocess: TextPreprocess) -> str:
    texts = f"[{preprocess.prefix!r} + text for text in texts]" if preprocess.prefix else "texts"
    kinds = ", 'token_type_ids': [row.type_ids for row in rows]" if preprocess.token_types else ""
    return _SESSION.format(imports="from tokenizers import Tokenizer\n") + (
        "tokenizer = Tokenizer.from_file('tokenizer.json')\n"
        f"tokenizer.enable_truncation({preprocess.max_length}, direction={preprocess.truncation_side!r})\n"
        f"tokenizer.enable_padding(pad_id={preprocess.pad_id})\n"
        "def model(texts):\n"
        f"    rows = tokenizer.encode_batch({texts})\n"
        "    given = {'input_ids': [row.ids for row in rows], 'attention_mask': [row.attention_mask for row in rows]"
        f"{kinds}}}\n"
        "    return session.run(None, {name: np.array(one, np.int64) for name, one in given.items()})"
    )


_BY_MODALITY: dict[str, Callable[[Any], str]] = {"image": _tensors, "text": _texts, "rows": _rows}
