"""The command that makes a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from selector.config import IN_MEMORY, ScanConfig
from selector.core.options import cli_default
from selector.results import Ranking


def command(ranking: Ranking, config: type[ScanConfig] = ScanConfig) -> str | None:
    """``selector scan ...`` with the settings of the run; None when its target or zoo was in memory only.

    Args:
        config: whose fields are the options; those that the run does not record, or that have the
            command's own defaults, are left out.
    """
    origin = ranking.target.get("origin")
    place = str(origin["path"]) if isinstance(origin, Mapping) and origin.get("path") else None
    settings = _flat(ranking)
    if place is None or IN_MEMORY in (settings.get("zoo"), settings.get("models")):
        return None
    words = ["selector", "scan", place]
    for name, about in config.options():
        value = settings.get(about.key) if about.key is not None else None
        if about.cli and about.rerun and value is not None and value != "":
            usual = (cli_default(config.model_fields[name]), about.usual)
            option = about.words(name, value)
            if option not in [about.words(name, each) for each in usual if each is not None]:
                words += option
    if not any(model.measurements for model in ranking):
        words.append("--no-confirm")
    if ranking.path is not None:
        words += ["--out", str(ranking.path)]
    return shlex.join(words)


def _flat(ranking: Ranking) -> dict[str, Any]:
    """Settings of the confirmation beside those of the scan; columns and task as the target was loaded with."""
    origin = ranking.target["origin"] if isinstance(ranking.target.get("origin"), Mapping) else {}
    settings = {**ranking.settings, **(ranking.settings.get("confirm") or {})}
    return {**settings, **{k: v for k, v in (origin.get("options") or {}).items() if v is not None}}
