"""From the sums of a scoring pass to the tables `importance` and `stability`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from moe_lens.analysis.importance import FROM_SUMS, importance_table, scores_of
from moe_lens.analysis.stability import stability_table
from moe_lens.models.model import MoEModel
from moe_lens.scoring.blocks import SPLITS, Blocks
from moe_lens.scoring.elimination import elimination_order
from moe_lens.stats.ballots import Ballots
from moe_lens.stats.importance import Importance

ALL = "all"
"""The domain that stands for all domains together."""

_RANKED = "rank_removal"
_FROM_TEXT = (*FROM_SUMS, _RANKED)
_NUM_RANKED_SPLITS = 2
"""An election takes about as long as all other scores together: not in every halving."""


class Scores:
    """Reads scores of any set of document groups from one pass's sums.

    Args:
        model: The model that was run.
        blocks: The groups of documents.
        criteria: Which scores, those from weights alone included.
        importance: The sums.
        ballots: The sampled router scores; needed for "rank_removal" alone.
        weights: Scores from weights alone, for each layer; needed for "aimer" alone.
    """

    def __init__(
        self,
        model: MoEModel,
        blocks: Blocks,
        criteria: Sequence[str],
        *,
        importance: Importance,
        ballots: Ballots,
        weights: dict[int, Float64[Tensor, " expert"]],
    ) -> None:
        self._model, self._blocks, self._criteria = model, blocks, tuple(criteria)
        self._sums, self._ballots, self._weights = importance.table(), ballots, weights

    @property
    def criteria_from_text(self) -> tuple[str, ...]:
        """The criteria that another text would change."""
        return tuple(name for name in self._criteria if name in _FROM_TEXT)

    def importance(self) -> pl.DataFrame:
        """The table `importance`."""
        return importance_table(self._wholes, self._criteria)

    def stability(self) -> pl.DataFrame:
        """The table `stability`."""
        halves = []
        for domain, name in self._domains():
            for index, split in enumerate(SPLITS):
                parts = [self._blocks.groups(domain, half) for half in split]
                if all(parts):
                    ranked = index < _NUM_RANKED_SPLITS
                    halves += [
                        self._of(groups, ranked=ranked).with_columns(
                            domain=pl.lit(name), split=pl.lit(index), half=pl.lit(half)
                        )
                        for half, groups in enumerate(parts)
                    ]
        told = ["domain", "split", "half", "layer", "expert", *self.criteria_from_text]
        empty = self._wholes.clear().with_columns(
            split=pl.lit(0, pl.Int32), half=pl.lit(0, pl.Int32)
        )
        frames = [empty.select(told), *(frame.select(told) for frame in halves)]
        return stability_table(pl.concat(frames), self._wholes, self.criteria_from_text)

    @cached_property
    def _wholes(self) -> pl.DataFrame:
        return pl.concat(
            self._of(self._blocks.groups(domain)).with_columns(domain=pl.lit(name))
            for domain, name in self._domains()
        )

    def _domains(self) -> list[tuple[str | None, str]]:
        return [(None, ALL), *((domain, domain) for domain in self._blocks.domains)]

    def _of(self, groups: Sequence[int], *, ranked: bool = True) -> pl.DataFrame:
        from_sums = [name for name in self._criteria if name in FROM_SUMS]
        found = scores_of(self._sums, groups, from_sums)
        if _RANKED in self._criteria:
            found = (
                found.join(self._places(groups), on=["layer", "expert"])
                if ranked
                else found.with_columns(pl.lit(None, pl.Float64).alias(_RANKED))
            )
        if "aimer" in self._criteria:
            found = found.join(_frame("aimer", self._weights), on=["layer", "expert"])
        return found.sort("layer", "expert")

    def _places(self, groups: Sequence[int]) -> pl.DataFrame:
        """Ranked-choice removal on the sampled tokens of these groups."""
        group_of, wanted = torch.from_numpy(self._blocks.group_of), torch.tensor(list(groups))
        places = {}
        for layer in self._model.layers:
            index, rule = layer.modules.index, layer.facts.rule
            assert rule is not None
            sample = self._ballots.sample(index)
            rows = torch.isin(group_of[sample.documents], wanted)
            places[index] = elimination_order(
                sample.scores[rows], rule.on(torch.device("cpu")), layer.modules.top_k
            )
        return _frame(_RANKED, places)


def _frame(name: str, columns: dict[int, Float64[Tensor, " expert"]]) -> pl.DataFrame:
    schema = {"layer": pl.Int64, "expert": pl.Int64, name: pl.Float64}
    parts = [
        pl.DataFrame([[layer] * len(values), range(len(values)), values.numpy()], schema=schema)
        for layer, values in columns.items()
    ]
    return pl.concat(parts)
