"""Text models from a hub that is reachable: a server on this machine that holds whole repositories."""

import contextlib
import hashlib
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selector.sources import registry
from selector.zoo import ModelSpec
from tests.support.hub import Asker, Hub
from tests.support.text_models import sentence_model, text_model


def test_models_of_every_layout_are_fetched_once(hub: Asker, tmp_path: Path) -> None:
    root = tmp_path / "hub" / "org"
    safe = text_model(root / "safe")
    sentence_model(root / "sentences")
    pickled = shutil.copytree(safe, root / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    both = shutil.copytree(safe, root / "both")
    (both / "pytorch_model.bin").write_bytes(b"must not be asked for")
    (both / "model.onnx").write_bytes(b"nor this")
    names = ["org/safe", "org/sentences", "org/pickled", "org/both"]
    found = hub.ask(*names, "org/nowhere")
    assert found["org/nowhere"] == (
        "WeightsMissing: transformers:org/nowhere: the hub has no public repository org/nowhere; check the name, or run: "
        "hf auth login"
    )
    assert found["org/sentences"][1:3] == ["cls", 32]
    local = registry.get("transformers").load(ModelSpec(source=f"transformers:{safe}"))
    total = float(local.module.backbone.get_input_embeddings().weight.detach().double().sum())
    for name in ("org/safe", "org/pickled", "org/both"):
        assert found[name][1:] == ["mean", 64, pytest.approx(total)]
    content = hashlib.sha256((safe / "model.safetensors").read_bytes()).hexdigest()
    assert found["org/safe"][0]["weights"] == found["org/both"][0]["weights"] == f"hub:{content}"
    assert found["org/pickled"][0]["weights"] != found["org/safe"][0]["weights"]
    asked = [line for line in Hub.log if line.startswith("GET")]
    assert not [line for line in asked if "both/" in line and line.endswith((".bin", ".onnx"))]
    Hub.log.clear()
    again = hub.ask(*names)
    assert again == {name: found[name] for name in names}
    assert not Hub.log  # not even asked


OTHERS = """
import sys
from huggingface_hub import hf_hub_download
for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
    hf_hub_download(sys.argv[1], name)
"""


def test_a_cache_that_another_program_filled_is_completed(hub: Asker, tmp_path: Path) -> None:
    sentence_model(tmp_path / "hub" / "org" / "sentences")
    subprocess.run([sys.executable, "-c", OTHERS, "org/sentences"], env=hub.environment, check=True, timeout=240)
    with hub.unreachable():
        alone = hub.ask("org/sentences", "org/other")
    assert alone["org/sentences"][1:3] == ["mean", 64]  # without the files that say how it pools; a warning says so
    assert re.fullmatch(
        r"WeightsMissing: transformers:org/other: the weights of hub repository org/other are not on this machine and "
        r"127\.0\.0\.1:\d+ did not answer \(.*Connection refused.*\); check the connection and HF_ENDPOINT, or use the "
        r"models tagged 'offline'\.",
        alone["org/other"],
    )
    assert hub.ask("org/sentences")["org/sentences"][1:3] == ["cls", 32]


def test_a_hub_that_never_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full: connections are neither taken nor refused."""
    from selector.core.errors import WeightsMissing
    from selector.sources import _hub

    monkeypatch.setattr(_hub, "_asked", {})
    monkeypatch.setattr(_hub, "SECONDS_TO_ANSWER", 0.2)
    asked: list[str] = []
    ask = _hub._ask
    monkeypatch.setattr(_hub, "_ask", lambda host, seconds: asked.append(host) or ask(host, 0.2))
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        host = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", host + "/{repo_id}/{filename}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        for number in range(20):
            with pytest.raises(WeightsMissing, match="did not answer"):
                _hub.find(f"org/missing{number}", ["model.safetensors"], None, "model")
            with pytest.raises(WeightsMissing, match="did not answer"):
                _hub.fetch_url(f"{host}/{number}-abc.pth", "model")
    assert len(asked) <= 2  # the address of the hub, which huggingface_hub may have read before, and this one
