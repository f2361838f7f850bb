"""Exported = simulated, = cut by hand in memory; and the directory is a whole checkpoint."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moe_lens.errors import InputError, ProofFailed, UnsupportedModel
from moe_lens.loading import load_model
from moe_lens.models import deepseek
from moe_lens.prune import verify as verifying
from moe_lens.prune.export import RECORD, export
from moe_lens.prune.plan import Budget, plan_from
from tests.checkpoints import edit_config, save_checkpoint
from tests.engine.families import SUPPORTED
from tests.prune.cases import (
    LISTED,
    checkpoint_of,
    logits_of,
    plan_of,
    pruned_by_hand,
    random_plan,
)

NOT_EXPORTED = {"deepseek_v4": "sends tokens to experts by a table of token ids"}

deepseek.register()


@pytest.mark.parametrize("model_type", sorted(set(SUPPORTED) - set(NOT_EXPORTED)))
def test_exported_equals_simulated_and_cut_by_hand(model_type: str, tmp_path: Path) -> None:
    """The simulation shares no code with the cut; the cut in memory shares none with either."""
    original = checkpoint_of(tmp_path / "m", model_type)
    plan = random_plan(original)
    done = export(original, plan, tmp_path / "out")
    assert done.verification is not None
    assert done.verification.error <= 1e-5
    assert done.num_bytes[1] < done.num_bytes[0]
    whole = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = logits_of(pruned_by_hand(whole, plan.keep))
    assert (logits_of(small) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits_of(whole) - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("model_type", LISTED)
def test_bfloat16_is_moved_byte_by_byte(model_type: str, tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", model_type, dtype=torch.bfloat16)
    plan = random_plan(original, seed=1)
    done = export(original, plan, tmp_path / "out")
    assert done.verification is not None
    assert done.verification.error <= 1e-5  # both computed in float32, which holds bfloat16
    before = load_file(original / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    copied = [
        name for name in after if "experts" not in name and before[name].shape == after[name].shape
    ]
    assert len(copied) > 10
    for name in copied:
        assert torch.equal(before[name].view(torch.int8), after[name].view(torch.int8))


def test_every_expert_keeps_its_own_numbers(tmp_path: Path) -> None:
    """A known answer: layer 1 keeps 2, 5, 11 as its 0, 1, 2."""
    original = checkpoint_of(tmp_path / "m", "deepseek")
    shape = random_plan(original).model
    plan = plan_of(shape, {1: (2, 5, 11), 2: (0, 1, 2)})
    export(original, plan, tmp_path / "out", check=False)
    before = load_file(original / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for part in ("gate_proj", "up_proj", "down_proj"):
        for new, old in enumerate((2, 5, 11)):
            name = f"model.layers.1.mlp.experts.{{}}.{part}.weight"
            assert torch.equal(after[name.format(new)], before[name.format(old)])
        assert f"model.layers.1.mlp.experts.3.{part}.weight" not in after
    router = "model.layers.1.mlp.gate.weight"
    assert torch.equal(after[router], before[router][[2, 5, 11]])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_routed_experts"] == 3


@pytest.mark.parametrize("model_type", sorted(NOT_EXPORTED))
def test_what_cannot_be_cut_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", model_type)
    with pytest.raises(UnsupportedModel, match=NOT_EXPORTED[model_type]):
        export(original, random_plan(original), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("model_type", ["deepseek", "deepseek_v3", "gpt_oss"])
def test_fewer_active_experts_and_a_scale_are_exported(model_type: str, tmp_path: Path) -> None:
    """One factor for all layers: in deepseek_v3 the router's, elsewhere folded into experts."""
    original = checkpoint_of(tmp_path / "m", model_type)
    plain = random_plan(original)
    scale = dict.fromkeys(plain.model.layers, 1.25)
    plan = random_plan(original, top_k=2, scale=scale)
    done = export(original, plan, tmp_path / "out")
    assert done.verification is not None
    assert done.verification.error <= 1e-5
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    in_router = model_type == "deepseek_v3"
    assert record["scale_is_in"] == ("routed_scaling_factor" if in_router else "down_proj")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_experts_per_tok"] == 2
    assert config.get("routed_scaling_factor") == (1.875 if in_router else None)
    export(original, plain, tmp_path / "plain", check=False)
    scaled, unscaled = load_model(tmp_path / "out"), load_model(tmp_path / "plain")
    assert (logits_of(scaled.hf) - logits_of(unscaled.hf)).abs().max() > 1e-2


def test_a_factor_for_each_layer_is_folded_into_the_experts(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "deepseek_v3")
    layers = random_plan(original).model.layers
    plan = random_plan(original, scale={layers[0]: 1.5, layers[1]: 0.8})
    done = export(original, plan, tmp_path / "out")
    assert done.verification is not None
    assert done.verification.error <= 1e-5
    assert json.loads((tmp_path / "out" / RECORD).read_text())["scale_is_in"] == "down_proj"


