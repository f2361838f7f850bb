"""Files of a run: written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
TABLES = "tables"
STATE = "state"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """JSON that a person can read, keys in order."""
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    _replace(path, lambda temporary: save_file(plain, temporary))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote."""
    return load_file(path)


def write_table(path: Path, table: pl.DataFrame) -> None:
    """A Parquet file; the same table gives the same bytes."""
    _replace(path, lambda temporary: table.write_parquet(temporary, compression="zstd"))


def _replace(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
