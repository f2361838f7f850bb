"""The command `moe-lens`: parse, one library call, show where the result is."""

from moe_lens.cli.app import main

__all__ = ["main"]
