"""The list of a shard says which jobs it has, and what all shards have in common; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shards import Job, Part, jobs
from vllava_cli.batch.jobs import JobList, ListedJob, id_of, write_lists
from vllava_cli.errors import OutputError

PATH = Path("a.jsonl.jobs")
AGAIN = "Run that shard of vllava batch again."


pytestmark = pytest.mark.usefixtures("in_a_folder")


def rewritten(*lines: str) -> None:
    PATH.write_text("".join(lines))


def message_for(*lines: str) -> str:
    rewritten(*lines)
    with pytest.raises(OutputError) as caught:
        list(JobList.read(PATH).listed())
    return str(caught.value)


def test_a_list_has_the_jobs_of_its_shard_in_order_and_counts_those_of_all() -> None:
    all_jobs = [*jobs(40), Job(path="caf\udce9.mp4", question="Où?\n")]
    part = Part(number=2, of=3)
    own = [job for job in all_jobs if part.has(job.id)]
    write_lists({2: PATH}, 3, all_jobs)
    first, *others = map(json.loads, PATH.read_text().splitlines())
    checksum = f"{sum(int(job.id, 16) for job in all_jobs) % 2**128:032x}"
    assert first == {"type": "jobs", "shard": 2, "of": 3, "jobs": len(own), "all_jobs": 41, "checksum": checksum}
    assert others == [{"id": job.id, "path": job.path, "question": job.question} for job in own]
    found = JobList.read(PATH)
    assert found == JobList(path=PATH, shard=2, of=3, jobs=len(own), all_jobs=41, checksum=checksum)
    rows = [ListedJob(id=bytes.fromhex(job.id), path=job.path, question=job.question) for job in own]
    assert (list(found.listed()), list(found.listed())) == (rows, rows)


def test_other_jobs_have_another_checksum() -> None:
    checksums = set()
    for all_jobs in (
        jobs(2),
        [Job(path="0.mp4"), Job(path="2.mp4")],
        [Job(path="0.mp4", question="Why?"), *jobs(2)[1:]],
    ):
        write_lists({1: PATH}, 1, all_jobs)
        checksums.add(JobList.read(PATH).checksum)
    assert len(checksums) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"type": "session"},
        {"shard": 0},
        {"shard": 3},
        {"shard": True},
        {"of": "2"},
        {"jobs": -1},
        {"jobs": 11},
        {"all_jobs": None},
        {"checksum": 7},
    ],
    ids=str,
)
def test_a_first_row_that_says_something_else_is_refused(change: dict[str, object]) -> None:
    header = {"type": "jobs", "shard": 1, "of": 2, "jobs": 0, "all_jobs": 10, "checksum": "0" * 32}
    rewritten(json.dumps(header) + "\n")
    assert JobList.read(PATH).jobs == 0
    assert message_for(json.dumps(header | change) + "\n") == (
        f"'a.jsonl.jobs' can't be used as a list of jobs: its first row doesn't say whose jobs it lists. {AGAIN}"
    )


@pytest.mark.parametrize("change", [{"id": "1"}, {"path": 7}, {"question": None}], ids=str)
def test_a_row_that_is_no_job_is_refused(change: dict[str, object]) -> None:
    write_lists({1: PATH}, 1, jobs(3))
    header, first, second, third = PATH.read_text().splitlines(keepends=True)
    assert message_for(header, first, json.dumps(json.loads(second) | change) + "\n", third) == (
        f"'a.jsonl.jobs' can't be used as a list of jobs: line 3 is no job. {AGAIN}"
    )


def test_a_list_that_was_cut_short_or_added_to_is_refused() -> None:
    write_lists({1: PATH}, 1, jobs(3))
    lines = PATH.read_text().splitlines(keepends=True)
    counts = {"2": lines[:3], "0": lines[:1], "4": [*lines, lines[1]]}
    for count, kept in counts.items():
        assert message_for(*kept) == (
            f"'a.jsonl.jobs' can't be used as a list of jobs: it has {count} jobs instead of 3. {AGAIN}"
        )


@pytest.mark.parametrize(
    "id", [None, 7, "", "0" * 31, "0" * 33, "g" * 32, "00 " * 10 + "00", "\uff10" * 32, [0] * 32], ids=repr
)
def test_what_is_not_32_hex_digits_is_no_id(id: object) -> None:
    assert id_of({"id": id}) is None
    assert id_of({}) is None
