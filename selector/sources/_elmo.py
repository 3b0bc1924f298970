"""The network of ELMo in torch, from the published files, and the tokenizer that spells its words.

Characters of a word (bytes of UTF-8) go through convolutions of several widths, highway layers and a
projection; words through layers of LSTMs in both directions whose cells and outputs are clipped.
Source: Peters et al., NAACL 2018, arXiv:1802.05365; Kim et al., AAAI 2016, arXiv:1508.06615.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from selector.core.errors import SourceError, first_line
from selector.modalities.text import Tokens
from selector.sources._elmo_options import ElmoOptions
from selector.sources._encoder import seeded
from selector.sources._text_module import TextModule
from selector.sources._text_path import LAST, MEAN, TextPath

BYTES = 256
BOS, EOS, BOW, EOW, PAD = range(BYTES, BYTES + 5)
"""Rows of the character table behind the bytes: begin and end of a sentence and of a word, filling up."""

SYMBOLS = BYTES + 5

NO_ONNX = (
    "ELMo's LSTMs clip their cells and run over any number of words, for which ONNX has no operator; use the saved "
    "model with 'selector predict' or selector.load_model"
)

_AT_ONCE = 512  # words spelled in one pass: the widest convolution alone has 1,024 values a character
_STEPS = 32  # words whose input products are made at once; those of a whole book would not fit


# ---------------------------------------------------------------------------- tokenizer

_PENN = (
    r"(?i)"
    r"\w+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b"  # do n't, it 's
    r"|(?:\p{L}\.){2,}"  # U.S.
    r"|\p{N}+(?:[.,:]\p{N}+)+"  # 1,000.5
    r"|\w+(?:-\w+)*"  # well-known
    r"|\.{2,}|[^\w\s]"
)
"""Words as in the Penn treebank, which is how the texts of the published models' pretraining were cut."""


def tokenizer_json(*, words: bool) -> str:
    """A tokenizer whose tokens are the bytes of words: 0..255 where a word begins, 256 more inside of it.

    So the rows of ids of any open vocabulary say where words begin, and the network puts them together
    again (``group``). Bytes beyond those that a word may have are left out by the network.

    Args:
        words: the words are given, apart by blanks; else texts are cut into words here.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    inside = "##"
    letters = _byte_letters()
    vocabulary = {letter: byte for byte, letter in enumerate(letters)}
    vocabulary |= {inside + letter: BYTES + byte for byte, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocabulary, [], continuing_subword_prefix=inside))
    cut = [] if words else [pre_tokenizers.Split(Regex(_PENN), "isolated")]
    steps = [pre_tokenizers.WhitespaceSplit(), *cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return str(made.to_str())


def _byte_letters() -> list[str]:
    """The character that stands for each byte in byte-level tokenizers: itself where it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in seen else next(hidden)) for byte in range(BYTES)]


def group(tokens: Tokens, longest: int) -> tuple[Tensor, Tokens]:
    """Rows of bytes as rows of words.

    Args:
        tokens: ids (R, T) of ``tokenizer_json``.
        longest: characters of a word at most, the two round it among them.
    Returns:
        Characters (N, longest) of the N words of all rows, row after row, and the batch with a place a
        word (R, W): mask, content, types, words and counts are those of the words, ids are not used.
    """
    mask = tokens.mask.bool()
    start = (tokens.ids < BYTES) & mask
    start[:, 0] = True  # a window may begin inside of a word
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    offset = place - torch.where(start, place, 0).cummax(1).values
    column = start.cumsum(1) - 1
    counts = start.sum(1)
    number = column + (counts.cumsum(0) - counts)[:, None]  # of the word among all
    total = int(counts.sum())

    kept = mask & (offset < longest - 2)
    characters = tokens.ids.new_full((total, longest), PAD)
    characters[:, 0] = BOW
    characters[number[kept], offset[kept] + 1] = tokens.ids[kept] % BYTES
    lengths = torch.bincount(number[kept], minlength=total)
    characters[torch.arange(total, device=mask.device), lengths + 1] = EOW

    row, first = start.nonzero(as_tuple=True)
    at = (row, column[row, first])
    shape = (len(mask), int(counts.max()))

    def placed(values: Tensor, fill: float) -> Tensor:
        return values.new_full(shape, fill).index_put(at, values)

    words = None
    if tokens.words is not None:
        # of all bytes of a word: a prefix without a blank behind it is one word with the first
        own = tokens.words.new_full((total,), -1).scatter_reduce(0, number[mask], tokens.words[mask], "amax")
        words = placed(own, -1)
    grouped = Tokens(
        placed(tokens.ids[row, first], 0),
        placed(torch.ones_like(first), 0),
        placed(tokens.content[row, first], False),
        placed(tokens.types[row, first], 0),
        tokens.owner,
        words,
        tokens.counts,
    )
    return characters, grouped


