"""A row has the same keys for an answer and for an error; JSON lines, CSV and TSV are read back as they were."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.parts import MAKING, STATS, answer, bad, job
from tests.refusals import refused
from vllava_cli.answers import Sampling
from vllava_cli.batch.jobs import FIRST_KEYS
from vllava_cli.batch.rows import (
    COLUMNS,
    ErrorKind,
    Format,
    JobError,
    Result,
    RunInfo,
    Table,
    check_fields,
    columns_of,
    fields_of,
    is_row,
    row_of,
    table_columns,
)
from vllava_cli.errors import (
    CheckpointError,
    ContextError,
    MediaError,
    MemoryShortError,
    OverflowedError,
    UsageError,
    VllavaError,
)

ABOUT = RunInfo(model="demo", revision="abc")
YES_OR_NO = replace(ABOUT, choices=("yes", "no"))


def test_a_row_has_every_key_in_order() -> None:
    said = answer(stats=replace(STATS, stray_tokens=2))
    result = Result(
        job=replace(job(id="7"), size=1234, mtime_ns=5),
        answer=said,
        times_s=(0.0, 1 / 3),
        seconds=1.23456,
        precision="fp32",
        making=MAKING,
    )
    row = row_of(result, ABOUT)
    assert tuple(row) == tuple(row_of(bad(), ABOUT)) == COLUMNS
    assert (row["frame_times_s"], row["revision"], row["seconds"]) == ([0.0, 0.3333], "abc", 1.2346)
    assert (row["stray"], row["seed"], row["made_with"]) == (2, 7, MAKING.row())
    assert row["clip_state"] == {"bytes": 1234, "mtime_ns": 5}

    greedy = replace(MAKING, sampling=Sampling(seed=7))
    choosing = replace(MAKING, sampling=Sampling(temperature=0.5, seed=7, choices=("yes", "no")))
    for making in (greedy, choosing):
        assert row_of(replace(result, making=making), ABOUT)["seed"] is None, "no seed was used"


def test_probabilities_and_then_further_fields_of_a_job_stand_behind_everything_else() -> None:
    chosen = Result(job=job(question_id=3, job_answer="cat"), answer=answer("yes", probabilities=(0.75, 0.25)))
    further = [("question_id", 3), ("job_answer", "cat")]
    behind = [("probabilities", {"yes": 0.75, "no": 0.25}), *further]
    assert list(row_of(chosen, YES_OR_NO).items())[len(COLUMNS) :] == behind
    assert list(row_of(chosen, ABOUT).items())[len(COLUMNS) :] == further
    assert row_of(bad(), YES_OR_NO)["probabilities"] is None


def test_a_row_of_a_batch_is_told_from_other_objects() -> None:
    row = row_of(Result(job=job(id="0" * 32), answer=answer()), ABOUT)
    assert is_row(row)
    assert is_row({**row, "further": 1})
    assert not is_row({**row, "id": "7"})
    for column in FIRST_KEYS:
        assert not is_row({key: value for key, value in row.items() if key != column})


@pytest.mark.parametrize(
    ("error", "name", "kind"),
    [
        (MediaError("Torn."), "here.mp4", "unreadable"),
        (MediaError("Torn."), "gone.mp4", "missing"),
        *((MediaError("Torn."), name, "missing") for name in ("x" * 300 + ".mp4", "a\0.mp4", "here.mp4/inner.mp4")),
        (UsageError("--start is late."), "here.mp4", "trim"),
        (ContextError("Too long."), None, "context"),
        (MemoryShortError("Too much."), None, "memory"),
        (OverflowedError("Infinite."), None, "overflow"),
        (UsageError("Empty."), None, "question"),
        (CheckpointError("It is torn."), None, "bug"),
    ],
)
def test_what_keeps_a_job_from_being_answered_has_a_kind(
    error: VllavaError, name: str | None, kind: ErrorKind, tmp_path: Path
) -> None:
    """Errors about a question have no name of a clip."""
    (tmp_path / "here.mp4").touch()
    found = JobError.of(error, tmp_path / name if name else None)
    assert found == JobError(kind=kind, message=str(error))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("first\nlast"), "RuntimeError: last"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError(), "ValueError"),
    ],
)
def test_our_own_bug_is_told_with_its_type_on_one_line(error: Exception, message: str) -> None:
    assert JobError.of(error) == JobError.of(error, Path("a.mp4")) == JobError(kind="bug", message=message)


PLAIN = (
    *("id", "path", "question", "answer", "stop_reason", "frame_times_s", "model", "revision", "precision"),
    *("seconds", "error", "stray", "seed", "clip_state", "made_with"),
)
JOBS = [job(question_id=1, kind="a"), job(kind="b", **{"meta.data": {"fps": 25}})]


def test_columns_are_those_of_all_rows_and_then_each_further_field_once() -> None:
    """A table has two objects only where they are named, and the bytes of paths only where one isn't UTF-8."""
    assert columns_of(JOBS, ABOUT) == (*PLAIN, "question_id", "kind", "meta.data")
    assert columns_of([], YES_OR_NO) == (*PLAIN, "probabilities")
    assert table_columns(JOBS, YES_OR_NO) == (*PLAIN[:-2], "probabilities", "question_id", "kind", "meta.data")
    odd = job("caf\udce9.mp4", split="test")
    assert table_columns([odd, job("b.mp4")], ABOUT) == ("id", "path", "path_bytes", *PLAIN[2:-2], "split")


