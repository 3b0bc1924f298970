"""An embedder in the manner of ELMo, with random weights: characters, then two layers both ways.

Source of the architecture: Peters et al., NAACL 2018, arXiv:1802.05365.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

CHARACTERS = 16  # of a word
WORDS = 997  # hash buckets: a word's characters are drawn from its id, which is enough for a test


class Elmo(nn.Module):
    """Gives three states a word: from its characters, and from each recurrent layer."""

    blocks = ("layers.0", "layers.1")

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        words = Tokenizer(models.WordLevel({"[UNK]": 0, "sun": 1, "rain": 2, "goal": 3, "team": 4}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer = words.to_str()
        self.characters = nn.Embedding(64, 8)
        self.convolution = nn.Conv1d(8, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.LSTM(width, width // 2, batch_first=True, bidirectional=True) for _ in range(2))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        places = torch.arange(CHARACTERS, device=ids.device)
        spelled = (ids[:, :, None] * 31 + places * 17) % 64
        rows, length, _ = spelled.shape
        letters = self.characters(spelled).flatten(0, 1).transpose(1, 2)
        state = self.convolution(letters).amax(2).view(rows, length, -1)
        found = [state]
        for layer in self.layers:
            packed = nn.utils.rnn.pack_padded_sequence(state, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
            state, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=length)
            found.append(state)
        return found


def elmo(width: int = 16) -> Elmo:
    """The factory that a zoo names."""
    return Elmo(width)
