"""Tables that do not fit each other are refused by name."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from moe_lens.analysis.counts import domain_usage, layer_counts
from tests.analysis.cases import Study, study

CASE = study({1: [[2, 1, 0], [0, 2, 2]], 4: [[1, 1, 1], [0, 0, 4]]}, [2, 4], ["b", "a"], first=10)


def test_matrices_by_hand() -> None:
    first, second = layer_counts(*CASE, num_experts=3)
    assert (first.layer, second.layer) == (1, 4)
    assert first.domains == ("a", "b")
    assert first.domain_of.tolist() == [1, 0]
    assert first.documents.tolist() == [10, 11]
    assert first.chosen.tolist() == [[2, 1, 0], [0, 2, 2]]
    assert second.tokens.tolist() == [2, 4]
    assert [here.domain for here in second.by_domain()] == ["a", "b"]


def test_domain_usage_by_hand() -> None:
    found = domain_usage(*CASE, num_experts=3)
    assert found.filter(pl.col("layer") == 1).rows() == [
        ("a", 1, 0, 0, 4),
        ("a", 1, 1, 2, 4),
        ("a", 1, 2, 2, 4),
        ("b", 1, 0, 2, 2),
        ("b", 1, 1, 1, 2),
        ("b", 1, 2, 0, 2),
    ]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (CASE._replace(usage=CASE.usage.drop("expert")), "table usage: no column expert"),
        (CASE._replace(documents=CASE.documents[:1]), "no domain"),
        (CASE._replace(documents=pl.concat([CASE.documents] * 2)), "a domain twice"),
        (CASE._replace(tokens=pl.concat([CASE.tokens] * 2)), "tokens twice"),
        (CASE._replace(tokens=CASE.tokens[:2]), "usage, but no tokens"),
        (
            CASE._replace(tokens=CASE.tokens.with_columns(num_tokens=pl.lit(1))),
            "layer 1, document 10: expert 0 was chosen by 2 tokens of 1",
        ),
    ],
)
def test_tables_that_do_not_fit(broken: Study, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(layer_counts(*broken, num_experts=3))


def test_too_few_experts() -> None:
    with pytest.raises(ValueError, match="not 0 to 1"):
        list(layer_counts(*CASE, num_experts=2))


def test_no_torch_is_needed() -> None:
    modules = (
        "claims compare coactivation concentration information intervals multiplicity overlap "
        "perplexity specialization"
    )
    imports = "; ".join(f"import moe_lens.analysis.{name}" for name in modules.split())
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
