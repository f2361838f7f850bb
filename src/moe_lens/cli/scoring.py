"""`moe-lens score` without its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_lens.cli.quiet import quiet_transformers
from moe_lens.study.score_result import ScoreRun
from moe_lens.study.score_spec import ScoreSpec


def run_scoring(spec: ScoreSpec, out: Path, *, progress: Any) -> ScoreRun:
    """Run it, in quiet: only our own progress is shown."""
    from moe_lens.study.scoring import score

    quiet_transformers()
    return score(spec, out, progress=progress)
