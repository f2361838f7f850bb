"""MoE Lens: look inside Mixture-of-Experts language models, and trust what you see.

Names are imported on first use, so that `import moe_lens` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("moe-lens")

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
"""torch reads it at its first allocation: large tensors lie on huge pages, which Linux hands out
six times faster. Set it to 0 to have it off. Source: docs/adr/large-tensors-on-huge-pages.md"""

for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "128")
"""Shapes of 16-bit matrix products for which oneDNN, and torch in front of it, keep what they
compiled, half a megabyte each. Source: docs/adr/few-shapes-of-products.md"""

_PLACES = {
    "Corpus": "moe_lens.corpus",
    "Document": "moe_lens.corpus",
    "Field": "moe_lens.event",
    "LayerEvent": "moe_lens.event",
    "MoEModel": "moe_lens.models.model",
    "ModelSpec": "moe_lens.study.spec",
    "Plan": "moe_lens.prune.plan",
    "Routing": "moe_lens.routing",
    "ScoreRun": "moe_lens.study.score_result",
    "ScoreSpec": "moe_lens.study.score_spec",
    "SimulationSpec": "moe_lens.prune.simulation",
    "Study": "moe_lens.study.result",
    "StudySpec": "moe_lens.study.spec",
    "TextSpec": "moe_lens.study.spec",
    "batches": "moe_lens.corpus",
    "compare": "moe_lens.study.comparison",
    "compensate": "moe_lens.prune.compensation",
    "errors": "moe_lens.errors",
    "export": "moe_lens.prune.export",
    "inspect_checkpoint": "moe_lens.models.inspect",
    "load_corpus": "moe_lens.corpus",
    "load_model": "moe_lens.loading",
    "make_plan": "moe_lens.prune.planning",
    "observe": "moe_lens.observing",
    "policies": "moe_lens.policies",
    "read_plan": "moe_lens.prune.plan",
    "read_trace": "moe_lens.traces",
    "record": "moe_lens.observing",
    "run": "moe_lens.study.run",
    "score": "moe_lens.study.scoring",
    "simulate": "moe_lens.prune.simulation",
    "tokens_of": "moe_lens.observing",
    "write_report": "moe_lens.report",
}

if TYPE_CHECKING:
    from moe_lens import errors, policies
    from moe_lens.corpus import Corpus, Document, batches, load_corpus
    from moe_lens.event import Field, LayerEvent
    from moe_lens.loading import load_model
    from moe_lens.models.inspect import inspect_checkpoint
    from moe_lens.models.model import MoEModel
    from moe_lens.observing import observe, record, tokens_of
    from moe_lens.prune.compensation import compensate
    from moe_lens.prune.export import export
    from moe_lens.prune.plan import Plan, read_plan
    from moe_lens.prune.planning import make_plan
    from moe_lens.prune.simulation import SimulationSpec, simulate
    from moe_lens.report import write_report
    from moe_lens.routing import Routing
    from moe_lens.study.comparison import compare
    from moe_lens.study.result import Study
    from moe_lens.study.run import run
    from moe_lens.study.score_result import ScoreRun
    from moe_lens.study.score_spec import ScoreSpec
    from moe_lens.study.scoring import score
    from moe_lens.study.spec import ModelSpec, StudySpec, TextSpec
    from moe_lens.traces import read_trace

__all__ = [
    "Corpus",
    "Document",
    "Field",
    "LayerEvent",
    "MoEModel",
    "ModelSpec",
    "Plan",
    "Routing",
    "ScoreRun",
    "ScoreSpec",
    "SimulationSpec",
    "Study",
    "StudySpec",
    "TextSpec",
    "__version__",
    "batches",
    "compare",
    "compensate",
    "errors",
    "export",
    "inspect_checkpoint",
    "load_corpus",
    "load_model",
    "make_plan",
    "observe",
    "policies",
    "read_plan",
    "read_trace",
    "record",
    "run",
    "score",
    "simulate",
    "tokens_of",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'moe_lens' has no attribute {name!r}")
    place = import_module(_PLACES[name])
    return place if _PLACES[name] == f"moe_lens.{name}" else getattr(place, name)


def __dir__() -> list[str]:
    return __all__
