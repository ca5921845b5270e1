"""Where rows go, what counts as done, and what is never touched: real files, and a stdout that can be read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import ABOUT, MAKING, Reading, answer, bad, good, job
from tests.refusals import refused
from vllava_cli.batch import output
from vllava_cli.batch.jobs import FIRST_KEYS, Job
from vllava_cli.batch.output import Output
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import Format, Result, RunInfo, row_of
from vllava_cli.errors import LockedError, OutputError

JOBS = [job(f"{letter}.mp4", id=letter * 32) for letter in "abcd"]
A, B, C, D = JOBS


pytestmark = pytest.mark.usefixtures("in_a_folder")


def to(
    name: str | None = "out.jsonl", format: Format = "jsonl", fields: tuple[str, ...] = (), **flags: bool
) -> Destination:
    return Destination(path=Path(name) if name else None, format=format, fields=fields, **flags)


def foreseen(destination: Destination) -> Output:
    """What a dry run knows."""
    with output.opened(destination, JOBS, ABOUT, Reading().screen(), is_dry=True) as out:
        return out


CSV = to("out.csv", "csv", ("path", "answer", "error.kind"))


def put(destination: Destination, results: Sequence[Result], jobs: Sequence[Job] = JOBS) -> tuple[str, list[str]]:
    """(stdout, the ids that were done before) of a run that puts these results."""
    reading = Reading()
    with output.opened(destination, jobs, ABOUT, reading.screen()) as out:
        done = [each.id[0] for each in jobs if out.is_done(each)]
        for result in results:
            out.put(row_of(result, ABOUT))
        out.finish(jobs)
    return reading.out.getvalue(), done


def ids(name: str = "out.jsonl") -> list[str]:
    """The first letters of the ids in a file, capitals for errors."""
    rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
    return [row["id"][0].upper() if row["error"] else row["id"][0] for row in rows]


def test_rows_go_to_stdout_as_they_come_and_nothing_counts_as_done() -> None:
    written, done = put(to(None), [good(B), bad(A)])
    assert [json.loads(line)["path"] for line in written.splitlines()] == ["b.mp4", "a.mp4"]
    assert done == [] and not list(Path().iterdir())
    reading = Reading()
    with output.opened(to(None), JOBS, ABOUT, reading.screen()) as out:
        assert not out.is_kept and not out.had_failed(A)
        out.put(row_of(good(A), ABOUT))
        assert reading.out.getvalue().endswith("\n"), "a row waits for the end of the run"


def test_a_table_on_stdout_begins_with_its_header_and_has_the_fields_of_a_row() -> None:
    fields = ("path", "answer", "error.kind")
    assert put(to(None, "csv", fields), [good(B), bad(A)])[0] == (
        "path,answer,error.kind\nb.mp4,A dog.,\na.mp4,,unreadable\n"
    )
    assert put(to(None, "tsv", fields), [])[0] == "path\tanswer\terror.kind\n"
    assert put(to(None, "jsonl", fields), [good(B)])[0] == (
        '{"path": "b.mp4", "answer": "A dog.", "error.kind": null}\n'
    )
    header = put(to(None, "csv"), [], [job(split="test")])[0]
    assert header.startswith("id,path,question,") and header.endswith(",seconds,error,stray,seed,split\n")


def test_rows_are_kept_and_known_to_the_next_run() -> None:
    assert to("o.jsonl", fields=("path",)).journal_of(Path("o.jsonl")) == Path("o.jsonl.journal")
    assert put(to(), [good(B), bad(A)]) == ("", [])
    assert put(to(), [good(C)]) == ("", ["a", "b"])
    assert ids() == ["b", "A", "c"]
    with output.opened(to(), JOBS, ABOUT, Reading().screen()) as out:
        assert out.is_kept
        assert [out.had_failed(each) for each in JOBS] == [True, False, False, False]


def test_errors_are_forgotten_when_they_are_to_be_tried_again() -> None:
    put(to(), [good(B), bad(A), bad(C), bad(D)])
    assert put(to(is_retrying=True), [good(A)], [A, B])[1] == ["b"]
    assert ids() == ["b", "C", "D", "a"], "an error of a job that isn't asked for stays"
    changed = job(C.path, C.question, id="e" * 32)
    put(to(is_retrying=True), [good(changed)], [changed])
    assert ids() == ["b", "D", "a", "e"], "the error of a clip that has changed since is forgotten, too"
    with output.opened(to(is_retrying=True), JOBS, RunInfo(model="other", revision=None), Reading().screen()) as out:
        assert out.had_failed(D), "the error of another model stays"


def old(about: Job, error: str | None = None) -> dict[str, Any]:
    """A row as it was before rows said what they were made with."""
    row = row_of(bad(about) if error else good(about), ABOUT)
    return {key: row[key] for key in FIRST_KEYS}


def test_files_of_an_older_version_are_gone_on_with() -> None:
    rows = [old(A), old(B, "unreadable")]
    Path("out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert put(to(is_retrying=True), [good(B)]) == ("", ["a"])
    assert ids() == ["a", "b"]
    assert json.loads(Path("out.jsonl").read_text().splitlines()[0]) == rows[0]
    Path("out.csv.journal").write_text(json.dumps(rows[0]) + "\n")
    Path("out.csv").write_text("id\n")
    put(to("out.csv", "csv"), [Result(job=B, answer=answer(), precision="fp32", making=MAKING)], [A, B])
    head, first, second = csv.reader(Path("out.csv").read_text().splitlines())
    assert head[-4:] == ["seconds", "error", "stray", "seed"]
    assert (first[-4:], second[-4:]) == (["0.0", "", "", ""], ["0.0", "", "0", "7"])
    put(to("out.csv", "csv", ("id", "made_with.device", "made_with.clips")), [], [A, B])
    clips = json.dumps(MAKING.row()["clips"], separators=(",", ":"))
    assert list(csv.reader(Path("out.csv").read_text().splitlines()))[1:] == [[A.id, "", ""], [B.id, "cpu", clips]]


@pytest.mark.parametrize("content", ["hello\n", '{"id": "1"}\n', '{"id": "1"}\n{"id": "2"}\n', "a,b\n1,2\n"])
def test_a_file_of_something_else_is_refused_and_stays(content: str) -> None:
    Path("out.jsonl").write_text(content)
    for destination in (to(), to(is_retrying=True), to(is_overwriting=True)):
        said = refused(OutputError, put, destination, [good(A)])
        assert said == "'out.jsonl' was not written by vllava. Name another file."
        assert Path("out.jsonl").read_text() == content


def test_a_table_is_written_at_the_end_in_the_order_of_the_jobs_with_older_rows_behind() -> None:
    put(CSV, [good(D)], [D])
    before = Path("out.csv").read_text()
    with pytest.raises(KeyboardInterrupt), output.opened(CSV, JOBS, ABOUT, Reading().screen()) as out:
        out.put(row_of(bad(C), ABOUT))
        with pytest.raises(LockedError):
            put(CSV, [])
        raise KeyboardInterrupt
    assert Path("out.csv").read_text() == before, "a run that died has written the table"
    assert put(CSV, [good(A)], [A, B, C]) == ("", ["c"])
    assert Path("out.csv").read_text() == "path,answer,error.kind\na.mp4,A dog.,\nc.mp4,,unreadable\nd.mp4,A dog.,\n"
    assert ids("out.csv.journal") == ["d", "C", "a"]


def test_a_table_that_may_be_something_else_is_refused_before_the_run_and_stays() -> None:
    Path("out.csv").write_text("mine\n")
    for attempt in (lambda: put(CSV, [good(A)]), lambda: foreseen(CSV)):
        assert refused(OutputError, attempt) == (
            "'out.csv' is there already, without the journal of a batch beside it. Name another file, or replace it "
            "with --overwrite."
        )
    assert [path.name for path in Path().iterdir()] == ["out.csv"]
    assert Path("out.csv").read_text() == "mine\n"
    put(to("out.csv", "csv", ("path",), is_overwriting=True), [good(A)])
    assert Path("out.csv").read_text() == "path\na.mp4\n"
    Path("a folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"^'a folder\.csv' is a folder\. Name a file\.$"):
        put(to("a folder.csv", "csv"), [])
    assert not Path("a folder.csv.journal").exists()


@pytest.mark.parametrize(
    ("destination", "done"),
    [
        (to(), {"a": False, "b": True}),
        (to(is_retrying=True), {"a": False}),
        (to(is_overwriting=True), {}),
        (to("new.jsonl"), {}),
        (to(None), {}),
    ],
)
def test_what_a_run_would_know_can_be_foreseen_without_a_trace(
    destination: Destination, done: Mapping[str, Any]
) -> None:
    put(to(), [good(A), bad(B)])
    before = Path("out.jsonl").read_bytes()
    out = foreseen(destination)
    out.finish(JOBS)
    assert {each.id[0]: out.had_failed(each) for each in JOBS if out.is_done(each)} == done
    assert Path("out.jsonl").read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["out.jsonl"]
