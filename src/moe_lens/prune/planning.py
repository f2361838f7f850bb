"""`make_plan`: what a scoring run measured, or nothing but a seed, to a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moe_lens.errors import InputError
from moe_lens.loading import EMBEDDED, embedded_model
from moe_lens.prune.choosing import Scores, check_budget, choose, random_scores
from moe_lens.prune.plan import Budget, ExpertsByLayer, Plan, as_shape
from moe_lens.prune.shape import ModelShape, shape_from, shape_of_config

IMPORTANCE = "importance"
RANDOM = "random"
FREQUENCY = "frequency"
MAX_ABS = "max_abs"
ALL = "all"
"""The domain that is all tokens together."""

_COLUMNS = ("domain", "layer", "expert", "criterion", "score")
_SUPER_QUANTILE = 0.995
_SUPER_SHARE = 0.1


@dataclass(frozen=True)
class ScoringRun:
    """What `moe-lens score` left in a directory.

    Attributes:
        directory: Where it lies.
        model: The scored model.
        calibration: What of the text's manifest a plan repeats.
        importance: The table: domain, layer, expert, criterion, score.
    """

    directory: Path
    model: ModelShape
    calibration: Mapping[str, Any]
    importance: pl.DataFrame

    @property
    def criteria(self) -> list[str]:
        """The criteria that were measured."""
        return self.importance["criterion"].unique(maintain_order=True).to_list()

    def scores(self, criterion: str, domains: Sequence[str]) -> Scores:
        """Scores by one criterion, of one domain as they are, of several as their mean.

        Before the mean, each domain's scores are divided by their mean size over all layers and
        experts, so that every domain counts alike whatever its tokens.

        Raises:
            InputError: The criterion or a domain was not measured.
        """
        table = self.importance.filter(pl.col("criterion") == criterion)
        if table.is_empty():
            raise InputError(
                f"criterion {criterion!r} was not measured in {self.directory}; it has "
                f"{', '.join(self.criteria)} (and {RANDOM}, which needs no measurement)"
            )
        known = table["domain"].unique(maintain_order=True).to_list()
        parts = []
        for domain in domains:
            if domain not in known:
                raise InputError(
                    f"domain {domain!r} is not in {self.directory}; it has {', '.join(known)}"
                )
            parts.append(self._matrix(table.filter(pl.col("domain") == domain), criterion))
        if len(parts) == 1:
            whole = parts[0]
        else:
            whole = np.mean([part / np.nanmean(np.abs(part)) for part in parts], axis=0)
        return dict(zip(self.model.layers, whole, strict=True))

    def _matrix(self, table: pl.DataFrame, criterion: str) -> np.ndarray:
        """One domain's scores, layer by expert; nan where there is none."""
        whole = np.full((len(self.model.layers), self.model.num_experts), np.nan)
        row_of = {layer: row for row, layer in enumerate(self.model.layers)}
        for layer, expert, score in table.select("layer", "expert", "score").iter_rows():
            if layer not in row_of or not 0 <= expert < self.model.num_experts:
                raise InputError(
                    f"{self.directory}: {criterion} has a score of expert {expert} of layer "
                    f"{layer}, which the model of its manifest has not; score again"
                )
            whole[row_of[layer], expert] = np.nan if score is None else score
        return whole


