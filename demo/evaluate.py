"""Turn a finished run into the artefact that ships, and measure it: `python -m demo.evaluate`.

Writes config.json, model.safetensors (bfloat16, original checkpoint layout), the tokenizer,
training.json, routing_snapshots.safetensors, evaluation.json and the model card README.md.
All figures come from the files as written, on the held-out excerpts that ship with them, but for
those of the families of problems that training had nothing of.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.corpora.documents import Document, read_jsonl
from demo.corpora.excerpts import MIN_CHARS, UNSEEN_FAMILIES, long_lines, take_turns
from demo.model.baselines import compressed_bits_per_byte, ngram_bits_per_byte
from demo.model.card import card
from demo.model.data import SHARES, data_hashes, packed_rows
from demo.model.kernels import ATTENTION, IMPLEMENTATION, keep_freed_memory
from demo.model.measure import HeldOut, specialisation
from demo.model.network import Optimizers, new_model
from demo.model.score import (
    DocumentScores,
    active_experts,
    encode,
    experts_for_half,
    perplexity_ratio,
    score_documents,
)
from demo.model.state import load_state, read_log

log = logging.getLogger("demo.evaluate")
ROOT = Path(__file__).resolve().parents[1]
NUM_UNSEEN = 72
"""Documents of each source of unseen families."""

Texts = dict[str, list[Document]]
"""Documents of each domain, or of each source of unseen families."""


def write_artefact(run: Path, out: Path) -> None:
    """Write the run's model and records in the form that ships."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
    model = new_model(tokenizer, torch.device("cpu"))
    progress = load_state(run / "state.safetensors", model, Optimizers.of(model))
    if not progress.done():
        log.warning("the run stands at step %d and is not finished", progress.step)
    model.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / "tokenizer" / name, out / name)
    shutil.copyfile(run / "routing_snapshots.safetensors", out / "routing_snapshots.safetensors")
    training = json.loads((run / "manifest.json").read_text())
    training |= {"progress": asdict(progress), "log": read_log(run / "log.jsonl")}
    (out / "training.json").write_text(json.dumps(training) + "\n")
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner only


