"""`moe-lens score` without its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_lens.study.score_result import ScoreRun
from moe_lens.study.score_spec import ScoreSpec


def run_scoring(spec: ScoreSpec, out: Path, *, progress: Any) -> ScoreRun:
    """Run it, in quiet: only our own progress is shown."""
    import transformers

    from moe_lens.study.scoring import score

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return score(spec, out, progress=lambda what, total: progress(what, total=total))
