"""Tries mutants on a `DecoderClient`: each must give frames or one sentence; anything else is a failure."""

from __future__ import annotations

import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.fuzzing.mutants import Mutant
from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import FRAMES_PER_CLIP, DecodeLimits, Frames, Framing

GRACE_S = 10.0
"""A guard may need so much longer than its limit: to end a child, start another and try once more."""

_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one mutant: `what` is "8 frames", the kind of a sentence, or what went wrong."""

    mutant: Mutant
    outcome: Literal["frames", "sentence", "failure"]
    what: str
    seconds: float
    child: int | None
    """The number of the child that answered, None if it did not survive."""
    peak_bytes: int
    """The most memory that this child has had in use."""


@dataclass(kw_only=True)
class Tally:
    """What became of all of them."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By outcome and kind."""
    failures: list[Verdict] = field(default_factory=list)
    children: set[int] = field(default_factory=set)
    slowest: Verdict | None = None
    peak_bytes: int = 0

    @property
    def tried(self) -> int:
        return self.counts.total()

    def add(self, verdict: Verdict) -> None:
        is_failure = verdict.outcome == "failure"
        self.counts[verdict.outcome, "" if is_failure else verdict.what] += 1
        self.failures += [verdict] * is_failure
        self.children |= {verdict.child} if verdict.child else set()
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)
        if self.slowest is None or verdict.seconds > self.slowest.seconds:
            self.slowest = verdict


def try_all(mutants: Iterable[Mutant], folder: Path, limits: DecodeLimits) -> Iterator[Verdict]:
    """One after another through one guard."""
    with DecoderClient(limits) as guard:
        for mutant in mutants:
            yield try_one(mutant, guard, folder, limits)


def try_one(mutant: Mutant, guard: DecoderClient, folder: Path, limits: DecodeLimits) -> Verdict:
    path = folder / mutant.name
    path.write_bytes(mutant.data)
    started_s = time.perf_counter()
    outcome, what = _outcome(guard, path, mutant.number)
    seconds = time.perf_counter() - started_s
    path.unlink()
    if seconds > 2 * limits.timeout_s + GRACE_S:
        outcome, what = "failure", f"took {seconds:.1f} s"
    child, peak_bytes = guard.pid, _peak_bytes(guard.pid)
    return Verdict(mutant=mutant, outcome=outcome, what=what, seconds=seconds, child=child, peak_bytes=peak_bytes)


def framing_for(number: int) -> Framing:
    """Most mutants are looked at as a whole, some in part, some at given times."""
    dice = random.Random(number)
    framings = (Framing(start_s=0.2, end_s=1.1), Framing(start_s=0.5), Framing(at_s=(1.2, 0.3)))
    return dice.choice(framings) if dice.random() < 0.2 else Framing()


def _outcome(guard: DecoderClient, path: Path, number: int) -> tuple[Literal["frames", "sentence", "failure"], str]:
    framing, refusal = framing_for(number), None
    try:
        guard.header(path)
    except MediaError as exc:
        refusal = str(exc)
    except Exception as exc:
        return "failure", f"header: {type(exc).__name__}: {exc}"
    try:
        if number % 10 == 9:
            guard.probe(path, is_full=number % 20 == 19)
            return "frames", "facts"
        frames = guard.sample(path, framing)
    except MediaError as exc:
        fault = fault_of(str(exc), path)
        return ("failure", fault) if fault else ("sentence", kind_of(str(exc), path))
    except Exception as exc:
        return "failure", f"{type(exc).__name__}: {exc}"
    fault = fault_of_frames(frames, framing) or (refusal and f"has frames, but its header: {refusal}")
    return ("failure", fault) if fault else ("frames", f"{len(frames.times_s)} frames, {frames.clip.way or 'image'}")


def fault_of(sentence: str, path: Path) -> str | None:
    """What is wrong with a message: it must be one line that names the file and ends like a sentence."""
    if "\n" in sentence or quoted(path) not in sentence or not sentence.endswith("."):
        return f"not a sentence: {sentence!r}"
    return None


def fault_of_frames(frames: Frames, framing: Framing) -> str | None:
    """What is wrong with frames: an image has one, a clip eight or one for each time that was asked for."""
    wanted = 1 if frames.kind == "image" else len(framing.at_s) or FRAMES_PER_CLIP
    width, height = map(max, zip(*(frames.sizes or [(frames.clip.width, frames.clip.height)]), strict=True))
    size = (height, width, 3)
    if frames.pixels.shape not in {(wanted, *size), (len(framing.at_s) or 1, *size)}:
        return f"{frames.pixels.shape} pixels"
    if frames.clip.frame_count < 1 or not all(math.isfinite(time_s) for time_s in frames.times_s):
        return f"{frames.clip.frame_count} frames at {frames.times_s}"
    return None


def kind_of(sentence: str, path: Path) -> str:
    """The sentence without its name and numbers: "'a.mp4' took 5.0 s." → "… took N s."."""
    return _NUMBER.sub("N", sentence.replace(quoted(path), "…"))


def _peak_bytes(pid: int | None) -> int:
    """The most memory that the child has used so far; 0 where the system doesn't tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
