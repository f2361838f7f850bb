"""`simulate`: a plan on a model that is still whole, beside its controls."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moe_lens.analysis.simulation import PLAN, simulation_table, text_of
from moe_lens.corpus import Corpus, TokenizedCorpus
from moe_lens.errors import InputError
from moe_lens.models.model import MoEModel
from moe_lens.models.routers import declared_groups
from moe_lens.policies import DropExperts, MaskExperts, Policy
from moe_lens.prune.choosing import random_scores, same_counts
from moe_lens.prune.plan import ExpertsByLayer, Plan
from moe_lens.prune.policy import complement, policy_of, with_settings
from moe_lens.prune.shape import ModelShape
from moe_lens.study.evaluation import evaluate, forget
from moe_lens.study.files import TABLES, write_table
from moe_lens.study.manifest import begin, manifest_of
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.run import Progress
from moe_lens.study.spec import ModelSpec, TextSpec

SIMULATION = "simulation"
PLAN_TABLE = "plan"

RANDOM, FREQUENCY, DROP = "random", "frequency", "drop"


@dataclass(frozen=True)
class SimulationSpec:
    """One simulation.

    Attributes:
        model: The model.
        text: The text that the plan and its controls are evaluated on.
        num_random: How many random choices of the same size are evaluated beside it.
        seed: Of the first of them; the others follow.
        batch_tokens: Tokens in memory at a time.
        chunk_tokens: Tokens of work, over all policies, that a killed run may lose.
    """

    model: ModelSpec
    text: TextSpec
    num_random: int = 3
    seed: int = 0
    batch_tokens: int = 4096
    chunk_tokens: int = 262_144

    def __post_init__(self) -> None:
        sizes = ((self.batch_tokens, "batch_tokens"), (self.chunk_tokens, "chunk_tokens"))
        for value, what in (*sizes, (self.num_random, "num_random")):
            if value < 1:
                raise InputError(f"{what} = {value}: give at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Simulated:
    """A finished simulation.

    Attributes:
        directory: Where it lies.
        table: What everything costs: docs/tables.md, `simulation`.
    """

    directory: Path
    table: pl.DataFrame


def simulate(
    spec: SimulationSpec, plan: Plan, out: str | Path, *, progress: Progress | None = None
) -> Simulated:
    """Measure what a plan costs, on text that should not be the text that was scored.

    Always beside it: random experts of the same number in every layer and group (several draws),
    the most frequent experts, and the plan's experts taken away the wrong way (their slots given
    weight 0, so that nothing takes their place), which is what pruning does not do.

    A run that was killed goes on where it stood when called again with the same arguments.

    Args:
        spec: On what model and text.
        plan: The plan; its top_k and scale hold for the controls as well.
        out: The run's directory; created if need be.
        progress: Shows what is being done; None for silence.

    Raises:
        InputError: The plan does not fit the model, or text or directory cannot be used.
        UnsupportedModel: The model's experts cannot be masked, or its output head not be told.
    """
    corpus = open_corpus(spec.text)  # first: its mistakes are told before a model is loaded
    return simulate_on(spec, plan, open_model(spec.model), corpus, Path(out), progress=progress)


def simulate_on(
    spec: SimulationSpec,
    plan: Plan,
    model: MoEModel,
    corpus: Corpus,
    directory: Path,
    *,
    progress: Progress | None = None,
) -> Simulated:
    """As `simulate`, with the model and the text at hand."""
    text = within_budget(model, corpus, spec.text)
    told = manifest_of(spec, model, text, {})
    check_fit(plan, model, routers_sha256=told["model"]["routers_sha256"])
    policies = controls_of(plan, seed=spec.seed, num_random=spec.num_random)
    told |= {
        "kind": SIMULATION,
        "plan": plan.to_dict(),
        "policies": {name: dict(policy.describe()) for name, (_, policy) in policies.items()},
    }
    del told["policy"]
    begin(directory, told)
    file = directory / TABLES / f"{SIMULATION}.parquet"
    if file.is_file():
        forget(directory)
        return Simulated(directory, pl.read_parquet(file))
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    with show("simulating", (len(policies) + 1) * text.num_tokens) as advance:
        found = evaluate(
            model,
            text,
            {name: policy for name, (_, policy) in policies.items()},
            directory=directory,
            batch_tokens=spec.batch_tokens,
            chunk_tokens=spec.chunk_tokens,
            progress=advance,
        )
    table = simulation_table(
        found.documents,
        kinds={name: kind for name, (kind, _) in policies.items()},
        text=_text_of(plan, text),
    )
    write_table(directory / TABLES / f"{PLAN_TABLE}.parquet", plan_table(plan))
    write_table(file, table)  # last: the run is finished
    forget(directory)
    return Simulated(directory, table)


def controls_of(plan: Plan, *, seed: int, num_random: int) -> dict[str, tuple[str, Policy]]:
    """The plan and what it is measured beside: name to kind and policy."""

    def keeping(keep: ExpertsByLayer) -> Policy:
        return with_settings(MaskExperts(complement(keep, plan.model.num_experts)), plan)

    found: dict[str, tuple[str, Policy]] = {PLAN: (PLAN, policy_of(plan))}
    if plan.frequency_order is not None:
        scores = {
            layer: -np.argsort(np.array(order)).astype(np.float64)
            for layer, order in plan.frequency_order.items()
        }
        most = same_counts(plan.model, plan.keep, scores)
        found[FREQUENCY] = (FREQUENCY, keeping(most))
    for number in range(seed, seed + num_random):
        drawn = same_counts(plan.model, plan.keep, random_scores(plan.model, seed=number))
        found[f"{RANDOM}:{number}"] = (RANDOM, keeping(drawn))
    found[DROP] = (DROP, with_settings(DropExperts(plan.masked), plan))
    return found


def plan_table(plan: Plan) -> pl.DataFrame:
    """One row for each expert of each layer.

    Columns: layer, expert, kept (1: it stays, 0: it goes), frequency_rank (its place by frequency,
    0 being the most frequent; null if not known).
    """
    rows = []
    for layer, kept in plan.keep.items():
        order = None if plan.frequency_order is None else list(plan.frequency_order[layer])
        for expert in range(plan.model.num_experts):
            rank = None if order is None else order.index(expert)
            rows.append((layer, expert, int(expert in kept), rank))
    schema = {
        "layer": pl.Int64,
        "expert": pl.Int64,
        "kept": pl.Int64,
        "frequency_rank": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def read_simulation(directory: str | Path, plan: Plan) -> dict[str, Any]:
    """What a simulation of this very plan measured, for the record of an export.

    Raises:
        InputError: It is not finished, or of another plan.
    """
    import json

    place = Path(directory)
    file = place / TABLES / f"{SIMULATION}.parquet"
    if not file.is_file():
        raise InputError(
            f"{place} holds no finished simulation; `moe-lens simulate --out` writes one"
        )
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    ours, theirs = plan.to_dict(), manifest.get("plan", {})
    different = [k for k in ("keep", "top_k", "scale") if ours[k] != theirs.get(k)]
    if different:
        raise InputError(
            f"{place} simulated another plan: {', '.join(different)} differ; simulate this one"
        )
    table = pl.read_parquet(file)
    wanted = ("policy", "domain", "text", "num_documents", "num_tokens", "nll_nats")
    ratios = ("loss_ratio", "loss_ratio_low", "loss_ratio_high")
    return {
        "corpus": manifest["corpus"],
        "rows": table.select(*wanted, *ratios).to_dicts(),
    }


def check_fit(plan: Plan, model: MoEModel, *, routers_sha256: str) -> None:
    """Prove that a plan was made for this model, whose routers have this hash.

    Raises:
        InputError: It was not; the message says what differs.
    """
    first = model.layers[0].modules
    shape = ModelShape(
        source=model.source,
        model_type=model.model_type,
        layers=tuple(layer.modules.index for layer in model.layers),
        num_experts=first.num_experts,
        top_k=first.top_k,
        **declared_groups(first)._asdict(),
        routers_sha256=routers_sha256,
    )
    difference = plan.model.difference(shape)
    if difference is not None:
        raise InputError(
            f"the plan was made for {plan.model.source} and does not fit {model.source}: "
            f"{difference}. Score this model and plan anew"
        )


def _text_of(plan: Plan, text: TokenizedCorpus) -> dict[str, str]:
    scored = plan.calibration.get("domains", {})
    if plan.domains and "all" not in plan.domains:
        scored = plan.domains
    same = plan.calibration.get("sha256") == text.corpus.sha256
    return text_of(text.corpus.domains, scored=list(scored), same_text=same)
