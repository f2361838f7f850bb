"""`moe-lens trace` without its options: open everything, then write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

import moe_lens
from moe_lens.cli.quiet import quiet_transformers
from moe_lens.corpus import TokenizedCorpus, batches, load_corpus
from moe_lens.corpus.formats import Split
from moe_lens.corpus.tokens import OnLong
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.observing import observe, tokens_of
from moe_lens.traces import TraceManifest, TraceWriter


@dataclass(frozen=True, eq=False)
class TraceJob:
    """A model and a corpus in its tokens, ready to be traced."""

    model: MoEModel
    tokenized: TokenizedCorpus

    @staticmethod
    def open(
        model: str,
        corpus: str,
        *,
        split: Split,
        field: str,
        max_documents: int | None,
        context_length: int | None,
        on_long: OnLong,
        count_bos: bool,
        dtype: str,
        device: str,
        revision: str | None,
        trust_remote_code: bool,
        engine: str = "auto",
        memory: str | None = None,
    ) -> TraceJob:
        """Read the corpus first: a mistake in it is told before a large model is loaded."""
        quiet_transformers()
        text = load_corpus(corpus, split=split, field=field, max_documents=max_documents)
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            engine=engine,
            memory=memory,
        )
        tokenized = tokens_of(
            loaded, text, context_length=context_length, on_long=on_long, count_bos=count_bos
        )
        return TraceJob(loaded, tokenized)

    @property
    def manifest(self) -> TraceManifest:
        """What the trace says of itself."""
        layers = self.model.layers
        return TraceManifest(
            model=self.model.source,
            num_experts=layers[0].modules.num_experts,
            top_k=layers[0].modules.top_k,
            layers=tuple(layer.modules.index for layer in layers),
            tokenizer=self.model.source,
            policy={"policy": "identity"},
            provenance={
                "corpus": self.tokenized.describe(),
                "model_type": self.model.model_type,
                "dtype": str(self.model.hf.dtype).removeprefix("torch."),
                "router_dtype": "float32",
                "moe_lens": moe_lens.__version__,
                "transformers": transformers.__version__,
            },
        )

    def write(
        self, out: Path, *, batch_tokens: int, progress: Callable[[int], None], replace: bool
    ) -> None:
        """Run the corpus through the model and write the trace."""
        documents = self.tokenized.corpus.documents
        domains: Mapping[int, str] = {i: doc.domain for i, doc in enumerate(documents)}
        manifest = self.manifest
        with TraceWriter(out, manifest=manifest, domains=domains, replace=replace) as writer:
            token_batches = batches(self.tokenized, batch_tokens=batch_tokens)
            observe(self.model, token_batches, [], sink=writer.update, progress=progress)

    def describe(self, out: Path) -> dict[str, Any]:
        """What `--json` prints when the trace is written."""
        manifest = self.manifest
        return {
            "trace": str(out),
            "model": manifest.model,
            "num_tokens": self.tokenized.num_counted,
            "layers": list(manifest.layers),
            "num_experts": manifest.num_experts,
            "top_k": manifest.top_k,
            "checks": {check.name: check.error for check in self.model.checks},
            "corpus": self.tokenized.describe(),
        }
