"""`moe-lens plan`, `simulate` and `prune` without their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_lens.cli.quiet import quiet_transformers
from moe_lens.study.spec import ModelSpec, TextSpec


@dataclass(frozen=True)
class Told:
    """What a command says: to a machine, and to a person."""

    values: Mapping[str, Any]
    text: str


def write_plan(source: str, out: Path, *, domains: str, **options: Any) -> Told:
    """Make a plan and write it."""
    from moe_lens.prune.planning import make_plan

    names = tuple(name.strip() for name in domains.split(",") if name.strip())
    made = make_plan(source, domains=names, **options)
    made.write(out)
    model, counts = made.model, set(made.num_kept.values())
    kept = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    lines = [
        f"{kept} of {model.num_experts} experts stay in each of {len(model.layers)} layers, by "
        f"{made.criterion}: {out}",
        f"next: moe-lens simulate {model.source} --plan {out} --corpus PATH --out DIR",
    ]
    protected = sum(map(len, made.budget.protected.values()))
    if made.budget.protected:
        lines.insert(1, f"{protected} super-experts are protected (budget.protected)")
    if made.budget.shape != "uniform":
        lines.insert(1, "layers differ: this plan can be simulated, not exported")
    return Told({"plan": str(out), **made.to_dict()["budget"]}, "\n".join(lines))


def feasible(source: str, **options: Any) -> Told:
    """Whether a model allows a budget."""
    from moe_lens.prune.feasible import feasibility

    found = feasibility(source, **options)
    model, budget = found.model, found.budget
    lines = [
        f"{source} ({model.model_type}): {budget.keep} of {model.num_experts} experts in each of "
        f"{len(model.layers)} layers can be kept",
        f"at least {found.least} must stay"
        + (f", in multiples of {found.step}" if found.step > 1 else ""),
    ]
    if found.num_bytes is not None:
        before, after = found.num_bytes
        lines.append(f"weights: {before / 1e9:.2f} GB before, {after / 1e9:.2f} GB after")
    lines.append(
        "can be exported"
        if found.why_not_exported is None
        else f"can be simulated, not exported: {found.why_not_exported}"
    )
    values = {
        "model": model.to_dict(),
        "keep": budget.keep,
        "step": found.step,
        "least": found.least,
        "num_bytes": found.num_bytes,
        "exportable": found.why_not_exported is None,
        "why_not": found.why_not_exported,
    }
    return Told(values, "\n".join(lines))


def simulate_plan(
    plan: Path,
    out: Path,
    *,
    model: ModelSpec,
    text: TextSpec,
    rest: Mapping[str, Any],
    progress: Any,
) -> Told:
    """Simulate a plan, and write its report."""
    from moe_lens.prune.plan import read_plan
    from moe_lens.prune.simulation import SimulationSpec, simulate
    from moe_lens.report import write_report

    quiet_transformers()
    spec = SimulationSpec(model, text, **rest)
    found = simulate(spec, read_plan(plan), out, progress=progress)
    report = write_report(found.directory)
    rows = found.table.filter(found.table["policy"] != "full").to_dicts()
    lines = [f"{'policy':12} {'domain':14} {'text':12} perplexity, x the full model's"]
    lines += [f"{r['policy']:12} {r['domain']:14} {r['text']:12} {_interval(r)}" for r in rows]
    lines += [f"report: {report}", f"next: moe-lens prune {model.model} --plan {plan} --out DIR"]
    return Told({"run": str(out), "report": str(report), "rows": rows}, "\n".join(lines))


def compensate_plan(
    plan: Path, out: Path, *, model: ModelSpec, text: TextSpec, progress: Any
) -> Told:
    """Fit a plan's scale, and write the plan that has it."""
    from moe_lens.prune.compensation import compensate
    from moe_lens.prune.plan import read_plan

    quiet_transformers()
    made = compensate(model, text, read_plan(plan), progress=progress)
    made.write(out)
    scale = made.scale or {}
    lines = [
        f"{made.active} of {made.model.top_k} active experts; factors on the routed sum: "
        f"{min(scale.values()):.3f} to {max(scale.values()):.3f}: {out}",
        f"next: moe-lens simulate {model.model} --plan {out} --corpus OTHER-TEXT --out DIR",
    ]
    return Told({"plan": str(out), "scale": made.to_dict()["scale"]}, "\n".join(lines))


def _interval(row: Mapping[str, Any]) -> str:
    value, low, high = (row[f"loss_ratio{end}"] for end in ("", "_low", "_high"))
    told = "too few documents for an interval" if low is None else f"{low:.3f} to {high:.3f}"
    return f"{value:.3f} ({told})"


def export_plan(source: str, plan: Path, out: Path, **options: Any) -> Told:
    """Export a plan."""
    from moe_lens.prune.export import RECORD, export
    from moe_lens.prune.exported_run import check_report, write_exported
    from moe_lens.prune.plan import read_plan
    from moe_lens.prune.simulation import read_simulation
    from moe_lens.report import write_report

    quiet_transformers()
    made, simulated, report = read_plan(plan), options.pop("simulation"), options.pop("report")
    if report is not None:
        check_report(report)
    measured = None if simulated is None else read_simulation(simulated, made)
    done = export(source, made, out, simulation=measured, **options)
    if report is not None:
        write_exported(report, done, made, simulation=simulated)
        write_report(report)
    before, after = done.num_bytes
    lines = [
        f"{done.num_experts[1]} of {done.num_experts[0]} experts, {after / 1e9:.3g} of "
        f"{before / 1e9:.3g} GB of weights: {out}",
    ]
    if done.verification is None:
        lines.append("not verified (--no-verify)")
    else:
        check = done.verification
        lines.append(
            f"exported = simulated: {check.num_logits:,} logits differ by at most "
            f"{check.error:.1e} of the largest ({check.loader}, {check.dtype})"
        )
    if done.not_copied:
        lines.append(f"not copied: {', '.join(done.not_copied)}")
    lines.append(f"recorded in {out / RECORD}")
    values = asdict(done) | {"directory": str(out)}
    return Told(values, "\n".join(lines))
