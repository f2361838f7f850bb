"""`find_config` and `read_config`: from what the user named to a config object.

Only families that are built in; code beside a checkpoint runs only where the caller passed
`trust_remote_code`. torch and transformers are imported on use, so that a wrong path is told at
once.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_lens.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG = "config.json"
BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a config or model class raises when the config makes no sense."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_config(path_or_id: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The `config.json` of a directory or of a hub id, fetched if need be.

    Raises:
        CheckpointError: It cannot be had; the message says what was looked for and what would do.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(
                f"{path} has no {CONFIG}. Give the directory of a transformers checkpoint: it "
                f"holds {CONFIG} beside the *.safetensors files"
            )
        return path / CONFIG
    if path.is_file():
        raise CheckpointError(f"{path} is a file. Give the directory that holds its {CONFIG}")
    if not _HUB_ID.fullmatch(str(path_or_id)) or str(path_or_id).startswith("."):
        raise CheckpointError(
            f"{path} does not exist, and is no hub id (owner/name) either. Give the directory of "
            f"a checkpoint, or a hub id"
        )
    return _download_config(str(path_or_id), revision)


def _download_config(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(hub_id, CONFIG, revision=revision))
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub was not reached"
        raise CheckpointError(
            f"{hub_id}: there is no such directory here, {CONFIG} of that hub id is not in the "
            f"local cache, and {why}. Go online once (unset HF_HUB_OFFLINE), or give a directory "
            f"that holds the checkpoint"
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{hub_id}: the hub gives {CONFIG} only to accounts that accepted its terms. Accept "
            f"them on its page and log in (`hf auth login`), or give a local directory"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id}: there is no such directory here, and the hub has no such model for you. "
            f"Check the spelling; a private model needs `hf auth login`"
        ) from error
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{hub_id}: {CONFIG} could not be fetched from the hub ({error}). Check the id and "
            f"the revision, or give a local directory"
        ) from error


def read_config(file: Path, *, source: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config object that a `config.json` describes.

    Args:
        file: The `config.json`.
        source: What the user named, for messages.
        trust_remote_code: Whether a family that is not built in may be had by running the Python
            code that lies beside the file.

    Raises:
        CheckpointError: It is unreadable, names no family, or makes no sense for the one it names.
        UnsupportedModel: transformers does not know the family.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    raw = _read_object(file)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            f"{source}: {CONFIG} names no model_type. Is it the config of a transformers model?"
        )
    if model_type == "deepseek":
        from moe_lens.models import deepseek

        deepseek.register()
    if model_type not in CONFIG_MAPPING and trust_remote_code and "auto_map" in raw:
        return _run_remote_config(file)
    if model_type not in CONFIG_MAPPING:
        remote = (
            ". Its config asks for Python code that comes with the checkpoint (auto_map), which "
            "runs only if you pass `--trust-remote-code`; it would run with your rights, so read "
            "it first"
            if "auto_map" in raw
            else ". A newer transformers may know it"
        )
        raise UnsupportedModel(
            f"{source}: the installed transformers {transformers.__version__} does not know "
            f"model_type {model_type!r}{remote}"
        )
    try:
        # A file can hold Infinity under a tag of transformers' own, which from_dict leaves alone.
        plain = PreTrainedConfig._decode_special_floats(raw)
        config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(plain)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise CheckpointError(senseless(source, model_type, error)) from error
    return config


def _run_remote_config(file: Path) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            file.parent, trust_remote_code=True, local_files_only=True
        )
    except (*BUILD_ERRORS, ImportError, OSError) as error:
        raise CheckpointError(
            f"{file}: the code beside it, run as you asked, failed: {error}"
        ) from error
    return config


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}). Download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file} holds a JSON {type(value).__name__}, not an object. Download the file again"
        )
    return value


def senseless(source: str, model_type: str, error: Exception) -> str:
    """What to say when a config does not fit the family it names."""
    return (
        f"{source}: {CONFIG} does not describe a {model_type} model ({type(error).__name__}: "
        f"{' '.join(str(error).split())}). Compare it with the published one"
    )
