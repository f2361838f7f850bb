"""The documentation is true: its code runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from moe_lens.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "demo" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


RUN = ["README.md", "docs/frontier.md", "docs/study.md", "docs/tutorial.md"]
"""Pages whose Python is run."""


@pytest.mark.parametrize("name", RUN)
@pytest.mark.timeout(600)
def test_python_in_the_docs_runs(name: str, tmp_path: Path) -> None:
    code = "\n".join(blocks(ROOT / name, "python"))
    assert code
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^moe-lens (\w+)", text, flags=re.MULTILINE))
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("moe-lens")), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert used
    assert all(re.search(rf"^  {command} ", shown, flags=re.MULTILINE) for command in used)
    targets = set(re.findall(r"`?make (\w+)", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_changelog_names_every_command() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files = (ROOT / "src" / "moe_lens" / "cli" / "commands").glob("[a-z]*.py")
    commands = {file.stem.replace("_", "-") for file in files}
    assert "run" in commands
    for command in commands:
        assert f"moe-lens {command}" in changelog, command


def test_options_in_the_docs_exist() -> None:
    """Every `moe-lens COMMAND --option` of a shell block, against the command line itself."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    known = {
        name: {option for param in command.params for option in param.opts}
        for name, command in group.commands.items()
    }
    used = 0
    for page in PAGES:
        text = "\n".join(blocks(page, "(?:sh|bash|)"))
        for line in re.findall(r"^moe-lens (.*)$", text.replace("\\\n", " "), re.MULTILINE):
            command, *words = line.split("#")[0].split()
            assert command in known, f"{page.name}: moe-lens {command}"
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= known[command], f"{page.name}: {line}"
            used += len(options)
    assert used > 5
