"""Divides the clips of a batch into windows before its jobs are made, so that each window is a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.answers import Agreeing
from vllava_cli.batch.jobs import WINDOW_KEYS, ClipJobs, JobRequest, framed, freed, spelled
from vllava_cli.batch.preflight import Headers
from vllava_cli.batch.rows import JobError
from vllava_cli.interrupt import never
from vllava_cli.nouns import ClipWindows, Framing, Windowing

if TYPE_CHECKING:
    from vllava_cli.media.decoder.pool import Pool, ReadAhead
    from vllava_cli.nouns import Frames

_MOST_READS = 64


@dataclass(kw_only=True)
class Division:
    """The windows of each clip, by its path, or the error of one that can't be read."""

    windows: dict[str, ClipWindows] = field(default_factory=dict)
    errors: dict[str, JobError] = field(default_factory=dict)
    total: int = 0
    """The number of clips that are to be divided."""

    @property
    def done(self) -> int:
        return len(self.windows) + len(self.errors)

    def divide(
        self,
        paths: Iterable[str],
        pool: Pool,
        windowing: Windowing,
        framing: Framing,
        *,
        is_interrupted: Callable[[], bool] = never,
    ) -> None:
        """Finds the windows of the clips at these paths, each once."""
        clips = list(dict.fromkeys(map(spelled, paths)))
        self.total = self.done + len(clips)
        ahead = pool.windows(((clip, Path(clip)) for clip in clips), windowing, framing)
        while reads := ahead.take(_MOST_READS, is_waiting=True, is_interrupted=is_interrupted):
            for read in reads:
                if read.found:
                    self.windows[read.key] = read.found
                else:
                    fault = read.fault or RuntimeError("dividing a clip gave neither windows nor a fault")
                    self.errors[read.key] = JobError.of(fault, Path(read.key))
        ahead.stop()

    def requests(self, asked: Sequence[JobRequest]) -> list[JobRequest]:
        """Returns a request for each window of each clip; a clip that can't be read, and an image, keep their one."""
        found: list[JobRequest] = []
        for request in asked:
            divided = self.windows.get(spelled(request.path))
            its = divided.windows if divided else ()
            named = freed(request, WINDOW_KEYS)
            found += [replace(named, window=window) for window in its] or [named]
        return found


class KnownClips:
    """The headers of clips that were divided before, and their frames: it takes the place of a `Preflight`."""

    def __init__(
        self,
        pool: Pool,
        clip_jobs: Sequence[ClipJobs],
        framing: Framing | None,
        *,
        division: Division,
        agreeing: Agreeing | None = None,
        is_wanted: Callable[[ClipJobs], bool] = lambda _: True,
    ) -> None:
        self.headers = headers = Headers()
        self.frames: ReadAhead[ClipJobs, Frames] | None = None
        for clip in clip_jobs:
            if error := division.errors.get(clip.jobs[0].path):
                headers.bad.append((clip, error))
            else:
                headers.good.append(clip)
        clips = {name: division.windows[name].clip for name in {clip.jobs[0].path for clip in headers.good}}
        headers.kinds |= {clip.kind for clip in clips.values()}
        headers.videos = sum(clip.kind == "video" for clip in clips.values())
        headers.duration_s = sum(clip.duration_s or 0.0 for clip in clips.values())
        headers.windows = sum(clip.jobs[0].window is not None for clip in headers.good)
        headers.images = len(clips) - headers.videos
        if framing:
            self.frames = pool.frames_of_windows(framed(filter(is_wanted, headers.good), framing, agreeing))

    def wait(self, slice_s: float) -> bool:  # noqa: ARG002  (all is known)
        """Returns True, as `Preflight.wait` does once all headers are known."""
        return True
