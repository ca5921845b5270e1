"""Lets transformers' forward, one option at a time, and `vllava batch` answer the same questions with choices."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Finished, ProcessError, Target, Times, alternate, run_module
from benchmarks.workloads import copied
from vllava_cli import demo

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "Which way does it move?": ("Left.", "Right.", "It moves up.", "It doesn't move."),
    "What shape is it?": ("a circle", "a square", "a star", "a triangle"),
    "What colour is it?": ("red", "blue", "green", "yellow"),
    "What happens in this video?": (
        "A red circle moves left.",
        "A blue star grows.",
        "A green square turns into a yellow triangle.",
        "Nothing moves.",
    ),
    "What colour is the background?": ("Black.", "White.", "Grey.", "It is blue."),
}
"""Each question with its four choices; they have one to twelve tokens of the demo model."""
LEAST_SPEEDUP = 4.0
MOST_OFF = 1e-4
Rows = Mapping[tuple[str, str], Mapping[str, Any]]
"""(path, question) → row."""


@dataclass(frozen=True, kw_only=True)
class ChoicesRepeat:
    """One process: its cost and its rows."""

    times: Times
    rows: Rows

    @classmethod
    def of(cls, finished: Finished, text: str, *, wanted: int) -> ChoicesRepeat:
        """Errors: ProcessError where a job has no row, or more than one."""
        parsed = [json.loads(line) for line in text.splitlines()]
        rows = {(row["path"], row["question"]): row for row in parsed}
        if not len(parsed) == len(rows) == wanted:
            raise ProcessError(f"There are {len(parsed)} rows about {len(rows)} jobs, not {wanted}.")
        return cls(times=finished.times, rows=rows)


@dataclass(frozen=True, kw_only=True)
class ChoicesTrial:
    """All repeats of both."""

    clips: int
    loop: tuple[ChoicesRepeat, ...]
    vllava: tuple[ChoicesRepeat, ...]

    @property
    def speedup(self) -> float:
        """The loop's median seconds over ours."""
        ours, theirs = (statistics.median(each.times.wall_s for each in its) for its in (self.vllava, self.loop))
        return theirs / ours

    @property
    def cpu_ratio(self) -> float:
        """The loop's median CPU seconds over ours; other work on the machine changes it less."""
        ours, theirs = (statistics.median(each.times.cpu_s for each in its) for its in (self.vllava, self.loop))
        return theirs / ours

    @property
    def off(self) -> float:
        """The largest difference of a probability; 1 where an answer differs."""
        return max(most_off(self.loop[0].rows, each.rows) for each in (*self.loop, *self.vllava))

    def targets(self) -> list[Target]:
        named = f"choices: {self.clips} x {len(QUESTIONS)} x 4"
        speed = f"{named}: at least {LEAST_SPEEDUP:g} times as fast as a forward for each option: {self.speedup:.2f}"
        same = f"{named}: the loop's answers, and its probabilities to {MOST_OFF:g}: {self.off:.1e} off at most"
        return [
            Target(text=speed, is_met=self.speedup >= LEAST_SPEEDUP),
            Target(text=same, is_met=self.off <= MOST_OFF),
        ]


def try_choices(folder: Path, clips: int, repeat: int, report: Callable[[str], None]) -> ChoicesTrial:
    """Loop, ours, loop, ours …, after one clip for each of them that doesn't count. Errors: ProcessError."""
    paths = copied(folder, clips)

    def run(name: str, some: Sequence[Path]) -> ChoicesRepeat:
        with tempfile.TemporaryDirectory(prefix="choices-", dir=folder) as place:
            found = WORKERS[name](Path(place), some)
        report(f"{name}: {len(some)} clips: {found.times}")
        return found

    for name in WORKERS:
        run(name, paths[:1])
    found = alternate({name: partial(run, name, paths) for name in WORKERS}, repeat)
    return ChoicesTrial(clips=clips, loop=tuple(found["loop"]), vllava=tuple(found["vllava"]))


def most_off(one: Rows, other: Rows) -> float:
    """Returns the largest difference of a probability in two runs; 1 where an answer differs."""
    return max(
        1.0
        if row["answer"] != other[job]["answer"]
        else max(abs(chance - other[job]["probabilities"][text]) for text, chance in row["probabilities"].items())
        for job, row in one.items()
    )


def _jobs(place: Path, clips: Sequence[Path]) -> Path:
    jobs = place / "jobs.jsonl"
    rows = [
        {"video": str(clip), "question": question, "choices": choices}
        for clip in clips
        for question, choices in QUESTIONS.items()
    ]
    jobs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return jobs


def _loop(place: Path, clips: Sequence[Path]) -> ChoicesRepeat:
    finished = run_module("benchmarks.choice_loop", str(demo.CHECKPOINT), str(_jobs(place, clips)))
    return ChoicesRepeat.of(finished, finished.stdout, wanted=len(clips) * len(QUESTIONS))


def _vllava(place: Path, clips: Sequence[Path]) -> ChoicesRepeat:
    rows = place / "rows.jsonl"
    words = ("batch", "--model", "demo", "--device", "cpu", "--precision", "fp32", "--server", "off")
    finished = run_module("vllava_cli", *words, "--jobs", str(_jobs(place, clips)), "-o", str(rows))
    return ChoicesRepeat.of(finished, rows.read_text(encoding="utf-8"), wanted=len(clips) * len(QUESTIONS))


WORKERS: Mapping[str, Callable[[Path, Sequence[Path]], ChoicesRepeat]] = {"loop": _loop, "vllava": _vllava}
