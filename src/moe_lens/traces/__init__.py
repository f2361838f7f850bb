"""Traces: per-token routing in Parquet, written by us or recorded elsewhere.

A trace enters where live events do, so every routing statistic works on it without a model. The
schema is in docs/trace-schema.md.
"""

from moe_lens.traces.manifest import SCHEMA_VERSION, TraceManifest
from moe_lens.traces.reader import Trace, read_trace
from moe_lens.traces.served import decode_routed_experts, from_routed_experts
from moe_lens.traces.writer import TraceWriter, write_trace

__all__ = [
    "SCHEMA_VERSION",
    "Trace",
    "TraceManifest",
    "TraceWriter",
    "decode_routed_experts",
    "from_routed_experts",
    "read_trace",
    "write_trace",
]
