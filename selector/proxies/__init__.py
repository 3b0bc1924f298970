"""How transferability is scored: one module a proxy, found by name on first use.

A proxy is a function ``(FeatureSet, **params) -> Score | float`` under the ``proxy`` decorator;
higher is better. Adding one is adding one file here, or one decorated function in a module that
is imported with ``--plugin``, or passing a plain callable.
"""

from __future__ import annotations

from selector.proxies._proxy import Proxy, proxy, registry
from selector.proxies._score import ProxyLike, evaluate, score

DEFAULT_PROXIES = ("logme", "hscore", "knn", "probe")

__all__ = ["DEFAULT_PROXIES", "Proxy", "ProxyLike", "evaluate", "proxy", "registry", "score"]
