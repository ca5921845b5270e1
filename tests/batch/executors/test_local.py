"""From frames that are read ahead to results: the demo model answers what a list gives in the place of the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.executors.fakes import Listed, memory_for
from tests.batch.parts import batch_of
from vllava_cli import demo
from vllava_cli.answers import Agreeing, Sampling
from vllava_cli.batch.executors import RunControl
from vllava_cli.batch.executors.local import LocalExecutor
from vllava_cli.batch.jobs import ClipJobs, JobRequest, framed, group_by_clip, make_jobs
from vllava_cli.batch.rows import Result
from vllava_cli.engine.generate import Engine
from vllava_cli.media.decoder.pool import Read
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing

PATHS = {path.name: path for path in demo.clips()}
RED, BLUE, PICTURE = (PATHS[name] for name in ("red-circle-moves-left.mp4", "blue-star-grows.mp4", "two-shapes.png"))
HAPPENS, COLOUR, SQUARE = "What happens in this video?", "What colour is it?", "What colour is the square?"


def units(*asked: tuple[Path, str]) -> list[ClipJobs]:
    requests = [JobRequest(path=str(path), question=question) for path, question in asked]
    return list(group_by_clip(make_jobs(requests, "test")))


def frames(path: Path, *, faults: tuple[str, ...] = ()) -> Frames:
    found = sample(path, Framing())
    return replace(found, clip=replace(found.clip, faults=faults))


def read(unit: ClipJobs, *, faults: tuple[str, ...] = ()) -> Read[ClipJobs, Frames]:
    return Read(key=unit, found=frames(unit.path, faults=faults), fault=None, seconds=0.25)


def local(
    engine: Engine,
    reads: list[Read[ClipJobs, Frames] | None],
    *,
    most_rows: int = 4,
    is_stopping: Callable[[], bool] = lambda: False,
    said: list[str] | None = None,
    **batch: object,
) -> LocalExecutor:
    """With an engine that has cached nothing."""
    return LocalExecutor(
        engine=Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan),
        batch=batch_of(**({"sampling": Sampling(max_new_tokens=40), "most_rows": most_rows} | batch)),
        reads=Listed(reads),
        control=RunControl(is_stopping=is_stopping, notice=(said if said is not None else []).append),
    )


def told(results: Iterator[Result]) -> dict[tuple[str, str], str | None]:
    """(name, question) → the answer, or the kind of error."""
    return {
        (Path(result.job.path).name, result.job.question): result.answer.text
        if result.answer
        else result.error and result.error.kind
        for result in results
    }


@pytest.mark.parametrize(
    ("now", "kind", "said"),
    [
        (BLUE, "changed", "'{}' has changed since the run began. Run the same command again."),
        (None, "missing", "There is no file '{}' any more. Check the path."),
    ],
)
def test_a_clip_that_changed_or_vanished_since_the_run_began_is_not_answered(
    engine: Engine, tmp_path: Path, now: Path | None, kind: str, said: str
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(RED.read_bytes())
    (unit,) = units((clip, COLOUR))
    done = read(unit)
    clip.write_bytes(now.read_bytes()) if now else clip.unlink()
    (result,) = local(engine, [done]).outcomes(())
    assert result.error is not None and result.answer is None
    assert (result.error.kind, result.error.message) == (kind, said.format(clip))


def test_samples_may_come_in_any_order(engine: Engine) -> None:
    (unit,), part, wanted = units((RED, HAPPENS), (RED, COLOUR)), Framing(end_s=0.5), Agreeing(samples=5)
    reads = [
        Read(key=clip, found=sample(path, framing), fault=None, seconds=0.0)
        for clip, path, framing, _ in framed([unit], part, wanted)
    ]
    found = list[object]()
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 3, 2, 4]):
        executor = local(engine, [reads[number] for number in order], framing=part, agreeing=wanted)
        results = sorted(executor.outcomes(()), key=lambda result: result.job.question)
        assert [result.job.question for result in results] == [COLOUR, HAPPENS]
        assert (executor.control.counters.clips, executor.control.counters.tower_calls) == (1, 3)
        found.append([(it.answer and it.answer.agreement, it.times_s, it.making and it.making.clips) for it in results])
    assert found[0] == found[1] == found[2]


def test_a_question_without_room_is_an_outcome_beside_the_others(engine: Engine) -> None:
    long = "why " * 2000
    (unit,) = units((RED, long), (RED, COLOUR))
    assert told(local(engine, [read(unit)]).outcomes(())) == {(RED.name, long): "context", (RED.name, COLOUR): "Red."}


def test_damage_that_leaves_a_clip_usable_is_told(engine: Engine) -> None:
    said: list[str] = []
    (unit,) = units((RED, COLOUR))
    results = local(engine, [read(unit, faults=("'a.mp4' ends early.",))], said=said).outcomes(())
    assert told(results) == {(RED.name, COLOUR): "Red."}
    assert said == ["'a.mp4' ends early."]


def test_it_waits_for_frames_only_where_it_has_nothing_else_to_do(engine: Engine) -> None:
    red, blue = (read(each) for each in units((RED, HAPPENS), (BLUE, HAPPENS)))
    executor = local(engine, [None, red, None, blue])
    assert len(told(executor.outcomes(()))) == 2
    listed = executor.reads
    assert isinstance(listed, Listed)
    assert listed.waits[0] and not all(listed.waits)
    assert executor.control.counters.idle_s == listed.waited_s > 0


@pytest.mark.parametrize(
    ("room", "most_rows", "kinds", "shortages"),
    [(2, 4, [], ["2 questions"]), (0, 2, ["memory"] * 4, ["1 question"])],
)
def test_a_lack_of_memory_is_told_and_costs_only_what_has_no_room_alone(
    engine: Engine, room: int, most_rows: int, kinds: list[str], shortages: list[str]
) -> None:
    said: list[str] = []
    reads = [read(each) for each in units(*((path, COLOUR) for path in (RED, BLUE, *list(PATHS.values())[2:4])))]
    executor = local(engine, [*reads], most_rows=most_rows, said=said)
    with memory_for(executor.engine, room):
        results = list(executor.outcomes(()))
    assert len(results) == 4 and [result.error.kind for result in results if result.error] == kinds
    assert [text for text in said if shortages[0] in text][:1] == [
        f"vllava: memory ran out: continuing with {rows} at once." for rows in shortages
    ]
    assert executor.control.counters.rows_at_once == room or kinds
