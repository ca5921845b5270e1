"""Several processes over one queue: who gets what, what becomes of what a dead one had, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.batch.executors.fakes import Pooled, Script
from tests.batch.parts import clip_jobs, good, job
from vllava_cli.batch.executors import Counters
from vllava_cli.batch.executors.processes import MOST_LOSSES, STOP
from vllava_cli.batch.jobs import ClipJobs
from vllava_cli.batch.rows import JobError, Result
from vllava_cli.errors import MemoryShortError, VllavaError

GOOD: Script = [{}]
LAZY: Script = [{"is_lazy": True}]
STILLBORN: Script = [{"is_stillborn": True}]


def clips(*numbers: int) -> list[ClipJobs]:
    return [clip_jobs(f"{number}.mp4") for number in numbers]


def names(*numbers: int) -> list[str]:
    return [f"{number}.mp4" for number in numbers]


def paths(results: Sequence[Result]) -> list[str]:
    """Of those that are answers, sorted by number."""
    return sorted((result.job.path for result in results if result.answer), key=lambda path: int(path[:-4]))


def test_all_processes_take_part_and_each_is_told_the_end_once() -> None:
    pooled = Pooled(scripts={"cuda:0": GOOD, "cuda:1": GOOD}, units=clips(*range(20)))
    assert paths(pooled.run()) == names(*range(20))
    for _, given in pooled.given:
        assert len(given) > 8 and given.index(None) == len(given) - 1
    assert pooled.control.counters == Counters(clips=20, rows_at_once=2)


@pytest.mark.parametrize(("rows_at_once", "given"), [(1, 8), (4, 8), (6, 12)])
def test_a_process_holds_twice_as_many_clips_as_rows_once_it_is_ready(rows_at_once: int, given: int) -> None:
    lazy: Script = [{"is_lazy": True, "rows_at_once": rows_at_once}]
    pooled = Pooled(scripts={"cpu": lazy}, units=clips(*range(40)), stop_at=4)
    assert pooled.run() == []
    assert pooled.given == [("cpu", [*names(*range(given)), STOP])]


def test_ctrl_c_gives_out_nothing_more_and_what_is_left_is_no_mishap() -> None:
    pooled = Pooled(scripts={"cpu": LAZY, "xpu": GOOD}, units=clips(*range(30)), stop_at=2)
    results = pooled.run()
    assert pooled.given == [("cpu", [*names(*range(8)), STOP]), ("xpu", [*names(*range(8, 16)), STOP])]
    assert paths(results) == names(*range(8, 16))
    assert pooled.notices == []


def test_other_processes_take_what_a_dead_one_had() -> None:
    pooled = Pooled(scripts={"cuda:0": STILLBORN, "cuda:1": GOOD}, units=clips(*range(20)))
    assert paths(pooled.run()) == names(*range(20))
    assert [device for device, _ in pooled.given] == ["cuda:0", "cuda:1"]
    assert pooled.notices == [
        "vllava: the process on cuda:0 ended (SIGKILL): its clips are started again.",
        "vllava: cuda:0 is given up: the other processes go on.",
    ]


def test_a_clip_that_kills_three_processes_gets_its_row_and_takes_no_other_with_it() -> None:
    pooled = Pooled(scripts={"cpu": [{"deadly": names(1)}]}, units=clips(*range(12)))
    results = pooled.run()
    assert pooled.given[:2] == [("cpu", names(0, 1)), ("cpu", names(1))], "a suspect is tried again alone"
    assert set(pooled.notices) == {"vllava: the process on cpu ended (SIGKILL): its clips are started again."}
    assert paths(results) == names(0, *range(2, 12))
    (failed,) = [result for result in results if result.error]
    assert (failed.job.path, failed.error) == (
        "1.mp4",
        JobError(kind="bug", message="The process that answered it ended 3 times, last with SIGKILL."),
    )
    assert len(pooled.processes) == 4


def test_questions_that_were_answered_before_a_death_are_not_asked_again() -> None:
    asked = clip_jobs("0.mp4", "Who?", "Why?", "Where?")
    pooled = Pooled(scripts={"cpu": [{"deadly": names(0), "last_words": 2}, {}]}, units=[asked])
    assert [result.job for result in pooled.run()] == list(asked.jobs)
    _, second = pooled.processes
    assert second.given == [ClipJobs(jobs=asked.jobs[2:]), None]


@pytest.mark.parametrize(
    ("scripts", "processes", "kind", "said"),
    [
        (
            *({"cuda:0": STILLBORN, "cuda:1": STILLBORN}, 2, MemoryShortError),
            "The process on cuda:1 ended (SIGKILL) while it loaded the model, perhaps for lack of memory: "
            "close other programs, or try --precision 4bit.",
        ),
        (
            *({"cuda:0": [{"deadly": names(*range(40))}]}, MOST_LOSSES, VllavaError),
            "6 processes on cuda:0 ended in a row, the last one with SIGKILL, without an answer: "
            "try --batch-size 1, or leave --gpus out.",
        ),
    ],
)
def test_where_no_process_lives_to_answer_the_run_ends(
    scripts: dict[str, Script], processes: int, kind: type[VllavaError], said: str
) -> None:
    pooled = Pooled(scripts=scripts, units=clips(*range(40)))
    with pytest.raises(VllavaError) as caught:
        pooled.run()
    assert (type(caught.value), str(caught.value)) == (kind, said)
    assert len(pooled.processes) == processes


def test_a_death_now_and_then_does_not_give_a_device_up() -> None:
    deadly = names(*range(0, 100, 10))
    pooled = Pooled(scripts={"cpu": [*({"deadly": [each]} for each in deadly), {}]}, units=clips(*range(100)))
    assert paths(pooled.run()) == names(*range(100))
    assert len(pooled.processes) == len(deadly) + 1


def test_a_process_that_cannot_be_started_leaves_none_behind() -> None:
    pooled = Pooled(scripts={"cuda:0": GOOD, "cuda:1": []}, units=clips(0))
    with pytest.raises(IndexError):
        pooled.run()
    assert [process.is_killed for process in pooled.processes] == [True]


def test_what_processes_tell_is_passed_on_and_a_result_that_comes_twice_counts_once() -> None:
    stray = ("result", good(job("0.mp4")), Counters())
    first = [("notice", "vllava: memory ran out."), ("detail", "device: cpu."), ("ready", 1, 1.5), stray, stray]
    pooled = Pooled(scripts={"cpu": [{"first": first}]}, units=clips(0, 1))
    assert paths(pooled.run()) == names(0, 1)
    assert pooled.heard == [
        *("vllava: memory ran out.", "detail: cpu: device: cpu."),
        *("ready", "detail: cpu: loaded in 1.50 s, rows at once: 1."),
    ]