# ---------------------------------------------------------------------------- network


class Highway(nn.Module):
    """``g * relu(transform(x)) + (1 - g) * x`` with the gate ``g = sigmoid(carry(x))``, as bilm-tf names the two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform, self.carry = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, F) to (N, F)."""
        gate = self.carry(rows).sigmoid()
        return cast(Tensor, gate * self.transform(rows).relu() + (1 - gate) * rows)


class Characters(nn.Module):
    """From the characters of words (N, C) to rows (N, P)."""

    def __init__(self, options: ElmoOptions) -> None:
        super().__init__()
        cnn = options.char_cnn
        width = options.lstm.projection_dim
        self.embedding = nn.Embedding(SYMBOLS, cnn.embedding.dim)
        self.convolutions = nn.ModuleList(nn.Conv1d(cnn.embedding.dim, count, size) for size, count in cnn.filters)
        self.highways = nn.ModuleList(Highway(options.num_filters) for _ in range(cnn.n_highway))
        self.projection: nn.Module = (
            nn.Identity() if options.num_filters == width else nn.Linear(options.num_filters, width)
        )
        self.longest = cnn.max_characters_per_token
        self._widest = max(size for size, _ in cnn.filters)
        self._activation = {"relu": torch.relu, "tanh": torch.tanh}[cnn.activation]

    def forward(self, characters: Tensor) -> Tensor:
        """(N, P) in float32 or what the weights are in; a word that occurs several times is spelled once."""
        words, again = torch.unique(characters, dim=0, return_inverse=True)
        return torch.cat([self._spelled(part) for part in words.split(_AT_ONCE)])[again]

    def _spelled(self, words: Tensor) -> Tensor:
        # one window of nothing but filling up stands for all of them: the maximum is the same
        needed = int((words != PAD).sum(1).max()) + self._widest
        letters = self.embedding(words[:, :needed]).transpose(1, 2)
        rows = torch.cat([self._activation(convolve(letters).amax(2)) for convolve in self.convolutions], dim=1)
        for highway in self.highways:
            rows = highway(rows)
        return cast(Tensor, self.projection(rows))


class ClippedLstm(nn.Module):
    """An LSTM in one direction whose cells are clipped, with a clipped projection; gates are in torch's order.

    The state is zero at the begin of every row. (bilm-tf and AllenNLP carry it on from the batch before,
    so that there features depend on what was read earlier.)
    """

    def __init__(self, options: ElmoOptions) -> None:
        super().__init__()
        lstm = options.lstm
        self.input = nn.Linear(lstm.projection_dim, 4 * lstm.dim, bias=False)
        self.state = nn.Linear(lstm.projection_dim, 4 * lstm.dim)
        self.projection = nn.Linear(lstm.dim, lstm.projection_dim, bias=False)
        self._cells, self._width = lstm.dim, lstm.projection_dim
        self._cell_clip, self._clip = lstm.cell_clip, lstm.proj_clip

    def forward(self, rows: Tensor) -> Tensor:
        """(R, L, P) to (R, L, P), from the first place to the last."""
        output, cell = rows.new_zeros(len(rows), self._width), rows.new_zeros(len(rows), self._cells)
        found = []
        for part in rows.split(_STEPS, dim=1):  # type: ignore[no-untyped-call]
            for given in self.input(part).unbind(1):
                enter, forget, new, leave = (given + self.state(output)).chunk(4, dim=1)
                cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
                if self._cell_clip is not None:
                    cell = cell.clamp(-self._cell_clip, self._cell_clip)
                output = self.projection(leave.sigmoid() * cell.tanh())
                if self._clip is not None:
                    output = output.clamp(-self._clip, self._clip)
                found.append(output)
        return torch.stack(found, dim=1)


