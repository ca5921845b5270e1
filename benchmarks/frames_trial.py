"""Lets the decoders alternate on one file, and the plain and the guarded sampler on many short ones."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness import ProcessError, alternate, run_module
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import (
    FRAMES_PER_CLIP,
    Clip,
    DecodeLimits,
    Frames,
    Framing,
)

LOOP, OURS, GUARDED, TORCHCODEC, FFMPEG = "loop", "ours", "guarded", "torchcodec", "ffmpeg"
LOWER_BOUNDS = ("lower_bound", "lower_bound_threads")
SLOW_S = 20.0
"""A decoder that takes longer than this runs once."""
LOOP_S = 60.0
"""The loop's time on a clip that wasn't made here: it decodes a film from its beginning to its end."""
_TICK_S = 0.002
"""Containers round times, to a millisecond at most."""


@dataclass(frozen=True, kw_only=True)
class DecoderResult:
    """The figures of one decoder's repeats, its highest memory and its frames; no seconds: it failed or wasn't run."""

    seconds: tuple[float, ...] = ()
    mib: float | None = None
    digest: str = ""
    times_s: tuple[float, ...] = ()
    """From the first frame on."""
    fault: str = ""
    stopped_at_s: float | None = None
    """Seconds after which it was stopped without an end."""

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @classmethod
    def of(cls, repeats: Sequence[DecoderResult]) -> DecoderResult:
        """Joins repeats. One that failed doesn't undo the others, but frames that change are no answer."""
        good = [each for each in repeats if each.seconds]
        if not good:
            return repeats[0] if repeats else cls()
        if len({each.digest for each in good}) > 1:
            return cls(fault="it gives other frames each time")
        peak = max((each.mib for each in good if each.mib is not None), default=None)
        return replace(good[0], seconds=tuple(seconds for each in good for seconds in each.seconds), mib=peak)


@dataclass(frozen=True, kw_only=True)
class FramesTrial:
    """The results of all decoders on one file; one that wasn't run has an empty result."""

    clip: Clip
    results: Mapping[str, DecoderResult]
    is_made: bool = False
    """The file was made here, so its packets say where its frames are."""

    def of(self, name: str) -> DecoderResult:
        return self.results.get(name, DecoderResult())

    @property
    def truth(self) -> DecoderResult:
        """The loop's frames; where it takes too long, those of plain decoding of the needed groups."""
        return next((self.of(name) for name in (LOOP, *LOWER_BOUNDS) if self.of(name).digest), DecoderResult())

    @property
    def is_identical(self) -> bool | None:
        """Whether ours are the right pixels at the right times, also through the guard; None where nothing says."""
        found = [self.of(name) for name in (OURS, GUARDED) if self.of(name).digest]
        if not self.truth.digest or not self.of(OURS).digest:
            return None
        return all(each.digest == self.truth.digest and self.has_times(each) for each in found)

    @property
    def is_certain(self) -> bool:
        """Whether the truth is one: the loop's eight frames, or, where it gave none, a lower bound's that agree.

        Of a file whose index lies or is missing the lower bound gets other frames, and is no measure for anything.
        """
        if self.is_made:
            return True
        loop = self.of(LOOP)
        return len(loop.times_s) == FRAMES_PER_CLIP if loop.digest else bool(self.is_identical)

    @property
    def lower_bound(self) -> DecoderResult:
        """The faster of the two; one that gave other pixels doesn't count."""
        right = [self.of(name) for name in LOWER_BOUNDS if self.of(name).digest == self.truth.digest]
        good = [each for each in right if each.seconds and self.is_certain]
        return min(good, key=lambda each: each.median_s or 0.0, default=DecoderResult())

    def has_times(self, result: DecoderResult) -> bool:
        """Whether a decoder gave the frames of the right times."""
        pairs = zip(result.times_s, self.truth.times_s, strict=False)
        return len(result.times_s) == len(self.truth.times_s) and all(abs(a - b) < _TICK_S for a, b in pairs)

    def share_of(self, other: DecoderResult) -> float | None:
        """Our seconds over another's: 0.25 is four times as fast. Of one that was stopped, the most that it can be."""
        ours_s, other_s = self.of(OURS).median_s, other.median_s or other.stopped_at_s
        return ours_s / other_s if ours_s and other_s else None


