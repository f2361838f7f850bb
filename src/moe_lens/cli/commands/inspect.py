"""`moe-lens inspect`."""

from __future__ import annotations

import json

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption, ModelArgument, RevisionOption


def inspect(
    model: ModelArgument, as_json: JsonOption = False, revision: RevisionOption = None
) -> None:
    """Say what a model is, from its config alone: no weights are needed or loaded."""
    from moe_lens.loading import EMBEDDED, embedded_model
    from moe_lens.models.inspect import inspect_checkpoint

    target = embedded_model() if model == EMBEDDED else model
    facts = inspect_checkpoint(target, revision=revision)
    if as_json:
        show.line(json.dumps(facts.to_dict()))
    else:
        show.model_facts(facts)