class BothWays(nn.Module):
    """One layer: an LSTM from left to right and another one from right to left."""

    def __init__(self, options: ElmoOptions) -> None:
        super().__init__()
        self.forwards, self.backwards = ClippedLstm(options), ClippedLstm(options)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Each (R, L, P); what comes in for the backward one is turned round already, and comes out so."""
        return self.forwards(left), self.backwards(right)


class BiLm(nn.Module):
    """The bidirectional language model without what predicted words.

    Args:
        options: of the model.
        depth: layers to build: 1 for the characters alone, then one a layer of LSTMs.
    """

    def __init__(self, options: ElmoOptions, depth: int) -> None:
        super().__init__()
        self.characters = Characters(options)
        self.layers = nn.ModuleList(BothWays(options) for _ in range(depth - 1))
        self._skip = options.lstm.use_skip_connections

    def forward(self, tokens: Tokens, depth: int) -> tuple[list[Tensor], Tokens]:
        """States (R, W, 2P) of the first ``depth`` layers, the characters' first, and the batch of words."""
        characters, words = group(tokens, self.characters.longest)
        limits = characters.new_full((2, self.characters.longest), PAD)
        limits[:, :3] = characters.new_tensor([[BOW, BOS, EOW], [BOW, EOS, EOW]])
        spelled = self.characters(torch.cat([characters, limits]))

        lengths = words.mask.sum(1)
        row, column = words.mask.nonzero(as_tuple=True)
        each = torch.arange(len(lengths), device=lengths.device)
        rows = torch.cat([each, row, each])
        places = torch.cat([torch.zeros_like(lengths), column + 1, lengths + 1])
        values = torch.cat([spelled[-2].expand(len(each), -1), spelled[:-2], spelled[-1].expand(len(each), -1)])
        left = values.new_zeros(len(each), words.mask.shape[1] + 2, values.shape[1]).index_put((rows, places), values)

        place = torch.arange(left.shape[1], device=left.device)
        last = (lengths + 1)[:, None]
        turn = torch.where(place <= last, last - place, place)[:, :, None].expand_as(left)
        right = left.gather(1, turn)
        states = [torch.cat([left, left], dim=2)]
        for number, layer in enumerate(list(self.layers)[: depth - 1]):
            before = left, right
            left, right = layer(left, right)
            if number and self._skip:
                left, right = left + before[0], right + before[1]
            states.append(torch.cat([left, right.gather(1, turn)], dim=2))
        return [state[:, 1:-1] for state in states], words


class ScalarMix(nn.Module):
    """``scale * sum of softmax(weights) * layer``, learned; at the start the mean over all layers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights, self.scale = nn.Parameter(torch.zeros(count)), nn.Parameter(torch.ones(()))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """(B, D) of each layer to (B, D)."""
        return self.scale * torch.einsum("l,lbd->bd", self.weights.softmax(0), torch.stack(list(layers)))


class ElmoNetwork(TextModule):
    """ELMo; with outputs and a path that is the mean over all layers, a mix of them is learned along.

    Attributes:
        no_onnx: why it cannot be exported.
    """

    no_onnx = NO_ONNX
    at_once = (32_768, 524_288)  # bytes

    def __init__(self, options: ElmoOptions, depth: int, path: TextPath | None = None, num_outputs: int = 0) -> None:
        super().__init__(BiLm(options, depth), path, 2 * options.lstm.projection_dim, num_outputs)
        self.options, self.depth = options, depth
        self.blocks = ("characters", *(f"layers.{i}" for i in range(depth - 1)))
        self.mix = ScalarMix(depth) if num_outputs and self.path.layer == MEAN else None

    def layers(self, tokens: Tokens, ways: Sequence[TextPath], wanted: set[str]) -> list[list[Tensor]]:
        """See ``TextModule``; the characters' is the first layer."""
        states, words = self.backbone(tokens, max(TextPath(name).depth(self.depth) for name in wanted))
        return [[way.pool(state, words) for way in ways] for state in states[-1 if wanted == {LAST} else 0 :]]

    def mixed(self, layers: Sequence[Tensor]) -> Tensor:
        """See ``TextModule``."""
        return super().mixed(layers) if self.mix is None else cast(Tensor, self.mix(layers))


def build_headed(recipe: Mapping[str, Any]) -> ElmoNetwork:
    """The module that a recipe tells of, in eval mode, from the seeded random start."""
    options, path = ElmoOptions.model_validate(recipe["options"]), TextPath(**recipe["path"])
    if path.layer.isdigit():
        path = replace(path, layer=LAST)  # nothing is built behind the layer that is read
    depth = min(int(recipe["depth"]), options.lstm.n_layers + 1)
    with seeded():
        return ElmoNetwork(options, depth, path, int(recipe["outputs"])).eval()


# ---------------------------------------------------------------------------- weights


