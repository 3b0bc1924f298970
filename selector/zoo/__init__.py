"""The zoo: which models a scan may look at, as a validated YAML file.

A file holds ``version``, ``defaults`` and ``models``. An entry is a string ``source:model``, a
mapping with ``source: source:model``, or the short form ``timm: convnext*``. Wildcards stay
wildcards here; the sources expand them (``selector.scan``) and the run freezes the result.
"""

from __future__ import annotations

from selector.zoo.file import load_zoo, select, shipped_zoo_path
from selector.zoo.own import make_spec as Model
from selector.zoo.spec import ModelSpec, Pooling, PreprocessOverrides, TextSettings, WeightsFile, Zoo
from selector.zoo.trust import check_trusted

__all__ = [
    "Model",
    "ModelSpec",
    "Pooling",
    "PreprocessOverrides",
    "TextSettings",
    "WeightsFile",
    "Zoo",
    "check_trusted",
    "load_zoo",
    "select",
    "shipped_zoo_path",
]
