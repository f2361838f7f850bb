"""`ScoreSpec`: which criteria are computed, for what model, on what text, and what is ablated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moe_lens.errors import InputError
from moe_lens.scoring.names import ABLATIONS, CRITERIA, known
from moe_lens.study.spec import ModelSpec, TextSpec


@dataclass(frozen=True)
class ScoreSpec:
    """One scoring of a model's experts.

    Attributes:
        model: The model.
        text: The calibration text.
        criteria: Which scores; what the model cannot give is left out and named in the manifest.
        causal: How many experts are ablated, over all layers; 0 for none.
        ablations: How: "drop", "mask", "replace", and the control "random".
        causal_tokens: About so many tokens of each domain for that; None for all of the text.
        seed: Of every draw: blocks of documents, ablated experts, random controls, resampling.
        batch_tokens: Tokens in memory at a time.
        chunk_tokens: Tokens of work that a killed run may lose.
    """

    model: ModelSpec
    text: TextSpec
    criteria: tuple[str, ...] = CRITERIA
    causal: int = 0
    ablations: tuple[str, ...] = ABLATIONS
    causal_tokens: int | None = 4096
    seed: int = 0
    batch_tokens: int = 4096
    chunk_tokens: int = 65_536

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", known(self.criteria, CRITERIA, what="criterion"))
        object.__setattr__(self, "ablations", known(self.ablations, ABLATIONS, what="ablation"))
        if self.causal < 0:
            raise InputError(f"causal = {self.causal}: ablate 0 experts or more")
        sizes = {"batch_tokens": self.batch_tokens, "chunk_tokens": self.chunk_tokens}
        if self.causal_tokens is not None:
            sizes["causal_tokens"] = self.causal_tokens
        for name, number in sizes.items():
            if number < 1:
                raise InputError(f"{name} = {number}: give at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["criteria"], values["ablations"] = list(self.criteria), list(self.ablations)
        return values
