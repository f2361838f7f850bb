"""The names of criteria and ablations; this module needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moe_lens.errors import InputError

CRITERIA = (
    "frequency",
    "gate_mass",
    "soft_count",
    "ean_sum",
    "ean_mean",
    "msan",
    "reap",
    "gate_norm_sum",
    "easy_ep",
    "reroute_error",
    "rank_removal",
    "aimer",
    "max_abs",
)
"""In the order of tables. Every score is higher for a more important expert."""

ABLATIONS = ("drop", "mask", "replace", "random")
"""Ways to take an expert from the tokens that chose it; `random` is the control."""


def known(names: Collection[str], among: Sequence[str], *, what: str) -> tuple[str, ...]:
    """These names, in the order in which they are listed.

    Raises:
        InputError: There is no such name, or none is asked for.
    """
    for name in names:
        if name not in among:
            raise InputError(f"{what} {name!r} is not one of {', '.join(among)}")
    if not names:
        raise InputError(f"no {what}: choose among {', '.join(among)}")
    return tuple(name for name in among if name in names)
