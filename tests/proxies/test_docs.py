"""The page says what the cards say, and its example runs."""

import re
from pathlib import Path

import pytest
import torch

import selector.proxies as proxies
from selector.proxies._page import END, START, catalog

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"


def test_the_catalog_is_up_to_date():
    found = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].strip()
    assert found == catalog(), "run: python -m selector.proxies._page docs/proxies.md"


def test_the_examples_of_scores_that_need_the_network_run(capsys):
    """As printed, but for the weights: a test downloads none."""
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for code in blocks:
        assert "pretrained=True" in code
        torch.manual_seed(0)
        exec(compile(code.replace("pretrained=True", "pretrained=False"), str(PAGE), "exec"), {})  # our own page
    linearized, features, alpha = capsys.readouterr().out.splitlines()
    assert float(linearized.removeprefix("linearized: ")) <= 1
    assert float(features.removeprefix("features: ")) <= 1
    value, _, rest = alpha.removeprefix("alpha: ").partition(" of ")
    assert rest == "21 weights"  # 20 convolutions and the head
    assert float(value) > 6  # untrained: nearly random


def test_the_example_of_a_proxy_runs(mixture):
    text = PAGE.read_text(encoding="utf-8").split("## A proxy of your own")[1]
    code = text.split("```python")[1].split("```")[0]
    try:
        exec(compile(code, str(PAGE), "exec"), {})  # our own page
        x, labels = mixture()
        means = [x[labels == c].mean(0) for c in range(4)]
        middle = sum(means) / 4
        expected = sum(((m - middle) ** 2).sum() for m in means) / 4
        assert proxies.score(x, labels, "class-spread").value == pytest.approx(expected, rel=1e-9)
    finally:
        proxies.registry._objects.pop("class-spread", None)
