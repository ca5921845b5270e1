"""`vllava merge` as its users meet it: the whole, or a sentence and nothing written."""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.batch.parts import job
from tests.batch.parts import jobs as made_jobs
from tests.commands.shell import Shell
from vllava_cli.batch.jobs import Job, Shard, list_path, write_lists
from vllava_cli.batch.merge import Merge, ShardOutput, merged, mismatches, run
from vllava_cli.errors import LockedError, OutputError, ShardError, UsageError, VllavaError
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import Journal, line_of, read_rows

Run = Callable[..., Shell]
OUT = Path("all.jsonl")


pytestmark = pytest.mark.usefixtures("in_a_folder")


def asking(path: str, question: str = "What happens?") -> Job:
    return job(path, question)


def jobs(count: int) -> list[Job]:
    return [asking(f"{number}.mp4") for number in range(count)]


def row(job: Job, *, error: str | None = None) -> dict[str, object]:
    """What a batch writes, in short."""
    fault = {"kind": error, "message": "It failed."} if error else None
    answer = None if error else f"{job.path} moves."
    return {"id": job.id, "path": job.path, "question": job.question, "answer": answer, "error": fault}


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    path.write_bytes(b"".join(map(line_of, rows)))
    return path


def write_shards(all_jobs: Sequence[Job], of: int) -> list[Path]:
    """1.jsonl with 1.jsonl.jobs, 2.jsonl with … in the current folder, each with all of its rows."""
    parts = [Shard(number=number, of=of) for number in range(1, of + 1)]
    for part in parts:
        path = Path(f"{part.number}.jsonl")
        write_rows(path, (row(job) for job in all_jobs if part.has(job.id)))
        write_lists({part.number: list_path(path)}, of, all_jobs)
    return [Path(f"{part.number}.jsonl") for part in parts]


def merge(*shards: Path | str, out: Path = OUT, is_overwriting: bool = False, is_quiet: bool = False) -> str:
    """What it says."""
    pad = io.StringIO()
    request = Merge(out=out, shards=tuple(map(str, shards)), is_overwriting=is_overwriting)
    assert run(request, Screen(err=pad, is_quiet=is_quiet)) == 0
    return pad.getvalue()


def refused(*shards: Path | str, out: Path = OUT, is_overwriting: bool = False) -> VllavaError:
    """The error; no file was made, changed or left behind."""
    before = files()
    with pytest.raises(VllavaError) as caught:
        merge(*shards, out=out, is_overwriting=is_overwriting)
    assert files() == before
    return caught.value


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def without_lists(paths: list[Path]) -> list[Path]:
    for path in paths:
        list_path(path).unlink()
    return paths


def test_shards_become_one_journal_that_a_batch_can_go_on_with(shell: Run) -> None:
    all_jobs = jobs(1003)
    shards = write_shards(all_jobs, 4)
    failed = [row(job, error="missing") for job in all_jobs if Shard(number=3, of=4).has(job.id)]
    write_rows(shards[2], failed)
    done = shell("merge", "all.jsonl", *shards)
    assert done == Shell(
        code=0,
        out="",
        err=f"vllava: 1,003 jobs of 4 shards: {1003 - len(failed)} answers, {len(failed)} errors.\n"
        "vllava: The same batch with --retry-errors and -o all.jsonl tries the errors again.\n",
    )
    assert OUT.read_bytes() == b"".join(path.read_bytes() for path in shards)
    with Journal.open(OUT) as journal:
        assert len({found["id"] for found in journal.rows()}) == 1003
        journal.append(row(asking(path="another")))


def test_an_output_that_is_there_is_replaced_only_if_asked() -> None:
    shards = write_shards(jobs(9), 2)
    OUT.write_bytes(b'{"a": 1}\n')
    OUT.chmod(0o600)
    said = "'all.jsonl' is already there. Give --overwrite to replace it, or name another file."
    assert str(refused(*shards)) == said
    merge(*shards, is_overwriting=True)
    assert [found["path"] for found in read_rows(OUT)] == [f["path"] for path in shards for f in read_rows(path)]
    assert OUT.stat().st_mode & 0o777 == 0o600
    OUT.write_bytes(b"holiday video\n")
    assert str(refused(*shards, is_overwriting=True)) == "'all.jsonl' was not written by vllava. Name another file."


def test_a_file_that_is_being_written_is_refused_with_exit_code_75() -> None:
    shards = write_shards(jobs(9), 2)
    with Journal.open(shards[1]):
        error = refused(*shards)
    said = "'2.jsonl' is being written by another vllava. Wait until it ends."
    assert (type(error), error.exit_code, str(error)) == (LockedError, 75, said)
    merge(*shards)
    with Journal.open(OUT):
        assert isinstance(refused(*shards, is_overwriting=True), LockedError)


NO_LINES = "can't be the output: a file of JSON lines is written. Name one: all.jsonl."
ITS_OWN = "is one of the shards' files and can't be the output. Name another one."
TWICE = "is named twice. Name each shard once."
SAME = ("1.jsonl", "1.jsonl.jobs", "link")


