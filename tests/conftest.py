"""Shapes are enforced in the whole test run: a wrong one is an error where it enters."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("moe_lens", "beartype.beartype")

import hypothesis
import pytest
import torch
import transformers

hypothesis.settings.register_profile("moe_lens", deadline=None, derandomize=True)
hypothesis.settings.load_profile("moe_lens")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # tiny models: a second thread only waits


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-families",
        action="store_true",
        help="rewrite docs/families.md from what the family tests find",
    )
