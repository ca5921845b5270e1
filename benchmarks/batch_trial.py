"""Lets the snippet's loop and `vllava batch` do the same jobs alternately, each time as a whole process."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.harness import Finished, ProcessError, Times, alternate, run_module
from benchmarks.workloads import Workload
from vllava_cli import demo

_STATS = "vllava: stats: "
_MAX_NEW_TOKENS = 64

Answers: TypeAlias = Mapping[tuple[str, str], str]
"""(path, question) → answer."""
Worker: TypeAlias = Callable[[Path, Sequence[Path], Sequence[str]], "BatchRepeat"]
"""Gets an empty folder of its own, the clips and the questions."""


@dataclass(frozen=True, kw_only=True)
class BatchRepeat:
    """One process: its cost and its answers."""

    times: Times
    answers: Answers
    stats: Mapping[str, float]
    """What --stats said; the loop has none."""

    @classmethod
    def of(cls, finished: Finished, rows: str, stats: Mapping[str, float], *, wanted: int) -> BatchRepeat:
        """Errors: ProcessError where a job has no answer, or more than one."""
        parsed: list[dict[str, Any]] = [json.loads(row) for row in rows.splitlines()]
        answers = {(row["path"], row["question"]): row["answer"] for row in parsed}
        if len(parsed) != wanted or len(answers) != wanted:
            raise ProcessError(f"There are {len(parsed)} rows about {len(answers)} jobs, not {wanted}.")
        return cls(times=finished.times, answers=answers, stats=stats)


@dataclass(frozen=True, kw_only=True)
class BatchTrial:
    """All repeats of one workload."""

    workload: Workload
    loop: tuple[BatchRepeat, ...]
    vllava: tuple[BatchRepeat, ...]

    @property
    def speedup(self) -> float:
        """The loop's median seconds over ours."""
        return _median_s(self.loop) / _median_s(self.vllava)

    @property
    def idle_shares(self) -> list[float]:
        """For each of our repeats: the share of the time since the model was ready in which it waited for clips."""
        return [repeat.stats["idle_share"] for repeat in self.vllava]

    @property
    def others_share(self) -> float:
        """The share of all cores that other processes took in the repeat that they disturbed most."""
        return max(repeat.times.others_share for repeat in (*self.loop, *self.vllava))

    @property
    def differing(self) -> int:
        """The number of answers that differ, in the repeat that has most of them."""
        return max(differing(self.loop[0].answers, repeat.answers) for repeat in (*self.loop, *self.vllava))


def try_batch(workload: Workload, folder: Path, repeat: int, report: Callable[[str], None]) -> BatchTrial:
    """Loop, ours, loop, ours …, after one clip for each of them that doesn't count. Errors: ProcessError."""
    clips = workload.make(folder, workload.clips)

    def run(name: str, some: Sequence[Path]) -> BatchRepeat:
        # The files are in `folder`, so that syncing them costs what it costs there.
        with tempfile.TemporaryDirectory(prefix="repeat-", dir=folder) as place:
            found = WORKERS[name](Path(place), some, workload.questions)
        report(f"{workload.text}, {len(some)} of them, {name}: {found.times}")
        return found

    for name in WORKERS:
        run(name, clips[:1])
    found = alternate({name: partial(run, name, clips) for name in WORKERS}, repeat)
    return BatchTrial(workload=workload, loop=tuple(found["loop"]), vllava=tuple(found["vllava"]))


def differing(one: Answers, other: Answers) -> int:
    """Counts the jobs that have another answer, or an answer in one alone."""
    return sum(one.get(job) != other.get(job) for job in one.keys() | other.keys())


def _median_s(repeats: Iterable[BatchRepeat]) -> float:
    return statistics.median(repeat.times.wall_s for repeat in repeats)


def _loop(place: Path, clips: Sequence[Path], questions: Sequence[str]) -> BatchRepeat:
    jobs = place / "jobs.jsonl"
    lines = [json.dumps({"path": str(clip), "question": question}) for clip in clips for question in questions]
    jobs.write_text("\n".join(lines) + "\n", encoding="utf-8")
    finished = run_module("benchmarks.snippet_loop", str(demo.CHECKPOINT), str(jobs), str(_MAX_NEW_TOKENS))
    return BatchRepeat.of(finished, finished.stdout, {}, wanted=len(lines))


def _vllava(place: Path, clips: Sequence[Path], questions: Sequence[str]) -> BatchRepeat:
    """fp32 and no guard: exactly what generate does."""
    rows = place / "rows.jsonl"
    words = ["batch", "--model", "demo", "--device", "cpu", "--precision", "fp32", "--no-guard"]
    words += ["--max-new-tokens", str(_MAX_NEW_TOKENS), "--stats", "-o", str(rows)]
    words += [word for question in questions for word in ("-Q", question)]
    finished = run_module("vllava_cli", *words, "--", *map(str, clips))
    stats = [line.removeprefix(_STATS) for line in finished.stderr.splitlines() if line.startswith(_STATS)]
    if not stats:
        raise ProcessError(f'No line on stderr begins with "{_STATS}".')
    text = rows.read_text(encoding="utf-8")
    return BatchRepeat.of(finished, text, json.loads(stats[-1]), wanted=len(clips) * len(questions))


WORKERS: Mapping[str, Worker] = {"loop": _loop, "vllava": _vllava}
