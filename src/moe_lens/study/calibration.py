"""What some policies are fitted on: one pass of the whole model over calibration text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64
from torch import Tensor

from moe_lens.corpus import TokenBatch, TokenizedCorpus
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.errors import InputError
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.policies import KeepTopK, Policy, Renorm
from moe_lens.stats.reduction import LayerFactors, Reduction
from moe_lens.stats.router_shape import RouterShape, Shape
from moe_lens.study.chunks import Progress, undone
from moe_lens.study.files import STATE, read_tensors, write_tensors
from moe_lens.study.states import state_of, together


class Calibration:
    """The reduction of every layer at every k and renorm, and how sure its router is.

    Args:
        model: The model whose events it takes.
    """

    needs: frozenset[Field] = Reduction.needs | RouterShape.needs

    def __init__(self, model: MoEModel) -> None:
        self._top_k = model.layers[0].modules.top_k
        ruled = all(layer.facts.rule is not None for layer in model.layers)
        self._renorms = [r for r in Renorm if ruled or r is not Renorm.NATIVE]
        policies = {
            f"{renorm.value}/{k}": KeepTopK(k, renorm)
            for renorm in self._renorms
            for k in range(1, self._top_k + 1)
        }
        self._reduction = Reduction(policies, layer_factors(model))
        self._shape = RouterShape()

    def update(self, event: LayerEvent) -> None:
        """Add one layer's tokens."""
        self._reduction.update(event)
        self._shape.update(event)

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        return together({"reduction": self._reduction.state(), "shape": self._shape.state()})

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Add what another's `state` gave."""
        self._reduction.merge_state(state_of(state, "reduction"))
        self._shape.merge(RouterShape.from_state(state_of(state, "shape")))

    def table(self) -> pl.DataFrame:
        """Table `reduction` of tables.md, by renorm, k, layer."""
        renorm = pl.col("policy").str.extract(r"^(.*)/").alias("renorm")
        k = pl.col("policy").str.extract(r"/(.*)$").cast(pl.Int64).alias("k")
        measured = pl.all().exclude("policy", "layer")
        found = self._reduction.table().select(renorm, k, "layer", measured)
        return found.sort("renorm", "k", "layer")

    def errors(self, renorm: Renorm) -> Float64[np.ndarray, "layer k"]:
        """The reduction error of each layer, in their order, at k = 1 to K.

        Raises:
            InputError: What the model does with a smaller top-k is not known.
        """
        if renorm not in self._renorms:
            raise InputError(
                "no known rule reproduces a router of this model, so what it does with a smaller "
                "top-k is not known; ask for the renorm keep_mass or none"
            )
        rows = self.table().filter(pl.col("renorm") == renorm.value).sort("layer", "k")
        return rows["error"].to_numpy().astype(np.float64).reshape(-1, self._top_k)

    def scales(self, k: int) -> dict[int, float]:
        """Per layer, the factor that brings k experts at their own weights nearest to all."""
        here = (pl.col("renorm") == Renorm.NONE.value) & (pl.col("k") == k)
        rows = self.table().filter(here)
        return {int(layer): float(s) for layer, s in zip(rows["layer"], rows["scale"], strict=True)}

    def quantile(self, shape: Shape, part: float) -> dict[int, float]:
        """Per layer, a quantile over tokens of what `RouterShape` counts."""
        return self._shape.quantile(shape, part)


def layer_factors(model: MoEModel) -> dict[int, LayerFactors]:
    """What each layer does with its router's decision."""
    return {
        layer.modules.index: LayerFactors(
            rule=layer.facts.rule,
            routed_scale=layer.facts.routed_scale,
            residual_scale=1.0
            if layer.facts.residual_scale is None
            else layer.facts.residual_scale,
        )
        for layer in model.layers
    }


def calibrate(
    model: MoEModel,
    tokenized: TokenizedCorpus,
    *,
    directory: Path,
    batch_tokens: int,
    chunk_tokens: int,
    progress: Progress,
) -> Calibration:
    """Run calibration text through the whole model; chunks on disk are not done again."""

    def file(index: int) -> Path:
        return directory / STATE / f"calibration-{index:05d}.safetensors"

    for chunk in undone(
        tokenized,
        batch_tokens=batch_tokens,
        chunk_tokens=chunk_tokens,
        is_done=lambda index: file(index).exists(),
        progress=progress,
    ):
        part = Calibration(model)
        stream = Stream(sink=part.update, fields=Calibration.needs)
        for batch, _ in sweep(model, chunk.batches, [stream]):
            progress(batch.num_tokens)
        write_tensors(file(chunk.index), part.state())
    found, index = Calibration(model), 0
    while file(index).exists():
        found.merge_state(read_tensors(file(index)))
        index += 1
    return found


def fit_scales(
    model: MoEModel, token_batches: Iterable[TokenBatch], policy: Policy
) -> dict[int, float]:
    """Per layer, the factor on a policy's routed sum that brings it nearest to the full one.

    Least squares over the tokens given, in closed form from the Gram; layers that the policy
    leaves without any expert get none. Each layer is fitted on what the full model gives it.
    Simulate it with `Chain((policy, ScaleWeights(scales)))`, and evaluate it on other text.

    Args:
        model: A loaded model.
        token_batches: Calibration text.
        policy: Takes experts away or re-weighs them; it may not bring in others.

    Raises:
        UnsupportedModel: The family has no Gram.

    Source: terms.md#fitted-scale
    """
    found = Reduction({"policy": policy}, layer_factors(model))
    for _ in sweep(model, token_batches, [Stream(sink=found.update, fields=Reduction.needs)]):
        pass
    rows = found.table().drop_nulls("scale")
    return {int(layer): float(s) for layer, s in zip(rows["layer"], rows["scale"], strict=True)}
