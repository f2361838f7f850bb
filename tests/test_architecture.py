"""Imports go one way, and what must not need torch does not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "moe_lens"
MAY_IMPORT = {
    "errors": set(),
    "writing": set(),
    "freed_memory": set(),
    "routing": set(),
    "choice": set(),
    "event": {"routing"},
    "corpus": {"errors"},
    "models": {"errors", "choice", "event", "freed_memory"},
    "policies": {"errors", "choice", "event", "routing"},
    "engine": {
        *("errors", "writing", "choice", "event", "freed_memory", "routing", "corpus", "models"),
        "policies",
    },
    "stats": {"errors", "choice", "event", "routing", "corpus", "lens", "policies"},
    "lens": {
        *("errors", "writing", "event", "routing", "corpus", "models", "engine", "policies"),
        *("freed_memory", "observing", "stats"),
    },
    "scoring": {
        *("errors", "choice", "event", "routing", "corpus", "models", "policies", "engine"),
        *("stats", "lens"),
    },
    "traces": {"errors", "writing", "event", "routing", "stats"},
    "analysis": {"errors", "stats"},
    "prune": {
        *("errors", "writing", "choice", "event", "corpus", "models", "policies", "engine"),
        *("loading", "analysis", "study"),
    },
    "report": {"errors", "writing", "analysis"},
}
"""Parts of the package, and the parts that each may import."""


def imported(file: Path) -> set[str]:
    """The parts of this package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "moe_lens" and len(parts) > 1:
                found.add(parts[1])
    return found


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_go_one_way(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]
    for file in files:
        wrong = imported(file) - MAY_IMPORT[part] - {part}
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_only_the_engine_touches_hooks_and_the_registry() -> None:
    words = ("register_forward_hook", "register_forward_pre_hook", "ALL_EXPERTS_FUNCTIONS")
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).parts[0] != "engine":
            text = file.read_text(encoding="utf-8")
            assert not any(word in text for word in words), file


@pytest.mark.parametrize(
    "module", ["moe_lens", "moe_lens.cli", "moe_lens.report", "moe_lens.analysis.claims"]
)
def test_what_needs_no_torch_does_not_import_it(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_is_too_long() -> None:
    for file in ROOT.rglob("*.py"):
        num_lines = len(file.read_text(encoding="utf-8").splitlines())
        assert num_lines <= 400, f"{file.relative_to(ROOT)} has {num_lines} lines"
