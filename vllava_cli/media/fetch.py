"""Decodes the runs of an index and gives the wanted frames; whatever isn't exactly as expected is a `DistrustError`.

Runs are shared out among a few decoders in threads (FFmpeg works outside Python's lock), each with a container of its
own: two groups decoded beside each other take half the time, whatever the codec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.media.clip import DECODE_ERRORS, opened, video_stream
from vllava_cli.media.index import DamageError, Run, arriving, bitstream_of
from vllava_cli.media.rgb import Pixels, matrix_of, rgb

_MAX_DECODERS = 4
_PIXELS_WORTH_A_DECODER = 15_000_000
"""About 0.05 s of decoding: less isn't worth opening the file once more."""
_THREAD_BYTES = 400 << 20
"""What pictures held by all decoder threads together may take."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A wanted frame: its picture as stored, [H, W, 3] RGB, and its display matrix."""

    stamp: int
    pixels: Pixels
    matrix: bytes | None


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How many decoders work side by side, and how many threads each has."""

    decoders: int
    threads: int

    @classmethod
    def of(cls, runs: Sequence[Run], *, frame_pixels: int, cores: int) -> Crew:
        """Big pictures and little work make it small: 8 long runs on 2 cores → 2 decoders of 1 thread."""
        work = frame_pixels * sum(len(run.presented) for run in runs)
        room = max(1, _THREAD_BYTES // max(1, frame_pixels * 16))
        wanted = min(cores, room, max(1, work // _PIXELS_WORTH_A_DECODER))
        decoders = max(1, min(wanted, len(runs), _MAX_DECODERS))
        return cls(decoders=decoders, threads=max(1, min(wanted // decoders, _MAX_DECODERS)))


def fetch(path: Path, container: InputContainer, runs: Sequence[Run]) -> dict[int, Taken]:
    """The wanted frames of all runs, by stamp; `container` is the first decoder's, no frame of it decoded yet."""
    stream = video_stream(container, path)
    crew = Crew.of(runs, frame_pixels=stream.width * stream.height, cores=_cores())
    waiting: SimpleQueue[Run] = SimpleQueue()
    for run in sorted(runs, key=lambda run: -len(run.presented)):
        waiting.put(run)
    if crew.decoders == 1:
        return {taken.stamp: taken for taken in _work(container, stream, waiting, crew.threads)}
    with ThreadPoolExecutor(crew.decoders - 1) as pool:
        others = [pool.submit(_work_apart, path, waiting, crew.threads) for _ in range(crew.decoders - 1)]
        try:
            found = _work(container, stream, waiting, crew.threads)
        finally:
            _empty(waiting)
        found += [taken for other in others for taken in other.result()]
    return {taken.stamp: taken for taken in found}


def _work_apart(path: Path, waiting: SimpleQueue[Run], threads: int) -> list[Taken]:
    try:
        with opened(path) as container:
            return _work(container, video_stream(container, path), waiting, threads)
    except BaseException:
        _empty(waiting)
        raise


def _work(container: InputContainer, stream: VideoStream, waiting: SimpleQueue[Run], threads: int) -> list[Taken]:
    context = stream.codec_context
    context.options = {**context.options, "err_detect": "explode"}  # no made-up picture may pass for a decoded one
    context.thread_type = "FRAME" if threads > 1 else "SLICE"  # as in the documentation's loop
    if threads > 1 or context.name == "libdav1d":  # whose own threads would get into each other's way
        context.thread_count = threads
    size, found = (context.width, context.height), list[Taken]()
    while True:
        try:
            run = waiting.get_nowait()
        except Empty:
            return found
        found += _decoded(container, stream, run, size)


def _decoded(container: InputContainer, stream: VideoStream, run: Run, size: tuple[int, int]) -> Iterator[Taken]:
    """The wanted frames of a run; every frame that leaves the decoder must be the next one that is presented.

    They are converted at once: a decoder that has to make up a part of a picture takes it from the memory of frames
    that nobody keeps.
    """
    bitstream, dropped, expected = bitstream_of(stream), set[int](), iter(run.presented)
    for packet in arriving(container, stream, run):
        if packet.size and packet.pts not in run.wanted and bitstream.is_droppable(memoryview(packet)):
            dropped.add(packet.pts or 0)
            continue
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except DECODE_ERRORS as exc:
            raise DamageError("a frame that is needed can't be decoded") from exc
        for frame in frames:
            if frame.pts is not None and frame.pts < run.presented[0]:
                continue
            due = next((stamp for stamp in expected if stamp not in dropped), None)
            if frame.pts != due or frame.is_corrupt:
                raise DamageError("decoding from a key frame gave other frames than those that were expected")
            if due in run.wanted:
                yield _taken(frame, size)
            if due == run.presented[-1]:
                return
    raise DamageError("the decoder kept a frame that is needed to itself")


def _taken(frame: VideoFrame, size: tuple[int, int]) -> Taken:
    if (frame.width, frame.height) != size:
        raise DamageError("its frames change their size")
    return Taken(stamp=frame.pts or 0, pixels=rgb(frame), matrix=matrix_of(frame))


def _empty(waiting: SimpleQueue[Run]) -> None:
    """Nothing more is worth decoding once one run has failed."""
    while True:
        try:
            waiting.get_nowait()
        except Empty:
            return


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
