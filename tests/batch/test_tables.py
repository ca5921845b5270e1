"""Rows become JSON lines, CSV and TSV that other programs read back as they were."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess

import pytest

from vllava_cli.batch.tables import Format, fields_of, line, lines
from vllava_cli.errors import UsageError

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
AWKWARD = [
    "",
    "a",
    "a,b",
    '"',
    "\n",
    "\r",
    "a\rb",
    "\r\n",
    "\t",
    "\\",
    "\\t",
    " a ",
    "\0",
    "\x1b[31m",
    "ü",
    "\u2028",
    "'=1",
]


def test_json_lines_are_the_rows_themselves() -> None:
    found = list(lines([ROW, FAILED], "jsonl", ()))
    assert [json.loads(each) for each in found] == [ROW, FAILED]
    assert "".join(found).count("\n") == 2
    assert all(each.isascii() for each in found)


def test_json_lines_of_some_fields_have_them_in_that_order_and_null_for_what_is_not_there() -> None:
    assert list(lines([FAILED, ROW], "jsonl", ("error.kind", "path", "none", "probabilities.yes"))) == [
        '{"error.kind": "missing", "path": "b.mp4", "none": null, "probabilities.yes": null}\n',
        '{"error.kind": null, "path": "a b.mp4", "none": null, "probabilities.yes": 0.75}\n',
    ]


def test_csv_has_a_header_and_quotes_what_must_be() -> None:
    assert "".join(lines([ROW, FAILED], "csv", FIELDS)) == (
        "path,answer,frame_times_s,seconds,is_new,error,probabilities\n"
        'a b.mp4,"It\'s ""red"", 1\t2\\\r\nüm","[0,0.5]",1.25,true,,"{""yes"":0.75,""no"":0.25}"\n'
        'b.mp4,,,,,"{""kind"":""missing"",""message"":""There is no file.""}",\n'
    )


def test_tsv_has_a_header_and_escapes_as_jq_does() -> None:
    assert "".join(lines([ROW, FAILED], "tsv", FIELDS)) == (
        "path\tanswer\tframe_times_s\tseconds\tis_new\terror\tprobabilities\n"
        'a b.mp4\tIt\'s "red", 1\\t2\\\\\\r\\nüm\t[0,0.5]\t1.25\ttrue\t\t{"yes":0.75,"no":0.25}\n'
        'b.mp4\t\t\t\t\t{"kind":"missing","message":"There is no file."}\t\n'
    )


def test_safe_cells_have_an_apostrophe_before_what_a_spreadsheet_would_compute() -> None:
    row = {
        "=a": "=1+1",
        "b": "+1",
        "c": "-x",
        "d": "@SUM(1)",
        "e": "\t=1",
        "f": "\r=1",
        "g": "a=1",
        "h": "'=1",
        "i": -1.5,
    }
    assert list(lines([row], "tsv", tuple(row), is_safe=True)) == [
        "'=a\tb\tc\td\te\tf\tg\th\ti\n",
        "'=1+1\t'+1\t'-x\t'@SUM(1)\t'\\t=1\t'\\r=1\ta=1\t'=1\t-1.5\n",
    ]
    assert list(lines([row], "csv", ("=a", "i"), is_safe=True)) == ["'=a,i\n", "'=1+1,-1.5\n"]
    assert list(lines([row], "csv", ("=a", "i"))) == ["=a,i\n", "=1+1,-1.5\n"]


def test_every_text_comes_back_from_csv() -> None:
    row = {str(number): text for number, text in enumerate(AWKWARD)}
    text = "".join(lines([row, row], "csv", tuple(row)))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [list(row), AWKWARD, AWKWARD]


def test_every_text_comes_back_from_tsv() -> None:
    row = {str(number): text for number, text in enumerate(AWKWARD)}
    names = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
    cells = line(row, "tsv", tuple(row)).removesuffix("\n").split("\t")
    found = []
    for cell in cells:
        letters = iter(cell)
        found.append("".join(names[next(letters)] if letter == "\\" else letter for letter in letters))
    assert found == AWKWARD


def test_tsv_is_that_of_jq() -> None:
    if not shutil.which("jq"):
        pytest.skip("jq is not installed")
    row = {str(number): text for number, text in enumerate(AWKWARD) if text != "\0"} | {"a": 1.5, "b": True, "c": None}
    done = subprocess.run(["jq", "-r", "[.[]] | @tsv"], input=line(row, "jsonl", ()), capture_output=True, text=True)
    assert line(row, "tsv", tuple(row)) == done.stdout


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_a_table_must_be_told_its_fields(format: Format) -> None:
    with pytest.raises(ValueError, match=f"a {format} table needs its fields"):
        next(lines([ROW], format, ()))


def test_fields_reach_inside_but_a_name_with_dots_comes_first() -> None:
    row = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}, "c.e": 4, "n": None}, "x.y": {"z": 5}, "t": "text", "l": [6]}
    fields = ("a.b", "a.c.d", "a.c.e", "x.y.z", "a.n", "a.b.c", "t.x", "l.0", "", ".", "a.")
    assert json.loads(line(row, "jsonl", fields)) == {
        "a.b": 1,
        "a.c.d": 3,
        "a.c.e": 4,
        "x.y.z": 5,
        **dict.fromkeys(fields[4:]),
    }


def test_fields_are_named_with_commas_between() -> None:
    assert fields_of("path") == ("path",)
    assert fields_of(" path, error.kind ,a b") == ("path", "error.kind", "a b")


@pytest.mark.parametrize("text", ["", " ", ",", "path,", ",path", "path,,answer"])
def test_an_empty_field_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        fields_of(text)
    assert str(caught.value) == f"--fields {text!r} has an empty name. Give names with commas between: path,answer."


def test_a_file_has_all_lines_in_utf8_and_the_bytes_of_names_that_are_not() -> None:
    rows = [{"path": os.fsdecode(b"caf\xe9.mp4")}, {"path": "\ud800ü"}, {"path": "ü"}]
    assert "".join(lines(rows, "csv", ("path", "path_bytes"))) == (
        "path,path_bytes\ncaf\\xe9.mp4,Y2Fm6S5tcDQ=\n\\ud800ü,\nü,\n"
    )
