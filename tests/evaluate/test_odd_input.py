"""Rows, right answers and outputs that nobody would expect end in one sentence, and nothing of the user's is lost."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands.shell import Shell
from tests.evaluate.judging import row, write
from tests.evaluate.reported import RED, asked, made_with, report
from tests.refusals import refused
from vllava_cli.errors import LockedError, OutputError, UsageError
from vllava_cli.evaluate.export import ExportRequest
from vllava_cli.evaluate.export import run as run_export
from vllava_cli.evaluate.records import Record, read_records
from vllava_cli.evaluate.report import ReportRequest
from vllava_cli.evaluate.report import run as run_report
from vllava_cli.evaluate.score import ScoreRequest
from vllava_cli.evaluate.score import run as run_score
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part

pytestmark = pytest.mark.usefixtures("in_a_folder")
ROW = row("a.mp4", choices=("red", "blue"), chances={"red": 0.75, "blue": 0.25}, job_answer="red", start_s=0.5)
ROWS = Path("rows.jsonl")


def quiet() -> Screen:
    return Screen(out=io.StringIO(), err=io.StringIO())


def read(file: Path = ROWS, gold: Path | None = None) -> list[Record]:
    return list(read_records([file], gold))


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"1" + b"]}" * (depth // 2)


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("path", None, "'path' is not text. Correct it in an editor, or leave the row out."),
        ("path", ["a.mp4"], "'path' is not text. Correct it in an editor, or leave the row out."),
        ("question", {"a": 1}, "'question' is not text. Correct it in an editor, or leave the row out."),
    ],
)
def test_a_path_and_a_question_are_texts(field: str, value: object, fault: str) -> None:
    write(ROWS, [ROW | {field: value}])
    assert refused(OutputError, read) == f"'rows.jsonl', row 1: {fault}"


@pytest.mark.parametrize("depth", [102, 900, 100_000])
def test_a_row_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    write(ROWS, [ROW])
    ROWS.write_bytes(ROWS.read_bytes() + ROWS.read_bytes().replace(b'"demo"', nested(depth)))
    # So deep that no reader of JSON reads it, a last line counts as torn.
    faults = ("'rows.jsonl', row 2 is nested too deeply. Leave the row out.", "can't be used: line 2 is damaged.")
    assert any(fault in refused(OutputError, read) for fault in faults)


def test_brackets_in_a_text_and_a_list_of_many_objects_are_no_depth() -> None:
    write(ROWS, [ROW | {"question": "[" * 1000, "subtitles": [{"at": [1]}] * 500}])
    assert read()[0].values["subtitles"] == [{"at": [1]}] * 500


def test_a_cell_that_is_nested_too_deeply_stays_text() -> None:
    Path("rows.csv").write_bytes(
        b"id,path,question,answer,job_answer\n"
        + f'{"0" * 32},a.mp4,What?,red,"'.encode()
        + b"[" * 150
        + b"]" * 150
        + b'"\n'
    )
    assert read(Path("rows.csv"))[0].gold == "[" * 150 + "]" * 150


def test_times_in_a_table_are_numbers() -> None:
    Path("rows.csv").write_text(f"id,path,question,answer,start_s,end_s\n{'0' * 32},a.mp4,What?,red,0.5,\n", "utf-8")
    assert [read(Path("rows.csv"))[0].values[key] for key in ("start_s", "end_s")] == [0.5, None]


def test_a_table_may_have_a_cell_as_large_as_a_row_and_no_column_twice() -> None:
    head, cells = "id,path,question,answer,notes", f"{'0' * 32},a.mp4,What?,red"
    Path("rows.csv").write_text(f"{head}\n{cells},{'x' * 200_000}\n", "utf-8")
    assert len(read(Path("rows.csv"))[0].values["notes"]) == 200_000
    Path("rows.csv").write_text(f"{head},answer\n{cells},x,blue\n", "utf-8")
    assert refused(OutputError, read, Path("rows.csv")).startswith(
        "'rows.csv' has two columns that are called 'answer'."
    )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([date(2026, 1, 2)]), "2026-01-02"),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array([[{"on": date(2026, 1, 2)}]]), [{"on": "2026-01-02"}]),
        (pa.array([[(1, 2)]], pa.map_(pa.int64(), pa.int64())), {"1": 2}),
        (pa.array(["a"]).dictionary_encode(), "a"),
    ],
)
def test_values_of_parquet_that_json_lacks_can_be_grouped_and_exported(column: Any, value: object) -> None:
    needed = {"id": ["0" * 32], "path": ["a.mp4"], "question": ["What?"], "answer": ["red"]}
    pq.write_table(pa.table(needed | {"type": column}), "rows.parquet")
    assert run_score(ScoreRequest(rows=(Path("rows.parquet"),), by=("type",)), quiet()) == 0
    request = ExportRequest(rows=(Path("rows.parquet"),), form="jsonl", output=Path("out.jsonl"))
    assert run_export(request, quiet()) == 0
    assert json.loads(Path("out.jsonl").read_bytes())["fields"]["type"] == value


def test_parquet_with_a_column_twice_is_refused() -> None:
    names = ["id", "path", "question", "answer", "answer"]
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 5, names=names), "rows.parquet")
    assert "two columns that are called 'answer'" in refused(OutputError, read, Path("rows.parquet"))


@pytest.mark.parametrize(
    ("gold", "right"),
    [(1.0, "blue"), ("1.0", "blue"), (1.5, None), ("9" * 5000, None), ("\u0661", None), (True, None)],
)
def test_places_that_pandas_made_decimals_are_read_and_odd_digits_arent(gold: object, right: str | None) -> None:
    write(ROWS, [ROW | {"job_answer": gold}])
    assert [each.right and each.gold for each in read()] == [right]


@pytest.mark.parametrize(
    "fields",
    [
        {"start_s": 10**400, "end_s": 1e308, "seconds": 10**400},
        {"frame_times_s": [1e308, 10**400, None]},
        {"start_s": -1e308, "end_s": 1e308, "title": "\ud800</title>"},
        {"model": "a\0b"},
        {"model": ["demo"], "made_with": made_with(start_s=10**400)},
        {"made_with": {"fit": "crop", "clips": [{"at_s": [1e9]}]}},
    ],
)
def test_absurd_numbers_in_a_row_give_a_page(fields: Mapping[str, Any], tmp_path: Path) -> None:
    page, _, _ = report(tmp_path, [asked(RED, "What is it?") | fields])
    assert "What is it?" in page.read_text("utf-8")


def commands(rows: Path, output: Path, gold: Path | None = None) -> list[Callable[[], int]]:
    """Each command that writes a file, over one that is there already."""
    return [
        lambda: run_export(
            ExportRequest(rows=(rows,), gold=gold, form="jsonl", output=output, is_overwriting=True), quiet()
        ),
        lambda: run_report(ReportRequest(rows=(rows,), gold=gold, output=output, is_overwriting=True), quiet()),
    ]


def test_no_input_is_overwritten_by_whatever_name() -> None:
    clip = Path("clip.mp4")
    clip.write_bytes(RED.read_bytes())
    write(ROWS, [asked(clip, "What is it?", question_id=1)])
    gold = Path("gold.json")
    gold.write_text('{"1": "red"}', "utf-8")
    Path("link").symlink_to(ROWS)
    os.link(gold, "hard")
    os.link(clip, "clip.html")
    before = {each: each.read_bytes() for each in (ROWS, gold, clip)}
    fault = "is read here and can't be the output, too. Name another file."
    for name in (ROWS, Path("link"), gold, Path("hard")):
        for run in commands(ROWS, name, gold):
            assert refused(OutputError, run) == f"'{name}' {fault}"
    for run in commands(ROWS, Path("clip.html")):
        assert refused(OutputError, run) == f"'clip.html' {fault}"
    assert {each: each.read_bytes() for each in before} == before


def test_what_is_read_twice_is_no_pipe() -> None:
    write(ROWS, [ROW])
    os.mkfifo("gold.json")
    os.mkfifo("other.jsonl")
    for request, fault in {
        ScoreRequest(rows=(ROWS,), gold=Path("gold.json")): "--gold is read more than once, and 'gold.json' can't be. ",
        ScoreRequest(rows=(ROWS,), against=Path("other.jsonl")): "--against reads rows twice, and other.jsonl can be ",
        ScoreRequest(rows=(Path("other.jsonl"),), against=ROWS): "--against reads rows twice, and other.jsonl can be ",
    }.items():
        assert refused(UsageError, run_score, request, quiet()).startswith(fault)


def test_a_report_is_no_folder_and_may_be_in_one_that_isnt_there_yet(tmp_path: Path) -> None:
    for name in (Path(), tmp_path):
        fault = refused(OutputError, report, tmp_path, [asked(RED, "What?")], output=name, is_overwriting=True)
        assert fault.endswith(" is a folder. Name a file.")
    assert report(tmp_path, [asked(RED, "What?")], output=tmp_path / "new/report.html")[0].exists()


def test_right_answers_of_another_kind_of_file_are_told_the_kinds() -> None:
    write(ROWS, [ROW])
    Path("gold.txt").write_text("red", "utf-8")
    kinds = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet."
    fault = f"--gold 'gold.txt' has an unknown ending: give one of {kinds}"
    assert refused(UsageError, read, ROWS, Path("gold.txt")) == fault


def test_two_reports_of_one_name_dont_remove_each_others_sheets(tmp_path: Path) -> None:
    with Part(tmp_path / "report.html"), pytest.raises(LockedError):
        report(tmp_path, [asked(RED, "What is it?")])
    assert not (tmp_path / "report.html.sheets").exists()


def test_sheets_arent_put_into_a_folder_behind_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{'0' * 64}.webp").write_bytes(b"mine")
    (tmp_path / "report.html.sheets").symlink_to(other)
    fault = refused(OutputError, report, tmp_path, [asked(RED, "What is it?")])
    assert fault.endswith("report.html.sheets' is a link. Remove it, or name another file with -o.")
    assert [each.name for each in other.iterdir()] == [f"{'0' * 64}.webp"]
    assert not (tmp_path / "report.html").exists()


def test_a_message_about_a_huge_value_keeps_its_end() -> None:
    write(ROWS, [ROW | {"answer": "x" * 100_000}])
    done = Shell.run("score", str(ROWS), folder=Path.cwd())
    assert (done.code, done.out) == (1, "") and len(done.err) < 3100
    assert done.err.endswith("none of its choices, red, blue. Correct it in an editor, or leave the row out.\n")


def test_a_plot_doesnt_replace_a_picture_that_was_asked_about() -> None:
    picture = Path("picture.png")
    picture.write_bytes(b"\x89PNG")
    write(ROWS, [ROW | {"path": "picture.png"}])
    fault = refused(OutputError, run_score, ScoreRequest(rows=(ROWS,), plot=picture, is_overwriting=True), quiet())
    assert fault.startswith("'picture.png' is read here") and picture.read_bytes() == b"\x89PNG"
