"""What can be said of a file before a decoder is needed: whether it may be read, and its name in a sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vllava_cli.errors import MediaError, quoted

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_file(path: Path) -> None:
    """Raises a `MediaError` unless `path` is a regular file, not empty, that may be read; opens nothing else."""
    name = quoted(path)
    try:
        facts = path.stat()
        _check_facts(name, facts)
        with path.open("rb"):
            return
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise MediaError(f"There is no file {name}. Check the path.") from exc
    except PermissionError as exc:
        raise MediaError(
            f"{name} can't be read: permission denied. Run chmod or choose a file that you may read."
        ) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise MediaError(f"{name} can't be read: {reason.lower()}. Check the path.") from exc


def is_folder(path: Path) -> bool:
    """Also False for a path that can't exist."""
    return os.path.isdir(path)


def _check_facts(name: str, facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise MediaError(f"{name} is a folder. Name the video or image files in it.")
    if not stat.S_ISREG(facts.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(facts.st_mode)), "something else")
        raise MediaError(f"{name} is {kind}, not a regular file. Save it to a file first.")
    if facts.st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes). Copy or download it again.")
