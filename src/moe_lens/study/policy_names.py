"""Policies as people write them: `k:3`, `min-p:0.3`, `top-p:0.8:keep_mass`, `dp:2.5`.

    FAMILY:VALUE[:RENORM]     RENORM: native, keep_mass or none

    k:3               the 3 best experts everywhere
    layers:2,3,1      another k in each MoE layer, in their order
    min-p:0.3         experts with more than 0.3 of the best one's weight; min-p:0.3,2 at least 2
    top-p:0.8         the fewest experts that hold 0.8 of the chosen weight
    entropy:0.6=1     1 expert where the router's entropy is below 0.6; more steps after a comma
    budget:24@8       at most 24 distinct experts for 8 sequences that decode side by side

    fitted on calibration text:
    naee:0.5          min-p at each layer's median (0.5 quantile) ratio of the second weight
    entropy:50%=1     1 expert for the half of each layer's tokens with the lowest entropy
    dp:2.5            another k in each layer, 2.5 on average, least error by dynamic programming
    scale:2           the 2 best experts at their own weights, times one fitted factor a layer

Where no renorm is given it is native, or none where a model's choice rule is not known.
Source: terms.md#ways-to-use-fewer-experts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from moe_lens.analysis.allocation import allocate
from moe_lens.errors import InputError
from moe_lens.policies import (
    Chain,
    EntropyK,
    ExpertBudget,
    KeepPerLayer,
    KeepTopK,
    MinP,
    Policy,
    Renorm,
    ScaleWeights,
    TopP,
)
from moe_lens.policies.per_token import Threshold
from moe_lens.study.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Setting:
    """What a policy's name leaves open.

    Attributes:
        layers: The MoE layers of the model.
        top_k: Experts that its routers choose.
        renorm: Where a name gives none.
        calibration: What was fitted; None where nothing was.
    """

    layers: tuple[int, ...]
    top_k: int
    renorm: Renorm
    calibration: Calibration | None = None

    @property
    def fitted(self) -> Calibration:
        """The calibration, for names that need one."""
        if self.calibration is None:
            raise _NotFittedError
        return self.calibration


class _NotFittedError(Exception):
    """A name was checked before anything was fitted, and found right as far as that goes."""


@dataclass(frozen=True, eq=False)
class NamedPolicy:
    """A policy by its name, to be made for a model.

    Attributes:
        name: As it was written.
        is_fitted: Whether it needs calibration text.
    """

    name: str
    is_fitted: bool
    _make: Callable[[Setting, Renorm], Policy]
    _renorm: Renorm | None

    def check(self, setting: Setting) -> None:
        """Refuse a name that does not fit a model, before anything is fitted.

        Raises:
            InputError: It does not.
        """
        with suppress(_NotFittedError):
            self.policy(replace(setting, calibration=None))

    def policy(self, setting: Setting) -> Policy:
        """The policy for a model.

        Raises:
            InputError: It does not fit the model.
        """
        try:
            return self._make(setting, self._renorm or setting.renorm)
        except ValueError as error:
            raise InputError(f"policy {self.name!r}: {error}") from error


def parse_policy(name: str) -> NamedPolicy:
    """A policy from its name.

    Raises:
        InputError: It is not a policy's name; the message says what is wrong with it.
    """
    family, _, rest = name.partition(":")
    value, _, renorm = rest.partition(":")
    if family not in _FAMILIES:
        raise InputError(f"policy {name!r}: {family!r} is not one of {', '.join(_FAMILIES)}")
    if renorm and renorm not in [r.value for r in Renorm]:
        raise InputError(f"policy {name!r}: renorm {renorm!r} is not native, keep_mass or none")
    if renorm and family == "scale":
        raise InputError(f"policy {name!r}: scale fits weights as they were, and takes no renorm")
    try:
        make = _FAMILIES[family](value)
    except ValueError as error:
        shown = _EXAMPLES[family]
        raise InputError(f"policy {name!r}: {error}; write it as in {shown}") from error
    is_fitted = family in _FITTED or (family == "entropy" and "%" in value)
    return NamedPolicy(name, is_fitted, make, Renorm(renorm) if renorm else None)


_Make = Callable[[Setting, Renorm], Policy]


def _whole(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _part(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a part, from 0 to 1")
    return value


def _count(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise ValueError(f"{value} where at least 1 must stay")
    return value


def _within(k: int, setting: Setting) -> int:
    if k > setting.top_k:
        raise ValueError(f"k = {k}, but the model has {setting.top_k} active experts")
    return k


def _k(value: str) -> _Make:
    k = _count(value)
    return lambda setting, renorm: KeepTopK(_within(k, setting), renorm)


def _layers(value: str) -> _Make:
    ks = [_count(part) for part in value.split(",")]

    def make(setting: Setting, renorm: Renorm) -> Policy:
        if len(ks) != len(setting.layers):
            raise ValueError(f"{len(ks)} numbers for {len(setting.layers)} MoE layers")
        chosen = {layer: _within(k, setting) for layer, k in zip(setting.layers, ks, strict=True)}
        return KeepPerLayer(chosen, renorm)

    return make


def _min_p(value: str) -> _Make:
    threshold, _, least = value.partition(",")
    part, min_k = _part(threshold), _count(least) if least else 1
    return lambda setting, renorm: MinP(part, min_k, renorm)


def _top_p(value: str) -> _Make:
    part = _part(value)
    return lambda setting, renorm: TopP(part, renorm)


def _naee(value: str) -> _Make:
    part = _part(value) if value else 0.5
    return lambda setting, renorm: MinP(setting.fitted.quantile("ratio", part), 1, renorm)


def _entropy(value: str) -> _Make:
    steps: list[tuple[Callable[[Setting], Threshold], int]] = []
    for step in value.split(","):
        at, _, k = step.partition("=")
        if at.endswith("%"):
            part = _part(str(_number(at[:-1]) / 100))
            steps.append((partial(_entropy_quantile, part=part), _count(k)))
        else:
            steps.append((partial(_same, value=_part(at)), _count(k)))

    def make(setting: Setting, renorm: Renorm) -> Policy:
        for _, k in steps:
            _within(k, setting)
        return EntropyK(tuple((threshold(setting), k) for threshold, k in steps), renorm)

    return make


def _entropy_quantile(setting: Setting, *, part: float) -> Threshold:
    return setting.fitted.quantile("entropy", part)


def _same(setting: Setting, *, value: float) -> Threshold:
    return value


def _budget(value: str) -> _Make:
    experts, at, sequences = value.partition("@")
    if not at:
        raise ValueError(f"{value!r} does not say for how many sequences")
    size, count = _count(experts), _count(sequences)

    def make(setting: Setting, renorm: Renorm) -> Policy:
        if renorm is Renorm.NATIVE and size < setting.top_k:
            raise ValueError(
                f"{size} experts, but each token chooses {setting.top_k}: allow at least "
                f"{setting.top_k}, or drop experts with the renorm keep_mass or none"
            )
        return ExpertBudget(size, count, renorm)

    return make


def _dp(value: str) -> _Make:
    mean = _number(value)
    if mean < 1:
        raise ValueError(f"{value!r} experts in the mean: each layer needs at least 1")

    def make(setting: Setting, renorm: Renorm) -> Policy:
        _within(math.ceil(mean), setting)
        budget = math.floor(mean * len(setting.layers) + 1e-9)
        ks = allocate(setting.fitted.errors(renorm), budget=budget)
        return KeepPerLayer(dict(zip(setting.layers, ks, strict=True)), renorm)

    return make


def _scale(value: str) -> _Make:
    k = _count(value)

    def make(setting: Setting, renorm: Renorm) -> Policy:
        _within(k, setting)
        scales = setting.fitted.scales(k)
        return Chain((KeepTopK(k, Renorm.NONE), ScaleWeights(scales)))

    return make


_FAMILIES: Mapping[str, Callable[[str], _Make]] = {
    "k": _k,
    "layers": _layers,
    "min-p": _min_p,
    "top-p": _top_p,
    "entropy": _entropy,
    "budget": _budget,
    "naee": _naee,
    "dp": _dp,
    "scale": _scale,
}
_FITTED = ("naee", "dp", "scale")
_EXAMPLES: Mapping[str, str] = {
    "k": "k:3",
    "layers": "layers:2,3,1",
    "min-p": "min-p:0.3 or min-p:0.3,2",
    "top-p": "top-p:0.8",
    "entropy": "entropy:0.6=1 or entropy:50%=1,80%=2",
    "budget": "budget:24@8",
    "naee": "naee:0.5",
    "dp": "dp:2.5",
    "scale": "scale:2",
}


def default_policies(
    *, top_k: int, num_experts: int, num_layers: int, step_sequences: int, none_differs: bool
) -> tuple[str, ...]:
    """Names that span the frontier of a model.

    Args:
        top_k: Experts that its routers choose.
        num_experts: Routed experts of a layer.
        num_layers: MoE layers.
        step_sequences: Sequences of a decoding step.
        none_differs: Whether weights as they were are not what the model itself would give.
    """
    fewer = range(1, top_k)
    renorms = ("", ":keep_mass", ":none") if none_differs else ("", ":keep_mass")
    names = [f"k:{k}{renorm}" for renorm in renorms for k in fewer]
    names += [f"scale:{k}" for k in fewer]
    names += [f"dp:{half / 2:g}" for half in range(3, 2 * top_k, 1) if half * num_layers % 2 == 0]
    names += [f"min-p:{part:g}" for part in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)]
    names += [f"top-p:{part:g}" for part in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
    names += ["min-p:0.5:keep_mass", "top-p:0.6:keep_mass", "naee:0.5"]
    names += [f"entropy:{part}%=1" for part in (25, 50, 75)]
    most = min(num_experts, top_k * step_sequences)
    budgets = sorted({max(top_k, most * part // 4) for part in (1, 2, 3)})
    return tuple(names + [f"budget:{size}@{step_sequences}" for size in budgets])
