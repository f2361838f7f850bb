"""The fitted scale: least squares over what experts really add; exported as it was fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moe_lens.corpus import load_corpus
from moe_lens.errors import InputError
from moe_lens.event import Field
from moe_lens.loading import load_model
from moe_lens.observing import record, tokens_of
from moe_lens.prune.compensation import compensate, compensate_on
from moe_lens.prune.export import export
from moe_lens.prune.plan import Plan, read_plan
from moe_lens.study.spec import ModelSpec, TextSpec
from tests.checkpoints import save_checkpoint, text_of
from tests.prune.cases import random_plan


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("compensation") / "model")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "words.txt"
    file.write_text(text_of(90))
    return file


@pytest.fixture(scope="module")
def plan(checkpoint: Path) -> Plan:
    return random_plan(checkpoint, top_k=1)


def by_least_squares(checkpoint: Path, text: Path) -> dict[int, float]:
    """Per layer, the s that minimises |s M_1 - M_k| over all tokens, from the outputs."""
    model = load_model(checkpoint)
    found = {}
    for event in record(model, text.read_text(), fields=[Field.OUTPUTS]):
        assert event.outputs is not None
        contributions = event.routing.weights.double().unsqueeze(2) * event.outputs.double()
        one, whole = contributions[:, 0].reshape(-1, 1), contributions.sum(1).reshape(-1, 1)
        found[event.layer] = float(torch.linalg.lstsq(one, whole).solution)
    return found


def test_the_factor_is_the_least_squares_one(checkpoint: Path, text: Path, plan: Plan) -> None:
    made = compensate(ModelSpec(str(checkpoint)), TextSpec(str(text)), plan)
    expected = by_least_squares(checkpoint, text)
    assert made.scale == pytest.approx(expected, rel=1e-5)
    assert all(abs(factor - 1) > 1e-3 for factor in expected.values())
    assert replace(made, scale=None, calibration=plan.calibration) == plan
    assert made.calibration["scale"]["sha256"] == load_corpus(str(text)).sha256


def test_the_export_computes_what_was_fitted(
    checkpoint: Path, text: Path, plan: Plan, tmp_path: Path
) -> None:
    made = compensate(ModelSpec(str(checkpoint)), TextSpec(str(text)), plan)
    made.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == made
    done = export(checkpoint, made, tmp_path / "small")
    assert done.verification is not None
    assert done.verification.error <= 1e-5


def test_batches_change_nothing(checkpoint: Path, text: Path, plan: Plan) -> None:
    model = load_model(checkpoint)
    tokenized = tokens_of(model, load_corpus(str(text)), context_length=16)
    whole, cut = (
        compensate_on(model, tokenized, plan, batch_tokens=size).scale for size in (4096, 16)
    )
    assert whole is not None
    assert whole == pytest.approx(cut, rel=1e-6)


def test_bad_input(checkpoint: Path, text: Path, plan: Plan) -> None:
    spec, words = ModelSpec(str(checkpoint)), TextSpec(str(text))
    with pytest.raises(InputError, match=r"leaves each token its 3 experts.*plan with --top-k"):
        compensate(spec, words, replace(plan, top_k=None))
    other = replace(plan, model=replace(plan.model, num_experts=13))
    with pytest.raises(InputError, match="does not fit"):
        compensate(spec, words, other)
    with pytest.raises(InputError, match="does not exist"):
        compensate(spec, TextSpec("no-such-file.txt"), plan)
