"""`ScoreSpec`: which criteria are computed, for what model, on what text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moe_lens.errors import InputError
from moe_lens.scoring.names import CRITERIA, known
from moe_lens.study.spec import ModelSpec, TextSpec


@dataclass(frozen=True)
class ScoreSpec:
    """One scoring of a model's experts.

    Attributes:
        model: The model.
        text: The calibration text.
        criteria: Which scores; what the model cannot give is left out and named in the manifest.
        seed: Of every draw.
        batch_tokens: Tokens in memory at a time.
        chunk_tokens: Tokens of work that a killed run may lose.
    """

    model: ModelSpec
    text: TextSpec
    criteria: tuple[str, ...] = CRITERIA
    seed: int = 0
    batch_tokens: int = 4096
    chunk_tokens: int = 65_536

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", known(self.criteria, CRITERIA, what="criterion"))
        sizes = {"batch_tokens": self.batch_tokens, "chunk_tokens": self.chunk_tokens}
        for name, number in sizes.items():
            if number < 1:
                raise InputError(f"{name} = {number}: give at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"criteria": list(self.criteria)}