@pytest.mark.parametrize(
    "field",
    [
        *("path", "error", "error.kind", "error.message", "question_id", "kind.of", "meta.data", "meta.data.fps"),
        *("probabilities", "probabilities.yes", "probabilities.a.b"),
        *("made_with", "made_with.device", "made_with.clips", "made_with.versions.torch", "made_with.sampling.top_p"),
        *("path_bytes", "clip_state", "clip_state.bytes"),
    ],
)
def test_fields_that_a_row_may_have_are_accepted(field: str) -> None:
    check_fields(("id", field), JOBS, replace(ABOUT, choices=("yes", "a.b")))
    check_fields((field + "x",), [], ABOUT)  # without jobs nobody knows their fields


@pytest.mark.parametrize(
    "field",
    ["anwser", "error.knd", "error.kind.of", "probabilities.no", "meta", "PATH", ".", "", "made_with.devic"],
)
def test_fields_that_would_be_empty_in_every_row_are_refused(field: str) -> None:
    assert refused(UsageError, check_fields, ("id", field), JOBS, replace(ABOUT, choices=("yes", "a.b"))) == (
        f"--fields names {field!r}, which no row has. Rows have {', '.join(PLAIN)}, probabilities, question_id, kind, "
        "meta.data."
    )
    with pytest.raises(UsageError, match="'probabilities', which no row has"):
        check_fields(("probabilities",), JOBS, ABOUT)


ROW = {
    "path": "a b.mp4",
    "answer": 'It\'s "red", 1\t2\\\r\nüm',
    "frame_times_s": [0, 0.5],
    "seconds": 1.25,
    "is_new": True,
    "error": None,
    "probabilities": {"yes": 0.75, "no": 0.25},
}
FAILED = {"path": "b.mp4", "answer": None, "error": {"kind": "missing", "message": "There is no file."}}
FIELDS = tuple(ROW)
AWKWARD = ["", "a,b", '"', "\n", "\r", "a\rb", "\r\n", "\t", "\\", "\\t", " a ", "\0", "\x1b[31m", "ü", "\u2028", "'=1"]


def test_json_lines_of_some_fields_have_them_in_that_order_and_null_for_what_is_not_there() -> None:
    assert list(Table("jsonl", ("error.kind", "path", "none", "probabilities.yes")).lines([FAILED, ROW])) == [
        '{"error.kind": "missing", "path": "b.mp4", "none": null, "probabilities.yes": null}\n',
        '{"error.kind": null, "path": "a b.mp4", "none": null, "probabilities.yes": 0.75}\n',
    ]


