"""What a run is, written before it measures anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers

import moe_lens
from moe_lens.corpus import TokenizedCorpus
from moe_lens.errors import InputError
from moe_lens.models.model import MoEModel
from moe_lens.models.routers import declared_groups
from moe_lens.study.files import MANIFEST, write_json
from moe_lens.study.fingerprint import fingerprint
from moe_lens.study.spec import RunSpec

SCHEMA_VERSION = 1


def manifest_of(
    spec: RunSpec, model: MoEModel, tokenized: TokenizedCorpus, skipped: dict[str, str]
) -> dict[str, Any]:
    """Everything that makes this run what it is, as JSON values.

    Args:
        spec: What was asked for.
        model: The loaded model.
        tokenized: The text in its tokens.
        skipped: Measures that this model cannot give, and why.
    """
    first = model.layers[0].modules
    layers = [x.modules.index for x in model.layers]
    rules = {str(x.modules.index): x.facts.rule for x in model.layers}
    return {
        "schema_version": SCHEMA_VERSION,
        "spec": spec.to_dict(),
        "skipped": skipped,
        "model": {
            "source": model.source,
            "model_type": model.model_type,
            **fingerprint(model)._asdict(),
            "dtype": str(model.hf.dtype).removeprefix("torch."),
            "router_dtype": "float32",
            "device": model.device.type,
            "engine": "resident" if model.store is None else "streaming",
            "layers": layers,
            "num_experts": first.num_experts,
            "top_k": first.top_k,
            **declared_groups(first)._asdict(),
            "has_shared_experts": first.shared is not None,
            "choice_rules": {i: None if r is None else r.describe() for i, r in rules.items()},
            "checks": {c.name: {"error": c.error, "tolerance": c.tolerance} for c in model.checks},
        },
        "corpus": tokenized.describe(),
        "policy": {"policy": "identity"},
        "versions": {
            "moe_lens": moe_lens.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "polars": pl.__version__,
            "numpy": np.__version__,
        },
    }


def begin(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, or find that the run in the directory is this one, to be continued.

    Raises:
        InputError: The directory holds another run, or something else.
    """
    file = directory / MANIFEST
    if not file.exists():
        if directory.exists() and any(directory.iterdir()):
            raise InputError(
                f"{directory} is not empty and holds no run; choose another directory, or empty it"
            )
        write_json(file, manifest)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); choose another directory") from error
    was, now = _identity(before), _identity(manifest)
    different = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if different:
        raise InputError(
            f"{directory} holds another run: {', '.join(different)} differ from what is asked "
            f"now. Choose another directory, or empty this one"
        )


def _identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what may change between two loads of the same model, and no result."""
    values: dict[str, Any] = json.loads(json.dumps(manifest))
    for name in ("checks", "engine"):
        values.get("model", {}).pop(name, None)
    for name in ("engine", "memory"):
        values.get("spec", {}).get("model", {}).pop(name, None)
    return values
