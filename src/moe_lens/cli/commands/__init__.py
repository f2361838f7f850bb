"""One module for each command: parse, one library call, show where the result is.

A command imports torch, and what needs it, inside its function, so that `--help` is instant.
"""
