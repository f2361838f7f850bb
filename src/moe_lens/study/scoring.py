"""`score`: what each expert is worth, by every criterion, resumable at any moment."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import polars as pl
import torch

from moe_lens.corpus import Corpus, TokenizedCorpus
from moe_lens.errors import UnsupportedModel
from moe_lens.models.model import MoEModel
from moe_lens.policies import Identity
from moe_lens.scoring.blocks import Blocks, deal
from moe_lens.scoring.criteria import Needs, needs_of, unavailable
from moe_lens.scoring.weights import aimer
from moe_lens.stats.ballots import Ballots
from moe_lens.stats.importance import Importance, LayerTerms
from moe_lens.study.causal import NAME as CAUSAL
from moe_lens.study.causal import CausalRun, causal_tables, unavailable_ablations
from moe_lens.study.files import STATE, TABLES, write_table
from moe_lens.study.manifest import begin, manifest_of
from moe_lens.study.measuring import run_passes
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.passes import Pass, joined
from moe_lens.study.run import Progress
from moe_lens.study.score_result import ScoreRun, is_finished
from moe_lens.study.score_spec import ScoreSpec
from moe_lens.study.score_tables import Scores
from moe_lens.study.sums import PassSums

_PASS = "scores"


def score(spec: ScoreSpec, out: str | Path, *, progress: Progress | None = None) -> ScoreRun:
    """Score every expert and write the tables.

    A run that was killed goes on where it stood when called again with the same spec and
    directory.

    Args:
        spec: What to score, on what text.
        out: The run's directory; created if need be.
        progress: Shows what is being done; None for silence.

    Raises:
        InputError: The spec, the model, the text or the directory cannot be used.
        UnsupportedModel: The model's experts cannot be observed, or it can give none of the
            criteria.
    """
    corpus = open_corpus(spec.text)  # first: its mistakes are told before a model is loaded
    return score_model(spec, open_model(spec.model), corpus, Path(out), progress=progress)


def score_model(
    spec: ScoreSpec,
    model: MoEModel,
    corpus: Corpus,
    directory: Path,
    *,
    progress: Progress | None = None,
) -> ScoreRun:
    """As `score`, with the model and the text at hand."""
    tokenized = within_budget(model, corpus, spec.text)
    missing = unavailable(model)
    skipped = {name: reason for name, reason in missing.items() if name in spec.criteria}
    skipped |= unavailable_ablations(model, spec)
    criteria = [name for name in spec.criteria if name not in skipped]
    if not criteria:
        raise UnsupportedModel(f"{model.model_type}: {'; '.join(skipped.values())}")
    begin(directory, manifest_of(spec, model, tokenized, skipped))
    if is_finished(directory):
        return ScoreRun(directory)
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    scores = _scores(spec, model, tokenized, criteria, directory, show)
    importance = scores.importance()
    tables = {"stability": scores.stability(), "importance": importance}
    _write(tables, directory)  # they can be read while ablations go on
    ablations = tuple(name for name in spec.ablations if name not in skipped)
    if spec.causal and ablations and CAUSAL not in skipped:
        causal = CausalRun.of(model, spec, ablations, tokenized, directory)
        plan = causal.plan(importance)
        with show("ablating", causal.num_steps(plan)) as advance:
            found = causal.run(plan, advance)
        _write(causal_tables(importance, found, seed=spec.seed), directory)
    shutil.rmtree(directory / STATE)  # last: without it the run is finished
    return ScoreRun(directory)


def _write(tables: dict[str, pl.DataFrame], directory: Path) -> None:
    for name, table in tables.items():
        write_table(directory / TABLES / f"{name}.parquet", table)


def _scores(
    spec: ScoreSpec,
    model: MoEModel,
    tokenized: TokenizedCorpus,
    criteria: list[str],
    directory: Path,
    show: Progress,
) -> Scores:
    corpus = tokenized.corpus
    blocks = deal(
        corpus.domain_indices, [len(ids) for ids in tokenized.ids], corpus.domains, seed=spec.seed
    )
    needs = needs_of(criteria, model)
    one = Pass(
        _PASS,
        model.layers[0].modules.top_k,
        "native",
        Identity(),
        needs.probe,
        lambda: _sums(model, tokenized, blocks, criteria, needs),
    )
    with show("scoring", tokenized.num_tokens) as advance:
        run_passes([one], model, tokenized, spec=spec, directory=directory, progress=advance)
    sums, _ = joined(one, directory=directory)
    importance, ballots = sums.accumulators["importance"], sums.accumulators.get("ballots")
    assert isinstance(importance, Importance)
    return Scores(
        model,
        blocks,
        criteria,
        importance=importance,
        ballots=ballots if isinstance(ballots, Ballots) else Ballots(),
        weights=aimer(model) if "aimer" in criteria else {},
    )


def _sums(
    model: MoEModel, tokenized: TokenizedCorpus, blocks: Blocks, criteria: list[str], needs: Needs
) -> PassSums:
    terms = {
        layer.modules.index: LayerTerms(
            rule=layer.facts.rule,
            routed_scale=layer.facts.routed_scale,
            residual_scale=layer.facts.residual_scale if "easy_ep" in criteria else None,
            reroutes="reroute_error" in criteria,
        )
        for layer in model.layers
    }
    groups = torch.from_numpy(blocks.group_of)
    sums = PassSums(torch.tensor(tokenized.corpus.domain_indices))
    sums.accumulators["importance"] = Importance(groups, terms, needs=needs.fields)
    if "rank_removal" in criteria:
        sums.accumulators["ballots"] = Ballots()
    return sums