def refuse_leaks(data: Path, excerpts: Path, training: dict[str, Any]) -> None:
    """Make sure that `data` is what the run saw, and that no excerpt was in it.

    Raises:
        ValueError: Other data, or an excerpt with the id or a long line of a training document.
    """
    if data_hashes(data) != training["data_sha256"]:
        raise ValueError(f"{data} is not what the model was trained on; give that data as --data.")
    for domain in SHARES:
        ids, lines = set(), set()
        for text in (data / domain / "train.jsonl").read_text(encoding="utf-8").splitlines():
            document = json.loads(text)
            ids.add(document["id"])
            lines |= long_lines(document["text"])
        for text in (excerpts / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines():
            excerpt = json.loads(text)
            if excerpt["id"] in ids or long_lines(excerpt["text"]) & lines:
                raise ValueError(f"{domain}: excerpt {excerpt['id']} was part of the training text")


def baselines(
    tokenizer: Any, train: dict[str, Any], texts: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    """Bits per byte per domain of compressors and of n-grams of the domain's own training text."""
    table = {}
    for domain, documents in texts.items():
        tokens = train[domain][:, :-1].ravel().astype(np.int64)
        num_bytes = sum(len(text.encode()) for text in documents)
        ids = encode(tokenizer, documents)
        table[domain] = compressed_bits_per_byte(documents) | {
            f"{order}-gram": ngram_bits_per_byte(
                tokens, ids, order=order, vocab_size=len(tokenizer), num_bytes=num_bytes
            )
            for order in (1, 5)
        }
    return table


def scores_with(artefact: Path, texts: Texts, k: int) -> dict[str, DocumentScores]:
    """Score every document with k experts, in float32 and one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(artefact)
    model = AutoModelForCausalLM.from_pretrained(artefact, dtype=torch.float32).eval()
    model.set_experts_implementation(IMPLEMENTATION)
    model.set_attn_implementation(ATTENTION)
    with active_experts(model, k):
        return {
            name: score_documents(model, tokenizer, [d.text for d in found])
            for name, found in texts.items()
        }


def read_excerpts(excerpts: Path) -> Texts:
    """Every domain's documents."""
    return {
        domain: list(read_jsonl(excerpts / f"{domain}.jsonl", held_out=True)) for domain in SHARES
    }


def read_unseen(data: Path) -> Texts:
    """Held-out documents of the families that training has nothing of, as many of each."""
    found: Texts = {source: [] for source in sorted(UNSEEN_FAMILIES)}
    for domain in SHARES:
        held_out = read_jsonl(data / domain / "heldout.jsonl", held_out=True)
        for d in take_turns(d for d in held_out if d.source in found):
            if len(d.text) >= MIN_CHARS and len(found[d.source]) < NUM_UNSEEN:
                found[d.source].append(d)
    return found


def evaluate(
    artefact: Path, documents: Texts, unseen: Texts, train: dict[str, Any], *, workers: int
) -> dict[str, Any]:
    """Every figure of the card."""
    tokenizer = AutoTokenizer.from_pretrained(artefact)
    model = AutoModelForCausalLM.from_pretrained(artefact)
    texts = {domain: [d.text for d in found] for domain, found in documents.items()}
    by_k: dict[int, dict[str, DocumentScores]] = {}
    counts = range(model.config.num_experts_per_tok, 0, -1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        tasks = {k: pool.submit(scores_with, artefact, documents | unseen, k) for k in counts}
        table = baselines(tokenizer, train, texts)
        for k, task in tasks.items():
            by_k[k] = task.result()
            bits = {d: round(s.bits_per_byte, 3) for d, s in by_k[k].items()}
            log.info("k = %d: %s", k, bits)
    beyond = unseen_families(unseen, by_k)
    by_k = {k: {d: scores[d] for d in documents} for k, scores in by_k.items()}
    full = by_k[model.config.num_experts_per_tok]
    for domain, scores in full.items():
        table[domain]["model"] = scores.bits_per_byte
        table[domain]["bytes_per_token"] = float(scores.num_bytes.sum() / scores.num_tokens.sum())
    return {
        "bits_per_byte": table,
        "perplexity": {
            d: float(np.exp(s.nats.sum() / s.num_tokens.sum())) for d, s in full.items()
        },
        "perplexity_ratio": {
            k: {d: asdict(perplexity_ratio(s, full[d])) for d, s in scores.items()}
            for k, scores in by_k.items()
        },
        "perplexity_step": {
            k: {d: asdict(perplexity_ratio(s, by_k[k + 1][d])) for d, s in scores.items()}
            for k, scores in by_k.items()
            if k + 1 in by_k
        },
        "unseen_families": beyond,
        "specialisation": specialisation(
            {d: HeldOut(s.bits_per_byte, s.choices) for d, s in full.items()}
        ),
        "n50": {d: experts_for_half(s.choices.sum(0)) for d, s in full.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "model_bytes": os.path.getsize(artefact / "model.safetensors"),
        "num_documents": {d: len(t) for d, t in texts.items()},
    }


def unseen_families(
    unseen: Texts, by_k: dict[int, dict[str, DocumentScores]]
) -> dict[str, dict[str, Any]]:
    """Quality and ratios on the families of problems that training had nothing of."""
    most = max(by_k)
    return {
        source: {
            "num_documents": len(found),
            "bits_per_byte": by_k[most][source].bits_per_byte,
            "perplexity_ratio": {
                k: asdict(perplexity_ratio(scores[source], by_k[most][source]))
                for k, scores in by_k.items()
            },
        }
        for source, found in unseen.items()
    }


def verdict_counts(run: Path) -> dict[str, dict[str, int]]:
    """Experts of each domain by verdict, from the table of a study of the artefact."""
    table = pl.read_parquet(run / "tables" / "specialization.parquet")
    counted = table.group_by("domain", "verdict", maintain_order=True).len()
    found: dict[str, dict[str, int]] = {domain: {} for domain in SHARES}
    for domain, verdict, count in counted.rows():
        found[domain][verdict] = count
    return found


def main() -> None:
    """Parse the command line, write and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "build" / "demo-model")
    parser.add_argument("--data", type=Path, default=ROOT / "build" / "corpora")
    parser.add_argument("--excerpts", type=Path, default=ROOT / "src/moe_lens/demo/corpora")
    parser.add_argument("--out", type=Path, default=ROOT / "src/moe_lens/demo/model")
    parser.add_argument("--workers", type=int, default=2, help="processes that score")
    parser.add_argument("--study", type=Path, help="a run of the artefact, for its verdicts")
    parser.add_argument("--card-only", action="store_true", help="write the card anew, no more")
    arguments = parser.parse_args()
    verdicts = None if arguments.study is None else verdict_counts(arguments.study)
    if arguments.card_only:
        result = json.loads((arguments.out / "evaluation.json").read_text())
        training = json.loads((arguments.out / "training.json").read_text())
        (arguments.out / "README.md").write_text(card(result, training, verdicts), "utf-8")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    write_artefact(arguments.run, arguments.out)
    tokenizer = AutoTokenizer.from_pretrained(arguments.run / "tokenizer")
    training = json.loads((arguments.out / "training.json").read_text())
    refuse_leaks(arguments.data, arguments.excerpts, training)
    train = packed_rows(
        arguments.data,
        tokenizer,
        arguments.run / "tokens",
        split="train",
        seed=training["seed"],
    )
    result = evaluate(
        arguments.out,
        read_excerpts(arguments.excerpts),
        read_unseen(arguments.data),
        train,
        workers=arguments.workers,
    )
    (arguments.out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "README.md").write_text(card(result, training, verdicts), encoding="utf-8")
    log.info("wrote %s", arguments.out / "README.md")


if __name__ == "__main__":
    main()
