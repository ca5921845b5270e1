"""How much the cache's folder holds, and room for what comes: the clip that was used longest ago goes first.

For who has the folder alone. A clip that any process of this machine holds stays; only files with the cache's own
names are looked at. A file that is being fetched is made as long as it will be: its length is its reservation.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.media.remote.entry import CLIP, PART, SIDECAR
from vllava_cli.media.remote.locks import sole_now
from vllava_cli.storage.files import release


@dataclass(frozen=True, kw_only=True)
class Room:
    """A folder, and its bound: the bytes of all clips in it, those that are being fetched included."""

    folder: Path
    most_bytes: int
    free_bytes: Callable[[Path], int]

    @property
    def lock(self) -> Path:
        """Whose holder has the folder alone."""
        return self.folder / ".lock"

    def lacking(self, part: Path, wanted: int, *, written: int = 0) -> int:
        """How many bytes are too few for a file of `wanted`, after all that may go has gone; 0 or less: it fits."""
        for leftover, _ in self._files(PART):
            _dropped(leftover)
        lack = self._evict(part, wanted, written)
        self._sweep()
        return lack

    def taken(self, part: Path) -> int:
        """Bytes of the clips beside a download that are held or being fetched, or could have gone for it."""
        return sum(facts.st_size for path, facts in self._files(CLIP, PART) if path != part)

    def _evict(self, part: Path, wanted: int, written: int) -> int:
        others = [(path, facts) for path, facts in self._files(CLIP, PART) if path != part]
        used = sum(facts.st_size for _, facts in others)
        promised = sum(_unwritten(facts) for path, facts in others if PART.fullmatch(path.name))
        lack = max(used + wanted - self.most_bytes, wanted - written + promised - self.free_bytes(self.folder))
        clips = [(path, facts) for path, facts in others if CLIP.fullmatch(path.name)]
        for path, facts in sorted(clips, key=lambda clip: clip[1].st_atime_ns):
            if lack <= 0:
                break
            if _dropped(path):
                lack -= facts.st_size
        return lack

    def _sweep(self) -> None:
        """Drops what clips that went left beside them."""
        keys = {path.name.partition("-")[0] for path, _ in self._files(CLIP)}
        for path, _ in self._files(SIDECAR):
            if path.stem not in keys:  # KEY.json.new never is
                path.unlink(missing_ok=True)

    def _files(self, *patterns: re.Pattern[str]) -> list[tuple[Path, os.stat_result]]:
        """A download that fails takes its file away without having the folder alone."""
        found = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if any(pattern.fullmatch(path.name) for pattern in patterns):
                    found.append((path, path.lstat()))
        return found


def _unwritten(facts: os.stat_result) -> int:
    """Bytes of a sparse file that the disk hasn't been asked for yet."""
    return max(0, facts.st_size - 512 * facts.st_blocks) if hasattr(facts, "st_blocks") else 0


def free_bytes(folder: Path) -> int:
    """What is left of the folder's disk."""
    return shutil.disk_usage(folder).free


def touch(descriptor: int) -> None:
    """Sets when a clip was used last, not when it was written: that may tell one version from another elsewhere."""
    os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))


def _dropped(path: Path) -> bool:
    """Whether it could go: nobody has it."""
    with suppress(OSError):
        descriptor = sole_now(path)
        if descriptor is not None:
            try:
                path.unlink()
                return True
            finally:
                release(descriptor)
    return False
