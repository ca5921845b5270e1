"""Rows come from JSON Lines, JSON lists, CSV and TSV; a damaged one is named by file and line."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pytest

from vllava_cli.batch.job_rows import MAX_JOB_BYTES, MAX_LIST_BYTES, Location, rows
from vllava_cli.errors import UsageError

MEND = "Mend it in an editor, or leave it out."


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


pytestmark = pytest.mark.usefixtures("in_a_folder")


def read(name: str, data: bytes) -> list[tuple[int, dict[str, object]]]:
    """The line and the values of each row."""
    Path(name).write_bytes(data)
    return [(row.where.line, row.values) for row in rows(Path(name), stdin=None)]


def refusal(name: str, data: bytes) -> str:
    Path(name).write_bytes(data)
    return refusal_of(name)


def refusal_of(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        list(rows(Path(name), stdin=None))
    return str(caught.value)


A, B = {"video": "a"}, {"video": "ü", "n": [1, {"x": None}]}
TWO = [
    ("j.jsonl", b'{"video": "a"}\n\n{"video": "\xc3\xbc", "n": [1, {"x": null}]}', [(1, A), (3, B)]),
    ("j.NDJSON", b'\xef\xbb\xbf{"video": "a"}\r\n  {"video": "\\u00fc", "n": [1, {"x": null}]} \r\n', [(1, A), (2, B)]),
    ("j.jsonl", b"", []),
    ("j.json", b'[{"video": "a"},{"video": "\xc3\xbc", "n": [1, {"x": null}]}]', [(1, A), (1, B)]),
    (
        "j.json",
        b'\xef\xbb\xbf\n[\r\n {"video":\n "a"}\n ,\n{"video": "\\u00fc", "n": [1, {"x": null}]}\n]\n',
        [(3, A), (6, B)],
    ),
    ("j.json", b" [ ] ", []),
    ("j.csv", b"video,n\na,1\nb,2\n", [(2, {"video": "a", "n": "1"}), (3, {"video": "b", "n": "2"})]),
    ("j.csv", b'\xef\xbb\xbfvideo, n \r\n\r\n"a ""b"",\r\nc",1', [(3, {"video": 'a "b",\r\nc', "n": "1"})]),
    ("j.csv", b'"a","b\nc"\n1,2\n3,4\n', [(3, {"a": "1", "b\nc": "2"}), (4, {"a": "3", "b\nc": "4"})]),
    ("j.csv", b"gif_name\tquestion\na\tb, c\n", [(2, {"gif_name": "a", "question": "b, c"})]),
    (
        "j.tsv",
        b'video\tq\na\tb, c\n"d\te"\tf "g" h\n',
        [(2, {"video": "a", "q": "b, c"}), (3, {"video": "d\te", "q": 'f "g" h'})],
    ),
    ("j.csv", b"video\na\tb\n", [(2, {"video": "a\tb"})]),
    ("j.tsv", b"video\tq, why\na\tb\n", [(2, {"video": "a", "q, why": "b"})]),
    ("j.csv", b"", []),
    ("j.csv", b"video,n\n", []),
]


@pytest.mark.parametrize(("name", "data", "expected"), TWO)
def test_rows_come_with_the_line_where_they_begin(
    name: str, data: bytes, expected: list[tuple[int, dict[str, object]]]
) -> None:
    assert read(name, data) == expected


DEEP = b'{"a":' * 100_000
DAMAGED = [
    ("j.jsonl", b'{"a": 1}\n{"a": \n', "'j.jsonl', line 2: it is not JSON (Expecting value)."),
    ("j.jsonl", b'{"a": 1}\n[1]\n', "'j.jsonl', line 2: it is not a JSON object."),
    ("j.jsonl", b'{"a": 1} {"a": 2}\n', "'j.jsonl', line 1: there is more than one JSON object in it."),
    ("j.jsonl", b'{"a": NaN}\n', "'j.jsonl', line 1: it is not JSON (NaN is not JSON)."),
    ("j.jsonl", b'\n{"a": -1e999}\n', "'j.jsonl', line 2: it is not JSON (-1e999 is too large a number)."),
    ("j.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "'j.jsonl', line 2: it is not UTF-8."),
    ("j.jsonl", DEEP, "'j.jsonl', line 1: it is nested too deeply."),
    ("j.jsonl", b'{"a": "' + b"x" * MAX_JOB_BYTES + b'"}', "'j.jsonl', line 1: it is longer than 1 MiB."),
    ("j.json", b'[{"a": 1}, {"a": }]', "'j.json', line 1 (row 2): it is not JSON (Expecting value)."),
    ("j.json", b'[{"a": 1},\n3]', "'j.json', line 2 (row 2): it is not a JSON object."),
    ("j.json", b'[{"a": 1},\n\n]', "'j.json', line 3 (row 2): it is not JSON (Expecting value)."),
    (
        "j.json",
        b'[\n{"a": 1} {"a": 1}]',
        "'j.json', line 2 (row 1): neither a comma nor the end of the list comes after it.",
    ),
    ("j.json", b'[{"a": 1}', "'j.json', line 1 (row 1): neither a comma nor the end of the list comes after it."),
    ("j.json", b'[{"a": 1}]\n[', "'j.json', line 1: the list is over, but something comes after it."),
    ("j.json", b"[] []", "'j.json', line 1: the list is over, but something comes after it."),
    ("j.json", b"[", "'j.json', line 1 (row 1): it is not JSON (Expecting value)."),
    ("j.json", b'[{"a": 1},\n{"a": "\xe9"}]', "'j.json', line 2: it is not UTF-8."),
    ("j.json", b'[{"a": "' + b"x" * MAX_JOB_BYTES + b'"}]', "'j.json', line 1 (row 1): it is longer than 1 MiB."),
    ("j.csv", b"a,b\n1,2\n3\n", "'j.csv', line 3: it has 1 cells, the header 2."),
    ("j.csv", b"a,b\n1,2,3\n", "'j.csv', line 2: it has 3 cells, the header 2."),
    ("j.csv", b"a,b , b\n1,2,3\n", "'j.csv', line 1: two columns are called 'b'."),
    ("j.csv", b'a,b\n1,"2\n3,4\n', "'j.csv', line 2: it can't be parted into cells (unexpected end of data)."),
    ("j.tsv", b'a\tb\n1\t2\n"3" 4\t5\n', "'j.tsv', line 3: it can't be parted into cells ('\t' expected after '\"')."),
    ("j.csv", b"a\n1\n\xe9\n", "'j.csv', line 3: it is not UTF-8."),
    ("j.csv", b"\xff\xfea\x00", "'j.csv', line 1: it is not UTF-8."),
    ("j.csv", b"a" + b",a" * 600_000, "'j.csv', line 1: it is longer than 1 MiB."),
    (
        "j.csv",
        b'a\n"' + b"x\n" * 600_000 + b'"',
        "'j.csv', line 2: it can't be parted into cells (field larger than field limit (131072)).",
    ),
]


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED, ids=[message for *_, message in DAMAGED])
def test_a_damaged_row_is_named(name: str, data: bytes, message: str) -> None:
    assert refusal(name, data) == f"{message} {MEND}"


def test_a_row_of_many_lines_has_its_limit_too() -> None:
    cell = b'"' + b"x\n" * 60_000 + b'"'
    header = b",".join(b"c%d" % number for number in range(10))
    assert (
        refusal("j.csv", header + b"\n" + b",".join([cell] * 10)) == f"'j.csv', line 2: it is longer than 1 MiB. {MEND}"
    )


def test_a_json_file_that_is_no_list_is_told_what_it_may_be() -> None:
    expected = "'j.json' is no JSON list. If each of its lines is an object, let its name end in .jsonl."
    assert refusal("j.json", b'{"a": 1}\n{"a": 2}\n') == expected
    assert refusal("j.json", b"") == expected


@pytest.mark.parametrize("name", ["j.txt", "j", "jsonl", "j.jsonl.gz"])
def test_another_ending_is_refused_with_those_that_will_do(name: str) -> None:
    expected = f"'{name}' has no ending of a jobs file: name one with .jsonl, .ndjson, .json, .csv, .tsv."
    assert refusal(name, b'{"a": 1}') == expected


def test_a_file_that_can_not_be_read_is_told() -> None:
    Path("folder.json").mkdir()
    for name, reason in (("gone.json", "no such file or directory"), ("folder.json", "is a directory")):
        with pytest.raises(UsageError) as caught:
            list(rows(Path(name), stdin=None))
        assert str(caught.value) == f"'{name}' can't be read: {reason}. Check the path, or name another file."


def test_objects_come_on_stdin() -> None:
    found = list(rows(Path("-"), stdin=io.BytesIO(b'{"a": 1}\n')))
    assert found == [(Location("stdin", 1), {"a": 1})]
    with pytest.raises(UsageError, match=r"^stdin, line 1: it is not JSON \(Expecting value\)\. "):
        list(rows(Path("-"), stdin=io.BytesIO(b"a,b\n")))


@pytest.mark.parametrize("stdin", [None, Terminal(b"{}")])
def test_stdin_must_be_a_pipe(stdin: io.BytesIO | None) -> None:
    with pytest.raises(UsageError) as caught:
        list(rows(Path("-"), stdin=stdin))
    expected = "- reads stdin, which is not a pipe here: jq -c … | vllava batch --jobs -, or name a file."
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["j.jsonl", "j.csv"])
def test_a_long_file_is_never_held_whole(name: str) -> None:
    line = json.dumps({"question": "x" * 2000}) if name == "j.jsonl" else "x" * 2000
    Path(name).write_text("\n".join([line] * 2000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows(Path(name), stdin=None)) in (1999, 2000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_list_that_is_too_long_is_not_read_whole() -> None:
    with Path("j.json").open("wb") as file:
        file.truncate(MAX_LIST_BYTES + (64 << 20))
    tracemalloc.start()
    try:
        assert refusal_of("j.json") == (
            "'j.json' has more than 64 MiB, the most that is read of a list. "
            "Write an object a line, which may be any number: jq -c '.[]' 'j.json' > jobs.jsonl."
        )
        assert tracemalloc.get_traced_memory()[1] < MAX_LIST_BYTES + (8 << 20)
    finally:
        tracemalloc.stop()


def test_a_row_that_goes_on_from_line_to_line_is_not_read_to_its_end() -> None:
    Path("j.csv").write_bytes(b"a,b\n" + b'"x\n",' * (2 << 20))
    tracemalloc.start()
    try:
        assert refusal_of("j.csv") == f"'j.csv', line 2: it is longer than 1 MiB. {MEND}"
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["j.jsonl", "j.csv"])
def test_a_file_without_a_line_break_is_not_read_to_its_end(name: str) -> None:
    with Path(name).open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"line 1: it is longer than 1 MiB\."):
            next(rows(Path(name), stdin=None))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
