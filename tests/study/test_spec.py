"""A spec and its TOML are the same thing; mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_lens.errors import InputError
from moe_lens.study.spec import ModelSpec, StudySpec, TextSpec

TOML = """
measures = ["routing", "perplexity"]
ks = [1, 2]
seed = 7

[model]
model = "demo"
dtype = "float32"

[text]
corpus = "texts"
max_tokens = 1000
"""


def test_toml_is_the_same_as_python(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TOML)
    expected = StudySpec(
        ModelSpec("demo", dtype="float32"),
        TextSpec("texts", max_tokens=1000),
        measures=("routing", "perplexity"),
        ks=(1, 2),
        seed=7,
    )
    assert StudySpec.from_toml(tmp_path / "s.toml") == expected
    assert StudySpec.from_dict(expected.to_dict()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 7", "sead = 7"), "the spec has no 'sead'; it has model, text, measures"),
        (('corpus = "texts"', 'korpus = "x"'), r"\[text\] has no 'korpus'"),
        (('corpus = "texts"', ""), r"\[text\] lacks 'corpus'"),
        (("[model]", "[modell]"), r"the spec has no table \[model\]"),
        (('"routing"', '"rooting"'), "measure 'rooting' is not one of routing, similarity"),
        (("ks = [1, 2]", "ks = [0]"), "k = 0: at least 1 expert must stay active"),
        (("seed = 7", "lens_positions = 0"), "lens_positions = 0: give at least 1"),
        (("seed = 7", 'renorms = ["half"]'), "renorm 'half' is not one of native, keep_mass"),
        (("seed = 7", "seed ="), "is not TOML"),
        (("seed = 7", 'seed = "7"'), "the spec: seed = '7', but it is a whole number"),
        (("seed = 7", "seed = true"), "seed = True, but it is a whole number"),
        (("seed = 7", "lens_norm = 'half'"), "lens_norm = 'half', but it is one of final, none"),
        (("ks = [1, 2]", "ks = 2"), "ks = 2, but it is a list of whole numbers"),
        (("ks = [1, 2]", 'ks = ["1"]'), r"ks = \['1'\], but it is a list of whole numbers"),
        (
            ("max_tokens = 1000", "max_tokens = 1.5"),
            r"\[text\]: max_tokens = 1.5, but it is a whole",
        ),
        (("max_tokens = 1000", "max_tokens = 0"), "max_tokens = 0: give at least 1"),
        (("max_tokens = 1000", "split = 3"), "split = 3, but it is one of file, line, paragraph"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TOML.replace(*change))
    with pytest.raises(InputError, match=message):
        StudySpec.from_toml(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        StudySpec.from_toml(tmp_path / "no.toml")
