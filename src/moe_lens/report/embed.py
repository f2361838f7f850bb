"""Data inside the page: compact JSON that cannot end its own script element."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_UNSAFE = {
    ord(character): f"\\u{ord(character):04x}" for character in ("<", ">", "&", "\u2028", "\u2029")
}


def script_json(values: Any) -> str:
    """JSON for a `<script type="application/json">`: no tag, entity or line end in it.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_UNSAFE)


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns; text as places in a list of the texts that occur."""
    names = list(rows[0]) if rows else []
    columns: dict[str, Any] = {}
    for name in names:
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            texts: dict[Any, int] = {}
            places = [texts.setdefault(value, len(texts)) for value in values]
            columns[name] = {"texts": list(texts), "places": places}
        else:
            columns[name] = [_short(value) for value in values]
    return {"length": len(rows), "columns": columns}


def _short(value: Any) -> Any:
    """Whole numbers without a decimal point: most of the bytes of a table of rates."""
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < 2**53:
        return int(value)
    return value
