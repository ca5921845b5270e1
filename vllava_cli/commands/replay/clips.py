"""The clips of rows: whether they are still the same, and their frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.commands.replay.recorded import Recorded, RecordedClip
from vllava_cli.errors import MediaError, ReplayError, UsageError
from vllava_cli.fingerprint import Fingerprint, differs, resized
from vllava_cli.jsonl import shown
from vllava_cli.media.remote.allow import scheme_of
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.nouns import Frames

if TYPE_CHECKING:
    from vllava_cli.media.spool import Reader

STDIN = "-"


class Clips:
    """Reads the clips of one row after the other; what the next row shows again isn't decoded again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._held: dict[RecordedClip, Frames] = {}
        self._told: dict[tuple[str, int | None, str | None], str | None] = {}
        """How files differ from what they were, by path, size and hash: each is hashed once."""

    def of(self, recorded: Recorded) -> tuple[Frames, ...]:
        """The frames of all clips of a row. Errors: ReplayError."""
        for clip in recorded.clips:
            self._check(clip)
        known = self._held
        self._held = {clip: known.get(clip) or self._sampled(clip) for clip in recorded.clips}
        return tuple(self._held[clip] for clip in recorded.clips)

    def _check(self, clip: RecordedClip) -> None:
        """Errors: ReplayError."""
        if clip.path == STDIN:
            raise ReplayError("its clip came from stdin, and nobody kept it")
        if "://" in clip.path and scheme_of(clip.path):
            raise ReplayError(
                f"its clip is the URL {without_secrets(clip.path)}: save it, and put that path in the row"
            )
        key = clip.path, clip.shown.bytes, clip.shown.sha256
        if key not in self._told:
            self._told[key] = _change(Path(clip.path), clip)
        if told := self._told[key]:
            raise ReplayError(told)

    def _sampled(self, clip: RecordedClip) -> Frames:
        from vllava_cli.media.pick import spread

        try:
            frames = spread(self._reader.sample(Path(clip.path), clip.shown.framing), clip.shown.framing.fit)
        except (MediaError, UsageError) as exc:
            raise ReplayError(str(exc)) from exc
        times_s = None if frames.kind == "image" else tuple(round(time_s, 4) for time_s in frames.times_s)
        if times_s != clip.times_s:
            then, now = _seconds(clip.times_s), _seconds(times_s)
            raise ReplayError(f"the frames of {shown(Path(clip.path))} are others: at {then} then, at {now} now")
        return frames


def _change(path: Path, clip: RecordedClip) -> str | None:
    """How the file differs from what it was, as far as the row says what that is."""
    size, sha256 = clip.shown.bytes, clip.shown.sha256
    if size is None:
        return f"the row has no size of {shown(path)} beside its SHA-256" if sha256 else None
    return differs(path, Fingerprint(bytes=size, sha256=sha256)) if sha256 else resized(path, size)


def _seconds(times_s: Sequence[float] | None) -> str:
    return "no time" if times_s is None else ", ".join(f"{time_s:g}" for time_s in times_s) + " s"
