"""The ablations of a scoring run, in pieces that survive a kill, and their tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from moe_lens.analysis.causal import CHANGES_SCHEMA, TEXT_SCHEMA, causal_table
from moe_lens.analysis.prediction import prediction_table
from moe_lens.corpus import TokenizedCorpus, batches
from moe_lens.errors import UnsupportedModel
from moe_lens.lens.unembed import find_head
from moe_lens.models.model import MoEModel
from moe_lens.policies.ablate import Ablation
from moe_lens.scoring.causal import CausalSums, Plan, choose_places, measure_causal
from moe_lens.study.chunks import Progress, undone
from moe_lens.study.files import STATE, read_tensors, write_tensors
from moe_lens.study.opening import shortened
from moe_lens.study.score_spec import ScoreSpec
from moe_lens.study.tables import documents_of

NAME = "causal"


def unavailable_ablations(model: MoEModel, spec: ScoreSpec) -> dict[str, str]:
    """Ablations that this model cannot be put to, with the reason; `causal` means all of them."""
    if not spec.causal:
        return {}
    try:
        find_head(model)
    except UnsupportedModel as error:
        return {NAME: str(error)}
    reasons: dict[str, str] = {}
    for layer in model.layers:
        where, modules = f"layer {layer.modules.index}", layer.modules
        if layer.facts.rule is None:
            reasons.setdefault("mask", f"{where}: no known rule reproduces the router's choice")
        if modules.num_experts <= modules.top_k:
            reasons.setdefault("replace", f"{where}: every token uses every expert")
            reasons.setdefault("mask", f"{where}: every token uses every expert")
        if modules.top_k < 2:
            reasons.setdefault("random", f"{where}: a token uses one expert alone")
    return {name: reasons[name] for name in spec.ablations if name in reasons}


@dataclass(frozen=True, eq=False)
class CausalRun:
    """What is to be ablated, on what text.

    Attributes:
        model: The model.
        spec: The scoring's.
        ablations: Those that the model can be put to.
        tokenized: The causal text: the first documents of each domain.
        directory: The run's.
    """

    model: MoEModel
    spec: ScoreSpec
    ablations: tuple[str, ...]
    tokenized: TokenizedCorpus
    directory: Path

    @staticmethod
    def of(
        model: MoEModel,
        spec: ScoreSpec,
        ablations: tuple[str, ...],
        tokenized: TokenizedCorpus,
        directory: Path,
    ) -> CausalRun:
        """With the text cut to its budget."""
        if spec.causal_tokens is not None:
            tokenized = shortened(model, tokenized, spec.causal_tokens)
        return CausalRun(model, spec, ablations, tokenized, directory)

    def plan(self, importance: pl.DataFrame) -> Plan:
        """A sample of experts at all heights of REAP, or of the first criterion there is."""
        there = importance["criterion"].unique(maintain_order=True).to_list()
        by = "reap" if "reap" in there else there[0]
        scores = importance.filter((pl.col("domain") == "all") & (pl.col("criterion") == by))
        places = choose_places(scores, by="score", num=self.spec.causal, seed=self.spec.seed)
        how = tuple(Ablation(name) for name in self.ablations)
        return Plan(places, how, self.spec.seed)

    def num_steps(self, plan: Plan) -> int:
        """Tokens times ablations: what `progress` adds up to."""
        return self.tokenized.num_tokens * len(plan.policies)

    def run(self, plan: Plan, progress: Progress) -> dict[str, pl.DataFrame]:
        """Do what is not on disk yet, and read all of it.

        Returns:
            The changes of loss of each document (`changes`), and its loss in the full model
            (`text`).
        """
        head, num_policies = find_head(self.model), len(plan.policies)
        # A batch of a resident model is a piece; a streamed model reads its layers once for all.
        whole = self.model.store is not None
        pieces = undone(
            self.tokenized,
            batch_tokens=self.spec.batch_tokens,
            chunk_tokens=self.tokenized.num_tokens if whole else 1,
            is_done=lambda index: self._file(index).exists(),
            progress=_times(progress, num_policies),
        )
        for piece in pieces:
            found = measure_causal(self.model, head, piece.batches, plan, progress=progress)
            write_tensors(self._file(piece.index), CausalSums.joined(list(found)).state())
        num_pieces = 1 if whole else self._num_batches()
        parts = [
            CausalSums.from_state(read_tensors(self._file(index))) for index in range(num_pieces)
        ]
        return _frames(CausalSums.joined(parts), plan, self.tokenized)

    def _num_batches(self) -> int:
        return sum(1 for _ in batches(self.tokenized, batch_tokens=self.spec.batch_tokens))

    def _file(self, index: int) -> Path:
        return self.directory / STATE / f"{NAME}-{index:05d}.safetensors"


def causal_tables(
    importance: pl.DataFrame, found: dict[str, pl.DataFrame], *, seed: int
) -> dict[str, pl.DataFrame]:
    """The tables `causal`, `causal_documents`, `causal_text` and `prediction`."""
    changes, text = found["changes"], found["text"]
    return {
        "causal_text": text,
        "causal_documents": changes,
        "causal": causal_table(changes, text),
        "prediction": prediction_table(importance, changes, text, seed=seed),
    }


def _times(progress: Progress, factor: int) -> Callable[[int], None]:
    return lambda num_tokens: progress(num_tokens * factor)


def _frames(sums: CausalSums, plan: Plan, tokenized: TokenizedCorpus) -> dict[str, pl.DataFrame]:
    parts = [pl.DataFrame(schema=CHANGES_SCHEMA)]
    for index, policy in enumerate(plan.policies):
        rows = (sums.counts[index] > 0) | (sums.text[index] != 0)
        size = int(rows.sum())
        columns = [
            [policy.layer] * size,
            [policy.expert] * size,
            [policy.how.value] * size,
            sums.documents[rows].numpy(),
            sums.counts[index][rows].numpy(),
            sums.own[index][rows].numpy(),
            sums.text[index][rows].numpy(),
        ]
        parts.append(pl.DataFrame(columns, schema=CHANGES_SCHEMA))
    text = pl.DataFrame(
        {
            "document": sums.documents.to(torch.int64).numpy(),
            "num_predicted": sums.predicted.numpy(),
            "nll_nats": sums.nll.numpy(),
        }
    )
    named = text.join(documents_of(tokenized.corpus), on="document", maintain_order="left")
    return {"changes": pl.concat(parts), "text": named.select(TEXT_SCHEMA.names())}
