"""Text models from a hub that is reachable: a server on this machine that holds whole repositories."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from selector.sources import registry
from selector.zoo import ModelSpec
from tests.text.models import sentence_model, text_model

COMMIT = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks: which files a repository has, and what is in them."""

    root: ClassVar[Path]
    log: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.log.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            folder = self.root / repo
            files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            facts: Any = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            if "/tree/" in path:
                facts = [
                    {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0" * 40} for n in files
                ]
            headers = {"Content-Type": "application/json"} if folder.is_dir() else {"X-Error-Code": "RepoNotFound"}
            self.send(json.dumps(facts).encode(), headers, found=folder.is_dir())
            return
        repo, _, name = path[1:].partition("/resolve/")
        file = self.root / repo / name.partition("/")[2]
        if file.is_file():
            content = file.read_bytes()
            self.send(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            known = (self.root / repo).is_dir()
            self.send(b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}, found=False)

    def send(self, content: bytes, headers: dict[str, str], *, found: bool = True) -> None:
        self.send_response(200 if found else 404)
        for key, value in {**headers, "Content-Length": str(len(content) if found else 0)}.items():
            self.send_header(key, value)
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process that asks this hub; repositories lie in ``tmp_path / "hub"``."""
    Hub.root, Hub.log[:] = tmp_path / "hub", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "SELECTOR_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    server.shutdown()
    server.server_close()


CODE = """
import json, sys
from selector.core.errors import SelectorError
from selector.sources import registry
from selector.zoo import ModelSpec
source, found = registry.get("transformers"), {}
for name in sys.argv[1:]:
    try:
        encoder = source.load(ModelSpec(source=f"transformers:{name}"))
        found[name] = [encoder.identity, encoder.path.pooling, encoder.preprocess.max_length,
            float(encoder.module.backbone.get_input_embeddings().weight.detach().double().sum())]
    except SelectorError as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def run(environment: dict[str, str], *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names], env=environment, check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_models_of_every_layout_are_fetched_once(hub: dict[str, str], tmp_path: Path) -> None:
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
    found = run(hub, *names, "org/nowhere")
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
    again = run(hub, *names)
    assert again == {name: found[name] for name in names}
    assert not Hub.log  # not even asked


OTHERS = """
import sys
from huggingface_hub import hf_hub_download
for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
    hf_hub_download(sys.argv[1], name)
"""


def test_a_cache_that_another_program_filled_is_completed(hub: dict[str, str], tmp_path: Path) -> None:
    sentence_model(tmp_path / "hub" / "org" / "sentences")
    subprocess.run([sys.executable, "-c", OTHERS, "org/sentences"], env=hub, check=True, timeout=240)
    alone = run({**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}, "org/sentences")["org/sentences"]
    assert alone[1:3] == ["mean", 64]  # what is there without the files that say how it pools; a warning says so
    assert run(hub, "org/sentences")["org/sentences"][1:3] == ["cls", 32]