@pytest.mark.parametrize(
    ("name", "out", "said"),
    [
        *((None, name, f"'{name}' {NO_LINES}") for name in ("-", "all.csv", "all.TSV")),
        *((None, name, f"'{name}' {ITS_OWN}") for name in (*SAME, "hard link")),
        (None, "./1.jsonl", f"'1.jsonl' {ITS_OWN}"),
        *((name, "all.jsonl", f"'{name}' {TWICE}") for name in SAME),
    ],
)
def test_the_output_and_the_shards_must_be_files_of_their_own(name: str | None, out: str, said: str) -> None:
    one, two = write_shards(jobs(4), 2)
    Path("link").symlink_to("1.jsonl")
    Path("hard link").hardlink_to("1.jsonl")
    error = refused(one, two, *([name] if name else []), out=Path(out), is_overwriting=True)
    assert (type(error), str(error)) == (UsageError, said)


def test_a_job_with_two_rows_is_refused_with_its_files() -> None:
    shards = write_shards(jobs(6), 2)
    double = next(read_rows(shards[0]))
    with Journal.open(shards[1]) as journal:
        journal.append(double)
    error = refused(*shards)
    assert (type(error), str(error)) == (
        ShardError,
        f"This job has two rows, in '1.jsonl' and '2.jsonl'. Leave one of them out.\n  {double['path']}: What happens?",
    )
    assert isinstance(refused(*without_lists(shards)), ShardError)
    write_rows(Path("a.jsonl"), [row(job) for job in [*jobs(3), *jobs(1)]])
    assert str(refused("a.jsonl")) == (
        "This job has two rows, in 'a.jsonl'. Leave one of them out.\n  0.mp4: What happens?"
    )


def test_jobs_without_a_row_are_refused_with_the_first_ten_and_the_shards_to_run_again() -> None:
    all_jobs = [asking(path=f"{number}\n.mp4", question=f"What\n{'is it ' * 30}?") for number in range(3000)]
    shards = write_shards(all_jobs, 3)
    first = [found["path"].replace("\n", "") for found in read_rows(shards[0])][-2:]
    write_rows(shards[0], list(read_rows(shards[0]))[:-2])
    count = sum(1 for _ in read_rows(shards[2]))
    third = [found["path"].replace("\n", "") for found in read_rows(shards[2])][:8]
    shards[2].unlink()
    asked = ("What " + "is it " * 30)[:100]
    error = refused(*shards)
    assert isinstance(error, ShardError)
    assert str(error).splitlines() == [
        f"{count + 2:,} of 3,000 jobs have no row. Run their shards again: "
        f"1/3 ('1.jsonl', 2 of them), 3/3 ('3.jsonl', {count:,} of them).",
        *(f"  {path.replace('.mp4', ' .mp4')}: {asked}…" for path in [*first, *third]),
        f"  and {count + 2 - 10:,} more",
    ]


def test_a_missing_shard_is_refused_by_its_number() -> None:
    shards = write_shards(jobs(60), 15)
    error = refused(*shards[:4], *shards[5:])
    assert (type(error), str(error)) == (ShardError, "Of the shards, 5/15 is missing. Name all 15 files.")
    assert str(refused(*shards[:3])) == (
        "Of the shards, 4/15, 5/15, 6/15, 7/15, 8/15, 9/15, 10/15, 11/15, 12/15, 13/15 and 2 more are missing. "
        "Name all 15 files."
    )


def test_shards_of_different_runs_are_refused() -> None:
    shards = write_shards(jobs(8), 2)
    others = {
        "8 others in 3": (jobs(8), 3),
        "9 others in 2": (jobs(9), 2),
        "8 others in 2": (jobs(9)[1:], 2),
    }
    for what, (all_jobs, of) in others.items():
        write_lists({2: Path("2.jsonl.jobs")}, of, all_jobs)
        error = refused(*shards)
        assert (type(error), str(error)) == (
            ShardError,
            f"'1.jsonl.jobs' and '2.jsonl.jobs' are of different runs: one has 8 jobs in 2 shards, the other "
            f"{what}. Run all shards again, with the same clips, questions and settings.",
        )


def test_rows_that_no_list_names_are_left_out_and_counted() -> None:
    shards = write_shards(jobs(5), 2)
    rows = files()
    with Journal.open(shards[0]) as journal:
        journal.extend([row(asking(path="0.mp4", question="Of yesterday?"))] * 2)
    with Journal.open(shards[1]) as journal:
        journal.append(row(asking(path="1.mp4", question="Of yesterday?")))
    assert merge(*shards) == (
        "vllava: 3 rows of clips that changed since, or of other runs, left out.\n"
        "vllava: 5 jobs of 2 shards: 5 answers, 0 errors.\n"
    )
    assert OUT.read_bytes() == rows["1.jsonl"] + rows["2.jsonl"]


