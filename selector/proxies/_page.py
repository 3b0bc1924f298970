"""The catalog of ``docs/proxies.md``, written from the cards: ``python -m selector.proxies._page``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from selector.proxies import DEFAULT_PROXIES, registry
from selector.proxies._proxy import Proxy

START, END = "<!-- catalog: start -->", "<!-- catalog: end -->"
CORE = (*DEFAULT_PROXIES, "loo-ridge", "lda", "ridge", "ncti", "energy", "leep", "nce")


def catalog() -> str:
    """Markdown: a table, then a section a proxy, the core set first."""
    names = [*CORE, *(n for n in registry.names() if n not in CORE)]
    cards = [registry.get(name) for name in names]
    lines = ["| proxy | labels | range | cost |", "|---|---|---|---|"]
    lines += [f"| [{c.name}](#{c.name}) | {_labels(c)} | {_range(c)} | {c.cost} |" for c in cards]
    for card in cards:
        lines += ["", f"### {card.name}", "", card.summary, ""]
        facts = (
            ("Formula", card.formula),
            ("Good", card.good),
            ("Valid, and where it fails", card.domain),
            ("Differs from public code", card.deviations),
            ("Unchanged by", ", ".join(sorted(card.invariances))),
            ("Seed", "folds, subsample or start depend on it" if card.seeded else "none"),
            ("Cost", card.cost),
            ("Source", card.source),
        )
        lines += [f"- **{title}.** {text}" for title, text in facts if text]
        lines += [f"- **{question}** {answer}" for question, answer in card.answers.items()]
    return "\n".join(lines)


def _labels(card: Proxy) -> str:
    return ", ".join(sorted(card.label_kinds)) + (
        "; source logits" if card.needs_source_logits else "; a target without labels" if card.needs_unlabeled else ""
    )


def _range(card: Proxy) -> str:
    low, high = (("−∞" if b < 0 else "∞") if math.isinf(b) else f"{b:g}".replace("-", "−") for b in card.bounds)
    return f"{low} … {high}"


def main() -> None:
    """Replace the part between the markers of the page given."""
    page = Path(sys.argv[1])
    before, rest = page.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n{catalog()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
