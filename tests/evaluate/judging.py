"""Rows as batch writes them, and the files that they are in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllava_cli.storage.jsonl import line_of


def row(
    path: str = "red.mp4",
    question: str = "What colour is it?",
    answer: str | None = "red",
    *,
    choices: Sequence[str] | None = None,
    chances: Mapping[str, float] | None = None,
    error: str | None = None,
    **fields: object,
) -> dict[str, Any]:
    """The row of a job; its id is made of all that it is about."""
    about = json.dumps([path, question, choices, str(fields)])
    found: dict[str, Any] = {
        "id": hashlib.sha256(about.encode()).hexdigest()[:32],
        "path": path,
        "question": question,
        "answer": None if error else answer,
        "model": "demo",
        "error": {"kind": error, "message": "It failed."} if error else None,
    }
    if chances:
        found["probabilities"] = None if error else dict(chances)
    if choices:
        found["choices"] = choices if isinstance(choices, str) else list(choices)
    return found | fields


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_bytes(b"".join(map(line_of, rows)))
    return path
