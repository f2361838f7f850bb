"""Text from models and manifests as a page shows it; escaping is the template's work."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "�", "\ufeff": "�"}
_SHOWN |= {chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in _SHOWN}
_TURNING = (0x7F, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN |= {chr(code): "�" for code in _TURNING}
_TABLE = str.maketrans(_SHOWN)
_HARMLESS = str.maketrans({chr(code): "�" for code in (*range(9), *range(14, 32), *_TURNING)})


def visible(token: str) -> str:
    """A token with its blanks, line ends and control characters to be seen.

    One leading blank, which most words have, becomes a low mark; nothing at all becomes ∅.
    """
    return token.translate(_TABLE) or "∅"


def harmless(text: str) -> str:
    """Text without characters that turn the direction of what follows, or that control."""
    return text.translate(_HARMLESS)


def cell(value: object) -> str:
    """A value of a table: numbers to 4 significant digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return harmless(str(value))
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
            lines.append((harmless(path), harmless(plain)))
    return lines


def model_name(manifest: Mapping[str, Any]) -> str:
    """The model's name in a manifest; else words that say that it has none."""
    model = manifest_value(manifest, "model", "source")
    if not isinstance(model, str) or not model:
        return "a model that the manifest does not name"
    return harmless(model)


def manifest_value(manifest: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path of names in a manifest; None where nothing does."""
    value: Any = manifest
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
