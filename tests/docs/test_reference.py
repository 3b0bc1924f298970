"""Everything public has an entry in the reference, and what is noted by hand exists in the package."""

import re
from functools import cache

import pytest

from tests.docs.pages import DOCS


@cache
def generated() -> dict[str, str]:
    from _tools import reference

    return dict(reference._pages())


def test_every_public_name_has_a_page() -> None:
    import selector

    pages = {name.split("/")[-1].removesuffix(".md") for name in generated() if name.startswith("reference/api/")}
    assert {name for name in selector.__all__ if not name.startswith("_")} == pages - {"index"}


def test_every_command_has_a_page() -> None:
    from _tools.complete_cli import commands

    pages = {name.split("/")[-1].removesuffix(".md") for name in generated() if name.startswith("reference/cli/")}
    assert {name.replace(" ", "-") for name in commands} == pages - {"index"}


def test_every_option_has_an_entry() -> None:
    from selector import ConfirmConfig, ScanConfig

    page = generated()["reference/options.md"]
    for name in {*ScanConfig.model_fields, *ConfirmConfig.model_fields}:
        assert f"option-{name.replace('_', '-')}}}" in page, name


def test_every_proxy_has_a_page_and_a_source() -> None:
    from selector.proxies import registry

    for name in registry.names():
        assert registry.get(name).summary in generated()[f"reference/metrics/{name}.md"]


def test_every_strategy_is_described() -> None:
    from _tools import notes

    from selector.tuning.strategies import registry

    assert set(notes.STRATEGIES) == set(registry.names())


def test_every_caveat_is_described() -> None:
    from _tools import notes, reference

    assert set(notes.CAVEATS) == reference.caveat_codes()


def test_every_environment_variable_is_described() -> None:
    from _tools import notes, reference

    assert set(notes.ENVIRONMENT) == reference.environment_variables()


def test_every_exit_code_is_described() -> None:
    from _tools import notes

    from selector.cli import guard

    assert set(notes.EXIT_CODES) == {0, guard.FAILED, guard.USAGE, guard.SOME_FAILED, guard.INTERRUPTED}


def test_every_column_is_described() -> None:
    from _tools.everything import ranking

    from selector.report.view import MARKS, table_view

    made, page = ranking(), generated()["reference/result-columns.md"]
    for column in table_view(made).columns:
        assert f"`{column.title}`" in page
        assert column.help
    for name in made.to_dataframe().columns:
        assert f"`{name}`" in page
    for mark in MARKS:
        assert f"`{mark}`" in page


def test_every_key_of_a_zoo_file_is_described() -> None:
    page = generated()["reference/zoo-file.md"]
    empty = re.findall(r"^\| (`\w+`) \| [^|]* \|\s*\|$", page, re.M)
    assert not empty, empty
    assert "| `modality` | text |" in page


@pytest.mark.parametrize("page", ["options", "caveats", "strategies", "run-folder"])
def test_no_cell_of_a_meaning_is_empty(page: str) -> None:
    assert not re.findall(r"\|\s*\|\s*\|", generated()[f"reference/{page}.md"].replace("\\|", ""))


def test_pages_are_current_once_written() -> None:
    """A build writes them; a second writing changes nothing."""
    from _tools import reference

    reference.write(DOCS)
    before = {p: p.stat().st_mtime_ns for p in DOCS.glob("reference/**/*.md")}
    reference.write(DOCS)
    assert before == {p: p.stat().st_mtime_ns for p in DOCS.glob("reference/**/*.md")}
