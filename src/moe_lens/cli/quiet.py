"""Only our own progress is shown."""

from __future__ import annotations


def quiet_transformers() -> None:
    """Silence transformers' messages and progress bars from now on."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
