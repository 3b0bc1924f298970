"""Files of the Hugging Face hub and of plain addresses: found in the local caches, fetched if allowed.

A file is named by the hash of its content wherever it lies, so features computed on one machine
are found again on another. No torch.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from selector.core.atomic import cache_folder, read_memory, write_memory
from selector.core.errors import SourceError, WeightsMissing
from selector.sources._weights import content_hash, offline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository.

    Attributes:
        repo, filename, revision: where it is.
        content: hash of its bytes as the hub states it.
        path: where it lies on this machine, None when it has to be fetched.
    """

    repo: str
    filename: str
    revision: str | None
    content: str
    path: Path | None


_lacking: ContextVar[list[int | None] | None] = ContextVar("_lacking", default=None)


@contextmanager
def noting_fetches() -> Iterator[list[int | None]]:
    """Collects the sizes in bytes of the files that are looked for inside and would have to be fetched.

    None stands for a file whose size its address does not say. Nothing is fetched.
    """
    found: list[int | None] = []
    token = _lacking.set(found)
    try:
        yield found
    finally:
        _lacking.reset(token)


def _note(size: int | None) -> None:
    if (found := _lacking.get()) is not None:
        found.append(size)


def split_revision(repo: str) -> tuple[str, str | None]:
    """``org/name@revision`` in two.

    >>> split_revision("org/name@v2"), split_revision("org/name")
    (('org/name', 'v2'), ('org/name', None))
    """
    name, _, revision = repo.partition("@")
    if ".." in revision.split("/") or revision.startswith("/"):  # it is looked up as a file of the cache
        raise SourceError(f"'{repo}': the revision '{revision}' leads elsewhere; give a branch, a tag or a commit.")
    return name, revision or None


SECONDS_TO_ANSWER = 3.0
"""How long a host has for its first answer."""

FORGOTTEN_AFTER = 60.0
"""Seconds after which a host that did not answer is asked again."""

_asked: dict[str, tuple[float, str]] = {}


def no_answer(host: str, seconds: float = SECONDS_TO_ANSWER) -> str:
    """Why nothing answers at an address such as ``https://huggingface.co``; empty where something does.

    The answer is kept: a hub that is out of reach costs one short wait, not one for each model of a zoo.
    """
    asked, reason = _asked.get(host, (-FORGOTTEN_AFTER, "not asked"))
    if reason and time.monotonic() - asked > FORGOTTEN_AFTER:
        reason = _ask(host, seconds)
        _asked[host] = time.monotonic(), reason
    return reason


def _ask(host: str, seconds: float) -> str:
    reason = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=seconds).close()
            reason[0] = ""
        except urllib.error.HTTPError:
            reason[0] = ""  # an answer, whatever it says
        except (OSError, ValueError) as error:
            reason[0] = str(getattr(error, "reason", error)) or type(error).__name__

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no timeout
    asking.start()
    asking.join(seconds + 0.5)
    return reason[0]


def _require_answer(url: str, model: str, repo: str) -> None:
    if reason := no_answer("{0.scheme}://{0.netloc}".format(urlsplit(url))):
        raise WeightsMissing(
            f"{model}: the weights of {repo} are not on this machine and {urlsplit(url).netloc} did not answer "
            f"({reason}); check the connection and HF_ENDPOINT, or use the models tagged 'offline'."
        )


