"""The frames of clips that are still in use, so that the same clip isn't decoded and looked at a second time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from weakref import WeakValueDictionary

from vllava_cli.nouns import Frames, Framing

Clips = Sequence[tuple[Path, Framing]]
_Key = tuple[str, Framing, int, int, int]


@dataclass(kw_only=True)
class Gallery:
    """Keeps nothing alive itself: what a conversation holds is found here."""

    _alive: WeakValueDictionary[_Key, Frames] = field(default_factory=WeakValueDictionary)

    def frames(self, clips: Clips, read: Callable[[Clips], Sequence[Frames]]) -> tuple[Frames, ...]:
        """The frames of all clips; `read` is asked for those that aren't here, or whose file was written to since."""
        keys = {clip: _key(*clip) for clip in clips}
        found = {clip: self._alive.get(key) for clip, key in keys.items() if key}
        missing = [clip for clip in keys if found.get(clip) is None]
        new = dict(zip(missing, read(missing) if missing else (), strict=True))
        self._alive.update({key: new[clip] for clip, key in keys.items() if key and clip in new})
        return tuple(found.get(clip) or new[clip] for clip in clips)


def _key(path: Path, framing: Framing) -> _Key | None:
    """What stays the same as long as a file does; None for a folder, which doesn't tell when its pictures change."""
    try:
        facts = path.stat()
    except OSError:
        return None
    if not S_ISREG(facts.st_mode):
        return None
    return os.path.abspath(path), framing, facts.st_ino, facts.st_size, facts.st_mtime_ns  # noqa: PTH100
