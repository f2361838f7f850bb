"""Errors and scales from the Gram against the vectors themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.policies import KeepPerLayer, KeepTopK, MinP, Policy, RandomExperts, Renorm
from moe_lens.stats.reduction import LayerFactors, Reduction
from moe_lens.stats.router_shape import RouterShape
from tests.engine.families import proven, token_batch


def factors(model: MoEModel) -> dict[int, LayerFactors]:
    return {
        layer.modules.index: LayerFactors(
            layer.facts.rule, layer.facts.routed_scale, layer.facts.residual_scale or 1.0
        )
        for layer in model.layers
    }


def events(model: MoEModel, fields: set[Field], policy: Policy | None = None) -> list[LayerEvent]:
    recorder = Recorder(fields)
    batch = token_batch(9, 5, vocab_size=model.vocab_size)
    with Session(model, sink=recorder.update, fields=recorder.fields, policy=policy) as session:
        session.run(batch)
    return recorder.events


def routed(event: LayerEvent) -> Tensor:
    assert event.outputs is not None
    return (event.routing.weights.double().unsqueeze(2) * event.outputs.double()).sum(1)


# granitemoe scales what a layer adds, laguna what its block sums.
@pytest.mark.parametrize(
    "family", ["deepseek", "olmoe", "granitemoe", "deepseek_v3", "mixtral", "laguna"]
)
@pytest.mark.parametrize("renorm", list(Renorm))
def test_errors_and_scales_are_those_of_the_vectors(family: str, renorm: Renorm) -> None:
    """Oracle: the layer run with fewer experts, on the same inputs, and its outputs summed."""
    model = proven(family)
    found = Reduction({"k1": KeepTopK(1, renorm)}, factors(model))
    for event in events(model, {Field.GRAM, Field.SCORES}):
        found.update(event)
    fields = {Field.OUTPUTS, Field.RESID_MID}
    for place, full in enumerate(events(model, fields)):
        part = events(model, fields, KeepPerLayer({full.layer: 1}, renorm))[place]
        assert torch.equal(part.resid_mid, full.resid_mid)
        M, kept, resid = routed(full), routed(part), full.resid_mid
        assert resid is not None
        row = found.table().row(place, named=True)
        scale = factors(model)[full.layer].residual_scale
        error = (scale * (M - kept)).square().sum(1) / resid.double().square().sum(1)
        assert row["num_tokens"] == 14
        assert row["error"] == pytest.approx(float(error.mean()), rel=1e-4)
        best = torch.linalg.lstsq(kept.reshape(-1, 1), M.reshape(-1, 1)).solution.item()
        assert row["scale"] == pytest.approx(best, rel=1e-4)
        total = float(M.square().sum())
        for name, vectors in (("error_layer", M - kept), ("error_layer_scaled", M - best * kept)):
            expected = float(vectors.square().sum()) / total
            assert row[name] == pytest.approx(expected, rel=1e-3)


def test_the_model_itself_has_no_error_and_more_experts_less() -> None:
    model = proven("olmoe")
    ks = {f"k{k}": KeepTopK(k, Renorm.NONE) for k in (1, 2)}
    top_k = model.layers[0].modules.top_k
    found = Reduction({**ks, "all": KeepTopK(top_k, Renorm.NONE), "min": MinP(1.0)}, factors(model))
    split = Reduction({**ks, "all": KeepTopK(top_k, Renorm.NONE), "min": MinP(1.0)}, factors(model))
    for event in events(model, {Field.GRAM, Field.SCORES}):
        found.update(event)
    split.merge_state(found.state())
    assert split.table().equals(found.table())
    rows = {(r["policy"], r["layer"]): r for r in found.table().iter_rows(named=True)}
    for layer in factors(model):
        assert rows["all", layer]["error"] == rows["all", layer]["error_layer"] == 0
        assert rows["all", layer]["scale"] == pytest.approx(1)
        assert rows["k1", layer]["error"] > rows["k2", layer]["error"] > 0
        scaled = rows["k1", layer]["error_layer_scaled"]
        assert scaled <= rows["k1", layer]["error_layer"]


def test_experts_that_were_not_chosen_are_refused() -> None:
    model = proven("olmoe")
    found = Reduction({"random": RandomExperts(0)}, factors(model))
    seen = events(model, {Field.GRAM, Field.SCORES})
    with pytest.raises(ValueError, match="random_experts brings in experts that the model did not"):
        found.update(seen[0])
    with pytest.raises(ValueError, match="reduction needs the Gram"):
        found.update(events(model, set())[0])


def test_router_shapes_are_quantiles() -> None:
    model = proven("olmoe")
    left, right, whole = RouterShape(), RouterShape(), RouterShape()
    seen = events(model, {Field.SCORES})
    for event in seen:
        whole.update(event)
        left.update(event)
    right.merge(RouterShape.from_state(left.state()))
    assert right.quantile("ratio", 0.5) == whole.quantile("ratio", 0.5)
    for event in seen:
        weights = event.routing.weights.double()
        ratios = sorted((weights[:, 1] / weights[:, 0]).tolist())
        median = ratios[6]  # the 7th of 14
        assert whole.quantile("ratio", 0.5)[event.layer] == pytest.approx(median, abs=1 / 4000)
        assert event.routing.scores is not None
        p = event.routing.scores.double().softmax(-1)
        entropy = sorted((-(p * p.log()).sum(-1) / torch.tensor(float(p.shape[1])).log()).tolist())
        assert whole.quantile("entropy", 1.0)[event.layer] == pytest.approx(entropy[-1], abs=3e-4)
        assert whole.quantile("entropy", 0.0)[event.layer] == 0
    with pytest.raises(ValueError, match="quantile 2: a part, from 0 to 1"):
        whole.quantile("ratio", 2.0)
    with pytest.raises(ValueError, match="router shapes need the scores"):
        whole.update(events(model, set())[0])
