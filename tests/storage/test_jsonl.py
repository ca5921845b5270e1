"""Rows are read line by line, whole, torn or damaged; names of any bytes are readable in them and come back."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, exact, json_of, line_of, portable, read_rows

NAME = os.fsdecode(b"caf\xe9.mp4")
ENCODED = "Y2Fm6S5tcDQ="


pytestmark = pytest.mark.usefixtures("in_a_folder")


def written(data: bytes, name: str = "x.jsonl") -> Path:
    Path(name).write_bytes(data)
    return Path(name)


def test_rows_come_in_order_and_an_empty_file_has_none() -> None:
    assert list(read_rows(written(b'{"a": 1}\n{"b": [2, null]}\n'))) == [{"a": 1}, {"b": [2, None]}]
    assert list(read_rows(written(b'{"a": 1}\n{"b": 2}'))) == [{"a": 1}, {"b": 2}]
    assert list(read_rows(written(b""))) == []
    with pytest.raises(OutputError, match=r"^'none' can't be read: no such file or directory\."):
        list(read_rows(Path("none")))


@pytest.mark.parametrize("tail", [b"{", b'{"b": 2', b'{"b": 2}}', b"\n", b"\0\0\0\0", b'{"b": \xff}\n', b"[2]\n"])
def test_a_torn_last_row_is_left_out(tail: bytes) -> None:
    assert list(read_rows(written(b'{"a": 1}\n' + tail))) == [{"a": 1}]


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"torn",
            b"[]",
            b'"text"',
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": \xff}',
            b'{"a": ' + b"[" * 99_999,
        ),
        b'{"x_bytes": "aaaa", "a": ' + b'{"a": ' * 900 + b"1" + b"}" * 901,
    ],
)
def test_a_damaged_row_in_the_middle_is_told_by_its_number(line: bytes) -> None:
    rows = read_rows(written(b'{"a": 1}\n' + line + b'\n{"b": 2}\n'))
    assert next(rows) == {"a": 1}
    with pytest.raises(OutputError) as caught:
        next(rows)
    said = "'x.jsonl' can't be used: line 2 is damaged. Correct it in an editor, or name another file."
    assert str(caught.value) == said


def test_a_line_longer_than_any_row_is_refused_in_bounded_memory() -> None:
    path = written(b"")
    with path.open("wb") as file:
        file.truncate(10 * MAX_ROW_BYTES)
    tracemalloc.start()
    with pytest.raises(OutputError, match=r"^'x\.jsonl' was not written by vllava\. Name another file\.$"):
        list(read_rows(path))
    assert tracemalloc.get_traced_memory()[1] < 5 * MAX_ROW_BYTES
    tracemalloc.stop()


def test_a_row_is_one_line_of_ascii() -> None:
    name = os.fsdecode(b"caf\xe9\n.mp4")
    line = line_of({"path": name, "text": "é"})
    assert line == b'{"path": "caf\\\\xe9\\n.mp4", "text": "\\u00e9", "path_bytes": "Y2Fm6QoubXA0"}\n'
    assert list(read_rows(written(line))) == [{"path": name, "text": "é"}]
    before = written(b'{"path": "caf\\udce9.mp4"}\n')
    assert list(read_rows(before)) == [{"path": NAME}], "rows of before names had their bytes beside them"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * MAX_ROW_BYTES])
def test_what_could_not_be_read_again_is_not_a_row(value: object) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|longer than 16,777,216"):
        line_of({"value": value})
    assert json_of({"path": Path("é"), "emoji": "🎬"}, default=str) == r'{"path": "\u00e9", "emoji": "\ud83c\udfac"}'


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"path": "é.mp4", "n": [1, None, True, 0.5]}, {"path": "é.mp4", "n": [1, None, True, 0.5]}),
        ({"path": NAME, "n": 1}, {"path": r"caf\xe9.mp4", "n": 1, "path_bytes": ENCODED}),
        ({"clips": [{"path": NAME}]}, {"clips": [{"path": r"caf\xe9.mp4", "path_bytes": ENCODED}]}),
        ({"outputs": ["é", NAME, 1]}, {"outputs": ["é", r"caf\xe9.mp4", 1], "outputs_bytes": [None, ENCODED, None]}),
        ({"a": {"model": NAME}}, {"a": {"model": r"caf\xe9.mp4", "model_bytes": ENCODED}}),
    ],
)
def test_a_name_that_is_not_utf8_has_its_bytes_beside_it(row: dict[str, Any], told: dict[str, Any]) -> None:
    assert portable(row) == told and json.loads(json_of(row)) == told
    assert exact(told) == row


def test_what_no_byte_stands_behind_is_only_readable() -> None:
    row = {"half": "\ud800", NAME: ["\ud800"], "path": NAME, "path_bytes": "its own"}
    assert portable(row) == {
        "half": r"\ud800",
        r"caf\xe9.mp4": [r"\ud800"],
        "path": r"caf\xe9.mp4",
        "path_bytes": "its own",
    }


@pytest.mark.parametrize(
    "row",
    [
        {"path": "other.mp4", "path_bytes": ENCODED},  # edited since
        {"path": r"caf\xe9.mp4", "path_bytes": "not base64"},
        {"path": r"caf\xe9.mp4", "path_bytes": 5},
        {"path": "é", "path_bytes": "w6k="},  # which is valid anyway
        {"path_bytes": ENCODED},
        {"outputs": [r"caf\xe9.mp4"], "outputs_bytes": [None, ENCODED]},
        {"outputs": [r"caf\xe9.mp4"], "outputs_bytes": [None]},
        {"outputs": ["other.mp4"], "outputs_bytes": [ENCODED]},
        {"_bytes": "", "": ""},
    ],
)
def test_bytes_that_are_not_those_of_the_text_beside_them_are_a_field(row: dict[str, Any]) -> None:
    assert exact(row) == row


@given(st.binary(), st.text())
def test_names_of_any_bytes_come_back(name: bytes, text: str) -> None:
    row = {
        "path": os.fsdecode(name),
        "text": text,
        "outputs": [os.fsdecode(name), text],
        "clips": [{"path": os.fsdecode(name)}, 1],
    }
    line = json_of(row)
    json.loads(line)["path"].encode()
    assert exact(json.loads(line)) == row
