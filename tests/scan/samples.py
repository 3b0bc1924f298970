"""Scans that several tests run."""

from typing import Any

from selector.zoo import ModelSpec

TINY = [
    ModelSpec(name="tiny-resnet", source="timm:test_resnet", weights="none"),
    ModelSpec(name="tiny-vit", source="timm:test_vit", weights="none"),
]


def of_torch_alone(failing: str) -> dict[str, Any]:
    """Options of a quick scan by three networks, the last of which (named so) fails. What workers import takes most of the
    time of such tests, and these need nothing beside torch."""
    zoo = [
        ModelSpec(name="sees", source="python:tests.support.networks:Orientation"),
        ModelSpec(name="blind", source="python:tests.support.networks:Blind"),
        ModelSpec(name=failing, source="python:tests.support.networks:explodes"),
    ]
    return {
        "zoo": zoo,
        "proxies": ["knn", "logme"],
        "precision": "float32",
        "backend": "eager",
        "measure_cost": "never",
    }