CSV = (
    "path,answer,frame_times_s,seconds,is_new,error,probabilities\n"
    'a b.mp4,"It\'s ""red"", 1\t2\\\r\nüm","[0,0.5]",1.25,true,,"{""yes"":0.75,""no"":0.25}"\n'
    'b.mp4,,,,,"{""kind"":""missing"",""message"":""There is no file.""}",\n'
)
TSV = (
    "path\tanswer\tframe_times_s\tseconds\tis_new\terror\tprobabilities\n"
    'a b.mp4\tIt\'s "red", 1\\t2\\\\\\r\\nüm\t[0,0.5]\t1.25\ttrue\t\t{"yes":0.75,"no":0.25}\n'
    'b.mp4\t\t\t\t\t{"kind":"missing","message":"There is no file."}\t\n'
)


@pytest.mark.parametrize(("format", "text"), [("csv", CSV), ("tsv", TSV)])
def test_csv_quotes_what_must_be_and_tsv_escapes_as_jq_does(format: Format, text: str) -> None:
    assert "".join(Table(format, FIELDS).lines([ROW, FAILED])) == text


def test_safe_cells_have_an_apostrophe_before_what_a_spreadsheet_would_compute() -> None:
    row = {"=a": "=1+1", "b": "+1", "c": "-x", "d": "@SUM(1)", "e": "\t=1", "f": "\r=1", "g": "a=1", "h": "'=1"}
    row |= {"i": -1.5}
    assert list(Table("tsv", tuple(row), is_safe=True).lines([row])) == [
        "'=a\tb\tc\td\te\tf\tg\th\ti\n",
        "'=1+1\t'+1\t'-x\t'@SUM(1)\t'\\t=1\t'\\r=1\ta=1\t'=1\t-1.5\n",
    ]
    assert list(Table("csv", ("=a", "i"), is_safe=True).lines([row])) == ["'=a,i\n", "'=1+1,-1.5\n"]
    assert list(Table("csv", ("=a", "i")).lines([row])) == ["=a,i\n", "=1+1,-1.5\n"]


def test_every_text_comes_back_from_csv_and_from_tsv() -> None:
    row = {str(number): text for number, text in enumerate(AWKWARD)}
    text = "".join(Table("csv", tuple(row)).lines([row, row]))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [list(row), AWKWARD, AWKWARD]
    names = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
    cells = Table("tsv", tuple(row)).line(row).removesuffix("\n").split("\t")
    found = []
    for cell in cells:
        letters = iter(cell)
        found.append("".join(names[next(letters)] if letter == "\\" else letter for letter in letters))
    assert found == AWKWARD


def test_fields_reach_inside_but_a_name_with_dots_comes_first() -> None:
    row = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}, "c.e": 4, "n": None}, "x.y": {"z": 5}, "t": "text", "l": [6]}
    found = {"a.b": 1, "a.c.d": 3, "a.c.e": 4, "x.y.z": 5}
    lacking = dict.fromkeys(("a.n", "a.b.c", "t.x", "l.0", "", ".", "a."))
    assert json.loads(Table("jsonl", (*found, *lacking)).line(row)) == found | lacking


@pytest.mark.parametrize("text", ["", " ", ",", "path,", ",path", "path,,answer"])
def test_fields_are_named_with_commas_between_and_an_empty_one_is_refused(text: str) -> None:
    assert fields_of(" path, error.kind ,a b") == ("path", "error.kind", "a b")
    said = refused(UsageError, fields_of, text)
    assert said == f"--fields {text!r} has an empty name. Give names separated by commas, like path,answer."


def test_a_file_has_all_lines_in_utf8_and_the_bytes_of_names_that_are_not() -> None:
    rows = [{"path": os.fsdecode(b"caf\xe9.mp4")}, {"path": "\ud800ü"}, {"path": "ü"}]
    assert "".join(Table("csv", ("path", "path_bytes")).lines(rows)) == (
        "path,path_bytes\ncaf\\xe9.mp4,Y2Fm6S5tcDQ=\n\\ud800ü,\nü,\n"
    )
