"""A Parquet file of jobs gives the same rows as the JSON that it was made of; what JSON can't hold is left out."""

from __future__ import annotations

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.refusals import refused
from vllava_cli.batch.job_files import requests_in
from vllava_cli.batch.job_readers import Location, rows
from vllava_cli.batch.jobs import JobRequest
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Window

pytestmark = pytest.mark.usefixtures("in_a_folder")
JOBS = Path("jobs.parquet")


def write(table: list[dict[str, Any]] | dict[str, Any], schema: Any = None, **named: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    made = pa.Table.from_pylist(table, schema=schema) if isinstance(table, list) else pa.table(table)
    pq.write_table(made, JOBS, **named)


def test_a_parquet_file_is_read_as_jobs() -> None:
    write(
        [
            {"video_id": "001", "video": "a.mp4", "question": "Who?", "options": ["A. Ann", "B. Bo"], "start": 1.0},
            {"video_id": "002", "video": "b.mp4", "question": "Why?", "options": None, "start": float("nan")},
        ]
    )
    assert list(requests_in(JOBS, stdin=None, videos=(), questions=())) == [
        JobRequest(
            path="a.mp4",
            question="Who?",
            fields={"video_id": "001"},
            choices=("Ann", "Bo"),
            window=Window(start_s=1.0, end_s=float("inf")),
        ),
        JobRequest(path="b.mp4", question="Why?", fields={"video_id": "002", "options": None}),
    ]


def test_values_become_those_of_json_and_bytes_are_left_out_once() -> None:
    values = {
        "video": {"bytes": b"\0\xff", "path": "a.mp4"},
        "day": date(2024, 5, 1),
        "score": Decimal("1.50"),
        "nested": {"a": [{"x": 1.5}, None], "at": [date(2024, 5, 2)]},
        "none": None,
        "thumb": b"\0",
        "frames": [b"\0"],
        "__index_level_0__": 7,
    }
    write([values, values])
    told: list[str] = []
    found = [row.values for row in rows(JOBS, stdin=None, notice=told.append)]
    expected = {
        "video": "a.mp4",
        "day": "2024-05-01",
        "score": "1.50",
        "nested": {"a": [{"x": 1.5}, None], "at": ["2024-05-02"]},
        "none": None,
    }
    assert found == [expected, expected]
    left_out = "video.bytes, thumb, frames"
    assert told == [f"vllava: {left_out} in the jobs is left out: it holds bytes, which aren't text."]


def test_the_rows_of_all_row_groups_are_numbered_on() -> None:
    write({"video": [f"{number}.mp4" for number in range(1300)], "question": ["?"] * 1300}, row_group_size=600)
    found = list(rows(JOBS, stdin=None))
    assert [row.where for row in found] == [Location("'jobs.parquet'", number, "row") for number in range(1, 1301)]
    assert [row.values["video"] for row in found] == [f"{number}.mp4" for number in range(1300)]


def test_a_fault_in_a_parquet_file_has_its_row_and_field() -> None:
    write({"video": ["a"] * 700, "question": ["?"] * 699 + [""]}, row_group_size=600)
    said = refused(UsageError, lambda: list(requests_in(JOBS, stdin=None, videos=(), questions=())))
    assert said.startswith("'jobs.parquet', row 700: its \"question\" is empty, and none was given with -Q.")
    write({"video": ["a"], "weight": [float("inf")]})
    said = refused(UsageError, lambda: list(rows(JOBS, stdin=None)))
    assert said.startswith("'jobs.parquet', row 1: it has a number that is infinite.")


@pytest.mark.parametrize("data", [b"", b"PAR1", b'{"video": "a"}\n' * 20])
def test_what_is_not_parquet_is_said_so(data: bytes) -> None:
    pytest.importorskip("pyarrow")
    JOBS.write_bytes(data)
    said = refused(UsageError, lambda: list(rows(JOBS, stdin=None)))
    assert said.startswith("'jobs.parquet': it is not Parquet that can be read (")


def test_a_cut_parquet_file_is_refused() -> None:
    write({"video": ["a"] * 5000, "question": [str(number) for number in range(5000)]})
    data = JOBS.read_bytes()
    JOBS.write_bytes(data[: len(data) // 2])
    assert "'jobs.parquet'" in refused(UsageError, lambda: list(rows(JOBS, stdin=None)))
    JOBS.write_bytes(data[:40] + bytes(400) + data[440:])
    assert "'jobs.parquet'" in refused(UsageError, lambda: list(rows(JOBS, stdin=None)))


def test_without_pyarrow_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    JOBS.touch()
    said = refused(UsageError, lambda: list(rows(JOBS, stdin=None)))
    assert said == "'jobs.parquet' needs pyarrow, which isn't installed: pip install 'vllava[evaluate]'."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 3, "b": {"question": "?"}}', "'j.json', row 1 ('a'): it is not a JSON object."),
        ('{"a": {"question": "?"}, "b": {"question": 3}}', "'j.json', row 2 ('b'): \"question\" is not text."),
        ('{"v": [1, 2], "question": ["x"]}', "'j.json': the column \"v\" has 2 values instead of 1."),
        ('{"v": "a", "question": ["x"]}', "'j.json': the column \"v\" has no values instead of 1."),
        ('{"a": [{"question": "?", "options": ["x"]}]}', "'j.json', row 1 ('a'): \"options\" has one option, and a"),
        (
            '{"v": {"qa": [{"q": "?"}, {"q": ""}]}}',
            "'j.json', row 1 ('v'), question 2: its \"q\" is",
        ),
        ("3", "'j.json' is not a JSON list or object."),
    ],
)
def test_a_fault_in_a_document_names_the_row(text: str, said: str) -> None:
    Path("j.json").write_text(text)
    message = refused(UsageError, lambda: list(requests_in(Path("j.json"), stdin=None, videos=(), questions=())))
    assert message.startswith(said)


@pytest.mark.parametrize("text", ["{}", "[]", '{"annotations": [], "info": {"x": 1}}'])
def test_a_document_may_have_no_rows(text: str) -> None:
    Path("j.json").write_text(text)
    assert list(rows(Path("j.json"), stdin=None)) == []


def test_boxes_of_a_clip_are_not_copied_into_the_rows_of_its_questions() -> None:
    boxes = "[" + ",".join("[1, 2, 3, 4]" for _ in range(120_000)) + "]"
    Path("j.json").write_text(f'{{"v": {{"boxes": {boxes}, "split": "x", "qa": [{{"q": "Who?"}}]}}}}')
    (one,) = requests_in(Path("j.json"), stdin=None, videos=(), questions=())
    assert one == JobRequest(path="v", question="Who?", fields={"split": "x"})
