"""`moe-lens run` and `moe-lens report` without their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_lens.cli.quiet import quiet_transformers
from moe_lens.errors import InputError
from moe_lens.study.result import Study
from moe_lens.study.spec import StudySpec


def spec_of(
    *, model: Mapping[str, Any], text: Mapping[str, Any], rest: Mapping[str, Any]
) -> StudySpec:
    """A spec from the options of the command line; what was not given keeps its default."""
    if model["model"] is None or text["corpus"] is None:
        raise InputError("name the model and --corpus, or give both in a file with --spec")
    given = {name: value for name, value in rest.items() if value is not None}
    tables = {"model": dict(model), "text": dict(text)}
    return StudySpec.from_dict(tables | given)


def run_study(spec: StudySpec, out: Path, *, progress: Any) -> Study:
    """Run it, in quiet: only our own progress is shown."""
    from moe_lens.study.run import run

    quiet_transformers()
    return run(spec, out, progress=progress)


def report_of(study: Study) -> Path:
    """Write the report."""
    from moe_lens.report import write_report

    return write_report(study.directory)
