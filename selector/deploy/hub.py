"""A saved model as its library reads it: ``timm.create_model("local-dir:…")``, ``AutoModel.from_pretrained(…)``.

``config.json`` holds the fields of this package beside those of the library, and weights have the library's names. ``push_model`` uploads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.core.errors import ConfigError, first_line
from selector.sources._hub import no_answer
from selector.sources._weights import offline

if TYPE_CHECKING:
    from torch import Tensor

    from selector.core.preprocess import AnyPreprocess


_BACKBONE, _HEAD = "backbone.", "selector_head."


def hub_repository(spec: Mapping[str, object]) -> str | None:
    """The hub repository ``org/name`` of the weights that a zoo entry names; None where they are from elsewhere."""
    from selector.sources import registry
    from selector.zoo import ModelSpec

    if spec.get("weights") is not None or not spec.get("source"):
        return None
    known = ModelSpec(**spec)
    asked: Any = getattr(registry.get(known.source_name), "repository", None)
    return None if asked is None else asked(known)


def library_of(source: str, recipe: Mapping[str, object]) -> str:
    """The ``library_name`` of a model card: the library that loads the folder as it lies there.

    timm does where the head is the network's own; a linear layer that this package added, or a decoder, it does not know.
    """
    if source == "timm" and recipe.get("head") == "native" and not recipe.get("config"):
        return "timm"
    return "transformers" if source == "transformers" else "pytorch"


def library_fields(
    source: str, recipe: Mapping[str, Any], preprocess: AnyPreprocess, names: list[str]
) -> dict[str, object]:
    """What the library looks for in ``config.json``; empty where none loads the folder."""
    library = library_of(source, recipe)
    if library == "transformers":
        return dict(recipe["config"])
    if library != "timm":
        return {}
    asked = {
        name: getattr(preprocess, name)
        for name in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    }
    return {
        "architecture": recipe["model"],
        "num_classes": recipe["outputs"],
        "num_features": recipe["features"],
        "label_names": names,
        "model_args": dict(recipe["kwargs"]),
        "pretrained_cfg": asked,
    }


def to_library(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that the library gives them; the head keeps its own."""
    if source != "transformers":
        return dict(state)
    return {name.removeprefix(_BACKBONE): value for name, value in state.items()}


def from_library(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``to_library``; weights that were saved before it are returned as they are."""
    if source != "transformers" or any(name.startswith(_BACKBONE) for name in state):
        return dict(state)
    return {name if name.startswith(_HEAD) else f"{_BACKBONE}{name}": value for name, value in state.items()}


def push_model(folder: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload a model's folder as one commit; the repository is created where it is missing.

    Args:
        folder: a saved model (``RUN/best``).
        repo: ``org/name``.
        private: of a new repository: who may see it.
        revision: branch; None for the main one.
    Returns:
        The address of the commit.
    Raises:
        ConfigError: a wrong name, no network, or no token that may write there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    if offline():
        raise ConfigError(f"{repo}: nothing can be pushed while HF_HUB_OFFLINE is set; unset it.")
    api = HfApi()
    if reason := no_answer(api.endpoint):
        raise ConfigError(
            f"{repo}: the hub {api.endpoint} did not answer ({reason}); check the connection and HF_ENDPOINT."
        )
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, revision=revision, commit_message="Model saved by zoo-selector"
        )
    except HFValidationError as error:
        raise ConfigError(
            f"'{repo}' is not the name of a hub repository (expected org/name): {first_line(error)}"
        ) from None
    except LocalTokenNotFoundError:
        raise ConfigError(f"{repo}: pushing needs a token that may write; run: hf auth login") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise ConfigError(
                f"{repo}: the hub refused the token ({status}); it must be valid and may need write access to "
                f"'{repo.partition('/')[0]}'. Run: hf auth login"
            ) from error
        raise ConfigError(f"{repo}: the hub refused the upload ({first_line(error)}).") from error
    return str(done.commit_url)