def test_the_original_config_is_edited_not_rewritten(tmp_path: Path) -> None:
    """Old keys stay old, unknown ones stay, auto_map goes with the code that it names."""
    original = save_checkpoint(tmp_path / "m", "olmoe")
    edit_config(
        original,
        rope_parameters=None,
        rope_theta=10000.0,
        torch_dtype="float32",
        x_note=7,
        auto_map={"AutoConfig": "evil.Config"},
        num_local_experts=12,
    )
    (original / "evil.py").write_text("raise SystemExit('remote code ran')")
    before = json.loads((original / "config.json").read_text())
    done = export(original, random_plan(original), tmp_path / "out")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    changed = {key for key in before if after.get(key) != before[key]}
    assert changed == {"num_experts", "num_local_experts", "auto_map"}
    assert after["num_experts"] == after["num_local_experts"] == 8
    assert list(after) == [key for key in before if key != "auto_map"]
    assert done.not_copied == ("evil.py",)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        RECORD,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    export(original, random_plan(original), tmp_path / "code", with_code=True)
    assert json.loads((tmp_path / "code" / "config.json").read_text())["auto_map"]
    assert (tmp_path / "code" / "evil.py").exists()


def test_shards_are_written_with_an_index(tmp_path: Path) -> None:
    original = tmp_path / "m"
    from moe_lens.models.tiny import tiny_model

    tiny_model("olmoe").save_pretrained(original, max_shard_size="100KB")
    plan = random_plan(original)
    done = export(original, plan, tmp_path / "out", max_shard_bytes=60_000)
    assert done.verification is not None
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert all(re.fullmatch(rf"model-\d{{5}}-of-{len(files):05d}\.safetensors", f) for f in files)
    assert index["metadata"]["total_size"] == done.num_bytes[1]


