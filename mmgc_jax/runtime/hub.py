"""Downloads from and uploads to the Hugging Face Hub, or the server that HF_ENDPOINT names."""

import logging
import os
import pathlib

from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

_SCHEME = "hf://"
# Files that `Predictor.load` does not read. Code is never downloaded.
_NOT_DOWNLOADED = ["*.py", "graphs/*", "onnx/*"]


def is_address(place) -> bool:
    """Returns whether a place is an address such as `hf://owner/name`."""
    return os.fspath(place).startswith(_SCHEME)


def download(address: str) -> pathlib.Path:
    """Downloads a model into the hub's cache, unless it is there already.

    Args:
      address: `hf://owner/name`, or `hf://owner/name@revision` with a branch, tag or commit.

    Returns:
      The local folder. Without a connection to the hub, it is that of an earlier download.

    Raises:
      InputError: if it cannot be downloaded.
    """
    import huggingface_hub

    name, _, revision = address.removeprefix(_SCHEME).partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, ignore_patterns=_NOT_DOWNLOADED
        )
    except Exception as error:  # each transport raises exceptions of its own types
        raise InputError(
            f"{address} cannot be downloaded: {_short(error)}. A private model needs a token, in "
            "HF_TOKEN or by `hf auth login`."
        ) from error
    return pathlib.Path(folder)


def upload(folder: pathlib.Path, name: str, message: str, *, public: bool = False) -> str:
    """Uploads a folder as one commit, so that all of its files appear at once or none.

    A new repository is private, and becomes public only after the upload, if at all. The log says
    after each step what exists.

    Args:
      folder: the folder.
      name: of the repository, `owner/name`; made if it does not exist.
      message: of the commit.
      public: whether to make the repository public after the upload. One that is public stays so.

    Returns:
      The address of the repository's page.

    Raises:
      InputError: if a step fails; the message says what exists.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    url = f"{api.endpoint}/{name}"
    exists = f"Nothing of {folder} is at {url}."
    try:
        if not api.repo_exists(name):
            api.create_repo(name, private=True)
            exists = f"{url} is empty and private; delete it there, or try again."
            logger.info("Made %s, which is empty and private.", url)
        else:
            exists = f"{url} is as it was before."
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=message,
            ignore_patterns=["*.pyc"],
            delete_patterns=["*.py", "graphs/*", "onnx/*", "encoders/*"],
        )
        exists = f"The upload to {url} is complete, but a new repository is still private."
        logger.info("Uploaded all files, as the commit %s.", commit.oid)
        if public:
            api.update_repo_settings(name, private=False)
            logger.info("Made %s public.", url)
    except Exception as error:  # each transport raises exceptions of its own types
        raise InputError(f"--push_to_hub={name}: {_short(error)}. {exists}") from error
    return url


def _short(error: Exception) -> str:
    """Returns the first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
