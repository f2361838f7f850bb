"""Every criterion at every budget on the embedded model, beside its controls: docs/pruning-demo.md.

Half of each domain's documents are scored, the other half evaluated: no document is in both. One
evaluation runs all plans on the same tokens, so that every comparison is paired.

Usage: python -m benchmarks.pruning [--max-tokens 4000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

import moe_lens
from moe_lens.analysis.simulation import simulation_table, text_of
from moe_lens.corpus import Corpus, load_corpus
from moe_lens.loading import EMBEDDED, load_model
from moe_lens.policies import DropExperts, MaskExperts, Policy
from moe_lens.prune.planning import RANDOM, make_plan, read_scores
from moe_lens.study.evaluation import evaluate
from moe_lens.study.opening import within_budget
from moe_lens.study.score_spec import ScoreSpec
from moe_lens.study.scoring import score_model
from moe_lens.study.spec import ModelSpec, TextSpec

DOC = Path(__file__).parents[1] / "docs" / "pruning-demo.md"
SHARES = (0.125, 0.25, 0.5)
NUM_RANDOM = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--max-tokens", type=int, default=None, help="of each domain and half")
    asked = options.parse_args()
    model, corpus = load_model(EMBEDDED), load_corpus(EMBEDDED)
    spec = ScoreSpec(ModelSpec(EMBEDDED), TextSpec(EMBEDDED, max_tokens=asked.max_tokens))
    scored, other = half(corpus, 0), half(corpus, 1)
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "scores"
        score_model(spec, model, scored, run)
        criteria = read_scores(run).criteria
        num_experts = read_scores(run).model.num_experts
        policies: dict[str, Policy] = {}
        kinds: dict[str, str] = {}
        for keep in (round(num_experts * (1 - share)) for share in SHARES):
            for name in (*criteria, *(f"{RANDOM}:{seed}" for seed in range(NUM_RANDOM))):
                criterion, _, seed = name.partition(":")
                plan = make_plan(run, keep=keep, criterion=criterion, seed=int(seed or 0))
                policies[f"{name}@{keep}"] = MaskExperts(plan.masked)
                if criterion == "frequency":
                    policies[f"drop@{keep}"] = DropExperts(plan.masked)
        kinds = {name: name.partition("@")[0].partition(":")[0] for name in policies}
    text = within_budget(model, other, spec.text)
    found = evaluate(model, text, policies)
    same = text_of(corpus.domains, scored=corpus.domains, same_text=False)
    DOC.write_text(page(found.documents, kinds, same, text.num_counted), encoding="utf-8")
    print(DOC.read_text(encoding="utf-8"))


def half(corpus: Corpus, which: int) -> Corpus:
    """Every second document of each domain."""
    seen = dict.fromkeys(corpus.domains, 0)
    kept = []
    for document in corpus.documents:
        if seen[document.domain] % 2 == which:
            kept.append(document)
        seen[document.domain] += 1
    how = f"every second document of each domain, from number {which}"
    return replace(corpus, documents=tuple(kept), sampling=how)


def page(
    documents: pl.DataFrame, kinds: Mapping[str, str], text: Mapping[str, str], num_tokens: int
) -> str:
    """The tables, in Markdown."""
    budgets = sorted({int(name.partition("@")[2]) for name in kinds}, reverse=True)
    command = " ".join(["python -m benchmarks.pruning", *sys.argv[1:]])
    lines = [HEAD.format(command=command, version=moe_lens.__version__, tokens=num_tokens)]
    for keep in budgets:
        names = [name for name in kinds if name.endswith(f"@{keep}")]
        here = documents.filter(pl.col("policy").is_in(["full", *names]))
        table = simulation_table(here, kinds=kinds, text=text, reference=f"frequency@{keep}")
        lines += [f"## {keep} of {max(budgets) * 8 // 7} experts stay in each layer", ""]
        lines += [*_rows(table), ""]
    return "\n".join(lines)


HEAD = """\
# Pruning the embedded model: every criterion, every budget

Written by `{command}` (moe-lens {version}); do not edit.

Half of the documents of each embedded domain were scored, the other half evaluated: {tokens:,}
tokens. Perplexity is over tokens, as a multiple of the full model's on the same documents;
intervals are 95 % from resampling documents. **against frequency**: its perplexity as a multiple of
that of keeping the most frequent experts; below 1 is better, and it is told (*) where the interval
leaves 1 out. There are many comparisons and no correction for their number. `random` is the best
and the worst of five draws; `drop` gives the slots of the experts that frequency would prune weight
0, which is not what a pruned model does.

The model is small and was trained for this package (its card says how): which criterion wins here
says little about which wins on yours. That is what `moe-lens simulate` is for.
"""


def _rows(table: pl.DataFrame) -> list[str]:
    whole = table.filter((pl.col("domain") == "all") & (pl.col("kind") != "full"))
    domains = [d for d in table["domain"].unique(maintain_order=True) if d != "all"]
    shown = [
        *whole.filter(~pl.col("kind").is_in([RANDOM, "drop"])).sort("loss_ratio").to_dicts(),
        *_ends(whole.filter(pl.col("kind") == RANDOM).sort("loss_ratio")),
        *whole.filter(pl.col("kind") == "drop").to_dicts(),
    ]
    lines = [
        f"| kept by | perplexity × | against frequency | {' | '.join(domains)} |",
        f"|---|---|---|{'---|' * len(domains)}",
    ]
    for row in shown:
        by_domain = {
            d: table.filter((pl.col("policy") == row["policy"]) & (pl.col("domain") == d))
            for d in domains
        }
        cells = [f"{by_domain[d]['loss_ratio'][0]:.3f}" for d in domains]
        lines.append(
            f"| {row['policy'].partition('@')[0]} | {_told(row, 'loss_ratio')} | {_against(row)} | "
            f"{' | '.join(cells)} |"
        )
    return lines


def _ends(draws: pl.DataFrame) -> list[dict[str, object]]:
    rows = draws.to_dicts()
    return [rows[0], rows[-1]] if len(rows) > 1 else rows


def _told(row: Mapping[str, object], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _against(row: Mapping[str, object]) -> str:
    """This one over frequency, where the table has frequency over this one."""
    if row["kind"] == "frequency":
        return "1"
    value, low, high = (1 / float(row[f"plan_ratio{end}"]) for end in ("", "_high", "_low"))  # type: ignore[arg-type]
    star = " *" if not low <= 1 <= high else ""
    return f"{value:.3f} ({low:.3f} to {high:.3f}){star}"


if __name__ == "__main__":
    main()
