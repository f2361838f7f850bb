"""`load_model`: a path or hub id to a model that passed the load-time proof."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from moe_lens.engine.capacity import (
    OVERHEAD_BYTES,
    check_two_layers,
    fits,
    memory_at_hand,
    parse_size,
    say_size,
)
from moe_lens.engine.proof import prove
from moe_lens.errors import CheckpointError, InputError
from moe_lens.models.checkpoint import open_model
from moe_lens.models.config import CONFIG, find_config, read_config
from moe_lens.models.model import MoEModel
from moe_lens.models.shards import weight_bytes, weight_files

EMBEDDED = "demo"
"""Names the small trained model that comes with the package."""

ENGINES = ("auto", "resident", "streaming")

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def load_model(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    engine: str = "auto",
    memory: str | int | None = None,
) -> MoEModel:
    """Load a Mixture-of-Experts model and prove that what is observed of it is right.

    Args:
        path_or_id: A checkpoint directory, a hub id (owner/name), or "demo" for the small trained
            model that comes with the package ("./demo" is a directory of that name).
        dtype: Of the loaded weights: "auto" (the checkpoint's own; float32 for "demo", whose
            bfloat16 weights it holds exactly), "float32", "bfloat16", "float16". Routers compute
            in float32 whatever is chosen.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1".
        trust_remote_code: Whether Python code that comes with the checkpoint may run, with your
            rights. Never needed for the families of docs/families.md.
        revision: Branch, tag or commit of a hub id.
        engine: "resident" (all weights in memory), "streaming" (one decoder layer at a time, the
            next one read meanwhile; same events, same results, for models larger than memory), or
            "auto": resident where the weights fit.
        memory: What weights and work may take on the device, such as "8GiB" or bytes; None for
            what is free now.

    Raises:
        CheckpointError: The checkpoint is missing, cut short, damaged, or not of one piece.
        InputError: An argument is none of these, or the memory does not suffice.
        UnsupportedModel: Its experts cannot be observed, its layers cannot be streamed, or a check
            of the proof failed.
    """
    source = str(path_or_id)
    target = embedded_model() if source == EMBEDDED else path_or_id
    if source == EMBEDDED and dtype == "auto":
        dtype = torch.float32
    file = find_config(target, revision=revision)
    config = read_config(file, source=source, trust_remote_code=trust_remote_code)
    directory = checkpoint_directory(source, revision=revision, with_code=trust_remote_code)
    wanted, place = _dtype(dtype), _device(device)
    allowed = memory_at_hand(place) if memory is None else parse_size(str(memory))
    size = None if wanted is None else wanted.itemsize
    needed = weight_bytes(weight_files(directory), bytes_per_float=size)
    streaming = _streams(engine, needed, allowed, source=source)
    model = open_model(
        directory,
        config,
        source=source,
        dtype=wanted,
        device=place,
        trust_remote_code=trust_remote_code,
        streaming=streaming,
    )
    if model.store is not None:
        check_two_layers(model.store.layer_bytes, allowed, source=source)
        room = allowed if place.type == "cpu" else memory_at_hand(torch.device("cpu"))
        in_use = 2 * model.store.layer_bytes if place.type == "cpu" else 0
        model.store.room_bytes = max(0, room - in_use - OVERHEAD_BYTES)
    return prove(model)


def checkpoint_directory(
    path_or_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    with_code: bool = False,
) -> Path:
    """Where the files of a checkpoint lie: a directory as it is, a hub id's in the local cache.

    Args:
        path_or_id: A directory, a hub id (fetched if need be), or "demo".
        revision: Branch, tag or commit of a hub id.
        with_code: Whether Python files are fetched too; they are never run here.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be fetched.
    """
    target = embedded_model() if str(path_or_id) == EMBEDDED else path_or_id
    file = find_config(target, revision=revision)
    if Path(target).expanduser().is_dir():
        return file.parent
    return _fetch(str(path_or_id), revision=revision, with_code=with_code)


def _streams(engine: str, needed: int, allowed: int, *, source: str) -> bool:
    """Whether decoder layers are to stay on disk."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if engine == "resident" and not fits(needed, allowed):
        raise InputError(
            f"{source}: its weights take {say_size(needed)}, but {say_size(allowed)} of memory may "
            f"be used; stream it (--engine streaming), or allow more with --memory"
        )
    return engine == "streaming" or (engine == "auto" and not fits(needed, allowed))


def embedded_model() -> Path:
    """The directory of the model that comes with the package.

    Raises:
        CheckpointError: This installation was made without it.
    """
    directory = Path(__file__).parent / "demo" / "model"
    if not (directory / CONFIG).is_file():
        raise CheckpointError(
            "the model 'demo' is not part of this installation; install the released wheel, or "
            "give the directory of a checkpoint"
        )
    return directory


def _fetch(hub_id: str, *, revision: str | None, with_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*_FETCHED, "*.py"] if with_code else _FETCHED
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{hub_id}: its weights are not in the local cache and could not be fetched from the "
            f"hub ({error}). Go online once, or give a directory that holds the checkpoint"
        ) from error


def _dtype(name: str | torch.dtype) -> torch.dtype | None:
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return None
    if name not in _DTYPES:
        raise InputError(f"dtype {name!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is not known to torch; try auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch sees no CUDA device here; use cpu")
    return device
