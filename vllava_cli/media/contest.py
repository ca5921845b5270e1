"""How long the frames of one clip take: this tool beside the documentation's loop, other decoders and the floor.

Every figure begins with a closed file and ends with RGB arrays, the file being in the page cache. Ours is what a user
waits for: the request, decoding in the bounded process and the way back, in a process that has started and read the
clip once. All others are measured inside a process of their own, fresh for each turn; its start, its imports, and what
a rival may know beforehand (how many frames there are, where they lie) are in no figure.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vllava_cli.measures import Bar, Line
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.measuring.lines import guarded_line, has_rivals, lines
from vllava_cli.media.measuring.promises import bars
from vllava_cli.media.measuring.race import FFMPEG, FLOORS, GUARDED, LOOP, OURS, TORCHCODEC, Race, race
from vllava_cli.media.measuring.turn import IsInterrupted, Turn, turn
from vllava_cli.nouns import Clip, DecodeLimits, Frames, Framing

LOOP_S = 60.0
_READ_S = 10.0
_CHUNK_BYTES = 1 << 24

Runner = Callable[[], Turn]


@dataclass(frozen=True, kw_only=True)
class FramesReport:
    """What was measured of a clip, and those promises about frames that apply to it."""

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]


def frames_line(path: Path, limits: DecodeLimits, *, repeat: int, is_interrupted: IsInterrupted) -> Line:
    """Ours through the guard, as users run it; the loop as the snippet; the floor as the limit.

    Raises KeyboardInterrupt between two turns and, but for the guard's, in the middle of one. Errors: MediaError.
    """
    clip, found = _raced(path, limits, (GUARDED, LOOP, *FLOORS), repeat, is_interrupted)
    return guarded_line(found, clip)


def frames_report(path: Path, limits: DecodeLimits, *, repeat: int, is_interrupted: IsInterrupted) -> FramesReport:
    """Ours with and without the guard, each rival that is installed, and memory. As `frames_line` otherwise."""
    ways = (GUARDED, LOOP, OURS, *installed(), *FLOORS)
    clip, found = _raced(path, limits, ways, repeat, is_interrupted)
    return FramesReport(lines=tuple(lines(found, clip)), bars=tuple(bars(found, clip)))


def installed(
    has_module: Callable[[str], object] = find_spec, has_command: Callable[[str], object] = shutil.which
) -> Iterator[str]:
    """The rivals that aren't on every machine."""
    if has_module(TORCHCODEC):
        yield TORCHCODEC
    if has_command(FFMPEG):
        yield FFMPEG


def limits_for(way: str, limits: DecodeLimits) -> DecodeLimits:
    """The caller's, but no more than a minute for the loop: it decodes a film from its beginning to its end."""
    return replace(limits, timeout_s=min(LOOP_S, limits.timeout_s)) if way == LOOP else limits


def _raced(
    path: Path, limits: DecodeLimits, ways: Sequence[str], repeat: int, is_interrupted: IsInterrupted
) -> tuple[Clip, Race]:
    if is_interrupted():
        raise KeyboardInterrupt
    with DecoderClient(limits) as guard:
        clip = guard.sample(path, Framing()).clip
        _read_through(path, is_interrupted)
        chosen = ways if has_rivals(clip) else [way for way in ways if way in (GUARDED, OURS)]
        runners = {way: _runner(way, path, limits, guard, is_interrupted) for way in chosen}
        return clip, Race(results=race(runners, repeat, is_interrupted=is_interrupted))


def _runner(way: str, path: Path, limits: DecodeLimits, guard: DecoderClient, is_interrupted: IsInterrupted) -> Runner:
    if way == GUARDED:
        return partial(_guarded, path, guard)
    return partial(turn, way, path, limits_for(way, limits), is_interrupted=is_interrupted)


def _guarded(path: Path, guard: DecoderClient) -> Turn:
    """Errors: MediaError."""
    started_s = time.perf_counter()
    frames = guard.sample(path, Framing())
    seconds = time.perf_counter() - started_s
    return Turn(seconds=seconds, digest=_digest(frames), times_s=tuple(t - frames.times_s[0] for t in frames.times_s))


def _digest(frames: Frames) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames.pixels).data).hexdigest()


def _read_through(path: Path, is_interrupted: IsInterrupted) -> None:
    """Brings the file into the page cache, so that no way pays for the disk; of a huge one what ten seconds bring."""
    end_s = time.perf_counter() + _READ_S
    with suppress(OSError), path.open("rb", buffering=0) as file:
        while time.perf_counter() < end_s and file.read(_CHUNK_BYTES):
            if is_interrupted():
                raise KeyboardInterrupt
