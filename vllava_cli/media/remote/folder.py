"""The cache's folder: this user's alone, or refused in a sentence. Faults of the disk belong to the clip at hand."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllava_cli.errors import FetchError, os_reason, quoted

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REMEDY = "set VLLAVA_CACHE to a folder of your own"


def default_folder() -> Path:
    """Below VLLAVA_CACHE, else ~/.cache/vllava on Linux."""
    from platformdirs import user_cache_path

    wish = os.environ.get("VLLAVA_CACHE")
    return (Path(wish).expanduser() if wish else user_cache_path("vllava", appauthor=False)) / "clips"


def make_private(folder: Path) -> None:
    """Makes it where it lacks, and takes it from the eyes of others.

    Errors: FetchError where others may write to it, or could have: what they put there would be taken for a clip.
    """
    with told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
        if sys.platform == "win32":
            return
        if facts.st_uid != os.geteuid():
            raise FetchError(f"{quoted(folder)} can't keep clips: it belongs to another user. S{_REMEDY[1:]}.")
        if facts.st_mode & _OTHERS_WRITE:
            raise FetchError(f"{quoted(folder)} can't keep clips: others may write to it. Run chmod 700, or {_REMEDY}.")
        if stat.S_IMODE(facts.st_mode) != 0o700:
            folder.chmod(0o700)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Errors of the system become a FetchError: a full disk, say."""
    try:
        yield
    except OSError as exc:
        remedy = "Free some room" if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "Check the folder"
        raise FetchError(f"{quoted(folder)} can't keep clips: {os_reason(exc)}. {remedy}, or {_REMEDY}.") from exc