def test_the_record_holds_the_plan_and_what_was_measured(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    export(original, plan, tmp_path / "out", check=False, simulation={"ratio": 1.1})
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert plan_from(record["plan"]) == plan
    assert record["num_experts"] == {"before": 12, "after": 8}
    assert record["simulation"] == {"ratio": 1.1}
    assert record["verification"] is None
    assert {"moe_lens", "torch", "transformers", "safetensors"} == set(record["versions"])


def test_a_pruned_checkpoint_can_be_pruned_again_and_says_so(tmp_path: Path) -> None:
    first = checkpoint_of(tmp_path / "m", "olmoe")
    export(first, random_plan(first), tmp_path / "once", check=False)
    plan = random_plan(tmp_path / "once")
    done = export(tmp_path / "once", plan, tmp_path / "twice")
    assert done.num_experts == (8, 5)
    record = json.loads((tmp_path / "twice" / RECORD).read_text())
    assert record["before"]["num_experts"] == {"before": 12, "after": 8}
    assert record["before"]["before"] is None


def test_a_wrong_cut_is_caught_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: rows of the router in another order than the experts."""
    from moe_lens.prune import checkpoint as cutting

    original = checkpoint_of(tmp_path / "m", "olmoe")
    right = cutting._output

    def wrong(one, plan, folded):  # type: ignore[no-untyped-def]
        output = right(one, plan, folded)
        if one.is_router:
            object.__setattr__(output, "spans", tuple(reversed(output.spans)))
        return output

    monkeypatch.setattr(cutting, "_output", wrong)
    with pytest.raises(ProofFailed, match="'exported = simulated' failed: logits differ by"):
        export(original, random_plan(original), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    other = checkpoint_of(tmp_path / "n", "qwen2_moe")
    with pytest.raises(InputError, match=r"does not fit .*: model_type is qwen2_moe in the plan"):
        export(original, random_plan(other), tmp_path / "out")


def test_a_plan_for_other_weights_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    from moe_lens.models.tiny import tiny_model
    from moe_lens.study.fingerprint import routers_sha256

    original = checkpoint_of(tmp_path / "m", "olmoe")
    tiny_model("olmoe", seed=5).save_pretrained(tmp_path / "n")
    shape = random_plan(original).model
    for place, message in (("m", None), ("n", "the router weights are not those that were scored")):
        sha = routers_sha256(load_model(tmp_path / place))
        model = type(shape)(**(vars(shape) | {"routers_sha256": sha}))
        plan = plan_of(model, random_plan(original).keep)
        if message is None:
            export(original, plan, tmp_path / "out", check=False)
        else:
            with pytest.raises(InputError, match=message):
                export(original, plan, tmp_path / "out2", check=False)


def test_uneven_plans_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    shape = random_plan(original).model
    plan = plan_of(shape, {0: (0, 1, 2), 1: (0, 1, 2, 3), 2: (0, 1, 2)})
    with pytest.raises(UnsupportedModel, match="can be simulated, not exported"):
        export(tmp_path / "nowhere", plan, tmp_path / "out")


def test_prediction_heads_are_refused_and_left_out_on_demand(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "deepseek_v3")
    edit_config(original, num_nextn_predict_layers=1)
    file = original / "model.safetensors"
    tensors = load_file(file)
    head = {
        n.replace("layers.2", "layers.3"): t.clone() for n, t in tensors.items() if "layers.2" in n
    }
    save_file(tensors | head, file, metadata={"format": "pt"})
    plan = random_plan(original)
    with pytest.raises(
        UnsupportedModel, match=r"prediction head \(model\.layers\.3.*--without-mtp"
    ):
        export(original, plan, tmp_path / "out")
    export(original, plan, tmp_path / "out", without_mtp=True)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert not any("layers.3" in name for name in after)
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["num_nextn_predict_layers"] == 0
    )


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "awq"}, r"quantised \(awq\)"),
        (
            {"quant_method": "fp8", "ignore": ["model.layers.1.mlp.experts.3.up_proj"]},
            r"names single experts \(model\.layers\.1\.mlp\.experts\.3",
        ),
    ],
)
def test_quantised_checkpoints_that_are_not_understood_are_refused(
    quantization: dict[str, object], message: str, tmp_path: Path
) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    edit_config(original, quantization_config=quantization)
    with pytest.raises(UnsupportedModel, match=message):
        export(original, plan, tmp_path / "out")


def test_tensors_that_may_be_experts_are_refused(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    file = original / "model.safetensors"
    tensors = load_file(file)
    plan = random_plan(original)
    cases = {
        "model.layers.1.mlp.mystery.weight": "neither theirs, the router's nor a shared expert's",
        "model.layers.1.mlp.gate.temperature": "cannot be told apart",
        "model.layers.1.mlp.experts.packed": "are stored one by one and together",
        "model.experts.codebook": "lies outside of the layers",
        "model.layers.1.other.experts.scale": "lies in layer 1 beside its block",
    }
    for name, message in cases.items():
        shape = (12, 2) if name.endswith("packed") else (5,)
        save_file(tensors | {name: torch.zeros(shape)}, file, metadata={"format": "pt"})
        with pytest.raises(UnsupportedModel, match=message):
            export(original, plan, tmp_path / "out")


def test_no_place_that_is_taken_or_inside_the_original(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("my work")
    with pytest.raises(InputError, match="taken exists already"):
        export(original, plan, tmp_path / "taken")
    with pytest.raises(InputError, match="lies inside the original"):
        export(original, plan, original / "small")
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "my work"


def test_the_tolerance_is_of_this_plan(tmp_path: Path) -> None:
    """Folding rounds 16-bit weights: allowed there, and only there."""
    original = checkpoint_of(tmp_path / "m", "olmoe", dtype=torch.bfloat16)
    plan = random_plan(original, scale={0: 1.1, 1: 0.9, 2: 1.3})
    done = export(original, plan, tmp_path / "out")
    assert done.verification is not None
    assert 1e-5 < done.verification.error < done.verification.tolerance == 3e-2
    assert verifying.TOLERANCE == 1e-5


def test_a_budget_that_no_config_has(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    edit_config(original, moe_num_experts=99)
    with pytest.raises(UnsupportedModel, match=r"moe_num_experts is 99, but the model .* has 12"):
        export(original, plan, tmp_path / "out")
    assert plan.budget == Budget(8)


def test_mxfp4_experts_are_cut_along_their_first_axis(tmp_path: Path) -> None:
    """gpt-oss as released: 4-bit blocks and their scales, fused; every byte stays what it was."""
    original = checkpoint_of(tmp_path / "m", "gpt_oss")
    plan = random_plan(original)
    edit_config(original, quantization_config={"quant_method": "mxfp4"})
    file = original / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(file).items():
        if name.endswith("_proj"):
            shape = (8, tensor.shape[2], tensor.shape[1] // 16)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 8), dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(0, 256, shape, dtype=torch.uint8)
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})
    export(original, plan, tmp_path / "out", check=False)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert set(after) == set(tensors)
    for layer in plan.model.layers:
        for part in ("gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks"):
            name = f"model.layers.{layer}.mlp.experts.{part}"
            assert torch.equal(after[name], tensors[name][list(plan.keep[layer])])
    scaled = random_plan(original, scale=dict.fromkeys(plan.model.layers, 1.5))
    with pytest.raises(UnsupportedModel, match="would be folded into numbers of dtype U8"):
        export(original, scaled, tmp_path / "scaled", check=False)


def test_fp8_scales_go_with_their_expert(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    edit_config(original, quantization_config={"quant_method": "fp8"})
    file = original / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "experts" in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.rand(1, 1)
    save_file(tensors, file, metadata={"format": "pt"})
    export(original, plan, tmp_path / "out", check=False)
    after = load_file(tmp_path / "out" / "model.safetensors")
    for new, old in enumerate(plan.keep[1]):
        for end in ("", "_scale_inv"):
            name = f"model.layers.1.mlp.experts.{{}}.up_proj.weight{end}"
            was, now = tensors[name.format(old)], after[name.format(new)]
            assert torch.equal(was.view(torch.uint8), now.view(torch.uint8))
    if find_spec("accelerate") is not None:  # transformers opens fp8 with it, and without not
        done = export(original, plan, tmp_path / "checked").verification
        assert done is not None
        assert done.error <= 1e-5
        return
    with pytest.raises(InputError, match=r"cannot be loaded here to compare .* --no-verify"):
        export(original, plan, tmp_path / "checked")
    assert not (tmp_path / "checked").exists()
