"""The manual keeps the rules of its style guide: a ratchet, zero where a page is not listed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, by_hand, prose
from tests.docs.prose import counts, sentences, words

ALLOWED: dict[str, int] = json.loads((Path(__file__).parent / "prose.json").read_text(encoding="utf-8"))
"""Faults per page that may only become fewer. README, tutorials, how-to guides and help are never listed."""
PAGES = [
    *by_hand(),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "SKILL.md")),
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages(page: Path) -> None:
    found = counts(prose(page))
    assert found.total() <= ALLOWED.get(name(page), 0), dict(found)
    assert found.total() >= ALLOWED.get(name(page), 0), (
        f"better than prose.json says: lower {name(page)} to {found.total()}"
    )


def test_what_users_read_first_is_at_zero() -> None:
    at_zero = ("README.md", "docs/tutorials/", "docs/how-to/", "docs/installation.md", "docs/index.md")
    assert not [key for key in ALLOWED if key.startswith(at_zero)]


def helps() -> dict[str, str]:
    """Help texts by command and option."""
    from _tools.complete_cli import commands

    found = {f"selector {key}": command.help or "" for key, command in commands.items()}
    for key, command in commands.items():
        found |= {f"{key} {p.opts[0]}": p.help for p in command.params if getattr(p, "help", None)}
    return found


def test_help() -> None:
    wrong: Counter[str] = Counter()
    for key, text in helps().items():
        wrong += Counter({f"{key}: {rule}": n for rule, n in counts(text).items()})
    assert wrong.total() <= ALLOWED.get("help", 0), dict(wrong)


def test_a_fault_is_found() -> None:
    long = "word " * 40 + "end."
    assert counts(long)["long sentences"] == 1
    assert counts("The tournament hands over a picture, and said.").total() >= 3
    assert counts("It used to be 5 %.") == {"former states": 1, "spaced percent": 1}
    assert not counts("You rank three models. The report shows the result.")
    assert [len(words(s)) for s in sentences("One two. Three `code` four: Five.")] == [2, 3, 1]
    assert DOCS.is_dir()
