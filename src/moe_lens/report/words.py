"""Text from models and manifests as a page shows it; escaping is the template's work."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "�", "\ufeff": "�"}
_SHOWN |= {chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in _SHOWN}
_SHOWN |= {chr(code): "�" for code in (0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_TABLE = str.maketrans(_SHOWN)


def visible(token: str) -> str:
    """A token with its blanks, line ends and control characters to be seen.

    One leading blank, which most words have, becomes a low mark; nothing at all becomes ∅.
    """
    return token.translate(_TABLE) or "∅"


def cell(value: object) -> str:
    """A value of a table: numbers to 4 significant digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:.4g}"


def heading(column: str) -> str:
    """A column's name as words: its underscores become blanks."""
    return column.replace("_", " ")


def flatten(values: Mapping[str, Any], start: str = "") -> list[tuple[str, str]]:
    """A manifest as (path, value) lines, in its own order."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        path = f"{start}{name}"
        if isinstance(value, Mapping) and value:
            lines += flatten(value, f"{path}.")
        else:
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append((path, plain))
    return lines


def model_name(manifest: Mapping[str, Any]) -> str:
    """The model's name in a manifest; else words that say that it has none."""
    model = manifest_value(manifest, "model", "source")
    return model if isinstance(model, str) and model else "a model that the manifest does not name"


def manifest_value(manifest: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path of names in a manifest; None where nothing does."""
    value: Any = manifest
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
