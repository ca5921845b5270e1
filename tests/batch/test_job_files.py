"""A jobs file names clips and questions as its author did; a damaged row is named by file and line."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.refusals import refused
from vllava_cli.batch.clip_names import NAME_KEYS
from vllava_cli.batch.job_files import requests_in
from vllava_cli.batch.job_readers import MAX_JOB_BYTES, MAX_LIST_BYTES, Location, rows
from vllava_cli.batch.jobs import ROW_KEYS, JobRequest
from vllava_cli.errors import UsageError

MEND = "Correct it in an editor, or leave it out."


pytestmark = pytest.mark.usefixtures("in_a_folder")


def touched(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def written(name: str, *rows: object) -> Path:
    """A .jsonl or a .json file."""
    text = json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return Path(name)


def read(
    file: Path, *, videos: Sequence[Path] = (), questions: Sequence[str] = (), stdin: bytes = b""
) -> list[JobRequest]:
    return list(requests_in(file, stdin=io.BytesIO(stdin), videos=videos, questions=tuple(questions)))


def refusal(*rows: object, questions: Sequence[str] = (), videos: Sequence[Path] = ()) -> str:
    return refused(UsageError, read, written("j.jsonl", *rows), questions=questions, videos=videos)


def test_a_row_is_a_clip_a_question_and_what_comes_back() -> None:
    touched("a.mp4")
    file = written(
        "j.jsonl", {"video": "a", "question": " Why? ", "n": 1, "tags": ["x"]}, {"question": "Who?", "path": "b"}
    )
    assert read(file) == [
        JobRequest(path="a.mp4", question=" Why? ", fields={"n": 1, "tags": ["x"]}),
        JobRequest(path="b", question="Who?"),
    ]


def test_questions_are_for_the_rows_that_have_none() -> None:
    file = written("j.jsonl", {"video": "a"}, {"video": "b", "question": "Own?"}, {"video": "c", "question": " "})
    found = [(one.path, one.question) for one in read(file, questions=("Why?", "Who?"))]
    assert found == [("a", "Why?"), ("a", "Who?"), ("b", "Own?"), ("c", "Why?"), ("c", "Who?")]


@pytest.mark.parametrize("nothing", ["", None])
@pytest.mark.parametrize("key", NAME_KEYS)
def test_the_first_name_of_a_row_is_its_clip_and_the_others_come_back(key: str, nothing: str | None) -> None:
    place = NAME_KEYS.index(key)
    others = dict.fromkeys(NAME_KEYS[place + 1 :], "b") | dict.fromkeys(NAME_KEYS[:place], nothing)
    fields = {"job_path" if other == "path" else other: value for other, value in others.items()}
    assert read(written("j.jsonl", {**others, key: "a", "question": "Why?"})) == [
        JobRequest(path="a", question="Why?", fields=fields)
    ]


def test_fields_that_a_row_has_for_itself_are_renamed() -> None:
    fields = {key: f"its {key}" for key in ROW_KEYS if key not in ("path", "question")}
    (one,) = read(written("j.jsonl", {"video": "a", "question": "Why?"} | fields))
    assert one.fields == {f"job_{key}": value for key, value in fields.items()}


def test_a_field_whose_name_in_the_row_is_anothers_is_left_out_and_that_is_said_once() -> None:
    row = {**GOOD, "job_question": 0, "id": 1, "answer": 1, "job_answer": 2, "job_job_answer": 3}
    told: list[str] = []
    file = written("j.jsonl", row, {**row, "question": "Who?"})
    found = list(requests_in(file, stdin=None, videos=(), questions=(), notice=told.append))
    fields = {"job_question": 0, "job_id": 1, "job_answer": 2, "job_job_answer": 3}
    assert [one.fields for one in found] == [fields, fields]
    assert told == ['vllava: "answer" in the jobs is left out, because they have "job_answer" as well.']


def test_where_no_field_is_known_the_names_that_are_there_are_said() -> None:
    Path("j.csv").write_text("Film;Frage\na.mp4;Warum?\n")
    said = refused(UsageError, read, Path("j.csv"))
    assert said == f"'j.csv', line 2: {NO_CLIP.format('Film, Frage')}. {MEND}"
    assert f"it has {'x' * 200}…, and needs one of" in refusal({"x" * 300: 1})


def test_equal_rows_are_counted_once_and_all_of_them_stay() -> None:
    one, other = {"video": "a", "question": "Why?", "tags": [{"n": 1}]}, {"video": "a", "question": "Why?", "tags": []}
    file, told = written("j.jsonl", one, other, one, {**one, "start": 1}, {**one, "options": ["x", "y"]}, one), []
    found = list(requests_in(file, stdin=None, videos=(), questions=(), notice=told.append))
    assert len(found) == 6
    assert told == ["vllava: 2 rows equal to an earlier one, the first at 'j.jsonl', line 3. Each is answered."]


NO_CLIP = "it names no clip: it has {}, and needs one of " + ", ".join(NAME_KEYS)
GOOD = {"video": "a", "question": "Why?"}
DAMAGED: list[tuple[dict[str, object], str]] = [
    ({"question": "Why?"}, NO_CLIP.format("question")),
    ({"question": "Why?", "video": "", "video_id": None}, NO_CLIP.format("question, video, video_id")),
    ({"question": "Why?", "video": True}, '"video" is neither a name nor a number'),
    ({"question": "Why?", "video_id": 1.5}, '"video_id" is neither a name nor a number'),
    ({"question": "Why?", "clip": ["a"]}, '"clip" is neither a name nor a number'),
    ({"question": "Why?", "clip": "a\0"}, '"clip" has a NUL, which no file name can have'),
    ({"question": "Why?", "clip": "a\ud800"}, '"clip" has half of a character (a lone surrogate)'),
    ({"question": "Why\udfff?", "clip": "a"}, '"question" has half of a character (a lone surrogate)'),
    ({"question": 3, "clip": "a"}, '"question" is not text'),
    ({"clip": "a", "what": "?"}, 'it has clip, what, but no "question", and none was given with -Q'),
    ({"clip": "a", "q": " "}, 'its "q" is empty, and none was given with -Q'),
    ({"clip": "a", "question": "\n"}, 'its "question" is empty, and none was given with -Q'),
]


@pytest.mark.parametrize(("row", "fault"), DAMAGED)
def test_a_row_that_can_be_no_job_is_named(row: dict[str, object], fault: str) -> None:
    assert refusal(GOOD, row) == f"'j.jsonl', line 2: {fault}. {MEND}"


@pytest.mark.parametrize(
    ("clip", "row", "found"),
    [
        (
            "-8y1Q0rA3n8_108_115.avi",
            {"video_name": "-8y1Q0rA3n8_108_115", "question": "who slices the bread?", "question_id": "v_1301_2"},
            {"question_id": "v_1301_2"},
        ),
        (
            "vid1305.avi",
            {"answer": "knife", "id": 30937, "question": "what cuts the bread?", "video_id": 1305},
            {"job_answer": "knife", "job_id": 30937},
        ),
        (
            "v_1QIUV7WYKXg.mp4",
            {"video_name": "1QIUV7WYKXg", "question": "is there a hat", "question_id": "v_1QIUV7WYKXg_3"},
            {"question_id": "v_1QIUV7WYKXg_3"},
        ),
    ],
    ids=["MSVD-QA as it is evaluated", "MSVD-QA as it is published", "ActivityNet-QA"],
)
def test_the_questions_of_benchmarks_are_read(clip: str, row: dict[str, object], found: dict[str, object]) -> None:
    touched(f"clips/{clip}", "clips/v_-gone.mp4.part")
    gone = {"video_name": "-gone", "question": "Where?"}
    assert read(written("test_q.json", row, gone), videos=[Path("clips")]) == [
        JobRequest(path=f"clips/{clip}", question=str(row["question"]), fields=found),
        JobRequest(path="clips/-gone", question="Where?"),
    ]


def test_the_tables_of_tgif_qa_are_read() -> None:
    touched("gifs/tumblr_nk172bbdPI1u1lr18o1_250.gif")
    header = ["gif_name", "question", "answer", "question_type", "vid_id", "key"]
    cells = ["tumblr_nk172bbdPI1u1lr18o1_250", "what does the man hold, and why ?", "cup", "object", "FRAMEQA7", "12"]
    expected = JobRequest(
        path="gifs/tumblr_nk172bbdPI1u1lr18o1_250.gif",
        question="what does the man hold, and why ?",
        fields={"job_answer": "cup", "question_type": "object", "vid_id": "FRAMEQA7", "key": "12"},
    )
    # Published with tabs under .csv; converted by others to commas.
    tabs = "".join("\t".join(row) + "\n" for row in (header, cells))
    commas = "".join(",".join(f'"{cell}"' for cell in row) + "\r\n" for row in (header, cells))
    for name, text in (("t.csv", tabs), ("t.tsv", tabs), ("c.csv", commas)):
        Path(name).write_text(text)
        assert read(Path(name), videos=[Path("gifs")]) == [expected]


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def row_refusal(name: str, data: bytes | None) -> str:
    """The sentence about a file with this content, or about the one that is there."""
    if data is not None:
        Path(name).write_bytes(data)
    return refused(UsageError, lambda: list(rows(Path(name), stdin=None)))


A, B = {"video": "a"}, {"video": "ü", "n": [1, {"x": None}]}
TWO = [
    ("j.jsonl", b'{"video": "a"}\n\n{"video": "\xc3\xbc", "n": [1, {"x": null}]}', [(1, A), (3, B)]),
    ("j.NDJSON", b'\xef\xbb\xbf{"video": "a"}\r\n  {"video": "\\u00fc", "n": [1, {"x": null}]} \r\n', [(1, A), (2, B)]),
    ("j.jsonl", b"", []),
    ("j.json", b'[{"video": "a"},{"video": "\xc3\xbc", "n": [1, {"x": null}]}]', [(1, A), (2, B)]),
    (
        "j.json",
        b'\xef\xbb\xbf\n[\r\n {"video":\n "a"}\n ,\n{"video": "\\u00fc", "n": [1, {"x": null}]}\n]\n',
        [(1, A), (2, B)],
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
    Path(name).write_bytes(data)
    assert [(row.where.number, row.values) for row in rows(Path(name), stdin=None)] == expected


DEEP = b'{"a":' * 100_000
DAMAGED_ROWS = [
    ("j.jsonl", b'{"a": 1}\n{"a": \n', "'j.jsonl', line 2: it is not JSON (Expecting value)."),
    ("j.jsonl", b'{"a": 1}\n[1]\n', "'j.jsonl', line 2: it is not a JSON object."),
    ("j.jsonl", b'{"b": 1, "a": NaN}\n', "'j.jsonl', line 1: \"a\" can't be read (NaN is not JSON)."),
    ("j.jsonl", b'\n{"a": -1e999}\n', "'j.jsonl', line 2: \"a\" can't be read (-1e999 is too large a number)."),
    ("j.jsonl", b"[NaN]\n", "'j.jsonl', line 1: it is not JSON (NaN is not JSON)."),
    ("j.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "'j.jsonl', line 2: it is not UTF-8."),
    ("j.jsonl", DEEP, "'j.jsonl', line 1: it is nested too deeply."),
    ("j.jsonl", b'{"a": "' + b"x" * MAX_JOB_BYTES + b'"}', "'j.jsonl', line 1: it is longer than 1 MiB."),
    ("j.json", b'[{"a": 1},\n3]', "'j.json', row 2: it is not a JSON object."),
    (
        "j.json",
        b'[\n{"a": 1} {"a": 1}]',
        "'j.json', line 2: it is not JSON (Expecting ',' delimiter).",
    ),
    ("j.json", b'[{"a": 1}]\n[', "'j.json', line 2: it is not JSON (Extra data)."),
    ("j.json", b'[\n{"a": 1},\n{"a": {"b": [NaN]}}]', "'j.json', row 2: \"a\" can't be read (NaN is not JSON)."),
    (
        "j.json",
        b'{"x": {"q": "Why?", "a": Infinity}}',
        "'j.json', row 1 ('x'): \"a\" can't be read (Infinity is not JSON).",
    ),
    ("j.json", b'{"note": NaN, "rows": [{"a": 1}]}', "'j.json': it is not JSON (NaN is not JSON)."),
    ("j.json", b"[", "'j.json', line 1: it is not JSON (Expecting value)."),
    ("j.json", b'[{"a": 1},\n{"a": "\xe9"}]', "'j.json', line 2: it is not UTF-8."),
    ("j.json", b'[{"a": "' + b"x" * MAX_JOB_BYTES + b'"}]', "'j.json', row 1: it is longer than 1 MiB."),
    ("j.csv", b"a,b\n1,2\n3\n", "'j.csv', line 3: it has 1 cells, the header 2."),
    ("j.csv", b"a,b , b\n1,2,3\n", "'j.csv', line 1: two columns are called 'b'."),
    ("j.csv", b'a,b\n1,"2\n3,4\n', "'j.csv', line 2: it can't be split into cells (unexpected end of data)."),
    ("j.tsv", b'a\tb\n1\t2\n"3" 4\t5\n', "'j.tsv', line 3: it can't be split into cells ('\t' expected after '\"')."),
    ("j.csv", b"\xff\xfea\x00", "'j.csv', line 1: it is not UTF-8."),
    ("j.csv", b"a" + b",a" * 600_000, "'j.csv', line 1: it is longer than 1 MiB."),
    ("j.csv", b'a\n"' + b"x\n" * 600_000 + b'"', "'j.csv', line 2: it is longer than 1 MiB."),
    ("j.csv", b"a\n" + b"x" * 200_000 + b"\n1,2\n", "'j.csv', line 3: it has 2 cells, the header 1."),
]


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED_ROWS, ids=[message for *_, message in DAMAGED_ROWS])
def test_a_damaged_row_is_named(name: str, data: bytes, message: str) -> None:
    assert row_refusal(name, data) == f"{message} {MEND}"


NO_LIST = "'j.json' is not a JSON list or object. If each of its lines is an object, rename it to end in .jsonl."
NO_ENDING = " is not a jobs file: give one that ends in .jsonl, .ndjson, .json, .csv, .tsv, .parquet."


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("j.json", b'{"a": 1}\n{"a": 2}\n', NO_LIST),
        ("j.json", b"", NO_LIST),
        *((name, b'{"a": 1}', f"'{name}'{NO_ENDING}") for name in ("j.txt", "jsonl", "j.jsonl.gz")),
        (
            "gone.json",
            None,
            "'gone.json' can't be read: no such file or directory. Check the path, or name another file.",
        ),
        ("folder.json", None, "'folder.json' can't be read: is a directory. Check the path, or name another file."),
    ],
)
def test_what_is_no_jobs_file_is_told_what_it_may_be(name: str, data: bytes | None, said: str) -> None:
    Path("folder.json").mkdir()
    assert row_refusal(name, data) == said


def test_objects_come_on_stdin() -> None:
    found = list(rows(Path("-"), stdin=io.BytesIO(b'{"a": 1}\n')))
    assert found == [(Location("stdin", 1), {"a": 1})]
    with pytest.raises(UsageError, match=r"^stdin, line 1: it is not JSON \(Expecting value\)\. "):
        list(rows(Path("-"), stdin=io.BytesIO(b"a,b\n")))


@pytest.mark.parametrize("stdin", [None, Terminal(b"{}")])
def test_stdin_must_be_a_pipe(stdin: io.BytesIO | None) -> None:
    expected = "- reads stdin, which is not a pipe here: jq -c … | vllava batch --jobs -, or name a file."
    assert refused(UsageError, lambda: list(rows(Path("-"), stdin=stdin))) == expected


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


@pytest.mark.parametrize(
    ("name", "content", "size", "most_bytes", "said"),
    [
        ("j.jsonl", b"", 64 << 20, 8 << 20, f"'j.jsonl', line 1: it is longer than 1 MiB. {MEND}"),
        ("j.csv", b"", 64 << 20, 8 << 20, f"'j.csv', line 1: it is longer than 1 MiB. {MEND}"),
        # A row that goes on from line to line.
        ("j.csv", b"a,b\n" + b'"x\n",' * (2 << 20), 0, 64 << 20, f"'j.csv', line 2: it is longer than 1 MiB. {MEND}"),
        (
            *("j.json", b"", MAX_LIST_BYTES + (64 << 20), MAX_LIST_BYTES + (8 << 20)),
            "'j.json' has more than 64 MiB, the most that is read of a JSON document. "
            "Write one object a line, as many as you like: jq -c '.[]' 'j.json' > jobs.jsonl.",
        ),
    ],
    ids=["one line", "one line of a table", "one row", "a list"],
)
def test_what_is_too_long_is_not_read_to_its_end(
    name: str, content: bytes, size: int, most_bytes: int, said: str
) -> None:
    Path(name).write_bytes(content)
    if size:
        os.truncate(name, size)
    tracemalloc.start()
    try:
        assert row_refusal(name, None) == said
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
