"""Reads the header of every clip, in several processes, before weights are read and while libraries are imported.

Then the frames of the good clips are read ahead at once. Clips that can't be used are known before the model is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllava_cli.batch.jobs import ClipJobs, framed
from vllava_cli.batch.rows import JobError

if TYPE_CHECKING:
    from vllava_cli.answers import Agreeing
    from vllava_cli.media.decoder.pool import Pool, Read, ReadAhead
    from vllava_cli.nouns import Clip, Frames, Framing, MediaKind

PATIENCE_S = 15.0
"""If no header arrives for this long, the wait ends, so that a slow file doesn't delay all others."""
MOST_READS = 64


@dataclass(kw_only=True)
class Headers:
    """The facts found in the headers of clips that were read so far."""

    good: list[ClipJobs] = field(default_factory=list)
    bad: list[tuple[ClipJobs, JobError]] = field(default_factory=list)
    kinds: set[MediaKind] = field(default_factory=set)
    videos: int = 0
    duration_s: float = 0.0
    """The total duration of the videos whose headers state a duration."""
    unknown: int = 0
    """The number of videos whose headers state no duration."""
    unopened: int = 0
    """Clips whose header took too long; they count as good."""
    windows: int = 0
    """The number of windows that the videos are divided into; 0 where they aren't."""
    images: int = 0

    @property
    def done(self) -> int:
        return len(self.good) + len(self.bad)


class Preflight:
    """Reads the headers of all clips in its own thread, then starts to read ahead the frames of the good clips.

    Without a `framing` only the headers are read.
    """

    def __init__(
        self,
        pool: Pool,
        clip_jobs: Sequence[ClipJobs],
        framing: Framing | None,
        *,
        agreeing: Agreeing | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._pool, self._framing, self._agreeing, self._patience_s = pool, framing, agreeing, patience_s
        self.frames: ReadAhead[ClipJobs, Frames] | None = None
        self.headers = Headers()
        self._left: dict[str, list[ClipJobs]] = {}
        """The clips without a header yet, by path; several windows may have one path."""
        for clip in clip_jobs:
            self._left.setdefault(clip.jobs[0].path, []).append(clip)
        self._order = {path: number for number, path in enumerate(self._left)}
        self._heard_s = time.perf_counter()
        self._ahead: ReadAhead[ClipJobs, Clip] = pool.headers((its[0], its[0].path) for its in [*self._left.values()])
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="preflight", daemon=True)
        self._thread.start()

    def wait(self, slice_s: float) -> bool:
        """Waits at most `slice_s` seconds; returns True if all headers are known. Errors: any that ended the thread."""
        self._thread.join(slice_s)
        if self._thread.is_alive():
            return False
        if self._failure:
            raise self._failure
        return True

    def _run(self) -> None:
        headers = self.headers
        try:
            while reads := self._ahead.take(MOST_READS, is_waiting=True, is_interrupted=self._is_stuck):
                self._heard_s = time.perf_counter()
                for read in reads:
                    self._note(read)
            self._ahead.stop()
            if self._left:  # a header that takes long may only be slow: reading the frames will show
                headers.good += [clip for its in self._left.values() for clip in its]
                headers.unopened = len(self._left)
                headers.kinds |= {"video", "image"}
            headers.good.sort(key=lambda clip: self._order[clip.jobs[0].path])
            headers.bad.sort(key=lambda pair: self._order[pair[0].jobs[0].path])
            if self._framing:
                clips = framed(headers.good, self._framing, self._agreeing)
                has_parts = any(clip.jobs[0].window for clip in headers.good)
                self.frames = self._pool.frames_of_windows(clips) if has_parts else self._pool.frames(clips)
        except BaseException as exc:
            self._failure = exc

    def _is_stuck(self) -> bool:
        return time.perf_counter() - self._heard_s > self._patience_s

    def _note(self, read: Read[ClipJobs, Clip]) -> None:
        headers, clip, found = self.headers, read.key, read.found
        its = self._left.pop(clip.jobs[0].path)
        if found is None:
            error = read.fault or RuntimeError("reading a header gave neither facts nor a fault")
            headers.bad += [(each, JobError.of(error, clip.path)) for each in its]
            return
        headers.good += its
        headers.kinds.add(found.kind)
        headers.images += found.kind == "image"
        if found.kind == "video":
            headers.videos += 1
            headers.duration_s += found.duration_s or 0.0
            headers.unknown += found.duration_s is None
