"""`run`: a spec to a folder of tables, resumable at any moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from moe_lens.corpus import Corpus, TokenizedCorpus
from moe_lens.errors import InputError
from moe_lens.lens.grid import check_prompt, lens_grid
from moe_lens.lens.sampling import sample_positions
from moe_lens.models.model import MoEModel
from moe_lens.study.abilities import Abilities, abilities_of
from moe_lens.study.files import STATE, TABLES, write_table
from moe_lens.study.manifest import begin, manifest_of
from moe_lens.study.measuring import run_passes
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.passes import Pass, joined, passes_of
from moe_lens.study.result import Study, is_finished
from moe_lens.study.spec import StudySpec
from moe_lens.study.sums import PassSums, loss_sums, main_sums
from moe_lens.study.tables import (
    Tables,
    claims_tables,
    lens_tables,
    perplexity_tables,
    routing_tables,
    similarity_tables,
)

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with what is done and how many tokens that takes; gives what is told of each batch."""

PROMPT_TOKENS = 24


def run(spec: StudySpec, out: str | Path, *, progress: Progress | None = None) -> Study:
    """Measure what a spec asks for and write the tables.

    A run that was killed goes on where it stood when called again with the same spec and
    directory; its tables are those of an uninterrupted run, byte for byte.

    Args:
        spec: What to measure, of what model, on what text.
        out: The run's directory; created if need be.
        progress: Shows what is being done; None for silence.

    Raises:
        InputError: The spec, the model, the text or the directory cannot be used.
        UnsupportedModel: The model's experts cannot be observed.
    """
    directory = Path(out)
    corpus = open_corpus(spec.text)  # first: its mistakes are told before a model is loaded
    return measure(spec, open_model(spec.model), corpus, directory, progress=progress)


def measure(
    spec: StudySpec,
    model: MoEModel,
    corpus: Corpus,
    directory: Path,
    *,
    progress: Progress | None = None,
) -> Study:
    """As `run`, with the model and the text at hand."""
    tokenized = within_budget(model, corpus, spec.text)
    able = abilities_of(model, spec)
    passes = _passes(spec, model, tokenized, able)
    if "lens" in able.measures:
        check_prompt(model, _prompt(spec, model, tokenized.corpus))
    begin(directory, manifest_of(spec, model, tokenized, able.skipped))
    if is_finished(directory):
        return Study(directory)
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    with show("measuring", len(passes) * tokenized.num_tokens) as advance:
        run_passes(passes, model, tokenized, spec=spec, directory=directory, progress=advance)
    tables = _tables(spec, model, tokenized, able, passes, directory)
    for name, table in tables.items():  # claims come last, and say that the run is finished
        write_table(directory / TABLES / f"{name}.parquet", table)
    shutil.rmtree(directory / STATE)
    return Study(directory)


def _passes(
    spec: StudySpec,
    model: MoEModel,
    tokenized: TokenizedCorpus,
    able: Abilities,
) -> list[Pass]:
    top_k = model.layers[0].modules.top_k
    too_large = [k for k in spec.ks or () if k > top_k]
    if too_large:
        raise InputError(f"k = {too_large[0]}, but {model.source} has {top_k} active experts")
    sample = None
    if "lens" in able.measures:
        sample = sample_positions(tokenized, per_domain=spec.lens_positions, seed=spec.seed)
    full: Callable[[], PassSums] = partial(
        main_sums, model, tokenized, able=able, sample=sample, norm=spec.lens_norm
    )
    loss: Callable[[], PassSums] = partial(loss_sums, tokenized, able=able)
    return passes_of(spec, top_k=top_k, measures=able.measures, full=full, loss=loss)


def _tables(
    spec: StudySpec,
    model: MoEModel,
    tokenized: TokenizedCorpus,
    able: Abilities,
    passes: list[Pass],
    directory: Path,
) -> Tables:
    first, corpus = model.layers[0].modules, tokenized.corpus
    found = {one: joined(one, directory=directory) for one in passes}
    sums, lens_rows = found[passes[0]]
    tables: Tables = {}
    if "routing" in able.measures:
        tables |= routing_tables(
            sums, corpus, num_experts=first.num_experts, top_k=first.top_k, seed=spec.seed
        )
    if "similarity" in able.measures:
        tables |= similarity_tables(sums, corpus)
    if "perplexity" in able.measures:
        losses = {one: pair[0] for one, pair in found.items()}
        tables |= perplexity_tables(losses, corpus, top_k=first.top_k)
    if "lens" in able.measures:
        assert lens_rows is not None
        tables |= lens_tables(lens_rows)
        tables["lens_grid"] = lens_grid(
            model,
            _prompt(spec, model, corpus),
            norm=spec.lens_norm,
            unembedding=able.unembedding,
        )
    return tables | claims_tables(tables)


def _prompt(spec: StudySpec, model: MoEModel, corpus: Corpus) -> str:
    if spec.prompt is not None:
        return spec.prompt
    assert model.tokenizer is not None
    start = corpus.documents[0].text[: PROMPT_TOKENS * 20]
    ids = model.tokenizer(start, add_special_tokens=False)["input_ids"][:PROMPT_TOKENS]
    return str(model.tokenizer.decode(ids))
