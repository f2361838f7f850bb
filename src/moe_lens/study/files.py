"""Files of a run: where they are, and how each kind is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_lens.writing import whole

MANIFEST = "manifest.json"
TABLES = "tables"
STATE = "state"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """JSON that a person can read, keys in order."""
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as beside:
        save_file(plain, beside)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote."""
    return load_file(path)


def write_table(path: Path, table: pl.DataFrame) -> None:
    """A Parquet file; the same table gives the same bytes."""
    with whole(path) as beside:
        table.write_parquet(beside, compression="zstd")
