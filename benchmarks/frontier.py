"""Fewer active experts on the embedded model: runs the frontier and writes it into the docs.

    python -m benchmarks.frontier [--max-tokens N] [--out DIR]      (or: make frontier)

Everything between the two marks of docs/frontier.md is written anew, words included: they say what
these numbers say, whichever policy wins.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from moe_lens.analysis.frontier import compare_policies
from moe_lens.report import frontier_findings as findings
from moe_lens.study.frontier import FrontierSpec, frontier
from moe_lens.study.result import Study
from moe_lens.study.spec import ModelSpec, TextSpec

PAGE = Path(__file__).parents[1] / "docs" / "frontier.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-tokens", type=int, default=4_000, help="of each domain")
    parser.add_argument("--out", type=Path, help="keep the run here; a finished one is read")
    wanted = parser.parse_args()
    spec = FrontierSpec(ModelSpec("demo"), TextSpec("demo", max_tokens=wanted.max_tokens))
    with tempfile.TemporaryDirectory() as scratch:
        write(frontier(spec, wanted.out or Path(scratch) / "run"))


def write(study: Study) -> None:
    """Put a run's numbers into the page."""
    max_tokens = study.manifest["spec"]["text"]["max_tokens"]
    command = f"moe-lens frontier demo --corpus demo --max-tokens {max_tokens} --out DIR"
    written = "\n\n".join([BEGIN, *_parts(study, command), END])
    page = PAGE.read_text(encoding="utf-8")
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    page = re.sub(f"{BEGIN}.*{END}", lambda _: written, page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


def _parts(study: Study, command: str) -> list[str]:
    table = study.frontier
    whole = table.filter(pl.col("domain") == "all")
    fit = study.manifest["calibration"]
    weights = study.manifest["model"]["weights_sha256"][:12]
    return [
        "## Measured on the embedded model",
        f"`{command}` (or `python -m benchmarks.frontier`, which writes this page): "
        f"{whole['num_tokens'][0]:,} predicted tokens in {whole['num_documents'][0]} documents of "
        f"{table['domain'].n_unique() - 1} domains; fitted on {fit['num_counted']:,} tokens of "
        f"other documents; model {weights}. It is a small model: "
        f"what wins here need not win on a large one.",
        findings.frontier(table),
        findings.frontier_reads(table),
        *_head_to_head(study),
        "### What is missing of the routed sum",
        "|M_K - M'|² over |M_K|², summed over calibration tokens, mean over layers: with the "
        "weights as they were, scaled to their full sum, and times the fitted factor.",
        _reduction(study.table("reduction")),
        "### Every policy, all domains",
        "Loss ratio, KL and agreement against the full model on the same tokens, 95 % intervals "
        "from resampling documents. Distinct experts of a layer in steps of 8 sequences. "
        "Parameters, FLOPs and bytes are theoretical. ★: no policy with as few experts loses less "
        "(point estimates).",
        _all_domains(whole),
        "### Loss ratio by domain",
        "Intervals are in `tables/frontier.parquet`.",
        _by_domain(table),
    ]


def _head_to_head(study: Study) -> list[str]:
    documents = study.table("evaluation")
    names = set(documents["policy"])
    ks = range(1, 1 + sum(name.startswith("k:") and name.count(":") == 1 for name in names))
    parts = []
    for what, one in (
        ("Another k in each layer (dp) against the same k everywhere, as many experts", "dp:{}"),
        ("Weights scaled to their full sum (keep_mass) against the model's own", "k:{}:keep_mass"),
        ("One fitted factor a layer (scale) against the model's own weights", "scale:{}"),
    ):
        pairs = [(one.format(k), f"k:{k}") for k in ks if one.format(k) in names]
        if pairs:
            parts += [f"### {what}", _pairs(study, compare_policies(documents, pairs))]
    return parts


def _pairs(study: Study, found: pl.DataFrame) -> str:
    chosen = json.loads((study.directory / "policies.json").read_text("utf-8"))
    rows = []
    for row in found.iter_rows(named=True):
        policy = chosen[row["policy"]]
        how = "" if "k" not in policy else " ".join(map(str, _ks(policy["k"])))
        if row["policy"].startswith("scale"):
            scales = policy["of"][1]["scale"].values()
            how = "× " + " ".join(f"{scale:.2f}" for scale in scales)
        rows.append(
            [
                f"`{row['policy']}` / `{row['other']}`",
                how,
                _interval(row, "loss_ratio", ".4f"),
                row["verdict"],
                _interval(row, "kl_difference_nats", "+.5f"),
                row["kl_verdict"],
            ]
        )
    heads = ["policies", "in the layers", "perplexity, first over second", "the first loses"]
    heads += ["KL to the full model, first less second", "the first is"]
    return _markdown(heads, rows)


def _reduction(table: pl.DataFrame) -> str:
    rows = []
    for (k,), part in table.group_by("k", maintain_order=True):
        of = {
            name: part.filter(pl.col("renorm") == name).select(pl.col("^error_layer.*$").mean())
            for name in ("none", "keep_mass")
        }
        errors = (
            of["none"]["error_layer"][0],
            of["keep_mass"]["error_layer"][0],
            of["none"]["error_layer_scaled"][0],
        )
        rows.append([str(k), *(f"{error:.3f}" for error in errors)])
    return _markdown(["experts", "none", "keep_mass", "scale"], sorted(rows))


def _ks(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _all_domains(whole: pl.DataFrame) -> str:
    rows = []
    for row in whole.iter_rows(named=True):
        distinct, read = row["distinct_experts_measured"], row["bytes_per_token_theoretical"]
        rows.append(
            [
                f"`{row['policy']}`",
                f"{row['mean_k']:.2f}",
                _interval(row, "loss_ratio", ".4f"),
                _interval(row, "kl_nats", ".4f"),
                _interval(row, "agreement", ".1%"),
                "–" if distinct is None else f"{distinct:.1f}",
                f"{row['active_parameters_theoretical'] / 1e6:.2f}",
                f"{row['flops_per_token_theoretical'] / 1e6:.2f}",
                "–" if read is None else f"{read / 1e6:.2f}",
                "★" if row["pareto"] else "",
            ]
        )
    heads = ["policy", "experts", "loss ratio", "KL, nats", "same top word", "experts of a step"]
    heads += ["active parameters, M", "MFLOPs a token", "MB a token", ""]
    return _markdown(heads, rows)


def _by_domain(table: pl.DataFrame) -> str:
    domains = table["domain"].unique(maintain_order=True).to_list()
    rows = [
        [f"`{policy}`", *(f"{ratio:.3f}" for ratio in part["loss_ratio"])]
        for (policy,), part in table.group_by("policy", maintain_order=True)
    ]
    return _markdown(["policy", *domains], rows)


def _interval(row: dict[str, object], name: str, form: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = format(row[name], form)
    return value if low is None else f"{value} [{low:{form}}, {high:{form}}]"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


if __name__ == "__main__":
    main()
