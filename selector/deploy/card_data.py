"""The head of a model card: what the hub lists, filters and compares, written by ``huggingface_hub``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from selector.core.units import printable
from selector.results import Measurement

LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "cc",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-4.0",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "wtfpl",
        "artistic-2.0",
        "ms-pl",
        "afl-3.0",
        "gemma",
        "llama2",
        "llama3",
    ]
)
"""Names that the hub knows; another license is ``other`` with its name beside it."""


def card_head(
    *,
    name: str,
    library: str,
    pipeline: str,
    spec: Mapping[str, Any],
    base_model: str | None,
    target: Mapping[str, Any],
    chosen: Measurement | None,
) -> str:
    """YAML between two lines of dashes.

    Args:
        name: of the model, for ``model-index``.
        spec: its zoo entry, with its license.
        base_model: hub repository of the weights it started from; None where they are not of the hub.
        target: summary of the data.
        chosen: what was measured of the saved model.
    """
    from huggingface_hub import EvalResult, ModelCardData

    path = str((target.get("origin") or {}).get("path") or "")
    dataset = re.split("[:@]", path.removeprefix("hf:"))[0] if path.startswith("hf:") else None
    values = {} if chosen is None else {k: v for k, v in chosen.test.items() if v is not None and v == v}
    shown = _plain_name(str(target.get("name") or "target"))
    slug = re.sub(r"[^\w.-]+", "-", shown).strip("-") or "target"
    license = str(spec.get("license") or "").lower() or None
    known = license in LICENSES
    relation: dict[str, Any] = {} if base_model is None else {"base_model_relation": "finetune"}
    data = ModelCardData(
        license=license if known or license is None else "other",
        license_name=None if known or license is None else re.sub(r"[^a-z0-9.-]+", "-", license),
        library_name=library,
        pipeline_tag=pipeline,
        tags=[pipeline, "zoo-selector"],
        base_model=base_model,
        datasets=None if dataset is None else [dataset],
        metrics=sorted(values) or None,
        model_name=_plain_name(name) if values else None,
        eval_results=[
            EvalResult(
                task_type=pipeline,
                dataset_type=dataset or slug,
                dataset_name=shown,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(float(value), 6),
            )
            for metric, value in values.items()
        ]
        or None,
        **relation,
    )
    return f"---\n{data.to_yaml()}\n---"


def _plain_name(text: str) -> str:
    """A name on one line, without what would begin markup."""
    return " ".join(re.sub("[<>]", " ", printable(text)).split())
