"""Rows from each output of a batch are the same records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.shell import Shell
from tests.evaluate.judging import row, write
from tests.refusals import refused
from vllava_cli.batch.rows import Table, write_parquet
from vllava_cli.errors import OutputError
from vllava_cli.evaluate.records import Record, read_records
from vllava_cli.storage.jsonl import line_of

pytestmark = pytest.mark.usefixtures("in_a_folder")
FIELDS = ("id", "path", "question", "answer", "error", "probabilities", "job_answer", "task")
CHANCES = {'the "red"': 0.75, "a\tb": 0.25}
ROWS = [
    row("a.mp4", answer='the "red"', chances=CHANCES, job_answer="a\tb", task="x, y"),
    row("b\\n.mp4", 'Say "no"\nor \\t', error="unreadable", chances=CHANCES, job_answer="a\tb", task="z"),
    row("c.mp4", answer="a\tb", chances=CHANCES, job_answer="a\tb", task="1"),
]


def facts(record: Record) -> tuple[Any, ...]:
    its = (record.id, record.path, record.question, record.answer, record.choices, record.chosen, record.probabilities)
    return (*its, record.gold, record.right, record.error, record.values["task"])


def records(*files: str | Path, told: list[str] | None = None) -> list[tuple[Any, ...]]:
    return [facts(each) for each in read_records(list(map(Path, files)), notice=(told or []).append)]


def test_every_output_of_a_batch_gives_the_same_records() -> None:
    write(Path("rows.jsonl"), ROWS)
    for ending in ("csv", "tsv"):
        Path(f"rows.{ending}").write_text("".join(Table(ending, FIELDS).lines(ROWS)), encoding="utf-8", newline="")
    write_parquet(Path("rows.parquet"), ROWS, ("probabilities", "job_answer", "task"))
    parts = Path("parts")
    parts.mkdir()
    write(parts / "part-00001-of-00002.jsonl", ROWS[:2])
    write(parts / "part-00002-of-00002.jsonl", ROWS[2:])
    Path("parts/notes.txt").touch()
    expected = records("rows.jsonl")
    assert [each[3] for each in expected] == ['the "red"', None, "a\tb"]
    assert [each[7:10] for each in expected] == [("a\tb", 1, None), ("a\tb", None, "unreadable"), ("a\tb", 1, None)]
    for name in ("rows.csv", "rows.tsv", "rows.parquet", "parts"):
        assert records(name) == expected, name


def test_an_empty_answer_of_a_table_is_an_answer() -> None:
    rows = [row(answer="")]
    Path("rows.csv").write_text("".join(Table("csv", FIELDS).lines(rows)), encoding="utf-8", newline="")
    (found,) = read_records([Path("rows.csv")])
    assert (found.answer, found.error) == ("", None)


def test_rows_come_over_a_pipe(tmp_path: Path) -> None:
    done = Shell.run("score", "-", folder=tmp_path, stdin=b"".join(map(line_of, ROWS)))
    assert (done.code, done.err) == (0, "") and done.out.startswith(
        "rows           3 about 3 clips: 2 answers, 1 error"
    )


def test_a_torn_last_row_is_left_out_and_said() -> None:
    whole = write(Path("rows.jsonl"), ROWS).read_bytes()
    Path("rows.jsonl").write_bytes(whole[:-40])
    told = ["first"]
    assert len(records("rows.jsonl", told=told)) == 2
    assert told[1:] == ["vllava: The last line of 'rows.jsonl' is torn: line 3 is left out."]


def test_a_name_that_isnt_unicode_is_restored_also_by_the_fast_reader() -> None:
    write(Path("rows.jsonl"), [row("caf\udce9.mp4")])
    assert [each.path for each in read_records([Path("rows.jsonl")])] == ["caf\udce9.mp4"]


GOOD = line_of(ROWS[0])


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"video": "a.mp4"}\n', "'rows.jsonl', row 1 has no 'id'. Name what vllava batch wrote, with the fields "),
        (GOOD.replace(b'"answer": ', b'"reply": '), "'rows.jsonl', row 1 has no 'answer'. Name what vllava batch "),
        (b"an,id\n1,2\n", "'rows.jsonl' was not written by vllava. Name another file."),
        (GOOD + b"{]\n" + GOOD, "'rows.jsonl' can't be used: line 2 is damaged. Correct it in an editor, or name "),
        (
            GOOD + GOOD.replace(b"0.75", b"NaN"),
            "'rows.jsonl', row 2: 'probabilities' has NaN or an infinity. ",
        ),
        (GOOD.replace(b'"z"', b"1").replace(b'"x, y"', b"-Infinity"), "'rows.jsonl', row 1: 'task' has NaN or an inf"),
        (GOOD + GOOD, f"'rows.jsonl', row 2 has the id {ROWS[0]['id']}, as a row before it. Leave one of them out."),
        (GOOD.replace(b'"id": "', b'"id": "x'), "'rows.jsonl', row 1: 'id' is not the id of a job. Name what vllava "),
    ],
)
def test_what_isnt_the_output_of_a_batch_is_refused(data: bytes, fault: str) -> None:
    Path("rows.jsonl").write_bytes(data)
    assert refused(OutputError, records, "rows.jsonl").startswith(fault)


def test_files_that_arent_tables_or_folders_of_parts_are_refused() -> None:
    Path("empty").mkdir()
    Path("rows.parquet").write_bytes(b"PAR1")
    Path("rows.csv").write_text('id,path,question,answer\n"1",2\n', encoding="utf-8")
    for name, fault in {
        "empty": "'empty' has no parts of a batch. Name the folder given to -o, or the files.",
        "rows.parquet": "'rows.parquet' is not a Parquet file. Name what vllava batch wrote.",
        "rows.csv": "'rows.csv', row 1 has 2 cells, the header 4.",
        "gone.jsonl": "'gone.jsonl' can't be read: no such file or directory. Check the path, or name another file.",
    }.items():
        assert refused(OutputError, records, name) == fault


def test_two_rows_of_two_files_with_one_id_are_refused() -> None:
    write(Path("a.jsonl"), ROWS[:1]), write(Path("b.jsonl"), ROWS)
    assert refused(OutputError, records, "a.jsonl", "b.jsonl").startswith("'b.jsonl', row 1 has the id ")


def test_without_orjson_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("rows.jsonl"), ROWS)
    expected = records("rows.jsonl")
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert records("rows.jsonl") == expected
