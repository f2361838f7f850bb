"""A plan's file: written, read back, edited by hand; each mistake told by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_lens.errors import InputError
from moe_lens.prune.plan import Budget, Plan, plan_from, read_plan
from tests.prune.cases import plan_of, shape_of

MODEL = shape_of(layers=(1, 2), num_experts=4, top_k=2)
GROUPED = shape_of(layers=(1, 2), num_experts=8, top_k=2, num_groups=2, num_groups_kept=1)


@pytest.fixture
def plan() -> Plan:
    return plan_of(
        MODEL,
        {1: (0, 1, 3), 2: (1, 2, 3)},
        calibration={"sha256": "ab", "num_tokens": 12},
        scale={1: 1.5},
        frequency_order={1: (3, 2, 1, 0), 2: (0, 1, 2, 3)},
    )


def test_what_is_written_is_read_back(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_layer_is_a_line_that_a_person_can_edit(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert '    "1": [0, 1, 3],\n    "2": [1, 2, 3]\n' in text
    (tmp_path / "plan.json").write_text(text.replace('"1": [0, 1, 3]', '"1": [3, 2, 0]'))
    assert read_plan(tmp_path / "plan.json").keep[1] == (0, 2, 3)


def test_what_goes_is_what_does_not_stay(plan: Plan) -> None:
    assert plan.masked == {1: (2,), 2: (0,)}
    assert plan.num_kept == {1: 3, 2: 3}
    assert plan.active == 2


def edited(plan: Plan, key: str, value: object) -> dict[str, Any]:
    """The plan's values with one of them changed; dots go into objects; ... takes it out."""
    values: dict[str, Any] = json.loads(json.dumps(plan.to_dict()))
    *path, last = key.split(".")
    inner = values
    for name in path:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "keep.1",
            [0, 1, 4],
            r"layer 1: plan keeps expert 4, but the model has 4 \(0 to 3\)\. Was",
        ),
        ("keep.1", [0, 1, -1], "layer 1: plan keeps expert -1, but the model has 4"),
        ("keep.1", [0, 1, 1], "layer 1: plan keeps expert 1 twice; name it once"),
        ("keep.1", [0, 1], "layer 1 keeps 2 experts, but the budget is uniform with 3; keep 3 in"),
        ("keep.1", ["a"], r"layer 1: keep is \['a'\], not a list of expert ids"),
        ("keep.1", [True, 0, 2], r"layer 1: keep is \[True, 0, 2\], not a list of expert ids"),
        (
            "keep.7",
            [0, 1, 2],
            r"the plan names layer 7, which is no MoE layer .* \(those are 1, 2\)",
        ),
        ("keep.x", [0, 1, 2], "keep names layer 'x', which is no layer index"),
        ("keep.2", ..., r"layer 2 is not in the plan's keep; list its experts, all of 0 to 3"),
        ("top_k", 3, "top_k is 3, but the model gives each token 2 experts; give 1 to 2"),
        ("top_k", "2", "top_k is '2'; give a whole number, or null"),
        ("scale.1", -1.0, "layer 1: scale -1.0 is not a finite factor above 0"),
        ("scale.1", "big", "layer 1: scale is 'big', not a number"),
        ("scale.9", 1.0, "scale names layer 9, which is no MoE layer"),
        ("keeps", {}, "a plan has no key 'keeps'; it has schema_version, model"),
        ("schema_version", 2, "schema_version is 2; this version of moe-lens reads 1"),
        ("model.num_experts", "4", "model.num_experts is '4', not a whole number"),
        ("model.layers", [], r"model.layers is \[\], not a list of layer indices"),
        ("model", None, "'model' is None, not an object"),
        ("budget.keep", 0, "budget.keep is 0, not a whole number from 1 up"),
        ("budget.shape", "round", "budget.shape is 'round', not one of uniform, global, custom"),
        ("budget.multiple_of", 2, "layer 1 keeps 3 experts, not a multiple of 2"),
        ("budget.kep", 2, "budget has no key 'kep'"),
        ("budget.protected", {"1": [2]}, "layer 1: expert 2 is protected .* but not in keep"),
        ("frequency_order.1", [0, 1, 2], "layer 1: frequency_order does not name each of the 4"),
        ("domains", "all", "domains is 'all', not a list of names"),
    ],
)
def test_mistakes_are_told_by_layer_expert_rule_and_way_out(
    plan: Plan, key: str, value: object, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(edited(plan, key, value)))
    with pytest.raises(InputError, match=message) as told:
        read_plan(file)
    assert str(told.value).startswith(str(file))


def test_fewer_kept_than_active() -> None:
    with pytest.raises(InputError, match="layer 1: 1 experts are left, but each token needs 2"):
        plan_of(MODEL, {1: (0,), 2: (1,)})
    assert plan_of(MODEL, {1: (0,), 2: (1,)}, top_k=1).active == 1


def test_groups_must_stay_of_one_size_and_large_enough() -> None:
    with pytest.raises(
        InputError, match=r"layer 1: .* group 1 \(experts 4 to 7\) keeps 1 and group 0 keeps 3"
    ):
        plan_of(GROUPED, {1: (0, 1, 2, 4), 2: (0, 1, 4, 5)})
    with pytest.raises(InputError, match="judge a group by its best two; keep at least 4"):
        plan_of(GROUPED, {1: (0, 4), 2: (0, 4)}, top_k=1)
    three = shape_of(num_experts=8, top_k=3, num_groups=2, num_groups_kept=1, layers=(1,))
    with pytest.raises(InputError, match=r"2 experts are left in the 1 groups, .* keep at least 6"):
        plan_of(three, {1: (0, 1, 4, 5)})


def test_custom_layers_may_differ() -> None:
    plan = plan_of(MODEL, {1: (0, 1), 2: (1, 2, 3)}, budget=Budget(2, "custom"))
    assert plan.num_kept == {1: 2, 2: 3}


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; `moe-lens plan` writes plans"):
        read_plan(tmp_path / "no.json")
    with pytest.raises(InputError, match="is a directory"):
        read_plan(tmp_path)
    (tmp_path / "bad.json").write_text("{'keep':")
    with pytest.raises(InputError, match=r"is not JSON .* undo the last edit"):
        read_plan(tmp_path / "bad.json")
    with pytest.raises(InputError, match="a plan is a JSON object, not list"):
        plan_from([])
