"""Text models from a hub that is reachable: a server on this machine that holds whole repositories."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selector.sources import registry
from selector.zoo import ModelSpec
from tests.support.hub import Hub
from tests.support.text_models import sentence_model, text_model

CODE = """
import json, os, sys
import torch, transformers
from selector.core.errors import SelectorError
from selector.sources import registry
from selector.zoo import ModelSpec

def load(names):
    source, found = registry.get("transformers"), {}
    for name in names:
        try:
            encoder = source.load(ModelSpec(source=f"transformers:{name}"))
            found[name] = [encoder.identity, encoder.path.pooling, encoder.preprocess.max_length,
                float(encoder.module.backbone.get_input_embeddings().weight.detach().double().sum())]
        except SelectorError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found

torch.set_num_threads(1)
for line in sys.stdin:
    if not os.fork():
        print(json.dumps(load(json.loads(line))), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


class Asker:
    """A hub whose repositories lie in ``folder / "hub"``, and a process that has imported transformers: for each question
    it forks one that knows nothing of those before."""

    def __init__(self, folder: Path) -> None:
        Hub.root, Hub.log[:] = folder / "hub", []
        self._server = self._serve(0)
        self.environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "SELECTOR_CACHE": str(folder / "cache"),
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def ask(self, *names: str) -> dict[str, Any]:
        """What these models are when they are loaded."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE],
                env=self.environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(names) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nobody listens at the hub's address."""
        port = self._server.server_port
        self._end()
        yield
        self._server = self._serve(port)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._end()

    def _serve(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), Hub)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Asker]:
    made = Asker(tmp_path)
    yield made
    made.close()


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
        alone = hub.ask("org/sentences")["org/sentences"]
    assert alone[1:3] == ["mean", 64]  # what is there without the files that say how it pools; a warning says so
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
