"""A hub on this machine: repositories of models and datasets that can be listed, fetched and pushed to."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

COMMIT = "1" * 40
TOKEN = "hf_right"


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks: which files a repository has, and what is in them; takes commits with a token.

    Models lie in ``root/org/name``, datasets in ``root/datasets/org/name``.
    """

    root: ClassVar[Path]
    log: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.log.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        kind = "datasets/" if path.startswith(("/api/datasets/", "/datasets/")) else ""
        if path.startswith(("/api/models/", "/api/datasets/")):
            repo = "/".join(path.split("/")[3:5])
            folder = self.root / kind / repo
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            facts: Any = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            if "/tree/" in path:
                base = folder / path.partition("/tree/")[2].partition("/")[2]
                below = base.rglob("*") if "recursive=true" in self.path.lower() else base.glob("*")
                facts = [entry_of(found, folder) for found in sorted(below)]
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

    def do_POST(self) -> None:
        self.log.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not body and self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        path = self.path.partition("?")[0]
        parts = path.split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
            self.reply({"error": "Invalid credentials"}, status=401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.root / name).mkdir(parents=True, exist_ok=True)
            self.reply({"url": f"{self.host}/{name}", "name": name})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif "/commit/" in path:
            folder = self.root / "/".join(parts[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = folder / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            where = f"{self.host}/{'/'.join(parts[3:5])}/commit/{COMMIT}"
            self.reply({"success": True, "commitOid": COMMIT, "commitUrl": where})
        elif "/paths-info/" in path:
            self.reply([])
        else:
            self.reply({"errors": [], "warnings": []})

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def reply(self, facts: Any, *, status: int = 200) -> None:
        self.send(json.dumps(facts).encode(), {"Content-Type": "application/json"}, status=status)

    def send(self, content: bytes, headers: dict[str, str], *, found: bool = True, status: int = 200) -> None:
        self.send_response(status if found else 404)
        for key, value in {**headers, "Content-Length": str(len(content) if found else 0)}.items():
            self.send_header(key, value)
        self.end_headers()
        if found and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


def entry_of(path: Path, folder: Path) -> dict[str, Any]:
    """A file or folder as a listing names it."""
    kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
    return {"type": kind, "path": path.relative_to(folder).as_posix(), "size": size, "oid": "0" * 40}


@contextmanager
def serving(root: Path) -> Iterator[dict[str, str]]:
    """The environment of a process whose hub is the folder ``root``, with a right token."""
    kind = type("OwnHub", (Hub,), {"root": root, "log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = root.parent / "home"
    try:
        yield {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "SELECTOR_CACHE": str(root.parent / "cache"),
        }  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()


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
