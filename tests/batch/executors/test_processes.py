"""Several processes over one queue: who gets what, what becomes of what a dead one had, and when it ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, cast

import pytest

from tests.batch.parts import good, job, unit
from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.executors.processes import MOST_LOSSES, Crew
from vllava_cli.batch.executors.worker import STOP, Done, Failed, Message, Ready, Told
from vllava_cli.batch.executors.worker_handle import Member, devices
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.rows import Fault, Outcome
from vllava_cli.errors import HubError, MemoryShortError, VllavaError

Said = Unit | str | None


@dataclass(eq=False)
class Wire:
    """The crew's end of a wire; `hear` is called with what is sent, at once."""

    ours: Connection
    hear: Callable[[Said], None]

    def fileno(self) -> int:
        return self.ours.fileno()

    def recv(self) -> object:
        return self.ours.recv()

    def send(self, said: Said) -> None:
        self.hear(said)


READY = Ready(rows_at_once=1, load_s=1.5)


@dataclass(eq=False, kw_only=True)
class Process:
    """A process that isn't one: it does at once what it would do in time."""

    device: str = "cpu"
    deadly: Collection[str] = ()
    """Clips that kill whoever is given one."""
    last_words: int = 0
    """How many jobs of a deadly clip are answered before."""
    is_stillborn: bool = False
    """Dies of its first clip before it is ready."""
    is_lazy: bool = False
    """Takes clips and answers none."""
    rows_at_once: int = 1
    used_bytes: int | None = None
    first: Sequence[Message] = ()
    """What it says in the place of being ready."""
    given: list[Said] = field(default_factory=list)
    exitcode: int | None = None
    is_killed: bool = False
    answered: int = 0

    def __post_init__(self) -> None:
        self.ours, self.theirs = multiprocessing.Pipe()
        for message in self.first or ([] if self.is_stillborn else [replace(READY, rows_at_once=self.rows_at_once)]):
            self.say(message)

    def say(self, message: object) -> None:
        self.theirs.send(message)

    def hear(self, said: Said) -> None:
        if self.exitcode is not None:
            raise BrokenPipeError
        self.given.append(said)
        if not isinstance(said, Unit):
            self.die(0)
        elif self.is_stillborn or str(said.path) in self.deadly:
            self.answer(said.jobs[: self.last_words])
            self.die(-9)
        elif self.is_lazy:
            self.say(Told(text="later", is_detail=True))
        else:
            self.answer(said.jobs)

    def answer(self, jobs: Sequence[Job]) -> None:
        for each in jobs:
            self.answered += 1
            meter = Meter(clips=self.answered, rows_at_once=self.rows_at_once, used_bytes=self.used_bytes)
            self.say(Done(outcome=good(each), meter=meter))

    def die(self, code: int) -> None:
        self.exitcode = code
        self.theirs.close()

    def kill(self) -> None:
        self.is_killed = True

    def join(self) -> None:
        pass


Script = Sequence[Mapping[str, Any]]
"""How the first process on a device behaves, the one that takes its place, …; all further ones like the last."""