@dataclass(frozen=True, kw_only=True)
class FolderTrial:
    """Many short clips decoded one after the other, in the measuring process and through the bounded one."""

    clips: int
    plain_s: float
    guarded_s: float
    start_s: float
    """Seconds to start the bounded process, once."""

    @property
    def cost(self) -> float:
        """The cost of safety, with the start: 0.05 is 5% more."""
        return (self.guarded_s + self.start_s) / self.plain_s - 1


def try_made(path: Path, clip: Clip, repeat: int, *, has_loop: bool) -> FramesTrial:
    """Runs each decoder that is installed on a file that was made here."""
    names = [name for name in (LOOP, OURS, *_installed(), *LOWER_BOUNDS) if name != LOOP or has_loop]
    limits = DecodeLimits(timeout_s=3600)
    return FramesTrial(clip=clip, results=_results(_workers(names, path, limits), repeat), is_made=True)


def try_clip(path: Path, repeat: int) -> FramesTrial:
    """Runs them on any clip, and our sampler through the guard as well. Errors: MediaError."""
    limits = DecodeLimits()
    with closing(DecoderClient(limits)) as guard:
        clip = guard.sample(path, Framing()).clip
        _bring_into_cache(path)
        workers = _workers((LOOP,), path, replace(limits, timeout_s=LOOP_S))
        workers |= _workers((OURS, *_installed(), *LOWER_BOUNDS), path, limits)
        workers[GUARDED] = partial(_guarded, guard, path)
        return FramesTrial(clip=clip, results=_results(workers, repeat))


def try_folder(paths: Sequence[Path], repeat: int) -> FolderTrial:
    """Plain, guarded, plain, guarded …; medians."""

    def worker(name: str) -> dict[str, float]:
        found: dict[str, float] = json.loads(run_module("benchmarks.many_clips", name, *map(str, paths)).stdout)
        return found

    found = alternate({name: partial(worker, name) for name in ("plain", "guarded")}, repeat)
    return FolderTrial(
        clips=len(paths),
        plain_s=statistics.median(each["seconds"] for each in found["plain"]),
        guarded_s=statistics.median(each["seconds"] for each in found["guarded"]),
        start_s=statistics.median(each["start_s"] for each in found["guarded"]),
    )


def decode_once(name: str, path: Path, limits: DecodeLimits) -> DecoderResult:
    """Runs one of `frames_decoders.DECODERS` on a file, in a process of its own and within these limits."""
    words = (name, str(path.absolute()), str(limits.timeout_s), str(limits.memory_bytes))
    try:
        facts = json.loads(run_module("benchmarks.frames_decoders", *words).stdout)
    except ProcessError as exc:
        if exc.signal_number == signal.SIGALRM:
            return DecoderResult(fault=f"it took longer than {limits.timeout_s:g} s", stopped_at_s=limits.timeout_s)
        return DecoderResult(fault=str(exc))
    seconds, times_s = (facts["seconds"],), tuple(facts["times_s"])
    return DecoderResult(seconds=seconds, mib=facts["mib"], digest=facts["digest"], times_s=times_s)


def _results(workers: Mapping[str, Callable[[], DecoderResult]], repeat: int) -> dict[str, DecoderResult]:
    def is_last(each: DecoderResult) -> bool:
        return bool(each.fault) or sum(each.seconds) > SLOW_S

    return {name: DecoderResult.of(found) for name, found in alternate(workers, repeat, is_last=is_last).items()}


def _workers(names: Sequence[str], path: Path, limits: DecodeLimits) -> dict[str, Callable[[], DecoderResult]]:
    return {name: partial(decode_once, name, path, limits) for name in names}


def _installed() -> tuple[str, ...]:
    """The decoders that aren't on every machine."""
    return (*([TORCHCODEC] if find_spec(TORCHCODEC) else []), *([FFMPEG] if shutil.which(FFMPEG) else []))


def _bring_into_cache(path: Path) -> None:
    """Reads a file once, so that no decoder pays for the disk."""
    with suppress(OSError), path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def _guarded(guard: DecoderClient, path: Path) -> DecoderResult:
    """What a user waits for: the request, decoding in the bounded process and the way back."""
    started_s = time.perf_counter()
    frames: Frames = guard.sample(path, Framing(is_as_stored=True))
    seconds = time.perf_counter() - started_s
    offsets_s = tuple(time_s - frames.times_s[0] for time_s in frames.times_s)
    digest = hashlib.sha256(frames.pixels.tobytes()).hexdigest()
    return DecoderResult(seconds=(seconds,), digest=digest, times_s=offsets_s)
