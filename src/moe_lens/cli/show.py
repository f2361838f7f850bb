"""What the terminal shows. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import polars as pl

    from moe_lens.models.inspect import ModelFacts
    from moe_lens.traces import Trace

_WIDTH_WHEN_PIPED = 100


def _out() -> Console:
    width = None if sys.stdout.isatty() else _WIDTH_WHEN_PIPED
    return Console(width=width, highlight=False, markup=False)


def line(text: str) -> None:
    """One line of result, never wrapped or styled."""
    sys.stdout.write(text + "\n")


def error(text: str) -> None:
    """A message about what went wrong."""
    sys.stderr.write(f"moe-lens: {text}\n")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with tokens per second and time left, on a terminal; silence elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        TextColumn("{task.speed:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda num_tokens: bar.advance(task, num_tokens)


def model_facts(facts: ModelFacts) -> None:
    """What a model is, in a dozen lines."""
    layers = f"{facts.num_layers}, of which {facts.num_moe_layers} with routed experts"
    shared = f"{facts.num_shared_experts} shared" if facts.num_shared_experts else "no shared"
    experts = (
        f"{facts.num_experts} routed of width {facts.moe_intermediate_size:,}, "
        f"top {facts.top_k}; {shared}"
    )
    routed = facts.split.routed / facts.parameters
    rows = {
        "family": f"{facts.model_type} ({facts.model_class})",
        "layers": layers,
        "experts": experts,
        "hidden size": f"{facts.hidden_size:,}",
        "vocabulary": f"{facts.vocab_size:,}",
        "context": "unbounded" if facts.context_length is None else f"{facts.context_length:,}",
        "parameters": f"{facts.parameters:,} ({routed:.0%} in routed experts)",
        "active": f"{facts.active_parameters:,} per token "
        f"({facts.active_parameters / facts.parameters:.0%})",
        "weights": f"{_bytes(facts.bytes)} in {facts.dtype}",
        "on disk": "no weights here" if facts.stored is None else _bytes(facts.stored.bytes),
    }
    rows["supported"] = f"routers and experts found in all {facts.num_moe_layers} MoE layers"
    rows[""] = "loading proves the rest on the weights (docs/families.md)"
    if facts.quantization is not None:
        rows["quantised"] = facts.quantization
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    _out().print(Text(facts.source, style="bold"))
    _out().print(table)


def usage(trace: Trace, summary: pl.DataFrame, *, per_layer: bool) -> None:
    """Which experts each domain uses, and how concentrated that is."""
    manifest = trace.manifest
    out = _out()
    uniform = manifest.num_experts / 2
    out.print(Text(f"{manifest.model}: routing of {trace.num_tokens:,} tokens", style="bold"))
    out.print(
        Text(
            f"{len(manifest.layers)} MoE layers, top {manifest.top_k} of {manifest.num_experts} "
            f"experts. n50: experts that take half of a layer's decisions (even use: "
            f"{uniform:g}). busiest: the largest share of a domain's tokens that one expert sees "
            f"(even use: {manifest.top_k / manifest.num_experts:.1%}). No intervals here: "
            f"tokens of one document are not independent.",
            style="dim",
        )
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("domain")
    for name in ["layer"] * per_layer + ["tokens", "n50", "entropy", "busiest", "expert"]:
        table.add_column(name, justify="right")
    if manifest.has_weights:
        table.add_column("rank 1", justify="right")
        table.add_column("weight sum", justify="right")
    for row in _rows(summary, per_layer=per_layer):
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def claims(table: pl.DataFrame) -> None:
    """The paper's claims and what became of them here."""
    out = _out()
    for row in table.iter_rows(named=True):
        out.print(Text(f"{row['verdict']:>15}  {row['statement']}", style="bold"))
        out.print(Padding(Text(row["sentence"], style="dim"), (0, 0, 0, 17)))


