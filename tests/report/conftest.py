from __future__ import annotations

from pathlib import Path

import pytest

from moe_lens.report import write_report
from tests.report.synthetic import synthetic_tables, write_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=\"document.title='pwned'\">",
    "a'b\"c\\d & {{ 7 * 7 }} \u2028\u202e",
)
"""Names of domains and words that try to be markup, code or a template."""


def small_tables(seed: int = 1, **more: object):
    sizes = {
        "domains": ("english", "code"),
        "layers": (1, 2, 3),
        "num_experts": 8,
        "top_k": 2,
        "num_positions": 2,
    }
    return synthetic_tables(seed, **sizes | more)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run of two domains, three layers and eight experts; no report yet."""
    return write_run(tmp_path / "run", small_tables())


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose domains, words and model are hostile, with its report and all figures."""
    tables = small_tables(domains=HOSTILE, words=HOSTILE)
    tables["claims"] = tables["claims"].with_columns(
        statement=tables["claims"]["statement"] + HOSTILE[0]
    )
    manifest = {"model": {"source": HOSTILE[1]}, "corpora": {HOSTILE[0]: {"path": HOSTILE[2]}}}
    run = write_run(tmp_path_factory.mktemp("hostile") / "run", tables, manifest)
    write_report(run)
    return run
