"""`verify`: the exported checkpoint, loaded by stock transformers, against the simulation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.session import Session
from moe_lens.errors import CheckpointError, InputError, ProofFailed
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.prune.plan import Plan
from moe_lens.prune.policy import policy_of

TOLERANCE = 1e-5
"""Of the largest logit, where the export moved every number as it was."""
_SEQUENCES, _POSITIONS = 4, 48
_FOLDED = {"F64": 1e-5, "F32": 1e-5, "F16": 4e-3, "BF16": 3e-2}


@dataclass(frozen=True)
class Verification:
    """How the result compares with the simulation.

    Attributes:
        error: Largest difference of a logit, as a part of the largest logit.
        tolerance: What was allowed.
        num_tokens: Tokens compared, drawn over the whole vocabulary.
        num_logits: Logits compared.
        dtype: What both computed in.
        loader: What loaded the result.
    """

    error: float
    tolerance: float
    num_tokens: int
    num_logits: int
    dtype: str
    loader: str


def verify(
    original: Path, exported: Path, plan: Plan, *, folded: Collection[str] = ()
) -> Verification:
    """Compare logits of the exported checkpoint with those of the original under the plan.

    Both compute in float32, which holds every 16-bit number exactly: what is compared is the
    checkpoint, not the rounding of a dtype. The original runs under the plan's policy; the result
    runs as it is, through transformers (DeepSeekMoE v1: through this package's classes in it).
    One is in memory at a time.

    Args:
        original: The original's directory.
        exported: The result's.
        plan: The plan.
        folded: dtypes (safetensors' names) in which numbers were scaled, and so rounded.

    Raises:
        InputError: One of them cannot be loaded here, so that nothing can be compared.
        ProofFailed: They differ by more than rounding.
    """
    model = _loaded(original)
    batch = verification_batch(model)
    expected = simulated_logits(model, plan, batch)
    del model
    result = _loaded(exported)
    found = stock_logits(result, batch)
    error = float((found - expected).abs().max() / expected.abs().max())
    tolerance = max((_FOLDED[dtype] for dtype in folded), default=TOLERANCE)
    if not error <= tolerance:
        raise ProofFailed(
            f"check 'exported = simulated' failed: logits differ by {error:.1e} of the largest, "
            f"allowed {tolerance:.0e}; the export is taken away again. Please report the model"
        )
    return Verification(
        error=error,
        tolerance=tolerance,
        num_tokens=int(batch.attention_mask.sum()),
        num_logits=expected.numel(),
        dtype="float32",
        loader=type(result.hf).__name__,
    )


def _loaded(directory: Path) -> MoEModel:
    try:
        return load_model(directory, dtype=torch.float32)
    except (CheckpointError, ImportError) as error:
        raise InputError(
            f"{directory}: cannot be loaded here to compare original and result ({error}). Make it "
            f"loadable (quantised checkpoints need packages of their own), or pass --no-verify"
        ) from error


def verification_batch(model: MoEModel) -> TokenBatch:
    """Tokens drawn over the whole vocabulary, the same for every model of its size."""
    shape = (_SEQUENCES, min(_POSITIONS, model.context_length or _POSITIONS))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.vocab_size, shape, generator=generator)
    everything = torch.ones(shape, dtype=torch.bool)
    return TokenBatch(
        input_ids=ids,
        attention_mask=everything,
        counted=everything,
        document=torch.arange(shape[0]).unsqueeze(1).expand(shape).contiguous(),
        position=torch.arange(shape[1]).expand(shape).contiguous(),
    )


@torch.no_grad()
def simulated_logits(
    model: MoEModel, plan: Plan, batch: TokenBatch
) -> Float[Tensor, "seq pos vocab"]:
    """Logits of the whole model under the plan's policy."""
    with Session(model, sink=lambda event: None, policy=policy_of(plan)) as session:
        session.expect(batch)
        return stock_logits(model, batch)


@torch.no_grad()
def stock_logits(model: MoEModel, batch: TokenBatch) -> Float[Tensor, "seq pos vocab"]:
    """Logits of a model as transformers runs it."""
    device = model.device
    output = model.hf(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        use_cache=False,
    )
    logits: Tensor = output.logits.float().cpu()
    return logits