def load_weights(backbone: BiLm, options: ElmoOptions, path: Path, model: str) -> None:
    """Copy the weights of a file in the published layout into a network of all layers.

    Raises:
        SourceError: h5py is not installed; the file is damaged, or lacks a dataset, or has one of another shape.
    """
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"{model}: weights.hdf5 needs h5py ({error}); run: pip install 'zoo-selector[elmo]'"
        ) from None
    try:
        with h5py.File(path, "r") as file, torch.no_grad():
            reader = _Reader(file, f"{model}: {path}")
            for target, value in reader.weights(options):
                backbone.get_parameter(target).copy_(value)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, ArithmeticError) as error:
        # h5py has no errors of its own: a damaged heap or tree is a RuntimeError, a link that leads nowhere a KeyError
        raise SourceError(
            f"{model}: {path} cannot be read, it is damaged or no HDF5 file: {first_line(error)}"
        ) from None


class _Reader:
    def __init__(self, file: Any, where: str) -> None:
        self._file, self._where = file, where

    def weights(self, options: ElmoOptions) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's name and value."""
        cnn, lstm, filters = options.char_cnn, options.lstm, options.num_filters
        yield "characters.embedding.weight", self._read("char_embed", SYMBOLS, cnn.embedding.dim)
        for i, (width, count) in enumerate(cnn.filters):
            kernel = self._read(f"CNN/W_cnn_{i}", 1, width, cnn.embedding.dim, count)
            yield f"characters.convolutions.{i}.weight", kernel[0].permute(2, 1, 0)
            yield f"characters.convolutions.{i}.bias", self._read(f"CNN/b_cnn_{i}", count)
        for i in range(cnn.n_highway):
            for part in ("transform", "carry"):
                matrix = self._read(f"CNN_high_{i}/W_{part}", filters, filters)
                yield f"characters.highways.{i}.{part}.weight", matrix.T
                yield f"characters.highways.{i}.{part}.bias", self._read(f"CNN_high_{i}/b_{part}", filters)
        if filters != lstm.projection_dim:
            yield "characters.projection.weight", self._read("CNN_proj/W_proj", filters, lstm.projection_dim).T
            yield "characters.projection.bias", self._read("CNN_proj/b_proj", lstm.projection_dim)
        for way, direction in enumerate(("forwards", "backwards")):
            for i in range(lstm.n_layers):
                group = f"RNN_{way}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
                name = f"layers.{i}.{direction}"
                both = self._read(f"{group}/W_0", 2 * lstm.projection_dim, 4 * lstm.dim).T
                bias = _gates(self._read(f"{group}/B", 4 * lstm.dim))
                bias[lstm.dim : 2 * lstm.dim] += 1  # TensorFlow adds it when it runs
                given, state = _gates(both).split(lstm.projection_dim, dim=1)  # type: ignore[no-untyped-call]
                yield f"{name}.input.weight", given
                yield f"{name}.state.weight", state
                yield f"{name}.state.bias", bias
                yield f"{name}.projection.weight", self._read(f"{group}/W_P_0", lstm.dim, lstm.projection_dim).T

    def _read(self, name: str, *shape: int) -> Tensor:
        dataset = self._dataset(name)
        if dataset.shape != shape or dataset.dtype.kind != "f":
            raise SourceError(
                f"{self._where}: dataset '{name}' is {dataset.dtype} of shape {dataset.shape}; options.json says floats of "
                f"shape {shape}. Do the two files belong together?"
            )
        return torch.from_numpy(dataset[...]).float()

    def _dataset(self, name: str) -> Any:
        import h5py

        found: Any = self._file
        for part in name.split("/"):
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
            found = found.get(part) if isinstance(link, h5py.HardLink) else None
            if link is not None and found is None:
                raise SourceError(f"{self._where}: '{name}' is a link to elsewhere; links are not followed.")
        if not isinstance(found, h5py.Dataset):
            raise SourceError(
                f"{self._where} has no dataset '{name}'; expected the layout of bilm-tf and AllenNLP, with what "
                "options.json says."
            )
        if found.external or found.is_virtual:  # they take the bytes of any file for weights
            raise SourceError(f"{self._where}: dataset '{name}' lies in other files; only what is in this one is read.")
        return found


def _gates(rows: Tensor) -> Tensor:
    """From TensorFlow's order (input, new, forget, output) to torch's (input, forget, new, output)."""
    enter, new, forget, leave = rows.chunk(4)
    return torch.cat([enter, forget, new, leave])
