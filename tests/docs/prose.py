"""Rules of writing that a program can check: banned phrases, length of sentences and paragraphs, the present state only."""

import re
from collections import Counter

BANNED = {
    "old terms": r"\b(pictures?|photographs?|tournaments?|micro trials?|handed over|hands over|sealed)\b",
    "network for model": r"\bnetworks\b|\b(neural|pretrained|untrained|isolated|small|large|text|image|each|one) network\b",
    "unusual words": r"\b(dear(er|est)?|anew|at hand|shall|thereof|whereof|hence|whilst|amongst|as it is)\b",
    "said": r"\b(is|are|was|were) (said|told)\b|, and said\b|\bwhen nothing is said\b",
    "former states": r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )\bused to\b|\b(no longer|not any more|previously|formerly|as it was|until then|in earlier versions)\b",
    "aims": r"\b(aim (is |was )?(met|missed)|was aimed at|the aims?)\b",
    "for meaning because": r", for (it|they|he|she|there|this|that|the) (is|are|was|were)\b",
    "a ... a": r"\b(a (class|row|model|layer|item|image|line|second|step) an? (row|line|model|image|file|folder|item))\b",
    "spaced percent": r"\d [%‰]",
}
LONGEST_SENTENCE, MEAN_SENTENCE, LONGEST_PARAGRAPH = 35, 25, 100
SHORTENED = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|al|Fig|No)\.")


def counts(text: str) -> Counter[str]:
    """How often each rule is broken in running text."""
    found: Counter[str] = Counter()
    plain = re.sub(r"`[^`\n]*`", "code", text)
    for rule, pattern in BANNED.items():
        found[rule] += len(re.findall(pattern, plain, re.I))
    for part in paragraphs(plain):
        sizes = [len(words(sentence)) for sentence in sentences(part)]
        found["long sentences"] += sum(size > LONGEST_SENTENCE for size in sizes)
        found["long paragraphs"] += sum(sizes) > LONGEST_PARAGRAPH
        found["semicolons"] += part.count(";") > 2
    sizes = [len(words(s)) for part in paragraphs(plain) for s in sentences(part)]
    found["mean sentence"] += bool(sizes) and sum(sizes) / len(sizes) > MEAN_SENTENCE
    return +found


def paragraphs(text: str) -> list[str]:
    """Paragraphs, and each item of a list by itself."""
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    return [re.sub(r"\s+", " ", part).strip() for part in parts if part.strip()]


def sentences(paragraph: str) -> list[str]:
    """By their full stops and colons at the end of a clause."""
    text = SHORTENED.sub(lambda m: m[0].replace(".", "·"), paragraph)
    return [part for part in re.split(r"(?<=[.!?:])\s+(?=[A-Z`\"'(*\[]|selector\b|timm\b)", text) if part.strip()]


def words(sentence: str) -> list[str]:
    """Words of a sentence."""
    return re.findall(r"[A-Za-z][\w'’-]*", sentence)
