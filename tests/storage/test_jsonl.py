"""Rows are read line by line: whole ones, torn ones, damaged ones, and files that have none."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, line_of, read_rows, row_of


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)


def written(data: bytes, name: str = "x.jsonl") -> Path:
    Path(name).write_bytes(data)
    return Path(name)


def message_for(path: Path) -> str:
    with pytest.raises(OutputError) as caught:
        list(read_rows(path))
    return str(caught.value)


def test_rows_come_in_order_and_an_empty_file_has_none() -> None:
    assert list(read_rows(written(b'{"a": 1}\n{"b": [2, null]}\n'))) == [{"a": 1}, {"b": [2, None]}]
    assert list(read_rows(written(b""))) == []


@pytest.mark.parametrize("tail", [b"{", b'{"b": 2', b'{"b": 2}}', b"\n", b"\0\0\0\0", b'{"b": \xff}\n', b"[2]\n"])
def test_a_torn_last_row_is_left_out(tail: bytes) -> None:
    assert list(read_rows(written(b'{"a": 1}\n' + tail))) == [{"a": 1}]


def test_a_last_row_that_only_lacks_its_line_break_is_read() -> None:
    assert list(read_rows(written(b'{"a": 1}\n{"b": 2}'))) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "line",
    [b"", b"torn", b"[]", b'"text"', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": \xff}', b'{"a": ' + b"[" * 99_999],
)
def test_a_damaged_row_in_the_middle_is_told_by_its_number(line: bytes) -> None:
    path = written(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    assert message_for(path) == (
        "'x.jsonl' can't be used: line 2 is damaged. Mend it in an editor, or name another file."
    )


def test_rows_before_the_damage_are_given() -> None:
    rows = read_rows(written(b'{"a": 1}\ntorn\n{"b": 2}\n'))
    assert next(rows) == {"a": 1}
    with pytest.raises(OutputError):
        next(rows)


def test_a_file_that_starts_otherwise_is_no_journal() -> None:
    path = written(b"\0\0\0\x20ftypisom\nmoov\n", "clip.mp4")
    assert message_for(path) == "'clip.mp4' was not written by vllava. Name another file."


def test_a_line_longer_than_any_row_is_refused_in_bounded_memory() -> None:
    path = written(b"")
    with path.open("wb") as file:
        file.truncate(10 * MAX_ROW_BYTES)
    tracemalloc.start()
    assert message_for(path) == "'x.jsonl' was not written by vllava. Name another file."
    assert tracemalloc.get_traced_memory()[1] < 5 * MAX_ROW_BYTES
    tracemalloc.stop()


def test_what_is_not_a_regular_file_is_refused_and_not_waited_for() -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    assert message_for(Path("pipe")) == "'pipe' is not a regular file. Name another one."
    assert message_for(Path("folder")) == "'folder' is a folder. Name a file."
    assert message_for(Path("/dev/null")) == "'/dev/null' is not a regular file. Name another one."
    assert message_for(Path("none")) == (
        "'none' can't be read: no such file or directory. Check the path, or name another file."
    )
    assert message_for(Path("a\0b")) == (
        "'a\0b' can't be read: embedded null byte. Check the path, or name another file."
    )


def test_a_row_is_one_line_of_ascii() -> None:
    name = os.fsdecode(b"caf\xe9\n.mp4")
    line = line_of({"path": name, "text": "é"})
    assert line == b'{"path": "caf\\\\xe9\\n.mp4", "text": "\\u00e9", "path_bytes": "Y2Fm6QoubXA0"}\n'
    assert list(read_rows(written(line))) == [{"path": name, "text": "é"}]


def test_a_row_of_before_names_had_their_bytes_beside_them_is_read() -> None:
    path = written(b'{"path": "caf\\udce9.mp4"}\n')
    assert list(read_rows(path)) == [{"path": os.fsdecode(b"caf\xe9.mp4")}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * MAX_ROW_BYTES])
def test_what_could_not_be_read_again_is_not_a_row(value: object) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|longer than 16,777,216"):
        line_of({"value": value})


def test_a_row_that_is_nested_too_deeply_is_damaged_whatever_its_names_are() -> None:
    deep = b'{"x_bytes": "aaaa", "a": ' + b'{"a": ' * 900 + b"1" + b"}" * 901
    assert row_of(deep) is None
