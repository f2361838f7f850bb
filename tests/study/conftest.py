"""A tiny model and a tiny corpus, for runs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_lens.study.spec import ModelSpec, StudySpec, TextSpec
from tests.checkpoints import save_checkpoint, text_of


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    folder = tmp_path_factory.mktemp("study")
    model = save_checkpoint(folder / "model")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, name in enumerate(("left", "right")):
        texts = [text_of(20 + i, seed=100 * number + i) for i in range(8)]
        lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
        (corpus / f"{name}.jsonl").write_text("\n".join(lines))
    return StudySpec(
        ModelSpec(str(model), device="cpu"),
        TextSpec(str(corpus)),
        renorms=("native", "keep_mass"),
        lens_positions=30,
        batch_tokens=64,
        chunk_tokens=150,
    )


def contents(directory: Path) -> dict[str, bytes]:
    """Every table's bytes."""
    return {file.name: file.read_bytes() for file in sorted((directory / "tables").iterdir())}
