"""Memory that runs out costs time and no answer: every query comes back once, and fails only where it was alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from weakref import ReferenceType, ref

import pytest
import torch

from tests.engine.batches import (
    OWN_CHOICES,
    QUESTIONS,
    Job,
    Pass,
    Said,
    Shortage,
    as_asked,
    crossed,
    is_within,
    portions,
    run,
    said,
    shuffled,
    streamed,
    trickle,
    watched,
)
from tests.engine.engines import after
from vllava_cli.answers import Sampling
from vllava_cli.engine.batch import BatchScheduler
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import Frames

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLING = Sampling(max_new_tokens=12, has_guard=False)
TOLD = (
    "The memory of cpu ran out while the model worked; the plan counted 0.0 GiB for float32, "
    "and 3.0 GiB are free now: close other programs, or try --precision 4bit."
)


@pytest.fixture(autouse=True)
def free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.engine.forward.free_ram_bytes", lambda: 3 << 30)


@pytest.fixture(scope="module")
def jobs(media: tuple[Frames, ...]) -> list[Job]:
    return shuffled(crossed(media[:5], QUESTIONS[:5]), 3)


@pytest.fixture(scope="module")
def wanted(jobs: list[Job], ending_engine: Engine) -> dict[Job, Said]:
    return said(streamed(ending_engine, jobs, SAMPLING))


def short_of(rows: int) -> Callable[[Pass], None]:
    """No room for more than so many rows."""

    def see(each: Pass) -> None:
        if each.rows > rows:
            raise torch.OutOfMemoryError("no room")

    return see


@pytest.mark.parametrize(
    ("most_rows", "rows", "shortages"), [(8, 3, [4, 2]), (32, 3, [2]), (4, 4, []), (2, 1, [1]), (7, 1, [3, 1])]
)
def test_rows_are_halved_until_they_fit(
    most_rows: int, rows: int, shortages: list[int], jobs: list[Job], wanted: dict[Job, Said], ending_engine: Engine
) -> None:
    with watched(ending_engine, short_of(rows)):
        batch = run(ending_engine, SAMPLING, as_asked(jobs), most_rows=most_rows)
    assert (batch.said, batch.shortages, batch.faults) == (wanted, shortages, {})


def test_choices_are_scored_in_smaller_batches(jobs: list[Job], ending_engine: Engine) -> None:
    """Rows with and without choices are read together, and those with several tokens are fed for each row at once."""
    wanted = said(streamed(ending_engine, jobs, SAMPLING, OWN_CHOICES))
    with watched(ending_engine, short_of(3)):
        batch = run(ending_engine, SAMPLING, as_asked(jobs, None, OWN_CHOICES), most_rows=8)
    assert (batch.said, batch.faults) == (wanted, {})
    assert batch.shortages


@pytest.mark.parametrize("place", ["log_likelihoods", "BatchScheduler._decode"])
@pytest.mark.parametrize("operations", [0, 7, 40])
def test_memory_that_runs_out_between_scoring_and_decoding_loses_no_row(
    operations: int, place: str, jobs: list[Job], ending_engine: Engine
) -> None:
    wanted = said(streamed(ending_engine, jobs, SAMPLING, OWN_CHOICES))
    left = iter([*[False] * operations, True])
    with Shortage(lambda: is_within(place) and next(left, False)) as shortage:
        batch = run(ending_engine, SAMPLING, as_asked(jobs, None, OWN_CHOICES), most_rows=8)
    assert (shortage.count, batch.said, len(batch.shortages)) == (1, wanted, 1)


def shows(engine: Engine, medium: Frames) -> Callable[[Pass], bool]:
    """Whether a pass reads this medium."""
    seen = engine.vision.features(medium, "crop")[0]
    return lambda each: each.embedded is not None and bool((each.embedded == seen).all(dim=-1).any())


@pytest.mark.parametrize("most_rows", [1, 8])
def test_a_clip_that_is_too_large_by_itself_is_the_fault_of_its_own_questions(
    most_rows: int, jobs: list[Job], wanted: dict[Job, Said], ending_engine: Engine
) -> None:
    large = jobs[7][0]
    is_large = shows(ending_engine, large)

    def see(each: Pass) -> None:
        if is_large(each):
            raise torch.OutOfMemoryError("no room")

    with watched(ending_engine, see):
        batch = run(ending_engine, SAMPLING, as_asked(jobs), most_rows=most_rows)
    assert {job: (type(fault), str(fault)) for job, fault in batch.faults.items()} == {
        job: (MemoryShortError, TOLD) for job in jobs if job[0] is large
    }
    assert batch.said == {job: text for job, text in wanted.items() if job[0] is not large}


def test_the_others_go_on_as_before_a_row_that_failed_alone(jobs: list[Job], ending_engine: Engine) -> None:
    videos = [job for job in jobs if job[0].kind == "video"]
    is_large = shows(ending_engine, videos[0][0])
    sizes: list[int] = []

    def see(each: Pass) -> None:
        sizes.append(each.rows)
        if is_large(each):
            sizes.clear()
            raise torch.OutOfMemoryError("no room")

    others = [job for job in videos if job[0] is not videos[0][0]]
    with watched(ending_engine, see):
        batch = run(ending_engine, SAMPLING, as_asked([videos[0], *others]), most_rows=8)
    assert (batch.shortages, max(sizes)) == ([4, 2, 1, 8], 8)


@pytest.mark.parametrize("place", ["DecodeBatch.leave", "DecodeBatch.join"])
@pytest.mark.parametrize("operations", [0, 3, 9, 20])
def test_memory_that_runs_out_in_the_middle_of_a_change_of_rows_loses_none(
    operations: int, place: str, jobs: list[Job], wanted: dict[Job, Said], ending_engine: Engine
) -> None:
    left = iter([*[False] * operations, True])
    with Shortage(lambda: is_within(place) and next(left, False)) as shortage:
        batch = run(ending_engine, SAMPLING, trickle(jobs), most_rows=8)
    assert (shortage.count, batch.said, len(batch.shortages)) == (1, wanted, 1)


def test_memory_that_runs_out_for_good_is_a_fault_of_each(jobs: list[Job], ending_engine: Engine) -> None:
    with watched(ending_engine, short_of(0)):
        batch = run(ending_engine, SAMPLING, as_asked(jobs[:5]), most_rows=4)
    assert {job: str(fault) for job, fault in batch.faults.items()} == dict.fromkeys(jobs[:5], TOLD)


def test_rows_that_were_begun_are_finished_though_memory_ran_out_before_the_stop(
    jobs: list[Job], random_engine: Engine
) -> None:
    """They wait, once more, when it comes."""
    wanted = said(streamed(random_engine, jobs[:4], SAMPLING))
    is_due = after(9)
    ran_out: list[int] = []

    def see(each: Pass) -> None:
        if not ran_out and is_due():
            ran_out.append(each.rows)
            raise torch.OutOfMemoryError("no room")

    with watched(random_engine, see):
        batch = run(random_engine, SAMPLING, as_asked(jobs), most_rows=4, is_stopping=lambda: bool(ran_out))
    assert (ran_out, batch.said, batch.shortages) == ([4], wanted, [2])


@pytest.mark.parametrize("most_rows", [1, 4])
def test_nothing_of_a_pass_that_ran_out_is_held_when_it_is_told(
    most_rows: int, jobs: list[Job], ending_engine: Engine
) -> None:
    """Its error would: the frames that it came through, and all tensors in these."""
    held: list[ReferenceType[torch.Tensor]] = []
    is_due = after(1)

    def see(each: Pass) -> None:
        if each.embedded is not None and not held:
            held.append(ref(each.embedded))
        if is_due():
            raise torch.OutOfMemoryError("no room")

    batching = BatchScheduler[Job](
        engine=ending_engine,
        sampling=SAMPLING,
        fit="crop",
        most_rows=most_rows,
        on_shortage=lambda _: alive.append(held[0]() is not None),
    )
    alive: list[bool] = []
    with watched(ending_engine, see):
        for finished in batching.answers(as_asked(jobs[:4])):
            alive.append(held[0]() is not None)
            assert finished.fault
            assert finished.fault.__traceback__ is None
    assert len(alive) >= 4
    assert not any(alive)


@pytest.mark.parametrize("seed", range(16))
def test_nothing_is_lost_and_nothing_comes_twice_whenever_memory_runs_out(
    seed: int, jobs: list[Job], wanted: dict[Job, Said], ending_engine: Engine
) -> None:
    chance = random.Random(seed)
    rate = chance.choice([1 / 300, 1 / 1000, 1 / 3000])
    most_rows = chance.choice([1, 2, 5, 8, 16])
    source = chance.choice([trickle(jobs, seed), as_asked(jobs), portions([jobs])])
    with Shortage(lambda: chance.random() < rate) as shortage:
        batch = run(ending_engine, SAMPLING, source, most_rows=most_rows)
    assert batch.found.keys() == wanted.keys()
    assert batch.said == {job: text for job, text in wanted.items() if job not in batch.faults}
    rows = [most_rows, *batch.shortages]
    halvings = [after for before, after in itertools.pairwise(rows) if after < before]
    assert shortage.count == len(halvings) + len(batch.faults) > 0
