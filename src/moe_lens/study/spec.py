"""`StudySpec`: what a run measures, of what model, on what text. A TOML file is the same thing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from moe_lens.errors import InputError
from moe_lens.study.checked import made

MEASURES = ("routing", "similarity", "perplexity", "lens")
RENORMS = ("native", "keep_mass", "none")


@dataclass(frozen=True)
class TextSpec:
    """What text is read, and how much of it.

    Attributes:
        corpus: A file, a directory, or "demo".
        split: What in a text file is a document: "file", "line" or "paragraph".
        field: JSON field or Parquet column that holds the text.
        max_documents: At most so many documents of each domain; None for all.
        max_tokens: Documents of a domain are taken until it has so many tokens; None for all.
        context_length: Tokens the model sees at once; None for 1,024 or the model's limit.
        count_bos: Whether the token that begins a text is counted.
    """

    corpus: str
    split: Literal["file", "line", "paragraph"] = "file"
    field: str = "text"
    max_documents: int | None = None
    max_tokens: int | None = None
    context_length: int | None = None
    count_bos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens = {self.max_tokens}: give at least 1")


@dataclass(frozen=True)
class ModelSpec:
    """What model is loaded, and how.

    Attributes:
        model: A checkpoint directory, a hub id, or "demo".
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda" or "cuda:N".
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.
        engine: "auto", "resident" or "streaming"; changes no result.
        memory: What weights and work may take, such as "8GiB"; None for what is free.
    """

    model: str
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    engine: str = "auto"
    memory: str | None = None


@runtime_checkable
class RunSpec(Protocol):
    """What every kind of run says of itself."""

    @property
    def model(self) -> ModelSpec:
        """The model."""
        ...

    @property
    def text(self) -> TextSpec:
        """The text."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens in memory at a time."""
        ...

    @property
    def chunk_tokens(self) -> int:
        """Tokens of work that a killed run may lose."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ...


@dataclass(frozen=True)
class StudySpec:
    """One study.

    Attributes:
        model: The model.
        text: The text.
        measures: Which of "routing", "similarity", "perplexity" and "lens".
        ks: Numbers of active experts for perplexity; None for 1 to the model's own.
        renorms: What kept weights become when k is smaller: "native", "keep_mass", "none".
        lens_positions: Sampled positions of each domain for the lens.
        lens_norm: "final" passes states through the model's final norm before they are decoded;
            "none" does not, as the paper's published code.
        prompt: Text for the lens grid; None for the beginning of the corpus.
        seed: Of every draw: positions, the random control, resampling.
        batch_tokens: Tokens in memory at a time.
        chunk_tokens: Tokens of work that a killed run may lose.
    """

    model: ModelSpec
    text: TextSpec
    measures: tuple[str, ...] = MEASURES
    ks: tuple[int, ...] | None = None
    renorms: tuple[str, ...] = ("native",)
    lens_positions: int = 200
    lens_norm: Literal["final", "none"] = "final"
    prompt: str | None = None
    seed: int = 0
    batch_tokens: int = 4096
    chunk_tokens: int = 65_536

    def __post_init__(self) -> None:
        for name in self.measures:
            if name not in MEASURES:
                raise InputError(f"measure {name!r} is not one of {', '.join(MEASURES)}")
        if not self.measures:
            raise InputError(f"no measure: choose among {', '.join(MEASURES)}")
        for name in self.renorms:
            if name not in RENORMS:
                raise InputError(f"renorm {name!r} is not one of {', '.join(RENORMS)}")
        for number, what in ((self.lens_positions, "lens_positions"), *self._sizes()):
            if number < 1:
                raise InputError(f"{what} = {number}: give at least 1")
        for k in self.ks or ():
            if k < 1:
                raise InputError(f"k = {k}: at least 1 expert must stay active")

    def _sizes(self) -> tuple[tuple[int, str], ...]:
        return (self.batch_tokens, "batch_tokens"), (self.chunk_tokens, "chunk_tokens")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as a TOML file would give them."""
        values = asdict(self)
        values["measures"], values["renorms"] = list(self.measures), list(self.renorms)
        values["ks"] = None if self.ks is None else list(self.ks)
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> StudySpec:
        """The spec of such values.

        Raises:
            InputError: A name is unknown, or a required one is missing.
        """
        known = dict(values)
        for name in ("model", "text"):
            if not isinstance(known.get(name), Mapping):
                raise InputError(f"the spec has no table [{name}]")
        known["model"] = made(ModelSpec, known["model"], where="[model]")
        known["text"] = made(TextSpec, known["text"], where="[text]")
        return made(StudySpec, known, where="the spec")

    @staticmethod
    def from_toml(path: str | Path) -> StudySpec:
        """The spec of a TOML file.

        Raises:
            InputError: There is no such file, or it is not TOML, or not a spec.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return StudySpec.from_dict(tomllib.loads(text))
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not TOML: {error}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