def find(repo: str, filenames: Sequence[str], revision: str | None, model: str) -> HubFile:
    """The first of ``filenames`` that the cache holds, else the first that the hub has.

    Args:
        repo: ``org/name``.
        filenames: in order of preference.
        revision: branch, tag or commit; None for the main one.
        model: the zoo's name, for messages.
    Raises:
        WeightsMissing: not cached, and the hub may not or cannot be asked, or does not have it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        for filename in filenames:
            cached = try_to_load_from_cache(repo, filename, revision=revision)
            if isinstance(cached, str):
                return HubFile(repo, filename, revision, _blob_hash(Path(cached)), Path(cached))
    except HFValidationError as error:
        raise SourceError(
            f"{model}: '{repo}' is not the name of a hub repository (expected org/name): {error}"
        ) from None
    if offline():
        raise WeightsMissing(
            f"{model}: the weights of hub repository {repo} are not on this machine and fetching is off; "
            f"run once without --offline (and without HF_HUB_OFFLINE), or: hf download {repo}"
        )
    _require_answer(hf_hub_url(repo, filenames[0]), model, f"hub repository {repo}")
    for filename in filenames:
        try:
            facts = get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision))
        except EntryNotFoundError:
            continue
        except Exception as error:
            # which library's errors a lost connection raises depends on the version of huggingface_hub
            raise _refused(model, repo, revision, error) from error
        _note(facts.size)
        return HubFile(repo, filename, revision, f"hub:{facts.etag}", None)
    raise WeightsMissing(f"{model}: hub repository {repo} has none of {', '.join(filenames)}.")


def fetch(file: HubFile, model: str) -> Path:
    """The file on this machine, downloaded when it is not cached yet.

    Raises:
        WeightsMissing: the download failed.
    """
    if file.path is not None:
        return file.path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(file.repo, file.filename, revision=file.revision))
    except Exception as error:
        raise _unreachable(model, file.repo, error) from error


def snapshot(repo: str, patterns: Sequence[str], revision: str | None, model: str) -> Path:
    """The folder of a repository's small files, in the cache; those that are missing are fetched if allowed.

    A cached folder is taken without a request once the hub has said that nothing is missing from it:
    other programs fetch what they read themselves, and a sentence encoder without its pooling would
    silently be read as another model.

    Args:
        patterns: names of the files wanted, the first one needed; which of the others a repository has is its own
            affair.
    Raises:
        WeightsMissing: not cached and fetching is off, or the hub does not have the repository.
    """
    from huggingface_hub import HfApi, snapshot_download

    cached = _cached_snapshot(repo, patterns, revision, model)
    if cached is not None and (offline() or str(cached) in read_memory(_whole())):
        return cached
    if offline():
        raise WeightsMissing(
            f"{model}: hub repository {repo} is not on this machine and fetching is off; "
            f"run once without --offline (and without HF_HUB_OFFLINE), or: hf download {repo}"
        )
    try:
        _require_answer(HfApi().endpoint, model, f"hub repository {repo}")
        HfApi().model_info(repo, revision=revision)  # what follows would not tell a lost connection from success
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*patterns]))
    except Exception as error:
        refused = _refused(model, repo, revision, error)
        if cached is None:
            raise refused from error
        log.warning("%s What is cached of it is used, which may be incomplete.", refused)
        return cached
    if not (folder / patterns[0]).is_file():
        raise WeightsMissing(f"{model}: hub repository {repo} has no {patterns[0]}.")
    write_memory(_whole(), {**read_memory(_whole()), str(folder): True})
    return folder


def _whole() -> Path:
    """Where it is remembered of which cached folders the hub said that nothing is missing."""
    return cache_folder() / "hub-snapshots.json"


def _cached_snapshot(repo: str, patterns: Sequence[str], revision: str | None, model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*patterns], local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise SourceError(f"{model}: '{repo}' is no folder here and no name of a hub repository: {error}") from None
    return folder if (folder / patterns[0]).is_file() else None


def url_file(url: str) -> Path:
    """Where torch keeps a file that was fetched from an address, whether or not it is there."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]


def url_identity(url: str, model: str) -> str:
    """Name of the content behind an address: torchvision and timm write a hash into the file name.

    Raises:
        WeightsMissing: not on this machine and fetching is off.
    """
    file = url_file(url)
    if not file.is_file() and offline():
        raise WeightsMissing(
            f"{model}: weights {url} are not on this machine ({file}) and fetching is off; "
            "run once without --offline (and without HF_HUB_OFFLINE), or copy the file there."
        )
    if not file.is_file():
        _note(None)
    return f"url:{file.name}"


def fetch_url(url: str, model: str) -> Path:
    """The file behind an address, downloaded (and its hash checked) when it is not there yet."""
    file = url_file(url)
    if file.is_file():
        return file
    url_identity(url, model)
    _require_answer(url, model, url)
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = torch.hub.HASH_REGEX.search(file.name)
    try:
        torch.hub.download_url_to_file(url, str(file), prefix[1] if prefix else None, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsMissing(
            f"{model}: fetching {url} failed ({error}); check the connection, or copy the file to {file}."
        ) from None
    return file


def _blob_hash(path: Path) -> str:
    # the cache's snapshot is a link to a blob named by the hub's own content hash
    blob = path.resolve()
    return f"hub:{blob.name}" if blob.parent.name == "blobs" else content_hash(path)


def _refused(model: str, repo: str, revision: str | None, error: BaseException) -> WeightsMissing:
    """Why the hub gave nothing, and what to do."""
    if isinstance(error, WeightsMissing):
        return error
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return WeightsMissing(
            f"{model}: hub repository {repo} asks for agreement to its terms; accept them on its page, "
            "then run: hf auth login"
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        at = f" at revision '{revision}'" if revision else ""
        return WeightsMissing(
            f"{model}: the hub has no public repository {repo}{at}; check the name, or run: hf auth login"
        )
    return _unreachable(model, repo, error)


def _unreachable(model: str, repo: str, error: BaseException) -> WeightsMissing:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return WeightsMissing(
        f"{model}: the weights of hub repository {repo} are not on this machine and the hub did not answer "
        f"({reason}); check the connection and HF_ENDPOINT, or use the models tagged 'offline'."
    )