@dataclass(kw_only=True)
class Crewed:
    """A crew of such processes, and what was said and done."""

    scripts: Mapping[str, Script]
    units: Sequence[Unit]
    stop_at: int = 1000
    """At which question whether to stop the answer is yes; it is asked each time before clips are given out."""
    processes: list[Process] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    asked: int = 0

    def __post_init__(self) -> None:
        starts = [self.start(device, 0) for device in self.scripts]
        self.crew = Crew(self.units, starts, is_stopping=self.is_stopping, listener=self, meter=self.meter)

    def start(self, device: str, number: int) -> Callable[[], Member]:
        def start() -> Member:
            script = self.scripts[device]
            process = Process(device=device, **script[min(number, len(script) - 1)])
            self.processes.append(process)
            return Member(
                device=device,
                process=cast(BaseProcess, process),
                wire=cast(Connection, Wire(process.ours, process.hear)),
                restart=self.start(device, number + 1),
            )

        return start

    def is_stopping(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_at

    def notice(self, text: str) -> None:
        self.heard.append(text)

    def detail(self, text: str) -> None:
        self.heard.append(f"detail: {text}")

    def ready(self) -> None:
        self.heard.append("ready")

    def run(self) -> list[Outcome]:
        return list(self.crew.outcomes())

    @property
    def given(self) -> list[tuple[str, list[str | None]]]:
        """What each process was sent, clips by their names."""
        names = [[str(said.path) if isinstance(said, Unit) else said for said in each.given] for each in self.processes]
        return list(zip([process.device for process in self.processes], names, strict=True))

    @property
    def notices(self) -> list[str]:
        return [text for text in self.heard if text.startswith("vllava: ")]


GOOD: Script = [{}]
LAZY: Script = [{"is_lazy": True}]
STILLBORN: Script = [{"is_stillborn": True}]


def clips(*numbers: int) -> list[Unit]:
    return [unit(f"{number}.mp4") for number in numbers]


def names(*numbers: int) -> list[str]:
    return [f"{number}.mp4" for number in numbers]


def paths(outcomes: Sequence[Outcome]) -> list[str]:
    """Of those that are answers, sorted by number."""
    return sorted((outcome.job.path for outcome in outcomes if outcome.answer), key=lambda path: int(path[:-4]))


def test_a_lone_process_answers_all_and_is_told_the_end() -> None:
    crewed = Crewed(scripts={"cpu": GOOD}, units=clips(0, 1, 2))
    assert [outcome.job.path for outcome in crewed.run()] == names(0, 1, 2)
    assert crewed.given == [("cpu", [*names(0, 1, 2), None])]
    assert crewed.heard == ["ready", "detail: cpu: loaded in 1.50 s, rows at once: 1."]
    assert crewed.meter == Meter(clips=3, rows_at_once=1)


def test_all_processes_take_part_and_each_is_told_the_end_once() -> None:
    crewed = Crewed(scripts={"cuda:0": GOOD, "cuda:1": GOOD}, units=clips(*range(20)))
    assert paths(crewed.run()) == names(*range(20))
    for _, given in crewed.given:
        assert len(given) > 8 and given.index(None) == len(given) - 1
    assert crewed.meter == Meter(clips=20, rows_at_once=2)


def test_no_units_are_no_outcomes() -> None:
    crewed = Crewed(scripts={"cpu": GOOD}, units=[])
    assert (crewed.run(), crewed.given) == ([], [("cpu", [None])])


@pytest.mark.parametrize(("rows_at_once", "given"), [(1, 8), (4, 8), (6, 12)])
def test_a_process_holds_twice_as_many_clips_as_rows_once_it_is_ready(rows_at_once: int, given: int) -> None:
    lazy: Script = [{"is_lazy": True, "rows_at_once": rows_at_once}]
    crewed = Crewed(scripts={"cpu": lazy}, units=clips(*range(40)), stop_at=4)
    assert crewed.run() == []
    assert crewed.given == [("cpu", [*names(*range(given)), STOP])]


def test_ctrl_c_gives_out_nothing_more_and_what_is_left_is_no_mishap() -> None:
    crewed = Crewed(scripts={"cpu": LAZY, "xpu": GOOD}, units=clips(*range(30)), stop_at=2)
    outcomes = crewed.run()
    assert crewed.given == [("cpu", [*names(*range(8)), STOP]), ("xpu", [*names(*range(8, 16)), STOP])]
    assert paths(outcomes) == names(*range(8, 16))
    assert crewed.notices == []


def test_what_a_dead_process_had_is_tried_again_clip_by_clip() -> None:
    """Also while other clips wait: what is lost with a suspect is the suspect alone."""
    crewed = Crewed(scripts={"cpu": [{"deadly": names(1)}, {"is_lazy": True}]}, units=clips(*range(20)), stop_at=7)
    assert paths(crewed.run()) == names(0)
    assert crewed.given == [("cpu", names(0, 1)), ("cpu", [*names(1), STOP])]
    assert crewed.notices == ["vllava: the process on cpu ended (SIGKILL): its clips are begun anew."]


def test_after_a_death_each_job_still_has_one_outcome_and_suspects_come_one_at_a_time() -> None:
    crewed = Crewed(scripts={"cpu": [{"deadly": names(1)}, {}]}, units=clips(*range(12)))
    outcomes = crewed.run()
    assert len(outcomes) == 12 and paths(outcomes) == names(*range(12))
    assert crewed.given == [("cpu", names(0, 1)), ("cpu", [*names(*range(1, 12)), None])]


def test_other_processes_take_what_a_dead_one_had() -> None:
    crewed = Crewed(scripts={"cuda:0": STILLBORN, "cuda:1": GOOD}, units=clips(*range(20)))
    assert paths(crewed.run()) == names(*range(20))
    assert [device for device, _ in crewed.given] == ["cuda:0", "cuda:1"]
    assert crewed.notices == [
        "vllava: the process on cuda:0 ended (SIGKILL): its clips are begun anew.",
        "vllava: cuda:0 is given up: the other processes go on.",
    ]


def test_a_clip_that_kills_three_processes_gets_its_row_and_takes_no_other_with_it() -> None:
    crewed = Crewed(scripts={"cpu": [{"deadly": names(1)}]}, units=clips(*range(12)))
    outcomes = crewed.run()
    assert paths(outcomes) == names(0, *range(2, 12))
    (failed,) = [outcome for outcome in outcomes if outcome.fault]
    assert (failed.job.path, failed.fault) == (
        "1.mp4",
        Fault(kind="bug", message="The process that answered it ended 3 times, last with SIGKILL."),
    )
    assert len(crewed.processes) == 4


def test_nothing_is_started_anew_for_nothing() -> None:
    crewed = Crewed(scripts={"cpu": [{"deadly": names(0)}]}, units=clips(0))
    (outcome,) = crewed.run()
    assert outcome.fault is not None and len(crewed.processes) == 3


def test_questions_that_were_answered_before_a_death_are_not_asked_again() -> None:
    asked = unit("0.mp4", "Who?", "Why?", "Where?")
    crewed = Crewed(scripts={"cpu": [{"deadly": names(0), "last_words": 2}, {}]}, units=[asked])
    assert [outcome.job for outcome in crewed.run()] == list(asked.jobs)
    _, second = crewed.processes
    assert second.given == [Unit(jobs=asked.jobs[2:]), None]


def test_processes_that_die_while_they_load_do_not_speak_against_a_clip() -> None:
    scripts = {f"cuda:{number}": STILLBORN for number in range(4)}
    crewed = Crewed(scripts=scripts | {"cuda:4": GOOD}, units=clips(0))
    assert paths(crewed.run()) == names(0)


def test_where_none_can_load_the_model_the_run_ends() -> None:
    crewed = Crewed(scripts={"cuda:0": STILLBORN, "cuda:1": STILLBORN}, units=clips(*range(20)))
    with pytest.raises(MemoryShortError) as caught:
        crewed.run()
    assert str(caught.value) == (
        "The process on cuda:1 ended (SIGKILL) while it loaded the model, perhaps for lack of memory: "
        "close other programs, or try --precision 4bit."
    )
    assert len(crewed.processes) == 2


def test_a_device_on_which_everything_dies_ends_the_run() -> None:
    crewed = Crewed(scripts={"cuda:0": [{"deadly": names(*range(40))}]}, units=clips(*range(40)))
    with pytest.raises(VllavaError) as caught:
        crewed.run()
    assert str(caught.value) == (
        "6 processes on cuda:0 ended in a row, the last one with SIGKILL, without an answer: "
        "try --batch-size 1, or leave --gpus out."
    )
    assert len(crewed.processes) == MOST_LOSSES


def test_a_device_on_which_everything_dies_is_left_to_the_others() -> None:
    broken: Script = [{"deadly": names(*range(40))}]
    crewed = Crewed(scripts={"cuda:0": broken, "cuda:1": GOOD}, units=clips(*range(40)))
    assert paths(crewed.run()) == names(*range(40))


def test_a_death_now_and_then_does_not_give_a_device_up() -> None:
    deadly = names(*range(0, 100, 10))
    crewed = Crewed(scripts={"cpu": [*({"deadly": [each]} for each in deadly), {}]}, units=clips(*range(100)))
    assert paths(crewed.run()) == names(*range(100))
    assert len(crewed.processes) == len(deadly) + 1


def test_a_model_that_cannot_be_loaded_ends_the_run_and_all_processes() -> None:
    failing: Script = [{"first": [Failed(error=HubError("The hub can't be reached."))]}]
    crewed = Crewed(scripts={"cuda:0": LAZY, "cuda:1": failing}, units=clips(0))
    with pytest.raises(HubError, match="hub"):
        crewed.run()
    assert [process.is_killed for process in crewed.processes] == [True, True]


def test_a_process_that_cannot_be_started_leaves_none_behind() -> None:
    crewed = Crewed(scripts={"cuda:0": GOOD, "cuda:1": []}, units=clips(0))
    with pytest.raises(IndexError):
        crewed.run()
    assert [process.is_killed for process in crewed.processes] == [True]


def test_a_caller_that_goes_away_leaves_no_process_behind() -> None:
    crewed = Crewed(scripts={"cpu": GOOD, "xpu": LAZY}, units=clips(*range(20)))
    with closing(crewed.crew.outcomes()) as outcomes:
        next(outcomes)
    assert [process.is_killed for process in crewed.processes] == [True, True]


def test_an_outcome_that_comes_twice_counts_once() -> None:
    stray = Done(outcome=good(job("0.mp4")), meter=Meter())
    crewed = Crewed(scripts={"cpu": [{"first": [READY, stray, stray]}]}, units=clips(0, 1))
    assert paths(crewed.run()) == names(0, 1)


def test_what_processes_tell_is_passed_on() -> None:
    first = [Told(text="vllava: memory ran out."), Told(text="device: cpu.", is_detail=True), READY]
    crewed = Crewed(scripts={"cpu": [{"first": first}]}, units=clips(0))
    crewed.run()
    assert crewed.heard == [
        "vllava: memory ran out.",
        "detail: cpu: device: cpu.",
        "ready",
        "detail: cpu: loaded in 1.50 s, rows at once: 1.",
    ]


def test_what_was_counted_by_the_dead_counts_but_what_they_held_does_not() -> None:
    holding = {"rows_at_once": 2, "used_bytes": 5}
    crewed = Crewed(scripts={"cuda:0": [{"deadly": names(3), **holding}, holding]}, units=clips(*range(6)))
    totals = []
    for _ in crewed.crew.outcomes():
        totals.append((crewed.meter.clips, crewed.meter.rows_at_once, crewed.meter.used_bytes))
    assert totals == [(number, 2, 5) for number in range(1, 7)]
    assert crewed.meter == Meter(clips=6, rows_at_once=2)


@pytest.mark.parametrize(
    ("code", "ending"),
    [(0, "status 0"), (1, "status 1"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-200, "signal 200"), (None, "status None")],
)
def test_an_ending_has_a_name(code: int | None, ending: str) -> None:
    process = Process(exitcode=code)
    wire = cast(Connection, Wire(process.ours, process.hear))
    member = Member(device="cpu", process=cast(BaseProcess, process), wire=wire, restart=lambda: member)
    assert member.ending == ending


def test_devices_that_were_named_are_taken_as_they_are() -> None:
    assert devices(("cpu", "cuda:3")) == ("cpu", "cuda:3")
