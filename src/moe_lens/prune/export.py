"""`export`: a plan and a checkpoint to a smaller checkpoint that loads like the original.

Tensors are moved from file to file in pieces; memory holds one piece. The result is written beside
its place, read back, compared with the simulation, and only then given its name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import moe_lens
from moe_lens.errors import InputError
from moe_lens.loading import checkpoint_directory
from moe_lens.models.config import CONFIG
from moe_lens.models.shards import INDEX, SINGLE
from moe_lens.prune.checkpoint import Checkpoint, check_plan, open_checkpoint, refuse_uneven
from moe_lens.prune.config_json import ROUTED_SCALE, edited
from moe_lens.prune.directory import check_free, unfinished
from moe_lens.prune.plan import Plan
from moe_lens.prune.stored import Output, write_file
from moe_lens.prune.verify import Verification, verify

RECORD = "moe_lens_prune.json"
SCHEMA_VERSION = 1
MAX_SHARD_BYTES = 5_000_000_000

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        directory: Where it lies.
        num_experts: Experts of each layer, before and after.
        num_bytes: Size of the weights, before and after.
        verification: How it compares with the simulation; None where that was not asked for.
        not_copied: Files of the original that are not in it.
    """

    directory: Path
    num_experts: tuple[int, int]
    num_bytes: tuple[int, int]
    verification: Verification | None
    not_copied: tuple[str, ...]


def export(
    source: str | Path,
    plan: Plan,
    out: str | Path,
    *,
    revision: str | None = None,
    check: bool = True,
    simulation: Mapping[str, Any] | None = None,
    without_mtp: bool = False,
    with_code: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> Exported:
    """Write the pruned checkpoint.

    Args:
        source: The original: a directory, a hub id, or "demo".
        plan: What stays.
        out: The directory to write; new, or empty.
        revision: Of a hub id.
        check: Whether to load original and result and compare their outputs. Takes the memory
            that the original takes in float32.
        simulation: What was measured of the plan, to be recorded with the result.
        without_mtp: Leave multi-token prediction heads out.
        with_code: Copy Python files too, and keep the config's references to them.
        max_shard_bytes: Size of a weights file, unless one tensor is larger.
        progress: Told of bytes written.

    Raises:
        InputError: The plan does not fit, the place is taken, or the disk is full.
        CheckpointError: The original is damaged.
        UnsupportedModel: It could not be cut rightly, by name.
        ProofFailed: The result does not give what the simulation gives; nothing is left of it.
    """
    refuse_uneven(plan)
    target = Path(out)
    check_free(target)
    directory = checkpoint_directory(source, revision=revision, with_code=with_code)
    _check_apart(directory, target)
    checkpoint = open_checkpoint(directory, source=str(source))
    check_plan(checkpoint, plan, without_mtp=without_mtp)
    outputs = checkpoint.outputs(plan)
    config = edited(
        checkpoint.config,
        plan,
        own_names=checkpoint.own_names,
        router_scale=checkpoint.router_scale(plan),
        without_mtp=without_mtp,
        with_code=with_code,
    )
    copied, left = _other_files(directory, with_code=with_code)
    num_bytes = sum(output.num_bytes for output in outputs)
    total = num_bytes + sum(path.stat().st_size for path in copied)
    with unfinished(target, num_bytes=total) as place:
        for path in copied:
            shutil.copyfile(path, place / path.name)
        _write_json(place / CONFIG, config, like=(directory / CONFIG).read_text(encoding="utf-8"))
        _write_weights(place, outputs, max_shard_bytes, progress)
        done = Exported(
            directory=target,
            num_experts=(plan.model.num_experts, plan.budget.keep),
            num_bytes=(checkpoint.num_bytes, num_bytes),
            verification=verify(directory, place, plan, folded=checkpoint.folded_dtypes(plan))
            if check
            else None,
            not_copied=tuple(path.name for path in left),
        )
        _write_json(place / RECORD, _record(done, checkpoint, plan, simulation))
    return done


def _record(
    done: Exported, checkpoint: Checkpoint, plan: Plan, simulation: Mapping[str, Any] | None
) -> dict[str, Any]:
    verification = None if done.verification is None else asdict(done.verification)
    scale = None
    if plan.scale is not None:
        scale = "down_proj" if checkpoint.router_scale(plan) == 1.0 else ROUTED_SCALE
    return {
        "schema_version": SCHEMA_VERSION,
        "source": checkpoint.model.source,
        "num_experts": dict(zip(("before", "after"), done.num_experts, strict=True)),
        "num_bytes": dict(zip(("before", "after"), done.num_bytes, strict=True)),
        "scale_is_in": scale,
        "simulation": simulation,
        "verification": verification,
        "not_copied": list(done.not_copied),
        "versions": {
            "moe_lens": moe_lens.__version__,
            **{name: version(name) for name in ("torch", "transformers", "safetensors")},
        },
        "plan": plan.to_dict(),
        "before": _record_of(checkpoint.directory),
    }


def _record_of(directory: Path) -> dict[str, Any] | None:
    """The record of an original that was pruned itself."""
    file = directory / RECORD
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _write_weights(
    place: Path, outputs: Sequence[Output], max_bytes: int, progress: Progress | None
) -> None:
    shards = list(_shards(outputs, max_bytes))
    count = len(shards)
    names = [SINGLE]
    if count > 1:
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        index = {
            "metadata": {"total_size": sum(output.num_bytes for output in outputs)},
            "weight_map": {
                output.name: name
                for name, shard in zip(names, shards, strict=True)
                for output in shard
            },
        }
        _write_json(place / INDEX, index)
    for name, shard in zip(names, shards, strict=True):
        write_file(place / name, shard)
        if progress is not None:
            progress(sum(output.num_bytes for output in shard))


def _shards(outputs: Sequence[Output], max_bytes: int) -> Iterator[list[Output]]:
    held: list[Output] = []
    size = 0
    for output in outputs:
        if held and size + output.num_bytes > max_bytes:
            yield held
            held, size = [], 0
        held.append(output)
        size += output.num_bytes
    yield held


def _other_files(directory: Path, *, with_code: bool) -> tuple[list[Path], list[Path]]:
    """The files that go along (tokenizer and the rest), and those that do not."""
    copied, left = [], []
    for path in sorted(directory.iterdir()):
        if path.name in (CONFIG, INDEX, RECORD) or path.name.startswith("."):
            continue
        weights = path.suffix in _WEIGHTS or path.name.endswith(".index.json")
        code = path.suffix == ".py" and not with_code
        if path.is_dir() or weights or code:
            if path.is_dir() or code or not path.name.startswith("model"):
                left.append(path)
            continue
        copied.append(path)
    return copied, left


def _check_apart(source: Path, target: Path) -> None:
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer):
        raise InputError(f"{target} lies inside the original {source}; give a place outside of it")


def _write_json(path: Path, values: Mapping[str, Any], *, like: str | None = None) -> None:
    """JSON, keys in their order, indented as the file it is made from."""
    indent = 2 if like is None or "\n  " in like else None
    text = json.dumps(values, indent=indent, ensure_ascii=False) + "\n"
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
