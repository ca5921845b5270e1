"""The JSON files of a checkpoint, each distrusted: a regular file of bounded size, whose faults are one sentence."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from vllava_cli.errors import CheckpointError

MOST_BYTES = 4 << 20
"""The index of the published weights has 112 kB, its config 1 kB."""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file, which may begin with a byte order mark. Errors: CheckpointError."""
    check_regular(path, most_bytes=MOST_BYTES)
    try:
        return parsed(path.read_bytes())
    except OSError as exc:
        raise unusable(path, exc.strerror or str(exc)) from exc
    except ValueError as exc:
        raise unusable(path, f"it is no JSON object ({exc})") from exc


def parsed(data: bytes) -> dict[str, Any]:
    """b'{"a": 1}' → {"a": 1}. Errors: ValueError, which says why not."""
    try:
        found = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"but a {type(found).__name__}")
    return found


def check_regular(path: Path, *, most_bytes: int) -> None:
    """Errors: CheckpointError for what may hang, never end or fill the memory when it is read."""
    try:
        facts = path.stat()
    except OSError as exc:
        raise unusable(path, exc.strerror or str(exc)) from exc
    if not stat.S_ISREG(facts.st_mode):
        raise unusable(path, "it is no regular file")
    if facts.st_size > most_bytes:
        raise unusable(path, f"it has {facts.st_size / 1e6:.1f} MB, and at most {most_bytes / 1e6:.0f} MB are read")


def unusable(path: Path, reason: str) -> CheckpointError:
    whose = "adapter" if path.name.startswith("adapter_") else "checkpoint"
    return CheckpointError(f"The file {path} can't be used: {reason}. Replace it with the original {whose}'s.")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it says {constant} where a number is expected")