def make_plan(
    source: str | Path,
    *,
    keep: int,
    criterion: str,
    domains: Sequence[str] = (ALL,),
    shape: str = "uniform",
    multiple_of: int = 1,
    protect_super: bool = False,
    top_k: int | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the experts that stay.

    Args:
        source: The directory of a scoring run; for "random", a checkpoint will do.
        keep: Experts of each layer that stay; the mean over layers where `shape` is "global".
        criterion: What ranks them: one that was measured, or "random".
        domains: Whose scores count, each alike; "all" is all tokens together.
        shape: "uniform" or "global".
        multiple_of: Every layer keeps a multiple of this.
        protect_super: Whether super-experts stay whatever their score.
        top_k: Active experts of the pruned model; None for the model's own.
        seed: Of "random".

    Raises:
        InputError: The budget cannot be kept, or what was asked for was not measured.
    """
    run = read_scores(source) if (Path(source) / "manifest.json").is_file() else None
    if run is None and criterion != RANDOM:
        raise InputError(
            f"{source} is no scoring run, and criterion {criterion!r} needs scores; run `moe-lens "
            f"score MODEL --corpus PATH --out DIR` and give DIR, or choose --criterion {RANDOM}"
        )
    model = _shape(str(source)) if run is None else run.model
    budget = Budget(keep, as_shape(shape), multiple_of)
    check_budget(model, budget, top_k=top_k)
    if protect_super:
        if run is None:
            raise InputError("super-experts are known from scores; give a scoring run")
        guard = super_experts(run.scores(MAX_ABS, [ALL]))
        budget = Budget(keep, budget.shape, multiple_of, guard)
    is_random = criterion == RANDOM
    if is_random:
        scores: Scores = random_scores(model, seed=seed)
    else:
        assert run is not None
        scores = run.scores(criterion, domains)
    return Plan(
        model=model,
        criterion=f"{RANDOM} (seed {seed})" if is_random else criterion,
        domains=() if is_random else tuple(domains),
        calibration={} if run is None else run.calibration,
        budget=budget,
        keep=choose(model, budget, scores, top_k=top_k),
        top_k=top_k,
        frequency_order=None if run is None else _frequency_order(run),
    )


def super_experts(peaks: Scores) -> ExpertsByLayer:
    """Experts whose largest output stands out: above the 99.5th percentile and a tenth of the top.

    Pruning one of them can break a model, however rarely it works.

    Source: terms.md#super-expert; Su et al., arXiv 2507.23279
    """
    every = np.concatenate(list(peaks.values()))
    least = max(float(np.nanquantile(every, _SUPER_QUANTILE)), _SUPER_SHARE * np.nanmax(every))
    found = {
        layer: tuple(int(e) for e in np.flatnonzero(value > least))
        for layer, value in peaks.items()
    }
    return {layer: ids for layer, ids in found.items() if ids}


def read_scores(directory: str | Path) -> ScoringRun:
    """What `moe-lens score` wrote.

    Raises:
        InputError: It is not finished, or its files are not those of a scoring run.
    """
    place = Path(directory)
    values = _manifest(place / "manifest.json")
    table = place / "tables" / f"{IMPORTANCE}.parquet"
    if not table.is_file():
        raise InputError(
            f"{place} has no tables/{IMPORTANCE}.parquet: it is no scoring run, or one that is "
            f"not finished; start it again to go on"
        )
    importance = pl.read_parquet(table)
    missing = sorted(set(_COLUMNS) - set(importance.columns))
    if missing:
        raise InputError(f"{table}: column {missing[0]!r} is missing; score again")
    if not isinstance(values.get("model"), dict):
        raise InputError(f"{place / 'manifest.json'} names no model; score again")
    corpus = values.get("corpus", {})
    names = ("sha256", "num_tokens", "num_counted", "domains")
    return ScoringRun(
        directory=place,
        model=shape_from(values["model"], where=str(place / "manifest.json")),
        calibration={name: corpus[name] for name in names if name in corpus},
        importance=importance,
    )


def _shape(source: str) -> ModelShape:
    target = str(embedded_model()) if source == EMBEDDED else source
    return replace(shape_of_config(target), source=source)


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is no scoring run: it has no manifest.json; `moe-lens score` writes one"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); score again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object; score again")
    return values


def _frequency_order(run: ScoringRun) -> ExpertsByLayer | None:
    if FREQUENCY not in run.criteria:
        return None
    found = {}
    for layer, score in run.scores(FREQUENCY, [ALL]).items():
        value = np.where(np.isnan(score), -np.inf, score)
        found[layer] = tuple(int(e) for e in np.argsort(-value, kind="stable"))
    return found
