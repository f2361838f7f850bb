"""`run`: a spec to a folder of tables, resumable at any moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from moe_lens.corpus import Corpus, TokenizedCorpus
from moe_lens.errors import InputError, UnsupportedModel
from moe_lens.lens.grid import lens_grid
from moe_lens.lens.sampling import SampledPositions, sample_positions
from moe_lens.lens.states import residual_scales
from moe_lens.lens.unembed import find_head, find_unembedding
from moe_lens.models.model import MoEModel
from moe_lens.study.files import STATE, TABLES, write_table
from moe_lens.study.manifest import begin, manifest_of
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.passes import Pass, joined, passes_of, run_pass
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
    skipped = _skipped(model, spec)
    measures: list[str] = [name for name in spec.measures if name not in skipped]
    if not measures:
        raise UnsupportedModel(next(iter(skipped.values())))
    begin(directory, manifest_of(spec, model, tokenized, skipped))
    if is_finished(directory):
        return Study(directory)
    sample = None
    if "lens" in measures:
        sample = sample_positions(tokenized, per_domain=spec.lens_positions, seed=spec.seed)
    passes = _passes(spec, model, tokenized, measures, sample)
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    with show("measuring", len(passes) * tokenized.num_tokens) as advance:
        for one in passes:
            run_pass(one, model, tokenized, spec=spec, directory=directory, progress=advance)
    tables = _tables(spec, model, tokenized, measures, passes, directory)
    for name, table in tables.items():  # claims come last, and say that the run is finished
        write_table(directory / TABLES / f"{name}.parquet", table)
    shutil.rmtree(directory / STATE)
    return Study(directory)


def _skipped(model: MoEModel, spec: StudySpec) -> dict[str, str]:
    """Measures that this model cannot give, with the reason."""
    needs: dict[str, Callable[[MoEModel], object]] = {
        "similarity": residual_scales,
        "perplexity": find_head,
        "lens": _lens_needs,
    }
    reasons: dict[str, str] = {}
    for name in spec.measures:
        try:
            needs.get(name, lambda model: None)(model)
        except UnsupportedModel as error:
            reasons[name] = str(error)
    ruleless = any(layer.facts.rule is None for layer in model.layers)
    if "perplexity" in spec.measures and "native" in spec.renorms and ruleless:
        reasons["perplexity"] = (
            "no known rule reproduces a router of this model, so what it does with a smaller "
            "top-k is not known; ask for the renorms keep_mass or none"
        )
    return reasons


def _lens_needs(model: MoEModel) -> None:
    residual_scales(model)
    find_unembedding(model)


def _passes(
    spec: StudySpec,
    model: MoEModel,
    tokenized: TokenizedCorpus,
    measures: list[str],
    sample: SampledPositions | None,
) -> list[Pass]:
    top_k = model.layers[0].modules.top_k
    too_large = [k for k in spec.ks or () if k > top_k]
    if too_large:
        raise InputError(f"k = {too_large[0]}, but {model.source} has {top_k} active experts")
    full: Callable[[], PassSums] = partial(
        main_sums, model, tokenized, measures=measures, sample=sample
    )
    loss: Callable[[], PassSums] = partial(loss_sums, model, tokenized)
    return passes_of(spec, top_k=top_k, measures=measures, full=full, loss=loss)


def _tables(
    spec: StudySpec,
    model: MoEModel,
    tokenized: TokenizedCorpus,
    measures: list[str],
    passes: list[Pass],
    directory: Path,
) -> Tables:
    first, corpus = model.layers[0].modules, tokenized.corpus
    found = {one: joined(one, directory=directory) for one in passes}
    sums, lens_rows = found[passes[0]]
    tables: Tables = {}
    if "routing" in measures:
        tables |= routing_tables(
            sums, corpus, num_experts=first.num_experts, top_k=first.top_k, seed=spec.seed
        )
    if "similarity" in measures:
        tables |= similarity_tables(sums, corpus)
    if "perplexity" in measures:
        losses = {one: pair[0] for one, pair in found.items()}
        tables |= perplexity_tables(losses, corpus, top_k=first.top_k)
    if "lens" in measures:
        assert lens_rows is not None
        tables |= lens_tables(lens_rows)
        tables["lens_grid"] = lens_grid(model, _prompt(spec, model, corpus))
    return tables | claims_tables(tables)


def _prompt(spec: StudySpec, model: MoEModel, corpus: Corpus) -> str:
    if spec.prompt is not None:
        return spec.prompt
    assert model.tokenizer is not None
    start = corpus.documents[0].text[: PROMPT_TOKENS * 20]
    ids = model.tokenizer(start, add_special_tokens=False)["input_ids"][:PROMPT_TOKENS]
    return str(model.tokenizer.decode(ids))