def test_a_shard_without_a_list_may_be_the_one_that_is_missing_and_keeps_all_its_rows() -> None:
    all_jobs = jobs(30)
    one, two, three = write_shards(all_jobs, 3)
    write_rows(one, [*read_rows(one), *read_rows(two)])  # a row in the file of another shard counts
    write_rows(two, [])
    without_lists([three])
    assert str(refused(one, three)) == "Of the shards, 2/3, 3/3 are missing. Name all 3 files."
    assert merge(one, two, three).splitlines() == [
        "vllava: No list of jobs, .jobs, is beside 3.jsonl: jobs without a row can't be seen.",
        "vllava: 30 jobs of 3 shards: 30 answers, 0 errors.",
    ]


def test_without_lists_it_is_said_that_missing_jobs_can_not_be_seen() -> None:
    shards = without_lists(write_shards(jobs(60), 12))
    rows = b"".join(path.read_bytes() for path in shards)
    beside = ", ".join(f"{number}.jsonl" for number in range(1, 11))
    assert merge(*shards) == (
        f"vllava: No list of jobs, .jobs, is beside {beside} and 2 more: jobs without a row can't be seen.\n"
        "vllava: 60 jobs of 12 shards: 60 answers, 0 errors.\n"
    )
    assert OUT.read_bytes() == rows
    assert merge(*shards, out=Path("b.jsonl"), is_quiet=True) == ""
    assert merge(*write_shards(jobs(1), 1), out=Path("c.jsonl")) == "vllava: 1 job of 1 shard: 1 answer, 0 errors.\n"


def test_the_rows_of_a_table_are_taken_from_its_journal_by_either_name() -> None:
    one, two = write_shards(jobs(9), 2)
    rows = one.read_bytes() + two.read_bytes()
    for path in (one, two):
        path.rename(f"{path.stem}.csv.journal")
        list_path(path).rename(f"{path.stem}.csv.jobs")
    Path("1.csv").write_text("path,answer\n")
    assert merge("1.csv", "2.csv.journal") == "vllava: 9 jobs of 2 shards: 9 answers, 0 errors.\n"
    assert OUT.read_bytes() == rows
    assert isinstance(refused("1.csv", "1.csv.journal", out=Path("b.jsonl")), UsageError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "'a' can't be read: no such file or directory. Check the path, or name another file."),
        (b"holiday video\n", "'a' was not written by vllava. Name another file."),
        (b'{"type": "session"}\n', "'a' was not written by vllava batch: row 1 has no id. Name another file."),
        (b'{"id": "12"}\n', "'a' was not written by vllava batch: row 1 has no id. Name another file."),
    ],
)
def test_what_is_no_shard_is_refused(data: bytes | None, message: str) -> None:
    if data is not None:
        Path("a").write_bytes(data)
    assert str(refused(*write_shards(jobs(2), 2), "a")) == message
    Path("folder").mkdir()
    said = "'folder' has no parts of a batch. Name the folder given to -o, or the files."
    assert str(refused("folder")) == said


def test_shards_that_change_while_they_are_read_are_refused() -> None:
    one, two = write_shards(jobs(6), 2)
    whole_run = merged([ShardOutput.found(one), ShardOutput.found(two)])
    with Journal.open(one) as journal:
        journal.append(row(asking(path="new")))
    assert len(list(whole_run.rows())) == 6
    write_rows(two, [])
    with pytest.raises(OutputError) as caught:
        list(whole_run.rows())
    assert str(caught.value) == (
        "The shards changed while they were read. Merge them again when nothing writes to them."
    )


@contextmanager
def little_room() -> Iterator[None]:
    """No file may grow above 1,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("is_overwriting", [False, True])
def test_a_full_disk_leaves_everything_as_it_was(is_overwriting: bool) -> None:
    shards = write_shards(jobs(50), 2)
    if is_overwriting:
        OUT.write_bytes(b'{"a": 1}\n')
    with little_room():
        message = str(refused(*shards, is_overwriting=is_overwriting))
    assert message.startswith("'all.jsonl' can't be written: only 1,000 of ")
    assert message.endswith(" bytes could be written. Free some disk space, or name another file.")


def test_names_reach_the_terminal_without_control_characters(shell: Run) -> None:
    (shard,) = without_lists(write_shards([asking(path="a\x1b[31m.mp4")], 1))
    shard.rename("a\x1b]0;owned\x07\n.jsonl")
    done = shell("merge", "all\x1b[31m\n.jsonl", "a\x1b]0;owned\x07\n.jsonl")
    assert done.err == (
        "vllava: No list of jobs, .jobs, is beside a]0;owned .jsonl: jobs without a row can't be seen.\n"
        "vllava: 1 job of 1 shard: 1 answer, 0 errors.\n"
    )


def test_what_lacks_what_is_twice_and_what_is_foreign_is_told() -> None:
    every, foreign = made_jobs(15), made_jobs(1, question="Who?")
    there = [bytes.fromhex(job.id) for job in (every[0], every[0], *foreign)]
    assert not mismatches(every[:1], there[1:], before=there[2:]), "rows of earlier runs may stay"
    missing, twice, unknown = mismatches(every, there, before=())
    assert missing.startswith(f"14 without a row: {every[1].id} '1.mp4' 'Why?', ")
    assert missing.endswith(" … and 4 more.")
    assert twice == f"1 with two rows: {every[0].id}."
    assert unknown == f"1 of no job: {foreign[0].id}."
