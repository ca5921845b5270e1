"""Headers first, then frames of what can be used: threads read in the place of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.batch.parts import clip_jobs
from vllava_cli.batch.jobs import ClipJobs
from vllava_cli.batch.preflight import Headers, Preflight
from vllava_cli.batch.rows import JobError
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.pool import Pool, ReadAhead
from vllava_cli.nouns import Clip, Framing, MediaKind, Window

A_MOMENT_S = 60.0
FRAMING = Framing(start_s=1.0)


def a_clip(path: Path, kind: MediaKind = "video", duration_s: float | None = 2.5) -> Clip:
    return Clip(path=path, kind=kind, width=64, height=48, frame_count=25, duration_s=duration_s)


@dataclass
class Threads:
    """A pool that reads headers with a function, and tells what frames it was asked for."""

    header: Callable[[Path], Clip]
    workers: int = 1
    aheads: list[ReadAhead[Any, Any]] = field(default_factory=list)
    frames_of: list[ClipJobs] | None = None
    framing: Framing | None = None

    def headers(self, files: Iterator[tuple[ClipJobs, Path]]) -> ReadAhead[ClipJobs, Clip]:
        ahead = ReadAhead(([file] for file in files), [self.header] * self.workers, max_bytes=1)
        self.aheads.append(ahead)
        return ahead

    def frames(self, files: Iterator[tuple[ClipJobs, Path, Framing, object]]) -> str:
        asked = list(files)
        self.frames_of = [unit for unit, path, *_ in asked if unit.path == path]
        self.framing = next((framing for *_, framing, _ in asked), None)
        return "frames"

    frames_of_windows = frames


def begun(
    threads: Threads, units: list[ClipJobs], framing: Framing | None = FRAMING, patience_s: float = A_MOMENT_S
) -> Preflight:
    return Preflight(cast(Pool, threads), units, framing, patience_s=patience_s)


UNITS = [
    clip_jobs("a.mp4", "Who?", "Why?"),
    clip_jobs("b.png"),
    clip_jobs("c.mp4"),
    clip_jobs("d.mp4"),
    clip_jobs("e.mp4"),
]


def mixed(path: Path) -> Clip:
    if path.name == "c.mp4":
        raise MediaError("'c.mp4' is torn.")
    if path.name == "e.mp4":
        raise RuntimeError("no\nidea")
    if path.suffix == ".png":
        return a_clip(path, "image", None)
    return a_clip(path, duration_s=2.5 if path.name == "a.mp4" else None)


@pytest.mark.parametrize("framing", [FRAMING, None])
def test_headers_say_what_can_be_used_and_its_frames_are_read_ahead(framing: Framing | None) -> None:
    """Without a framing it is over with the headers."""
    threads = Threads(mixed)
    preflight = begun(threads, UNITS, framing)
    assert preflight.wait(A_MOMENT_S)
    used = [UNITS[0], UNITS[1], UNITS[3]]
    assert (threads.frames_of, threads.framing) == ((used, framing) if framing else (None, None))
    assert preflight.frames == (cast(Any, "frames") if framing else None)
    assert preflight.headers == Headers(
        good=used,
        bad=[
            (UNITS[2], JobError(kind="missing", message="'c.mp4' is torn.")),
            (UNITS[4], JobError(kind="bug", message="RuntimeError: idea")),
        ],
        kinds={"video", "image"},
        videos=2,
        duration_s=2.5,
        unknown=1,
        images=1,
    )
    assert preflight.headers.done == 5


@pytest.mark.parametrize("are_good", [True, False])
def test_clips_keep_their_order_whichever_header_comes_first(are_good: bool) -> None:
    is_first_held = threading.Event()

    def header(path: Path) -> Clip:
        if path.name == "0.mp4":
            assert is_first_held.wait(A_MOMENT_S)
        elif path.name == "9.mp4":
            is_first_held.set()
        if not are_good:
            raise MediaError("It is torn.")
        return a_clip(path)

    units = [clip_jobs(f"{number}.mp4") for number in range(10)]
    preflight = begun(Threads(header, workers=2), units)
    assert preflight.wait(A_MOMENT_S)
    found = preflight.headers
    assert (found.good if are_good else [unit for unit, _ in found.bad]) == units


def test_a_header_that_takes_too_long_holds_up_no_other_clip() -> None:
    is_over = threading.Event()

    def header(path: Path) -> Clip:
        if path.name == "c.mp4":
            is_over.wait(A_MOMENT_S)
        return a_clip(path)

    threads = Threads(header)
    preflight = begun(threads, UNITS, patience_s=0.0)
    assert preflight.wait(A_MOMENT_S)
    is_over.set()
    found = preflight.headers
    assert found.good == UNITS == threads.frames_of
    assert found.unopened >= 1 and found.videos + found.unopened == 5
    assert found.kinds == {"video", "image"}
    assert found.unknown == 0


class Failing(Threads):
    """Fails when it is asked for frames, which is in the thread."""

    def frames(self, files: Iterator[tuple[ClipJobs, Path, Framing, object]]) -> str:  # noqa: ARG002
        raise KeyError("from the caller's own code")


def test_what_stops_the_thread_is_raised_where_it_is_waited_for() -> None:
    preflight = begun(Failing(mixed), UNITS[:1])
    with pytest.raises(KeyError, match="caller"):
        preflight.wait(A_MOMENT_S)


def test_the_header_of_a_clip_with_several_parts_is_read_once() -> None:
    parts = [
        ClipJobs(jobs=tuple(replace(job, window=Window(start_s=start, end_s=start + 1)) for job in unit.jobs))
        for unit in (UNITS[0], UNITS[2])
        for start in (0.0, 1.0)
    ]
    read: list[Path] = []
    threads = Threads(lambda path: read.append(path) or mixed(path))
    preflight = begun(threads, parts)
    assert preflight.wait(A_MOMENT_S)
    assert (read, preflight.headers.good) == ([UNITS[0].path, UNITS[2].path], parts[:2])
    assert [clip for clip, _ in preflight.headers.bad] == parts[2:]
    assert threads.frames_of == parts[:2]
