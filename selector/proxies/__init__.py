"""How transferability is scored: one module a proxy or a family of them, found by name on first use.

A proxy is a function ``(FeatureSet, **params) -> Score | float`` under the ``proxy`` decorator;
higher is better. Adding one is adding one file here, or one decorated function in a module that
is imported with ``--plugin``, or passing a plain callable.
"""

from __future__ import annotations

from selector.core.contracts import LabelKind
from selector.proxies._proxy import Proxy, proxy, registry
from selector.proxies._score import ProxyLike, evaluate, proxy_name, score

DEFAULT_PROXIES = ("logme", "hscore", "knn", "probe")
_DEFAULTS = {LabelKind.MULTILABEL: ("logme", "knn", "probe"), LabelKind.REAL: ("logme", "knn", "loo-ridge")}


def default_proxies(*kinds: LabelKind) -> tuple[str, ...]:
    """What is computed when nothing is asked for: what applies to labels of these kinds, in a fixed order."""
    return tuple(dict.fromkeys(name for kind in kinds for name in _DEFAULTS.get(kind, DEFAULT_PROXIES)))


__all__ = [
    "DEFAULT_PROXIES",
    "Proxy",
    "ProxyLike",
    "default_proxies",
    "evaluate",
    "proxy",
    "proxy_name",
    "registry",
    "score",
]
