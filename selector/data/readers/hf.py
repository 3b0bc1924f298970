"""A dataset of the Hugging Face hub by its address: ``hf:org/name``, ``hf:org/name:config``, ``hf:org/name@revision``."""

from __future__ import annotations

import re

from selector.core.errors import TargetError, first_line
from selector.core.table import Table
from selector.core.units import words
from selector.data.reader import Options, reader, reader_of

ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.,=+-]+))?(@(?P<revision>[\w./-]+))?")


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, str) and x.startswith("hf:")


@reader("hf", "a dataset of the Hugging Face hub (hf:org/name)", _accepts, columns=True, rank=0)
def _read(x: str, options: Options) -> Table:
    found = ADDRESS.fullmatch(x)
    if found is None:
        raise TargetError(
            f"{x!r} is not the address of a hub dataset; expected hf:org/name, hf:org/name:config or hf:org/name@revision."
        )
    loaded = _loaded(x, found["repo"], found["config"], found["revision"], words(options.split))
    name = options.name or found["repo"].rpartition("/")[2]
    table = reader_of(loaded, options)[1].read(loaded, options)
    table.name, table.where, table.origin = name, x, {"path": x}
    return table


def _loaded(x: str, repo: str, config: str | None, revision: str | None, splits: list[str]) -> object:
    """A ``Dataset``, or several by split.

    Raises:
        TargetError: it is not there, not on this machine, or asks for a token; the message says what to do.
    """
    try:
        from datasets import DownloadConfig, load_dataset
    except ImportError:
        raise TargetError(f"{x} needs the package datasets; pip install 'zoo-selector[datasets]'.") from None
    from huggingface_hub.errors import OfflineModeIsEnabled

    from selector.sources._weights import offline

    download = DownloadConfig(local_files_only=offline(), max_retries=1)
    try:
        parts = load_dataset(repo, config, split=splits or None, revision=revision, download_config=download)
    except (OfflineModeIsEnabled, ConnectionError, OSError) as error:
        cached = "; fetching is off: run once without --offline (and without HF_HUB_OFFLINE)" if offline() else ""
        raise TargetError(
            f"{x} cannot be read ({type(error).__name__}: {first_line(error)}){cached}. Check the name and the connection; for a "
            "private or gated dataset run: hf auth login"
        ) from error
    except (ValueError, RuntimeError, KeyError) as error:  # an unknown config or split, or a script
        raise TargetError(f"{x} cannot be read: {first_line(error)}") from error
    if splits:
        parts = dict(zip((re.split(r"\W", split)[0] for split in splits), parts, strict=True))
    return next(iter(parts.values())) if len(parts) == 1 else parts
