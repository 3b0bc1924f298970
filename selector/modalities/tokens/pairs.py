"""Pairs of texts that are longer than a model reads: windows over one of them."""

from __future__ import annotations

from typing import Any

from selector.core.contracts import Words
from selector.core.errors import ConfigError


def is_pair(item: Any) -> bool:
    """Whether an item is a pair of texts; two words (``Words``) are none."""
    texts = isinstance(item, tuple | list) and not isinstance(item, Words)
    return texts and len(item) == 2 and all(isinstance(part, str) for part in item)


def pair_windows(tokenizer: Any, pair: tuple[str, str], whole: Any, longest: int, stride: int) -> tuple[Any, int]:
    """Windows of the longer text of a pair, each beside the whole shorter one.

    Of a shorter text that leaves its neighbor less than half of the room, what is over is cut off.

    Args:
        tokenizer: of the ``tokenizers`` library; its truncation is set here.
        whole: the encoding of the pair, not truncated.
        longest: tokens of a window, those that the tokenizer adds among them.
        stride: tokens that neighboring windows share.

    Returns:
        The encoding, its windows in ``overflowing``, and how many tokens of the shorter text were cut off.
    Raises:
        ConfigError: no room for two texts.
    """
    counts = [whole.sequence_ids.count(part) for part in (0, 1)]
    short, long = (0, 1) if counts[0] <= counts[1] else (1, 0)
    room = longest - (len(whole.ids) - sum(counts))
    kept = min(counts[short], room // 2)
    if room - kept < 1 or not kept:
        raise ConfigError(f"max_length {longest} leaves no room for a pair of texts; raise it.")
    cut = counts[short] - kept
    if cut:
        ends = [end for (_, end), part in zip(whole.offsets, whole.sequence_ids, strict=True) if part == short]
        shortened = pair[short][: ends[kept - 1]]
        pair = (shortened, pair[1]) if short == 0 else (pair[0], shortened)
    strategy = ("only_first", "only_second")[long]
    tokenizer.enable_truncation(longest, stride=min(stride, room - kept - 1), strategy=strategy)
    return tokenizer.encode(*pair), cut
