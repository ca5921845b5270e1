"""Rows of clips that were changed or touched since: real files, and the output that a run goes on with."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import MAKING, Reading, answer
from vllava_cli.batch import output
from vllava_cli.batch.jobs import Job, JobRequest, Shard, make_jobs
from vllava_cli.batch.output import Destination
from vllava_cli.batch.rows import JobError, Result, RunInfo, row_of
from vllava_cli.media.fingerprint import fingerprint

ABOUT = RunInfo(model="demo", revision=None, signature="demo, greedy")
OUT = Path("out.jsonl")


@pytest.fixture(autouse=True)
def inside(in_a_folder: Path) -> None:  # noqa: ARG001
    for name in "abc":
        Path(name).write_text(f"clip {name}")


def jobs_about(*paths: str, questions: Sequence[str] = ("Why?",), about: RunInfo = ABOUT) -> list[Job]:
    wanted = (JobRequest(path=path, question=question) for path in paths for question in questions)
    return make_jobs(wanted, about.signature)


def answered(job: Job, *, is_hashed: bool = False) -> Result:
    print = fingerprint(Path(job.path))
    clip = replace(MAKING.clips[0], bytes=print.bytes, sha256=print.sha256 if is_hashed else None)
    return Result(job=job, answer=answer(f"{job.path}."), making=replace(MAKING, clips=(clip,)))


def failed(job: Job) -> Result:
    return Result(job=job, error=JobError(kind="unreadable", message="It can't be read."))


def run(
    jobs: Sequence[Job],
    *,
    path: Path = OUT,
    is_hashed: bool = False,
    is_pruning: bool = False,
    about: RunInfo = ABOUT,
    every: Sequence[Job] = (),
) -> tuple[list[str], str]:
    """(paths that were answered anew, what was said) of a run that answers what has no row yet."""
    reading = Reading()
    destination = Destination(path=path, format="csv" if path.suffix == ".csv" else "jsonl", is_pruning=is_pruning)
    with output.opened(destination, jobs, about, reading.screen(), every=every) as out:
        todo = [job for job in jobs if not out.is_done(job)]
        for job in todo:
            out.put(row_of(answered(job, is_hashed=is_hashed), about))
        out.finish(jobs)
    return [job.path for job in todo], reading.err.getvalue()


def rows(path: Path = OUT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def touch(name: str, text: str | None = None) -> None:
    """Changes it; without a text only its time of change is another one."""
    before_ns = Path(name).stat().st_mtime_ns
    if text is not None:
        Path(name).write_text(text)
    os.utime(name, ns=(before_ns + 10**9, before_ns + 10**9))


@pytest.mark.parametrize("path", [OUT, Path("out.csv")])
def test_pruning_drops_them_and_nothing_else(path: Path) -> None:
    run(jobs_about("a", "b"), path=path)
    run(jobs_about("a", questions=("Who?",)), path=path)
    other = replace(ABOUT, signature="demo, warm")
    run(jobs_about("a", about=other), path=path, about=other)
    touch("a", "clip A")
    told = f"vllava: 1 row in '{path}' of clips that have changed since: dropped.\n"
    assert run(jobs_about("a", "b"), path=path, is_pruning=True) == (["a"], told)
    journal = Path("out.csv.journal") if path.suffix == ".csv" else path
    kept = [(row["path"], row["question"]) for row in rows(journal)]
    assert kept == [("b", "Why?"), ("a", "Who?"), ("a", "Why?"), ("a", "Why?")]
    if path.suffix == ".csv":
        assert sorted(row["id"] for row in csv.DictReader(path.open())) == sorted(row["id"] for row in rows(journal))
    assert run(jobs_about("a", "b"), path=path, is_pruning=True) == ([], "")


def test_an_error_of_a_clip_that_came_or_was_mended_is_pruned_and_an_answer_of_a_lost_one_is_not() -> None:
    (gone, broken), lost = jobs_about("d", "b"), jobs_about("c")
    OUT.write_text("".join(json.dumps(row_of(failed(job), ABOUT)) + "\n" for job in (gone, broken)))
    run(lost)
    Path("d").write_text("clip d")
    touch("b", "mended")
    Path("c").unlink()
    jobs = jobs_about("d", "b", "c")
    reading = Reading()
    with output.opened(Destination(path=OUT, is_pruning=True), jobs, ABOUT, reading.screen()) as out:
        assert not any(map(out.is_done, jobs))
    assert [row["path"] for row in rows()] == ["c"]


def test_the_row_of_a_touched_clip_counts_where_its_hash_is_known() -> None:
    questions = ("Why?", "Who?", "Why?")
    run(jobs_about("a", "b", questions=questions), is_hashed=True)
    before = rows()
    touch("a")
    jobs = jobs_about("a", "b", questions=questions)
    told = "vllava: 3 rows in 'out.jsonl' of clips whose time of change differs, but not their content: kept.\n"
    assert run(jobs) == ([], told)
    assert [row["id"] for row in rows()] == ids(jobs)
    state = {"bytes": 6, "mtime_ns": Path("a").stat().st_mtime_ns}
    expected = [row | {"id": job.id, "clip_state": job.state} for row, job in zip(before, jobs, strict=True)]
    assert rows() == expected and rows()[0]["clip_state"] == state
    assert run(jobs) == ([], "")
    touch("a", "clip A")
    answered_anew, told = run(jobs_about("a"), is_hashed=True)
    assert answered_anew == ["a"] and "have changed since: kept" in told, "other bytes of the same size are the same"


def test_of_two_rows_of_a_touched_clip_one_counts() -> None:
    run(jobs_about("a"), is_hashed=True)
    first = OUT.read_bytes()
    touch("a")
    OUT.unlink()
    run(jobs_about("a"), is_hashed=True)
    OUT.write_bytes(first + OUT.read_bytes())
    touch("a")
    assert run(jobs_about("a")) == (
        [],
        "vllava: 1 row in 'out.jsonl' of clips whose time of change differs, but not their content: kept.\n"
        "vllava: 1 row in 'out.jsonl' of clips that have changed since: kept, --prune drops them.\n",
    )
    assert run(jobs_about("a"), is_pruning=True)[0] == [] and ids(jobs_about("a")) == [row["id"] for row in rows()]


def test_a_shard_tells_of_rows_whose_jobs_went_to_another_one() -> None:
    for number, name in enumerate("abc"):  # ids follow from times: these give jobs that stay and jobs that go
        os.utime(name, ns=(number, number))
    every = jobs_about("a", "b", "c", questions=[f"{number}?" for number in range(8)])
    shard = Shard(number=1, of=2)
    mine = [job for job in every if shard.has(job.id)]
    run(mine, is_hashed=True, every=every)
    for name in "abc":
        touch(name)
    every = jobs_about("a", "b", "c", questions=[f"{number}?" for number in range(8)])
    now = [job for job in every if shard.has(job.id)]
    before = {(row["path"], row["question"]) for row in rows()}
    stays = [job for job in now if (job.path, job.question) in before]
    moved = len(mine) - len(stays)
    assert stays and moved, "other ids are needed"
    answered_anew, told = run(now, is_pruning=True, every=every)
    assert len(answered_anew) == len(now) - len(stays)
    assert f"{moved} row" in told and "dropped" in told
    assert sorted(row["id"] for row in rows()) == sorted(ids(now))


@pytest.mark.parametrize("state", [5, {}, {"bytes": "6", "mtime_ns": None}, {"bytes": 6}])
def test_a_row_that_says_nothing_of_its_clip_is_left_alone(state: object) -> None:
    run(jobs_about("a"), is_hashed=True)
    (row,) = rows()
    for edited in (
        row | {"clip_state": state},
        {key: row[key] for key in row if key not in ("clip_state", "made_with")},
    ):
        OUT.write_text(json.dumps(edited) + "\n")
        touch("a")
        assert run(jobs_about("a"), is_pruning=True) == (["a"], "")
