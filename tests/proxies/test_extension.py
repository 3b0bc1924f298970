"""A proxy of one's own: one decorated function, a plain callable."""

import inspect
import typing

import numpy as np
import pytest

import selector.proxies as proxies
from selector.core.contracts import Score
from selector.core.errors import ConfigError, NotApplicable, ProxyError


@pytest.fixture
def spread_proxy():
    @proxies.proxy("test-spread", summary="Spread of the first column.", bounds=(0, 100))
    def spread(features, *, power=1.0):
        return float(features.rows[:, 0].std() ** power)

    yield spread
    del proxies.registry._objects["test-spread"]


def test_one_decorated_function_is_a_proxy(spread_proxy, mixture):
    x, labels = mixture()
    assert "test-spread" in proxies.registry.names()
    assert proxies.score(x, labels, "test-spread").value == pytest.approx(x[:, 0].std())
    assert proxies.score(x, labels, "test-spread", power=2).value == pytest.approx(x[:, 0].var())
    assert "Spread of the first column." in proxies.registry.get("test-spread").explanation
    with pytest.raises(NotApplicable, match="test-spread takes classes labels; these are real"):
        proxies.score(x, x[:, 1], "test-spread")


def test_a_name_is_taken_once(spread_proxy):
    with pytest.raises(ConfigError, match="proxy 'test-spread' is already registered by"):

        @proxies.proxy("test-spread", summary="Another one.")
        def other(features):
            return 0.0


def test_unknown_names_and_invariances_are_explained(mixture):
    with pytest.raises(ConfigError, match=r"unknown proxy 'logm'; did you mean 'logme'\?"):
        proxies.score(*mixture(), "logm")
    with pytest.raises(ConfigError, match=r"proxy 'x': unknown invariance 'rows'. Known: absent classes"):
        proxies.proxy("x", summary="", invariances={"rows"})


def test_a_plain_callable_is_a_proxy(mixture):
    x, labels = mixture()
    assert proxies.score(x, labels, lambda features: len(features)).value == len(x)
    per_row = proxies.score(x, labels, lambda features: Score(0.5, per_row=np.full(len(features), 0.5)))
    assert per_row.value == 0.5


def test_a_callable_that_gives_no_score_is_refused(mixture):
    x, labels = mixture()

    def broken(features):
        return "much"

    with pytest.raises(ProxyError, match=r"proxy 'broken' must return a Score or a number. Got str"):
        proxies.score(x, labels, broken)
    with pytest.raises(ProxyError, match="gave nan for these rows"):
        proxies.score(x, labels, lambda features: float("nan"))
    with pytest.raises(ProxyError, match=r"per_row must have one contribution per row, \(120,\). Got \(2,\)"):
        proxies.score(x, labels, lambda features: Score(1.0, per_row=np.ones(2)))


def test_the_public_name(mixture):
    import selector

    assert selector.score(*mixture(), "logme").value == proxies.score(*mixture(), "logme").value


def test_type_checkers_know_every_option():
    known = {name for name in inspect.signature(proxies.score).parameters if name != "params"}
    for overload in typing.get_overloads(proxies.score):
        assert known <= set(inspect.signature(overload).parameters)
