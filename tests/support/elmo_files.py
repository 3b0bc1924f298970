"""ELMo's published file format: written with random weights, and computed in numpy from its definition.

``Reference`` follows bilm-tf's description of the graph (a sentence at a time, a place at a time, float64,
weights as they lie in the file) and shares no code with the package.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {
    "lstm": {
        **{"use_skip_connections": True, "projection_dim": 8, "cell_clip": 0.5, "proj_clip": 0.4},
        **{"dim": 24, "n_layers": 2},
    },
    "char_cnn": {
        **{"activation": "relu", "filters": [[1, 4], [2, 6], [3, 8], [5, 10]], "n_highway": 2},
        **{"embedding": {"dim": 5}, "n_characters": 262, "max_characters_per_token": 50},
    },
}

Array = NDArray[np.float64]


def options(**changes: Any) -> dict[str, Any]:
    """``OPTIONS`` with some of them changed, whichever section they are of."""
    made: dict[str, Any] = json.loads(json.dumps(OPTIONS))
    for key, value in changes.items():
        made["lstm" if key in made["lstm"] else "char_cnn"][key] = value
    return made


def datasets(told: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights by their names in the file."""
    rng = np.random.default_rng(seed)
    cnn, lstm = told["char_cnn"], told["lstm"]
    filters = sum(count for _, count in cnn["filters"])
    width, cells = lstm["projection_dim"], lstm["dim"]
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (261, cnn["embedding"]["dim"])}
    for i, (size, count) in enumerate(cnn["filters"]):
        shapes |= {f"CNN/W_cnn_{i}": (1, size, cnn["embedding"]["dim"], count), f"CNN/b_cnn_{i}": (count,)}
    for i in range(cnn["n_highway"]):
        for part in ("transform", "carry"):
            shapes |= {f"CNN_high_{i}/W_{part}": (filters, filters), f"CNN_high_{i}/b_{part}": (filters,)}
    if filters != width:
        shapes |= {"CNN_proj/W_proj": (filters, width), "CNN_proj/b_proj": (width,)}
    for way in (0, 1):
        for i in range(lstm["n_layers"]):
            cell = f"RNN_{way}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
            shapes |= {f"{cell}/W_0": (2 * width, 4 * cells), f"{cell}/B": (4 * cells,)}
            shapes |= {f"{cell}/W_P_0": (cells, width)}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def elmo_folder(
    folder: Path, told: dict[str, Any] | None = None, prefix: str = "", **other: NDArray[Any] | None
) -> Path:
    """A folder with the two files; ``other`` replaces datasets by name, or leaves them out."""
    told = OPTIONS if told is None else told
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}options.json").write_text(json.dumps(told))
    with h5py.File(folder / f"{prefix}weights.hdf5", "w") as file:
        for name, value in {**datasets(told), **other}.items():
            if value is not None:
                file[name] = value
    return folder


class Reference:
    """The states of words, from the files alone.

    Attributes:
        clipped: how many values of cells and of projections were cut off so far.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.told = json.loads((folder / f"{prefix}options.json").read_text())
        self.clipped = {"cell_clip": 0, "proj_clip": 0}
        self.weights: dict[str, Array] = {}
        with h5py.File(folder / f"{prefix}weights.hdf5", "r") as file:
            file.visititems(self._take)

    def _take(self, name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset):
            self.weights[name] = found[...].astype(np.float64)

    def layers(self, words: Sequence[str]) -> list[Array]:
        """(W, 2P) of each layer: the characters' (twice side by side), then one a layer of LSTMs."""
        sentence = [self.spelled([256]), *(self.spelled(word.encode()) for word in words), self.spelled([257])]
        rows = np.stack(sentence)
        ways = [[rows], [rows[::-1]]]
        for way, layers in enumerate(ways):
            for i in range(self.told["lstm"]["n_layers"]):
                out = self._lstm(layers[-1], f"RNN_{way}/RNN/MultiRNNCell/Cell{i}/LSTMCell")
                layers.append(out + layers[-1] if i and self.told["lstm"]["use_skip_connections"] else out)
        return [np.concatenate([a, b[::-1]], axis=1)[1:-1] for a, b in zip(*ways, strict=True)]

    def spelled(self, letters: Any) -> Array:
        """(P,) of a word from the ids of its bytes."""
        cnn = self.told["char_cnn"]
        longest = cnn["max_characters_per_token"]
        ids = [258, *list(letters)[: longest - 2], 259]
        ids += [260] * (longest - len(ids))
        table = self.weights["char_embed"][ids]
        parts = []
        for i, (size, _) in enumerate(cnn["filters"]):
            kernel = self.weights[f"CNN/W_cnn_{i}"][0]
            seen = [np.tensordot(table[j : j + size], kernel, 2) for j in range(longest - size + 1)]
            parts.append(np.max(seen, axis=0) + self.weights[f"CNN/b_cnn_{i}"])
        row = np.concatenate(parts)
        row = np.maximum(row, 0) if cnn["activation"] == "relu" else np.tanh(row)
        for i in range(cnn.get("n_highway", 0)):
            gate = _sigmoid(self._dense(row, f"CNN_high_{i}", "carry"))
            row = gate * np.maximum(self._dense(row, f"CNN_high_{i}", "transform"), 0) + (1 - gate) * row
        return self._dense(row, "CNN_proj", "proj") if "CNN_proj/W_proj" in self.weights else row

    def _dense(self, row: Array, group: str, name: str) -> Array:
        made: Array = row @ self.weights[f"{group}/W_{name}"] + self.weights[f"{group}/b_{name}"]
        return made

    def _lstm(self, rows: Array, name: str) -> Array:
        matrix, bias = self.weights[f"{name}/W_0"], self.weights[f"{name}/B"]
        cell, output = np.zeros(len(bias) // 4), np.zeros(rows.shape[1])
        found = []
        for row in rows:
            enter, new, forget, leave = np.split(np.concatenate([row, output]) @ matrix + bias, 4)
            cell = _sigmoid(forget + 1) * cell + _sigmoid(enter) * np.tanh(new)
            cell = self._clip(cell, "cell_clip")
            output = self._clip((_sigmoid(leave) * np.tanh(cell)) @ self.weights[f"{name}/W_P_0"], "proj_clip")
            found.append(output)
        return np.stack(found)

    def _clip(self, values: Array, option: str) -> Array:
        limit = self.told["lstm"].get(option)
        if limit is None:
            return values
        self.clipped[option] += int((np.abs(values) > limit).sum())
        return values.clip(-limit, limit)


def _sigmoid(values: Array) -> Array:
    made: Array = 1 / (1 + np.exp(-values))
    return made
