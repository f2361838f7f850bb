"""`compare`: two finished runs, a base and its tune or two models, to tables of differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

import moe_lens
from moe_lens.analysis.compare import (
    compare_concentration,
    compare_perplexity,
    compare_specialization,
    same_experts,
)
from moe_lens.analysis.identity import expert_identity
from moe_lens.errors import InputError
from moe_lens.study.files import MANIFEST, TABLES, write_json, write_table
from moe_lens.study.result import Study

SCHEMA_VERSION = 1
_SAME = ("sha256", "context_length", "bos_counted")
"""What of the text has to be the same in both runs."""


def compare(
    a: str | Path, b: str | Path, out: str | Path, *, other_text: bool = False
) -> dict[str, pl.DataFrame]:
    """Write `OUT/manifest.json` and the tables of differences between two runs.

    Experts are compared one by one where both models have the same layers and as many experts;
    table `compared_identity` tells whether they are the same experts at all.

    Args:
        a: The directory of one finished run.
        b: The directory of the other; differences are b less a.
        out: The comparison's directory; it is made, and has to be empty or a comparison.
        other_text: Whether runs on other text are compared all the same.

    Returns:
        The tables by name (docs/tables.md).

    Raises:
        InputError: A directory holds no finished run, both are the same, they share no domain or
            no table, or they were made on other text.
    """
    first, second, place = Study(a), Study(b), Path(out)
    _refuse_incomparable(first, second, other_text=other_text)
    _refuse_occupied(place)
    tables = _tables(first, second)
    if not tables:
        raise InputError(
            f"{a} and {b} have no table in common that could be compared; run both with the "
            f"measure routing or perplexity"
        )
    sides = {"a": _described(first), "b": _described(second)}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "comparison": sides | {"other_text": other_text},
        "model": {"source": " · ".join(f"{n.upper()}: {s['model']}" for n, s in sides.items())},
        "versions": {"moe_lens": moe_lens.__version__},
    }
    write_json(place / MANIFEST, manifest)
    for name, table in tables.items():
        write_table(place / TABLES / f"{name}.parquet", table)
    return tables


def _tables(a: Study, b: Study) -> dict[str, pl.DataFrame]:
    both = set(a.tables) & set(b.tables)
    found: dict[str, pl.DataFrame] = {}
    if "specialization" in both and same_experts(a.specialization, b.specialization):
        found["compared_identity"] = expert_identity(a.specialization, b.specialization)
        found["compared_specialization"] = compare_specialization(
            a.specialization, b.specialization
        )
    if "concentration" in both:
        shared = compare_concentration(a.concentration, b.concentration)
        known = pl.col("n50_share_difference").is_not_null()
        found["compared_concentration"] = shared.filter(known)
    if "perplexity" in both:
        found["compared_perplexity"] = compare_perplexity(a.perplexity, b.perplexity)
    return {name: table for name, table in found.items() if table.height}


def _refuse_incomparable(a: Study, b: Study, *, other_text: bool) -> None:
    if a.directory.resolve() == b.directory.resolve():
        raise InputError(f"{a.directory} would be compared with itself; name two runs")
    mine, theirs = (study.manifest.get("corpus", {}) for study in (a, b))
    names = [set(corpus.get("domains", {})) for corpus in (mine, theirs)]
    if not names[0] & names[1]:
        raise InputError(
            f"{a.directory} and {b.directory} share no domain ({_listed(names[0])}; "
            f"{_listed(names[1])}); run both models on the same corpus"
        )
    different = [key for key in _SAME if mine.get(key) != theirs.get(key)]
    if different and not other_text:
        raise InputError(
            f"{a.directory} and {b.directory} were run on other text (corpus: "
            f"{', '.join(different)} differ), so a difference could be the text's. Run both on the "
            f"same corpus with the same context and --max-documents (--max-tokens cuts by each "
            f"model's own tokens), or allow it with --other-text"
        )


def _refuse_occupied(place: Path) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    try:
        before = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    if not isinstance(before, dict) or "comparison" not in before:
        raise InputError(
            f"{place} is not empty and holds no comparison; choose another directory, or empty it"
        )


def _described(study: Study) -> dict[str, Any]:
    model, corpus = study.manifest["model"], study.manifest["corpus"]
    return {
        "run": str(study.directory),
        "model": model["source"],
        "weights_sha256": model["weights_sha256"],
        "dtype": model["dtype"],
        "num_experts": model["num_experts"],
        "top_k": model["top_k"],
        "corpus_sha256": corpus["sha256"],
    }


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
