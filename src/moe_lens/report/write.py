"""`write_report`: the page and the figure files of a run, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from moe_lens.errors import InputError
from moe_lens.report import catalog, html
from moe_lens.report.export import FORMATS, Picture, pdf, picture, png
from moe_lens.report.tables import Run, read_run
from moe_lens.writing import whole


def write_report(directory: str | Path, *, figures: Iterable[str] = FORMATS) -> Path:
    """Write `DIR/report.html` and `DIR/figures/NAME.{svg,png,pdf,csv}` from the tables of a run.

    The same tables and manifest give the same bytes. Nothing is read but them, and no network.

    Args:
        directory: The run's directory.
        figures: File formats of figures; empty for the page alone.

    Returns:
        The path of the page.

    Raises:
        InputError: Not the directory of a run, a table breaks `docs/tables.md`, or a format is
            not one of svg, png, pdf, csv.
    """
    wanted = list(figures)
    for name in wanted:
        if name not in FORMATS:
            raise InputError(f"figure format {name!r}: one of {', '.join(FORMATS)}")
    run = read_run(directory)
    pictures = {
        figure.name: picture(
            figure.draw(run.tables[figure.table]),
            name=figure.name,
            description=figure.finding(run.tables[figure.table]),
        )
        for figure in catalog.FIGURES
        if figure.table in run.tables and figure.lacking(run.tables[figure.table]) is None
    }
    page = html.render(run, pictures)
    _write_figures(run, pictures, wanted)
    path = run.directory / "report.html"
    _write(path, page.encode())
    return path


_MAKERS: dict[str, Callable[[str], bytes]] = {"svg": str.encode, "png": png, "pdf": pdf}


def _write_figures(run: Run, pictures: dict[str, Picture], formats: list[str]) -> None:
    """Write what is wanted, and take away files of figures that this run no longer has."""
    place = run.directory / "figures"
    if formats:
        place.mkdir(exist_ok=True)
    for figure in catalog.FIGURES:
        drawn = pictures.get(figure.name)
        for form in FORMATS:
            path = place / f"{figure.name}.{form}"
            if drawn is None or form not in formats:
                path.unlink(missing_ok=True)
            elif form == "csv":
                _write(path, figure.excerpt(run.tables[figure.table]).write_csv().encode())
            else:
                _write(path, _MAKERS[form](drawn.svg))


def _write(path: Path, content: bytes) -> None:
    with whole(path) as beside:
        beside.write_bytes(content)
