"""Policies beside the full model: against transformers' own logits, killed, and in any batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor

from moe_lens.corpus import TokenizedCorpus, load_corpus
from moe_lens.errors import InputError
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.observing import tokens_of
from moe_lens.policies import DropExperts, Identity, KeepTopK, Policy, Renorm
from moe_lens.study.evaluation import Evaluation, evaluate
from moe_lens.study.spec import StudySpec

POLICIES: dict[str, Policy] = {
    "same": Identity(),
    "k1": KeepTopK(1),
    "k2-none": KeepTopK(2, Renorm.NONE),
    "holes": DropExperts({1: (0, 3), 2: (5,)}),
}
SIZES = {"batch_tokens": 64, "chunk_tokens": 400, "step_sequences": 2}


@pytest.fixture(scope="module")
def text(tiny_spec: StudySpec) -> tuple[MoEModel, TokenizedCorpus]:
    model = load_model(tiny_spec.model.model)
    return model, tokens_of(model, load_corpus(tiny_spec.text.corpus))


@pytest.fixture(scope="module")
def found(text: tuple[MoEModel, TokenizedCorpus]) -> Evaluation:
    return evaluate(*text, POLICIES, **SIZES)


@torch.no_grad()
def stock_logs(model: MoEModel, ids: Tensor, k: int) -> Tensor:
    for layer in model.layers:
        layer.modules.router.top_k = k  # type: ignore[assignment]
    logits: Tensor = model.hf(ids.long().unsqueeze(0), use_cache=False).logits
    return logits[0, :-1].double().log_softmax(-1)


def test_loss_kl_and_agreement_are_those_of_whole_distributions(
    found: Evaluation, tiny_spec: StudySpec
) -> None:
    """Oracle: the stock model with its routers' top_k lowered, all logits, float64."""
    model = load_model(tiny_spec.model.model)
    tokenized = tokens_of(model, load_corpus(tiny_spec.text.corpus))
    assert found.documents["policy"].unique(maintain_order=True).to_list() == ["full", *POLICIES]
    for document, ids in enumerate(tokenized.ids):
        full, one = stock_logs(model, ids, 3), stock_logs(model, ids, 1)
        rows = found.documents.filter(pl.col("document") == document)
        for policy, logs in (("full", full), ("k1", one)):
            row = rows.filter(pl.col("policy") == policy).row(0, named=True)
            assert row["num_tokens"] == len(ids) - 1
            nll = -logs.gather(1, ids[1:, None].long()).sum()
            assert row["nll_nats"] == pytest.approx(float(nll), rel=1e-5)
            kl = (full.exp() * (full - logs)).sum()
            assert row["kl_nats"] == pytest.approx(float(kl), rel=1e-4, abs=1e-6)
            same = (full.argmax(-1) == logs.argmax(-1)).sum()
            assert row["num_top1_agree"] == int(same)
            assert row["domain"] == tokenized.corpus.documents[document].domain


def test_a_policy_that_changes_nothing_is_the_full_model(found: Evaluation) -> None:
    full, same = (
        found.documents.filter(pl.col("policy") == name).drop("policy") for name in ("full", "same")
    )
    assert_frame_equal(full, same, rel_tol=1e-12, abs_tol=1e-9)
    assert (full["kl_nats"] == 0).all()
    assert (full["num_top1_agree"] == full["num_tokens"]).all()


def test_costs_are_counts_of_what_worked(found: Evaluation) -> None:
    worked = found.usage.group_by("policy", "domain", "layer").agg(
        pl.col("num_tokens").sum(), pl.col("num_domain_tokens").first()
    )
    per_token = {
        (r["policy"], r["layer"]): r["num_tokens"] / r["num_domain_tokens"]
        for r in worked.iter_rows(named=True)
    }
    assert per_token["full", 1] == per_token["same", 2] == 3
    assert per_token["k1", 1] == 1
    assert per_token["k2-none", 2] == 2
    assert 0 < per_token["holes", 1] < 3
    gone = found.usage.filter((pl.col("policy") == "holes") & (pl.col("expert") == 5))
    assert gone.filter(pl.col("layer") == 2)["num_tokens"].sum() == 0
    steps = found.steps.with_columns(mean=pl.col("num_distinct") / pl.col("num_steps"))
    assert (steps["num_steps"] > 0).all()
    means = {(r["policy"], r["layer"]): r["mean"] for r in steps.iter_rows(named=True)}
    assert 1 < means["k1", 1] <= 2
    assert 3 < means["full", 1] <= 6


class _StopError(Exception):
    pass


def stop_after(count: int) -> Callable[[int], None]:
    seen = 0

    def progress(num_tokens: int) -> None:
        nonlocal seen
        seen += 1
        if seen > count:
            raise _StopError

    return progress


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_an_evaluation_that_stops_goes_on_and_ends_the_same(
    text: tuple[MoEModel, TokenizedCorpus], found: Evaluation, tmp_path: Path, after: int
) -> None:
    with pytest.raises(_StopError):
        evaluate(*text, POLICIES, **SIZES, directory=tmp_path, progress=stop_after(after))
    done = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert bool(done) == (after > 1)
    told: list[int] = []
    again = evaluate(*text, POLICIES, **SIZES, directory=tmp_path, progress=told.append)
    assert again.documents.equals(found.documents)
    assert again.usage.equals(found.usage)
    assert again.steps.equals(found.steps)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert sum(told) == text[1].num_tokens * (len(POLICIES) + 1)


def test_batches_do_not_matter_but_for_steps(
    text: tuple[MoEModel, TokenizedCorpus], found: Evaluation
) -> None:
    other = evaluate(*text, POLICIES, batch_tokens=150, chunk_tokens=10**6)
    key = ["policy", "document"]
    names = pl.col("policy").cast(pl.Categorical)
    left, right = (one.documents.with_columns(names).sort(key) for one in (found, other))
    assert_frame_equal(left, right, rel_tol=1e-4, abs_tol=1e-5)
    assert other.usage.equals(found.usage)


def test_a_streamed_model_gives_the_same(
    tiny_spec: StudySpec, text: tuple[MoEModel, TokenizedCorpus], found: Evaluation
) -> None:
    streamed = load_model(tiny_spec.model.model, engine="streaming")
    assert streamed.store is not None
    other = evaluate(streamed, text[1], POLICIES, batch_tokens=64, step_sequences=2)
    assert_frame_equal(
        other.documents, found.documents, rel_tol=1e-9, abs_tol=1e-9, check_row_order=False
    )
    assert other.usage.equals(found.usage)
    assert other.steps.equals(found.steps)


def test_refusals(text: tuple[MoEModel, TokenizedCorpus]) -> None:
    with pytest.raises(InputError, match="a policy is named 'full', which is the model itself"):
        evaluate(*text, {"full": KeepTopK(1)})
    with pytest.raises(InputError, match="step_sequences = 0: a step has at least 1 sequence"):
        evaluate(*text, {}, step_sequences=0)
