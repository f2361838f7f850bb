"""The program: which commands there are, and what becomes of an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

import moe_lens
from moe_lens.cli import show
from moe_lens.cli.commands.compare import compare
from moe_lens.cli.commands.compensate import compensate
from moe_lens.cli.commands.frontier import frontier
from moe_lens.cli.commands.inspect import inspect
from moe_lens.cli.commands.plan import plan
from moe_lens.cli.commands.prune import prune
from moe_lens.cli.commands.report import report
from moe_lens.cli.commands.run import run
from moe_lens.cli.commands.score import score
from moe_lens.cli.commands.simulate import simulate
from moe_lens.cli.commands.trace import trace
from moe_lens.cli.commands.usage import usage
from moe_lens.errors import InputError, UnsupportedModel

app = typer.Typer(
    name="moe-lens",
    help="Look inside Mixture-of-Experts language models, and trust what you see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

USER_ERROR = 2


def main() -> None:
    """Run the command line; exit 0 when done, 2 for the user's input, 1 for a fault of ours."""
    try:
        app()
    except (InputError, UnsupportedModel) as error:
        show.error(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        show.error(f"{where}{error.strerror or error}")
    sys.exit(USER_ERROR)


def _say_version(asked: bool | None) -> None:
    if asked:
        show.line(f"moe-lens {moe_lens.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", help="Say the version and stop.", callback=_say_version, is_eager=True
        ),
    ] = None,
) -> None:
    """Options that go before the command."""


LISTED: dict[Callable[..., None], str] = {  # in the order and words of --help
    inspect: "What a model is, from its config alone.",
    run: "Every experiment on your text: tables, controls, a report.",
    compare: "How two models differ on the same text.",
    report: "The report of any run again, from its files.",
    trace: "Which experts each token was sent to, as a Parquet file.",
    usage: "Which experts each domain uses, from a trace.",
    frontier: "What fewer active experts cost and save.",
    score: "What each expert is worth, and how sure that is.",
    plan: "Which experts stay, as a file to be reviewed.",
    compensate: "Give back the mass that fewer active experts lose.",
    simulate: "What a plan costs, before anything is cut.",
    prune: "The checkpoint without the experts that go.",
}
for command, says in LISTED.items():
    app.command(short_help=says)(command)
