"""Upload a saved model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from selector.core.errors import ConfigError, first_line
from selector.sources._hub import no_answer
from selector.sources._weights import offline


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
