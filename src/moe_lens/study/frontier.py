"""`frontier`: what many ways of using fewer experts cost and save, in one folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from moe_lens.analysis.frontier import Sizes, frontier_table
from moe_lens.choice import Scoring
from moe_lens.corpus import Corpus, Document, TokenizedCorpus
from moe_lens.errors import InputError
from moe_lens.event import Field
from moe_lens.lens.unembed import find_head
from moe_lens.models.model import MoEModel
from moe_lens.observing import tokens_of
from moe_lens.policies import Renorm
from moe_lens.study.calibration import Calibration, calibrate
from moe_lens.study.evaluation import FULL, evaluate, forget
from moe_lens.study.files import TABLES, write_json, write_table
from moe_lens.study.manifest import begin, manifest_of
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.policy_names import Setting, default_policies, parse_policy
from moe_lens.study.result import Study, is_finished
from moe_lens.study.run import Progress
from moe_lens.study.spec import ModelSpec, TextSpec

POLICIES = "policies.json"
"""What each name means for this model, fitted numbers included."""

CALIBRATION_EVERY = 4
"""Where calibration text is taken from the corpus: of each domain, every fourth document."""


@dataclass(frozen=True)
class FrontierSpec:
    """One frontier.

    Attributes:
        model: The model.
        text: The text that policies are evaluated on.
        policies: Their names (`study.policy_names`); None for a set that spans the frontier.
        calibration: Text that some policies are fitted on; None for every fourth document of each
            domain of `text`, which then is not evaluated.
        step_sequences: Sequences that decode side by side in a step.
        batch_tokens: Tokens in memory at a time.
        chunk_tokens: Tokens of work, over all policies, that a killed run may lose.
    """

    model: ModelSpec
    text: TextSpec
    policies: tuple[str, ...] | None = None
    calibration: TextSpec | None = None
    step_sequences: int = 8
    batch_tokens: int = 8192
    chunk_tokens: int = 262_144

    def __post_init__(self) -> None:
        for name in self.policies or ():
            parse_policy(name)
        for value, what in (
            (self.step_sequences, "step_sequences"),
            (self.batch_tokens, "batch_tokens"),
            (self.chunk_tokens, "chunk_tokens"),
        ):
            if value < 1:
                raise InputError(f"{what} = {value}: give at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["policies"] = None if self.policies is None else list(self.policies)
        return values


def frontier(spec: FrontierSpec, out: str | Path, *, progress: Progress | None = None) -> Study:
    """Fit what is to be fitted, evaluate every policy, and write the tables.

    A run that was killed goes on where it stood when called again with the same spec and
    directory; its tables are those of an uninterrupted run, byte for byte.

    Args:
        spec: What to evaluate, of what model, on what text.
        out: The run's directory; created if need be.
        progress: Shows what is being done; None for silence.

    Raises:
        InputError: The spec, the model, the text or the directory cannot be used.
        UnsupportedModel: The model's experts or its output head cannot be observed, or a policy
            needs what its routers do not give.
    """
    corpus = open_corpus(spec.text)  # first: its mistakes are told before a model is loaded
    other = None if spec.calibration is None else open_corpus(spec.calibration)
    return evaluate_frontier(spec, open_model(spec.model), corpus, other, Path(out), progress)


def evaluate_frontier(
    spec: FrontierSpec,
    model: MoEModel,
    corpus: Corpus,
    calibration: Corpus | None,
    directory: Path,
    progress: Progress | None = None,
) -> Study:
    """As `frontier`, with the model and the texts at hand."""
    find_head(model)
    named = [parse_policy(name) for name in _names(spec, model)]
    setting = _setting(model)
    for one in named:  # a name that does not fit the model is told before any work
        one.check(setting)
    text = within_budget(model, corpus, spec.text)
    fit_on = None
    if any(one.is_fitted for one in named):
        text, fit_on = _texts(model, spec, text, calibration)
    sizes = sizes_of(model)
    told = manifest_of(spec, model, text, _skipped(spec, model)) | {
        "kind": "frontier",
        "policies": [FULL, *(one.name for one in named)],
        "calibration": None if fit_on is None else fit_on.describe(),
        "sizes": asdict(sizes),
    }
    del told["policy"]
    begin(directory, told)
    if is_finished(directory):
        return Study(directory)
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    fitted = None
    if fit_on is not None:
        fitted = _fitted(spec, model, fit_on, directory, show)
        write_table(directory / TABLES / "reduction.parquet", fitted.table())
    policies = {one.name: one.policy(replace(setting, calibration=fitted)) for one in named}
    described = {name: dict(policy.describe()) for name, policy in policies.items()}
    write_json(directory / POLICIES, described)
    with show("evaluating", (len(policies) + 1) * text.num_tokens) as advance:
        found = evaluate(
            model,
            text,
            policies,
            directory=directory,
            batch_tokens=spec.batch_tokens,
            chunk_tokens=spec.chunk_tokens,
            step_sequences=spec.step_sequences,
            progress=advance,
        )
    table = frontier_table(
        found.documents,
        found.usage,
        found.steps,
        sizes=sizes,
        step_sequences=spec.step_sequences,
    )
    write_table(directory / TABLES / "evaluation.parquet", found.documents)
    write_table(directory / TABLES / "frontier.parquet", table)  # last: the run is finished
    forget(directory)
    return Study(directory)


def sizes_of(model: MoEModel) -> Sizes:
    """How many weights work on a token, and how many only when their expert is chosen."""
    each = {
        layer.modules.index: sum(p.numel() for p in layer.modules.experts.parameters())
        // layer.modules.num_experts
        for layer in model.layers
    }
    routed = sum(each[x.modules.index] * x.modules.num_experts for x in model.layers)
    inputs = model.hf.get_input_embeddings().weight
    head = model.hf.get_output_embeddings()
    tied = head is not None and head.weight is inputs
    lookup = 0 if tied else inputs.numel()
    total = sum(parameter.numel() for parameter in model.hf.parameters())
    return Sizes(
        expert_parameters=each,
        lookup_parameters=lookup,
        other_parameters=total - routed - lookup,
        bytes_per_parameter=model.hf.dtype.itemsize,
    )


def _names(spec: FrontierSpec, model: MoEModel) -> tuple[str, ...]:
    if spec.policies is not None:
        repeated = {name for name in spec.policies if spec.policies.count(name) > 1}
        if repeated:
            raise InputError(f"policy {min(repeated)!r} is named twice")
        return spec.policies
    first = model.layers[0].modules
    rules = [layer.facts.rule for layer in model.layers]
    differs = any(r is not None and (r.normalize or r.scoring in _JOINT) for r in rules)
    names = default_policies(
        top_k=first.top_k,
        num_experts=first.num_experts,
        num_layers=len(model.layers),
        step_sequences=spec.step_sequences,
        none_differs=differs,
    )
    if not _skipped(spec, model):
        return names
    return tuple(name for name in names if not parse_policy(name).is_fitted)


def _skipped(spec: FrontierSpec, model: MoEModel) -> dict[str, str]:
    """What of the default set this model cannot give, with the reason."""
    if spec.policies is not None or Field.GRAM in model.fields:
        return {}
    return {
        "fitted": (
            f"policies that are fitted need the residual stream before each block, which cannot "
            f"be told in {model.model_type}"
        )
    }


_JOINT = (Scoring.CHOSEN_SOFTMAX, Scoring.SPARSE_MIXER)
"""Scorings in which the weight of one expert depends on which others are chosen."""


def _texts(
    model: MoEModel, spec: FrontierSpec, text: TokenizedCorpus, calibration: Corpus | None
) -> tuple[TokenizedCorpus, TokenizedCorpus]:
    """What is evaluated, and what is fitted on: never the same document."""
    if calibration is not None:
        assert spec.calibration is not None
        shared = {d.text for d in text.corpus} & {d.text for d in calibration}
        if shared:
            raise InputError(
                f"{len(shared)} documents are in the corpus and in the calibration text; fitted "
                f"numbers would be judged by what they were fitted on. Take them out of one"
            )
        return text, within_budget(model, calibration, spec.calibration)
    kept, fit = split_documents(text.corpus)

    def again(corpus: Corpus) -> TokenizedCorpus:
        return tokens_of(
            model,
            corpus,
            context_length=text.context_length,
            on_long=text.on_long,
            count_bos=text.count_bos,
        )

    return again(kept), again(fit)


class Split(NamedTuple):
    """A corpus in two, no document in both."""

    evaluated: Corpus
    fitted: Corpus


def split_documents(corpus: Corpus) -> Split:
    """A corpus without every fourth document of each domain, and these.

    Raises:
        InputError: No domain has four.
    """
    seen = dict.fromkeys(corpus.domains, 0)
    kept: list[Document] = []
    fit: list[Document] = []
    for document in corpus.documents:
        seen[document.domain] += 1
        (fit if seen[document.domain] % CALIBRATION_EVERY == 0 else kept).append(document)
    if not fit:
        raise InputError(
            f"no domain has {CALIBRATION_EVERY} documents, of which one could be calibration "
            f"text; give some with --calibration, or name only policies that need none"
        )
    return Split(_part_of(corpus, kept, "without"), _part_of(corpus, fit, "only"))


def _part_of(corpus: Corpus, documents: list[Document], what: str) -> Corpus:
    how = f"{what} every fourth document of a domain"
    sampling = how if corpus.sampling is None else f"{corpus.sampling}; {how}"
    return replace(corpus, documents=tuple(documents), sampling=sampling)


def _fitted(
    spec: FrontierSpec,
    model: MoEModel,
    text: TokenizedCorpus,
    directory: Path,
    show: Progress,
) -> Calibration:
    with show("calibrating", text.num_tokens) as advance:
        return calibrate(
            model,
            text,
            directory=directory,
            batch_tokens=spec.batch_tokens,
            chunk_tokens=spec.chunk_tokens,
            progress=advance,
        )


def _setting(model: MoEModel) -> Setting:
    ruled = all(layer.facts.rule is not None for layer in model.layers)
    return Setting(
        layers=tuple(layer.modules.index for layer in model.layers),
        top_k=model.layers[0].modules.top_k,
        renorm=Renorm.NATIVE if ruled else Renorm.NONE,
    )
