"""Decodes the runs of an index and returns the wanted frames; raises a `DistrustError` if anything isn't as expected.

A few decoders share the runs, each in a thread and with a container of its own (FFmpeg works outside Python's lock).
Two groups that are decoded at the same time take half the time, whatever the codec.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS, decoder_of, opened, video_stream
from vllava_cli.media.decoder.protocol import CORES_SETTING
from vllava_cli.media.pictures import Converter, Pixels, Turns
from vllava_cli.media.video.index import DamageError, Run, arriving, bitstream_of
from vllava_cli.nouns import Framing

_MAX_DECODERS = 4
_PIXELS_WORTH_A_DECODER = 6_000_000
"""About 0.02 s of decoding; for less work, opening the file once more doesn't pay."""
_THREAD_GAIN = 0.85
"""The speed of each thread if several share a run, because they wait for each other."""
_THREAD_GAINS = {"vp8": 0.0, "vp9": 0.0, "libdav1d": 0.5}
"""The same for decoders whose threads gain less: two of them are no faster than one, and take more processor time."""
_THREAD_BYTES = 400 << 20
"""The memory that the pictures of all decoder threads together may take."""


def parallelism(
    lengths: Sequence[int], *, frame_pixels: int, cores: int, thread_gain: float = _THREAD_GAIN
) -> tuple[int, int]:
    """Returns the fastest number of decoders for runs of this many frames, and the number of threads for each decoder.

    8 runs of 250 frames on 2 cores → 2 decoders of 1 thread; runs of 225 and 20 frames → 1 decoder of 2 threads. Large
    pictures, which take memory, and little work reduce both numbers.
    """
    most = min(cores, _affordable(frame_pixels), max(1, frame_pixels * sum(lengths) // _PIXELS_WORTH_A_DECODER))

    def threads(decoders: int) -> int:
        count = min(most // decoders, _MAX_DECODERS)
        return count if count * thread_gain > 1 else 1

    def frames_in_a_row(decoders: int) -> float:
        """Estimates the time of the work, as the number of frames that one thread decodes in that time."""
        return max(*lengths, sum(lengths) / decoders) / max(1.0, threads(decoders) * thread_gain)

    decoders = min(range(1, min(most, len(lengths), _MAX_DECODERS) + 1), key=frames_in_a_row)
    return decoders, threads(decoders)


def usable_cores() -> int:
    """Returns the cores that this process may use: its share of them if other processes decode beside it, else all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get(CORES_SETTING, cores)))


def _affordable(frame_pixels: int) -> int:
    """Returns how many decoder threads fit into the memory that all may take, at least 1."""
    return max(1, _THREAD_BYTES // max(1, frame_pixels * 16))


@dataclass(kw_only=True)
class DecodedRuns:
    """The wanted frames, one for each of `pts` and in their order; decoders write them as they come."""

    pts: tuple[int, ...]
    pixels: Pixels
    """[T, H, W, 3], of the stored size."""
    framing: Framing
    matrices: set[bytes | None] = field(default_factory=set)
    """The display matrices of all wanted frames; None for a frame without one."""

    def take(self, frame: VideoFrame, matrix: bytes | None, converter: Converter) -> None:
        """Converts a frame once and writes it to each place that wants it. Errors: DamageError for another size."""
        if (frame.height, frame.width) != self.pixels.shape[1:3]:
            raise DamageError("its frames change their size")
        first, *others = (place for place, pts in enumerate(self.pts) if pts == frame.pts)
        converter.write(frame, self.pixels[first])
        if others:
            self.pixels[others] = self.pixels[first]
        self.matrices.add(matrix)


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    """An open file and the decoder of its video, which has so many threads."""

    container: InputContainer
    stream: VideoStream
    context: VideoCodecContext
    threads: int

    @classmethod
    def of(cls, container: InputContainer, path: Path, threads: int) -> _Decoder:
        stream = video_stream(container, path)
        context = decoder_of(stream)
        context.options = {**context.options, "err_detect": "explode"}  # no made-up picture may pass for a decoded one
        context.thread_type = "FRAME" if threads > 1 else "SLICE"  # as in the documentation's loop
        if threads > 1 or context.name == "libdav1d" or usable_cores() == 1:  # else others compete
            context.thread_count = threads
        return cls(container=container, stream=stream, context=context, threads=threads)


class KeptDecoders:
    """Decoders of one file that stay open from one window of it to the next, because opening a file takes time.

    Those that are idle have no more threads than fit into the memory for them.
    """

    def __init__(self, path: Path, *, frame_pixels: int) -> None:
        self._path, self._most_threads = path, _affordable(frame_pixels)
        self._lock = threading.Lock()
        self._idle: list[tuple[_Decoder, ExitStack]] = []
        """Those that no run uses, the last used one last."""

    @contextmanager
    def lent(self, threads: int) -> Iterator[_Decoder]:
        """Lends a decoder, which is opened if none of so many threads is idle; drops it after an error."""
        with ExitStack() as file:
            decoder = self._taken(threads, file)
            yield decoder
            with self._lock:
                self._idle.append((decoder, file.pop_all()))

    def close(self) -> None:
        """Closes all decoders; later ones can be lent."""
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def _taken(self, threads: int, file: ExitStack) -> _Decoder:
        """Takes an idle decoder; if there is none, closes others until there is memory for a new one, and opens it."""
        with self._lock:
            for place, (decoder, its_file) in enumerate(self._idle):
                if decoder.threads == threads:
                    del self._idle[place]
                    file.push(its_file.pop_all())
                    return decoder
            while self._idle and threads + sum(idle.threads for idle, _ in self._idle) > self._most_threads:
                self._idle.pop(0)[1].close()
        return _Decoder.of(file.enter_context(opened(self._path)), self._path, threads)


def decode_runs(
    path: Path,
    container: InputContainer,
    runs: Sequence[Run],
    pts: tuple[int, ...],
    framing: Framing,
    *,
    kept: KeptDecoders | None = None,
) -> DecodedRuns:
    """Decodes all runs and returns the frames at `pts`, of their stored size, in the colours that the framing asks for.

    Uses decoders that were `kept`. Without them the first one uses `container`, of which no frame may have been decoded
    yet. Errors: DistrustError.
    """
    stream = video_stream(container, path)
    width, height = stream.codec_context.width, stream.codec_context.height
    pixels = np.empty((len(pts), height, width, 3), np.uint8)
    decoded = DecodedRuns(pts=pts, pixels=pixels, framing=framing)
    decoders, threads = parallelism(
        [len(run.presented) for run in runs],
        frame_pixels=width * height,
        cores=usable_cores(),
        thread_gain=_THREAD_GAINS.get(stream.codec_context.name, _THREAD_GAIN),
    )
    waiting = deque(sorted(runs, key=lambda run: -len(run.presented)))

    @contextmanager
    def fresh() -> Iterator[_Decoder]:
        with opened(path) as other:
            yield _Decoder.of(other, path, threads)

    def work_apart() -> None:
        try:
            with kept.lent(threads) if kept else fresh() as decoder:
                _work(decoder, waiting, decoded)
        except BaseException:
            waiting.clear()  # nothing more is worth decoding once one run has failed
            raise

    with ThreadPoolExecutor(decoders) as pool:
        others = [pool.submit(work_apart) for _ in range(decoders - 1)]
        try:
            with kept.lent(threads) if kept else nullcontext(_Decoder.of(container, path, threads)) as decoder:
                _work(decoder, waiting, decoded)
        finally:
            waiting.clear()
        for other in others:
            other.result()
    return decoded


def _work(decoder: _Decoder, waiting: deque[Run], decoded: DecodedRuns) -> None:
    container, stream, context = decoder.container, decoder.stream, decoder.context
    converter = Converter(decoded.framing, stream.codec_context.name)
    while True:
        try:
            run = waiting.popleft()
        except IndexError:
            return
        if context.is_open:  # seeking only makes the stream's own decoder forget
            context.flush_buffers()
        for frame, matrix in wanted_frames(container, stream, context, run):
            decoded.take(frame, matrix, converter)
            del frame  # released at once: a decoder may fill a gap in a picture from released frames


def wanted_frames(
    container: InputContainer, stream: VideoStream, decoder: VideoCodecContext, run: Run
) -> Iterator[tuple[VideoFrame, bytes | None]]:
    """Yields the wanted frames of a run, each with its display matrix. Errors: DistrustError.

    Every frame that leaves the decoder must be the next one in presentation order.
    """
    bitstream, dropped, expected, turns = bitstream_of(stream), set[int](), iter(run.presented), Turns()
    for packet in arriving(container, stream, run):
        if packet.size and packet.pts not in run.wanted and bitstream.is_droppable(memoryview(packet)):
            dropped.add(packet.pts or 0)
            continue
        try:
            frames = decoder.decode(packet)
        except MemoryError:
            raise
        except DECODE_ERRORS as exc:
            raise DamageError("a frame that is needed can't be decoded") from exc
        for frame in frames:
            if frame.pts is not None and frame.pts < run.presented[0]:
                continue
            due = next((pts for pts in expected if pts not in dropped), None)
            if frame.pts != due or frame.is_corrupt:
                raise DamageError("decoding from a key frame gave other frames than expected")
            matrix = turns.of(frame)
            if due in run.wanted:
                yield frame, matrix
            if due == run.presented[-1]:
                return
    raise DamageError("the decoder didn't return a frame that is needed")