def scores(stability: pl.DataFrame, *, skipped: Mapping[str, str]) -> None:
    """How far the ranking of each criterion can be trusted, at a quarter of the experts pruned."""
    import polars as pl

    def mean(part: pl.DataFrame, column: str, form: str) -> str:
        values = part[column].drop_nulls().to_list()
        return format(sum(values) / len(values), form) if values else "–"

    out = _out()
    chance = mean(stability.filter(pl.col("pruned_share") == 0.25), "overlap_uniform", ".0%")
    out.print(
        Text(
            "Kept experts in common when a quarter is pruned, mean over layers: between halves of "
            f"each domain's documents, and between domains. By chance: {chance}.",
            style="dim",
        )
    )
    rows = stability.filter((pl.col("pruned_share") == 0.25) & (pl.col("domain_a") != "all"))
    table = Table(box=None, pad_edge=False)
    table.add_column("criterion")
    for name in ("same domain", "Spearman", "other domain", "Spearman"):
        table.add_column(name, justify="right")
    for (criterion,), group in rows.group_by("criterion", maintain_order=True):
        same = group.filter(pl.col("domain_a") == pl.col("domain_b"))
        other = group.filter(pl.col("domain_a") != pl.col("domain_b"))
        cells = []
        for part in (same, other):
            cells += [mean(part, "overlap", ".0%"), mean(part, "spearman", ".2f")]
        table.add_row(Text(str(criterion)), *cells)
    out.print(table)
    for name, reason in skipped.items():
        out.print(Text(f"not available: {name} ({reason})", style="dim"))


def prediction(table: pl.DataFrame) -> None:
    """How well each criterion foretells what dropping an expert does to the loss."""
    import polars as pl

    def cell(row: dict[str, float | None]) -> str:
        low, high = row["spearman_low"], row["spearman_high"]
        if row["spearman"] is None:
            return "–"
        ends = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"
        return f"{row['spearman']:+.2f}{ends}"

    rows = table.filter(pl.col("layer").is_null())
    first = rows["ablation"][0]
    rows = rows.filter(pl.col("ablation") == first)
    out = _out()
    out.print(
        Text(
            f"Spearman of each criterion with what the ablation {first!r} does to the loss, ranks "
            f"within layers, {rows['num_experts'][0]} experts; 95 % intervals. The last two rows "
            f"are chance, and how far the effect agrees with itself on other documents.",
            style="dim",
        )
    )
    shown = Table(box=None, pad_edge=False)
    shown.add_column("criterion")
    for name in ("at its tokens", "over the text"):
        shown.add_column(name, justify="right")
    for (criterion,), group in rows.group_by("criterion", maintain_order=True):
        cells = {row["effect"]: cell(row) for row in group.to_dicts()}
        shown.add_row(Text(str(criterion)), Text(cells["own"]), Text(cells["text"]))
    out.print(shown)


def _rows(summary: pl.DataFrame, *, per_layer: bool) -> Iterator[list[str]]:
    import polars as pl

    weighted = "rank1_share_mean" in summary.columns
    means = ["n50_experts", "entropy_normalized", "rank1_share_mean", "weight_sum_mean"]
    for (domain,), group in summary.group_by("domain", maintain_order=True):
        top = group.sort("largest_specialization", descending=True).row(0, named=True)
        whole = group.select(pl.col(m for m in means if m in group.columns).mean()).row(
            0, named=True
        )
        merged = {**top, **whole, "where": f"{top['layer']}:{top['busiest_expert']}"}
        layers = [{**r, "where": str(r["busiest_expert"])} for r in group.to_dicts()]
        for row in layers if per_layer else [merged]:
            cells = [str(domain)] + [str(row["layer"])] * per_layer
            cells += [
                f"{row['num_tokens']:,}",
                f"{row['n50_experts']:.1f}",
                f"{row['entropy_normalized']:.3f}",
                f"{row['largest_specialization']:.1%}",
                row["where"],
            ]
            if weighted:
                cells += [f"{row['rank1_share_mean']:.3f}", f"{row['weight_sum_mean']:.3f}"]
            yield cells


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
