"""Text that every reader of UTF-8 and JSON takes: a file may have a name that is neither.

A text that isn't valid is written readably, and in a field beside it, with _bytes behind its name, in base64:
{"path": "caf\\udce9.mp4"} → {"path": "caf\\\\xe9.mp4", "path_bytes": "Y2Fm6S5tcDQ="}
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

BYTES = "_bytes"


def is_portable(text: str) -> bool:
    """Whether it has no half characters: surrogates alone, as bytes become that aren't UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(text: str) -> str:
    r"""Bytes that aren't UTF-8 as \xe9, other half characters as \ud800."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def portable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with readable text alone, and with the bytes of what wasn't; `exact` undoes it."""
    found = {readable(key): _each(value, readable, portable) for key, value in row.items()}
    for key, value in row.items():
        if data := _bytes_of(value):
            found.setdefault(readable(key) + BYTES, data)
    return found


def exact(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as `portable` got it; bytes that aren't those of the text beside them, as it was edited, are a field.

    Errors: RecursionError for what is nested too deeply.
    """
    found = {key: _each(value, str, exact) for key, value in row.items()}
    for key, value in row.items():
        name = key.removesuffix(BYTES)
        known = _exact(value, row.get(name)) if name != key else None
        if known is not None:
            found[name] = known
            del found[key]
    return found


def json_of(row: Mapping[str, Any], *, default: Callable[[Any], object] | None = None) -> str:
    """One line of ASCII, which any reader of JSON takes. Errors: ValueError for a NaN or an infinity."""
    text = json.dumps(dict(row), allow_nan=False, default=default)
    return json.dumps(portable(json.loads(text))) if "\\ud" in text else text


def _each(value: Any, text: Callable[[str], str], row: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """The value, with each text and each object in it changed."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return row(value)
    return [_each(item, text, row) for item in value] if isinstance(value, list | tuple) else value


def _bytes_of(value: Any) -> Any:
    """In base64, of a list one by one; None for what is valid, and for half a character that no byte stands behind."""
    if isinstance(value, list | tuple):
        parts = [_bytes_of(item) if isinstance(item, str) else None for item in value]
        return parts if any(parts) else None
    if not isinstance(value, str) or is_portable(value):
        return None
    try:
        return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeEncodeError:
        return None


def _exact(data: Any, shown: Any) -> Any:
    """What is shown as it was; None where the bytes are not its own."""
    if isinstance(data, list) and isinstance(shown, list) and len(data) == len(shown):
        parts = [item if code is None else _exact(code, item) for code, item in zip(data, shown, strict=True)]
        return parts if any(data) and None not in parts else None
    if not isinstance(data, str) or not isinstance(shown, str):
        return None
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8", "surrogateescape")
    except ValueError:
        return None
    return text if not is_portable(text) and readable(text) == shown else None
