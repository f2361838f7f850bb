"""What the report holds, in its order. A new section is a module of `sections` and a line here."""

from __future__ import annotations

from moe_lens.report.section import Figure, Section
from moe_lens.report.sections import (
    compared,
    fewer_experts,
    pruning,
    what_can_go,
    who_matters,
    who_works,
    worth,
)

SECTIONS: tuple[Section, ...] = (
    who_works.SECTION,
    who_matters.SECTION,
    what_can_go.SECTION,
    fewer_experts.SECTION,
    worth.SECTION,
    pruning.SECTION,
    compared.SECTION,
)

FIGURES = tuple(p for section in SECTIONS for p in section.parts if isinstance(p, Figure))
