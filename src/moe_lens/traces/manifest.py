"""`TraceManifest`: what a trace says about itself, in its Parquet metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from moe_lens.errors import TraceError

SCHEMA_VERSION = 1
METADATA_KEY = "moe_lens.trace"


@dataclass(frozen=True)
class TraceManifest:
    """Where a trace comes from, and the numbers that its rows are checked against.

    Attributes:
        model: The model's id or path, as the user gave it.
        num_experts: How many routed experts each MoE layer has.
        top_k: How many slots a token has.
        layers: The MoE layers, indices in the model, in rising order.
        tokenizer: The tokenizer's id; None where it is not known.
        policy: What the routing policy says of itself; empty for the model's own routing.
        has_weights: Whether weights were recorded, and with them ranks.
        provenance: Anything else worth keeping, as JSON values: corpus, dtype, code version.
    """

    model: str
    num_experts: int
    top_k: int
    layers: tuple[int, ...]
    tokenizer: str | None = None
    policy: Mapping[str, object] = field(default_factory=dict)
    has_weights: bool = True
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = list(self.layers)
        if not layers or layers != sorted(set(layers)) or layers[0] < 0:
            raise TraceError(
                f"layers {layers}: list the MoE layers once each, in rising order, from 0 up"
            )
        if not 1 <= self.top_k <= self.num_experts:
            raise TraceError(
                f"top_k {self.top_k} with {self.num_experts} experts: a token has 1 to "
                f"num_experts slots; is num_experts that of the model?"
            )
        if self.num_experts > 65_536:
            raise TraceError(f"{self.num_experts} experts: expert columns hold ids up to 65535")

    def to_json(self) -> str:
        """The manifest as it is stored, schema version included."""
        values = asdict(self) | {"layers": list(self.layers), "schema_version": SCHEMA_VERSION}
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str, *, path: str) -> TraceManifest:
        """Read a stored manifest.

        Raises:
            TraceError: It is not JSON, of another schema version, or lacks a part.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise TraceError(
                f"{path}: the metadata {METADATA_KEY!r} is not JSON ({error}); write the trace "
                f"again with moe-lens"
            ) from error
        if not isinstance(values, dict):
            raise TraceError(f"{path}: the metadata {METADATA_KEY!r} is not a JSON object")
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise TraceError(
                f"{path}: trace schema version {version}, but this moe-lens reads version "
                f"{SCHEMA_VERSION}; read it with the moe-lens that wrote it, or a newer one"
            )
        try:
            return TraceManifest(**values | {"layers": tuple(values["layers"])})
        except (KeyError, TypeError) as error:
            raise TraceError(
                f"{path}: the manifest in the metadata {METADATA_KEY!r} does not fit schema "
                f"version {SCHEMA_VERSION} ({error}); write the trace again with moe-lens"
            ) from error
