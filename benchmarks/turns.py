"""Lets the loop and `vllava batch` do the same jobs in turns, each time as a whole process, and keeps every figure."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from benchmarks.process import Times, TurnError, contents, timed
from benchmarks.workloads import Workload
from vllava_cli import demo

_STATS = "vllava: stats: "
_MAX_NEW_TOKENS = 64

Answers: TypeAlias = Mapping[tuple[str, str], str]
"""(path, question) → answer."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One process: what it took, and what it answered."""

    times: Times
    answers: Answers
    stats: Mapping[str, float]
    """What --stats told; the loop has none."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """All turns of one workload."""

    workload: Workload
    loop: tuple[Turn, ...]
    vllava: tuple[Turn, ...]

    @property
    def speedup(self) -> float:
        """The loop's median seconds over ours."""
        return _median_s(self.loop) / _median_s(self.vllava)

    @property
    def idle_shares(self) -> list[float]:
        """Of each of our turns: how much of the time since the model was ready it waited for clips."""
        return [turn.stats["idle_share"] for turn in self.vllava]

    @property
    def others_share(self) -> float:
        """Of all cores: what other processes took in the turn that they disturbed most."""
        return max(turn.times.others_share for turn in (*self.loop, *self.vllava))

    @property
    def differing(self) -> int:
        """How many answers differ in the turn that has most of them."""
        return max(differing(self.loop[0].answers, turn.answers) for turn in (*self.loop, *self.vllava))


@dataclass(frozen=True, kw_only=True)
class Way:
    """A command line for some clips and questions, given a folder of its own, and how its answers are found there."""

    name: str
    command: Callable[[Path, Sequence[Path], Sequence[str]], list[str]]
    rows: Callable[[Path], Path]
    has_stats: bool


def race(workload: Workload, folder: Path, repeat: int, tell: Callable[[str], None]) -> Race:
    """Loop, ours, loop, ours …, after one clip for each of them that doesn't count."""
    clips = workload.make(folder, workload.clips)
    found: dict[str, list[Turn]] = {way.name: [] for way in WAYS}
    for way in WAYS:
        run(way, clips[:1], workload.questions, folder)
    for number in range(repeat):
        for way in WAYS:
            turn = run(way, clips, workload.questions, folder)
            found[way.name].append(turn)
            tell(f"{workload.text}, turn {number + 1}, {way.name}: {turn.times}")
    return Race(workload=workload, loop=tuple(found["loop"]), vllava=tuple(found["vllava"]))


def run(way: Way, clips: Sequence[Path], questions: Sequence[str], folder: Path) -> Turn:
    """One turn; its files are in `folder`, so that syncing them costs what it costs there, and are removed."""
    with tempfile.TemporaryDirectory(prefix="turn-", dir=folder) as name:
        place = Path(name)
        times = timed(way.command(place, clips, questions), place)
        rows = [json.loads(line) for line in way.rows(place).read_text(encoding="utf-8").splitlines()]
        turn = Turn(times=times, answers=_answers(rows), stats=_stats(place / "stderr") if way.has_stats else {})
    wanted = len(clips) * len(questions)
    if len(rows) != wanted or len(turn.answers) != wanted:
        raise TurnError(f"{way.name} gave {len(rows)} rows about {len(turn.answers)} jobs, not {wanted}.")
    return turn


def differing(one: Answers, other: Answers) -> int:
    """How many jobs have another answer, or an answer in one alone."""
    return sum(one.get(job) != other.get(job) for job in one.keys() | other.keys())


def _median_s(turns: Iterable[Turn]) -> float:
    return statistics.median(turn.times.wall_s for turn in turns)


def _loop(place: Path, clips: Sequence[Path], questions: Sequence[str]) -> list[str]:
    jobs = place / "jobs.jsonl"
    lines = [json.dumps({"path": str(clip), "question": question}) for clip in clips for question in questions]
    jobs.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["benchmarks.loop", str(demo.CHECKPOINT), str(jobs), str(_MAX_NEW_TOKENS)]


def _vllava(place: Path, clips: Sequence[Path], questions: Sequence[str]) -> list[str]:
    """fp32 and no guard: exactly what generate does."""
    words = ["vllava_cli", "batch", "--model", "demo", "--device", "cpu", "--precision", "fp32", "--no-guard"]
    words += ["--max-new-tokens", str(_MAX_NEW_TOKENS), "--stats", "-o", str(place / "rows.jsonl")]
    words += [word for question in questions for word in ("-Q", question)]
    return [*words, "--", *map(str, clips)]


WAYS = (
    Way(name="loop", command=_loop, rows=lambda place: place / "stdout", has_stats=False),
    Way(name="vllava", command=_vllava, rows=lambda place: place / "rows.jsonl", has_stats=True),
)


def _answers(rows: Iterable[Mapping[str, Any]]) -> Answers:
    return {(row["path"], row["question"]): row["answer"] for row in rows}


def _stats(path: Path) -> Mapping[str, float]:
    lines = [line for line in contents(path).splitlines() if line.startswith(_STATS)]
    if not lines:
        raise TurnError(f'No line on stderr begins with "{_STATS}".')
    return cast("Mapping[str, float]", json.loads(lines[-1].removeprefix(_STATS)))
