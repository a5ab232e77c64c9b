"""Pretrained weights: where `from_pretrained` finds them, here or on the Hugging Face Hub."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from i2vpp.errors import CheckpointError
from i2vpp.utils.suggest import how_to_install
from i2vpp.weights.files import PRETRAINED, SUFFIXES, find_checkpoint

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


def find_pretrained(path_or_hub_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Find the weights for a path, folder or name, or for the id of a repository of the Hub.

    Args:
        path_or_hub_id: what `find_checkpoint` takes, or `owner/name` of a repository that holds `model.safetensors`.
            Local files take precedence.
        revision: branch, tag or commit of the repository; None for its main branch.

    Returns:
        Path of the file; in the Hub's cache, if it was fetched.

    Raises:
        CheckpointError: there is neither such a file nor such a repository, the Hub cannot be reached, or the package
            huggingface_hub is not installed.
    """
    try:
        return find_checkpoint(path_or_hub_id)
    except CheckpointError:
        name = str(path_or_hub_id)
        if not _REPOSITORY.fullmatch(name) or Path(name).exists() or name.startswith(".") or name.endswith(SUFFIXES):
            raise
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"{name!r} is no checkpoint here (looked from {Path.cwd()}), and to fetch it from the Hugging Face Hub "
            f"huggingface_hub is needed: {how_to_install('hub')}"
        ) from error
    try:
        return Path(hub.hf_hub_download(name, PRETRAINED, revision=revision))
    except Exception as error:  # of the Hub, of its cache, and of the packages that it reaches the network with
        reason = str(error).strip().partition("\n")[0]
        at = "" if revision is None else f" at {revision}"
        raise CheckpointError(
            f"{name!r} is no checkpoint here (looked from {Path.cwd()}), and {PRETRAINED} of that repository{at} "
            f"cannot be fetched from the Hugging Face Hub: {type(error).__name__}: {reason}"
        ) from error
