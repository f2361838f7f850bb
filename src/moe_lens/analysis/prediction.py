"""Table `prediction`: how well scores that only look foretell what ablation does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64
from scipy import stats

from moe_lens.analysis.causal import with_contrast
from moe_lens.analysis.counts import frame, known
from moe_lens.analysis.intervals import bootstrap_weights

EFFECTS = ("own", "text")
RANDOM, OTHER_HALF = "random", "other_half"
"""The control that knows nothing, and what the effect says of itself on other documents."""

_NUM_DRAWS = 200
_NUM_HALVES = 20
_NEARLY_ONE = 1 - 1e-6
_MOST_EXPERTS_FREE = 3

SCHEMA = pl.Schema(
    {
        "ablation": pl.String,
        "effect": pl.String,
        "layer": pl.Int64,
        "criterion": pl.String,
        "num_experts": pl.Int64,
        "spearman": pl.Float64,
        "spearman_low": pl.Float64,
        "spearman_high": pl.Float64,
    }
)


def prediction_table(
    importance: pl.DataFrame, changes: pl.DataFrame, text: pl.DataFrame, *, seed: int
) -> pl.DataFrame:
    """Rank correlation of every criterion with the measured effect of ablation.

    Args:
        importance: The table `importance`; its rows of domain `all` are read.
        changes: `analysis.causal.CHANGES_SCHEMA`.
        text: `analysis.causal.TEXT_SCHEMA`.
        seed: Of the random control and of resampling.

    Returns:
        One row for each ablation, effect (`own`: at ablated tokens; `text`: over the text), layer
        (null: all layers, ranks taken within each), and criterion; then the control `random`, and
        `other_half`: the effect measured on one half of the documents against that on the other,
        mean over 20 halvings. The interval is for the experts being a sample and for the
        documents being one; null with fewer than 4 experts.
    """
    scores = importance.filter(pl.col("domain") == "all").pivot(
        "criterion", index=["layer", "expert"], values="score"
    )
    criteria = [name for name in scores.columns if name not in ("layer", "expert")]
    rows = []
    for (ablation,), part in (
        with_contrast(changes).partition_by("ablation", as_dict=True, maintain_order=True).items()
    ):
        effects = _effects(part, text, seed=seed)
        known_scores = effects.places.join(scores, on=["layer", "expert"], how="left").sort(
            "layer", "expert"
        )
        random = np.random.default_rng(seed).random(len(known_scores))
        for effect in EFFECTS:
            values = {name: known_scores[name].to_numpy() for name in criteria} | {RANDOM: random}
            for layer in (None, *effects.layers):
                for name, score in values.items():
                    found = _agreement(effects, effect, score.astype(np.float64), layer)
                    rows.append(_row(str(ablation), effect, layer, name, found))
                rows.append(
                    _row(str(ablation), effect, layer, OTHER_HALF, _itself(effects, effect, layer))
                )
    return frame(rows, SCHEMA)


class _Effects(NamedTuple):
    """The effect of each ablated expert: measured, in bootstrap draws, and on pairs of halves."""

    places: pl.DataFrame
    layer_of: np.ndarray
    measured: dict[str, Float64[np.ndarray, "draw expert"]]
    drawn: dict[str, Float64[np.ndarray, "draw expert"]]
    left: dict[str, Float64[np.ndarray, "draw expert"]]
    right: dict[str, Float64[np.ndarray, "draw expert"]]

    @property
    def layers(self) -> list[int]:
        """The layers, in order."""
        return [int(layer) for layer in np.unique(self.layer_of)]


class _Agreement(NamedTuple):
    num_experts: int
    value: float | None
    low: float | None
    high: float | None


def _effects(part: pl.DataFrame, text: pl.DataFrame, *, seed: int) -> _Effects:
    text = text.filter(pl.col("num_predicted") > 0).sort("document")
    places = part.select("layer", "expert").unique().sort("layer", "expert")
    documents = text["document"].to_numpy()
    num_documents = len(documents)
    at = part.join(places.with_row_index("place"), on=["layer", "expert"])
    expert = at["place"].to_numpy()
    document = np.searchsorted(documents, at["document"].to_numpy())
    parts = {}
    for name in ("num_tokens", "own_nats", "text_nats"):
        matrix = np.zeros((num_documents, len(places)))
        np.add.at(matrix, (document, expert), at[name].to_numpy())
        parts[name] = matrix
    predicted = text["num_predicted"].to_numpy().astype(np.float64)

    def of(weights: Float64[np.ndarray, "draw doc"]) -> dict[str, Float64[np.ndarray, "draw e"]]:
        counts = weights @ parts["num_tokens"]
        own = (weights @ parts["own_nats"]) / np.maximum(counts, 1.0)
        whole = (weights @ parts["text_nats"]) / (weights @ predicted)[:, None]
        return {"own": own, "text": whole}

    rng = np.random.default_rng(seed)
    half = np.zeros((_NUM_HALVES, num_documents))
    for row in half:
        row[rng.permutation(num_documents)[: num_documents // 2]] = 1.0
    draws = bootstrap_weights(num_documents, num_draws=_NUM_DRAWS, seed=seed)
    return _Effects(
        places,
        places["layer"].to_numpy(),
        of(np.ones((1, num_documents))),
        of(draws),
        of(half) if num_documents > 1 else {},
        of(1 - half) if num_documents > 1 else {},
    )


def _agreement(
    effects: _Effects, effect: str, score: Float64[np.ndarray, " expert"], layer: int | None
) -> _Agreement:
    rows = _rows(effects, layer)
    measured, drawn = effects.measured[effect][:, rows], effects.drawn[effect][:, rows]
    layers = effects.layer_of[rows]
    value = float(_rank_correlation(score[rows][None], measured, layers)[0])
    spread = _rank_correlation(np.broadcast_to(score[rows], drawn.shape), drawn, layers)
    return _with_interval(value, spread, rows, layers)


def _itself(effects: _Effects, effect: str, layer: int | None) -> _Agreement:
    rows = _rows(effects, layer)
    if not effects.left:
        return _Agreement(int(rows.sum()), None, None, None)
    pair = (effects.left[effect][:, rows], effects.right[effect][:, rows])
    found = _rank_correlation(*pair, effects.layer_of[rows])
    told = found[~np.isnan(found)]
    mean = known(float(told.mean())) if len(told) else None
    return _Agreement(int(rows.sum()), mean, None, None)


def _rows(effects: _Effects, layer: int | None) -> np.ndarray:
    everything = np.ones(len(effects.layer_of), dtype=bool)
    return everything if layer is None else effects.layer_of == layer


def _with_interval(
    value: float, spread: np.ndarray, rows: np.ndarray, layers: np.ndarray
) -> _Agreement:
    """On Fisher's z: the variances of sampling experts and documents.

    Source: Bonett and Wright (2000) for the first.
    """
    num = int(rows.sum())
    free = num - (len(np.unique(layers)) - 1) - _MOST_EXPERTS_FREE
    if np.isnan(value) or free < 1:
        return _Agreement(num, known(value), None, None)
    told = np.clip(spread[~np.isnan(spread)], -_NEARLY_ONE, _NEARLY_ONE)
    documents = float(np.arctanh(told).var()) if len(told) > 1 else 0.0
    reach = stats.norm.ppf(0.975) * np.sqrt((1 + value**2 / 2) / free + documents)
    z = np.arctanh(np.clip(value, -_NEARLY_ONE, _NEARLY_ONE))
    return _Agreement(num, value, float(np.tanh(z - reach)), float(np.tanh(z + reach)))


def _rank_correlation(
    left: Float64[np.ndarray, "draw expert"],
    right: Float64[np.ndarray, "draw expert"],
    layers: np.ndarray,
) -> Float64[np.ndarray, " draw"]:
    """Spearman's, ranks taken and centred within each layer; nan where one side is constant."""
    a, b = np.empty(left.shape), np.empty(right.shape)
    for layer in np.unique(layers):
        here = layers == layer
        for ranks, values in ((a, left), (b, right)):
            ranked = stats.rankdata(values[:, here], axis=1)
            ranks[:, here] = (ranked - ranked.mean(axis=1, keepdims=True)) / max(here.sum(), 1)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(size > 0, (a * b).sum(axis=1) / size, np.nan))


def _row(
    ablation: str, effect: str, layer: int | None, criterion: str, found: _Agreement
) -> dict[str, object]:
    return {
        "ablation": ablation,
        "effect": effect,
        "layer": layer,
        "criterion": criterion,
        "num_experts": found.num_experts,
        "spearman": found.value,
        "spearman_low": found.low,
        "spearman_high": found.high,
    }
