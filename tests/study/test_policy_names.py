"""Policies as they are written: what each name means, and what is wrong with others."""

from __future__ import annotations

import pytest

from moe_lens.errors import InputError
from moe_lens.policies import (
    EntropyK,
    ExpertBudget,
    KeepPerLayer,
    KeepTopK,
    MinP,
    Policy,
    Renorm,
    TopP,
)
from moe_lens.study.policy_names import Setting, default_policies, parse_policy

SETTING = Setting(layers=(1, 2, 4), top_k=3, renorm=Renorm.NATIVE)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("k:2", KeepTopK(2)),
        ("k:2:keep_mass", KeepTopK(2, Renorm.KEEP_MASS)),
        ("layers:2,3,1:none", KeepPerLayer({1: 2, 2: 3, 4: 1}, Renorm.NONE)),
        ("min-p:0.3", MinP(0.3)),
        ("min-p:0.3,2:none", MinP(0.3, 2, Renorm.NONE)),
        ("top-p:0.8:keep_mass", TopP(0.8, Renorm.KEEP_MASS)),
        ("entropy:0.6=1", EntropyK(((0.6, 1),))),
        ("entropy:0.6=1,0.8=2:none", EntropyK(((0.6, 1), (0.8, 2)), Renorm.NONE)),
        ("budget:24@8", ExpertBudget(24, 8)),
        ("budget:2@8:none", ExpertBudget(2, 8, Renorm.NONE)),
    ],
)
def test_names_that_need_no_calibration(name: str, policy: Policy) -> None:
    named = parse_policy(name)
    assert not named.is_fitted
    assert named.policy(SETTING) == policy


@pytest.mark.parametrize("name", ["naee", "naee:0.3", "entropy:50%=1", "dp:2.5", "scale:2"])
def test_names_that_are_fitted_are_checked_without(name: str) -> None:
    named = parse_policy(name)
    assert named.is_fitted
    named.check(SETTING)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense:3", "'nonsense' is not one of k, layers, min-p, top-p"),
        ("k:3:half", "renorm 'half' is not native, keep_mass or none"),
        ("k:x", "'x' is not a whole number; write it as in k:3"),
        ("k:", "'' is not a whole number"),
        ("k:0", "0 where at least 1 must stay"),
        ("min-p:1.5", "'1.5' is not a part, from 0 to 1; write it as in min-p:0.3"),
        ("min-p:nan", "'nan' is not a number"),
        ("top-p:much", "'much' is not a number"),
        ("entropy:0.5", "'' is not a whole number; write it as in entropy:0.6=1"),
        ("entropy:150%=1", "'1.5' is not a part"),
        ("budget:24", "'24' does not say for how many sequences; write it as in budget:24@8"),
        ("dp:0.5", "'0.5' experts in the mean: each layer needs at least 1"),
        ("scale:2:none", "scale fits weights as they were, and takes no renorm"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(name)
    assert message in str(caught.value)
    assert f"policy {name!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("k:4", "k = 4, but the model has 3 active experts"),
        ("layers:2,3", "2 numbers for 3 MoE layers"),
        ("layers:2,3,4", "k = 4, but the model has 3"),
        ("entropy:0.6=2,0.5=1", "must rise together"),
        ("entropy:20%=5", "the model has 3 active experts"),
        ("budget:2@8", "2 experts, but each token chooses 3: allow at least 3"),
        ("dp:3.5", "k = 4, but the model has 3 active experts"),
        ("scale:9", "k = 9, but the model has 3 active experts"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_any_work(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(name).check(SETTING)
    assert message in str(caught.value)
    assert f"policy {name!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("top_k", "num_experts", "num_layers"), [(1, 8, 3), (2, 4, 5), (8, 64, 16)]
)
@pytest.mark.parametrize("none_differs", [True, False])
def test_the_default_set_fits_every_model(
    top_k: int, num_experts: int, num_layers: int, none_differs: bool
) -> None:
    names = default_policies(
        top_k=top_k,
        num_experts=num_experts,
        num_layers=num_layers,
        step_sequences=4,
        none_differs=none_differs,
    )
    assert len(set(names)) == len(names)
    setting = Setting(tuple(range(num_layers)), top_k, Renorm.NATIVE)
    for name in names:
        parse_policy(name).check(setting)
    assert ("k:1:none" in names) == (none_differs and top_k > 1)
