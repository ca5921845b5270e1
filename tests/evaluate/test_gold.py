"""Right answers as benchmarks write them, in rows and in files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.judging import row, write
from tests.refusals import refused
from vllava_cli.errors import OutputError, UsageError
from vllava_cli.evaluate.gold import GoldForm, choice_place, is_past_the_end
from vllava_cli.evaluate.records import Record, read_records

pytestmark = pytest.mark.usefixtures("in_a_folder")
COLOURS = ("red", "blue", "a grey dog")
NUMBERS = ("3", "1", "2")


@pytest.mark.parametrize(
    ("value", "choices", "form", "place"),
    [
        ("blue", COLOURS, "auto", 1),
        (" Blue ", COLOURS, "auto", 1),
        ("B", COLOURS, "auto", 1),
        ("b", COLOURS, "auto", 1),
        ("(B)", COLOURS, "auto", 1),
        ("B.", COLOURS, "auto", 1),
        ("(B) blue", COLOURS, "auto", 1),
        ("B. blue", COLOURS, "auto", 1),
        ("C: A grey dog", COLOURS, "auto", 2),
        ("(B) red", COLOURS, "auto", None),
        ("A grey cat", COLOURS, "auto", None),
        ("D", COLOURS, "auto", None),
        ("green", COLOURS, "auto", None),
        (1, COLOURS, "auto", 1),
        ("1", COLOURS, "auto", 1),
        (3, COLOURS, "auto", None),
        ("1", NUMBERS, "auto", 1),
        ("2", NUMBERS, "auto", 2),
        (2, NUMBERS, "auto", 2),
        (0, NUMBERS, "auto", 0),
        ("2", NUMBERS, "place", 2),
        ("2", NUMBERS, "place-from-1", 1),
        (3, COLOURS, "place-from-1", 2),
        (0, COLOURS, "place-from-1", None),
        ("B", ("B", "A"), "auto", 0),
        ("B", ("B", "A"), "letter", 1),
        ("0", COLOURS, "text", None),
        ("-1", COLOURS, "auto", None),
        (True, COLOURS, "auto", None),
    ],
)
def test_a_right_answer_names_a_choice(
    value: object, choices: tuple[str, ...], form: GoldForm, place: int | None
) -> None:
    assert choice_place(value, choices, form) == place


def test_a_number_past_the_last_choice_is_known_as_such() -> None:
    assert is_past_the_end(3, COLOURS) and is_past_the_end("3", COLOURS)
    assert not is_past_the_end("D", COLOURS) and not is_past_the_end(2, COLOURS)


def rights(gold: str, text: str, rows: list[dict[str, Any]]) -> tuple[list[str | None], list[str]]:
    """The right answers that rows get from a file, and what is said."""
    Path(gold).write_text(text, encoding="utf-8")
    told: list[str] = []
    records = read_records([write(Path("rows.jsonl"), rows)], Path(gold), notice=told.append)
    return [each.gold for each in records], told


MSVD = '[{"answer": "dance", "id": 7, "question": "What do they do?", "video_id": 12}]'
NEXT_QA = "video,question,answer,qid,type,a0,a1\n40,why,0,1,CW,fun,rain\n41,how,1,1,CH,fun,rain\n"
ACTIVITY = '[{"answer": "yes", "type": 3, "question_id": "v_ab_0"}, {"answer": "no", "question_id": "v_ab_1"}]'
SEVERAL = '[{"video": "41.mp4", "qa": [{"Q": "Who?", "A": "Ann"}, {"Q": "Why?", "A": "rain"}]}]'
TURNS = json.dumps(
    [{"video": "41", "conversations": [{"from": "human", "value": "<video>Why?"}, {"from": "gpt", "value": "rain"}]}]
)
NAMED = json.dumps(
    {"41": {"mc_question": [{"question": "What?", "answer_id": 0}, {"question": "How?", "answer_id": 1}]}}
)
PAIR = {"choices": ["fun", "rain"], "answer": "rain"}


@pytest.mark.parametrize(
    ("name", "text", "rows", "golds", "told"),
    [
        ("a.json", MSVD, [row(job_id=7), row("x.mp4", job_id=8)], ["dance", None], "job_id, 1 rows 1 none 0"),
        ("a.json", MSVD, [row("c/vid12.avi", "What do they do?")], ["dance"], "clip question, 1 rows 0 none 0"),
        ("a.json", ACTIVITY, [row(question_id="v_ab_1")], ["no"], "question_id, 1 rows 0 none 1"),
        ("a.csv", NEXT_QA, [row("41.mp4", qid="1", **PAIR)], ["rain"], "clip qid, 1 rows 0 none 1"),
        ("a.csv", NEXT_QA, [row("v/40.mkv", "why", **PAIR)], ["fun"], "clip question, 1 rows 0 none 1"),
        ("a.json", '{"u-1": 1, "u-2": 0}', [row(q_uid="u-2", **PAIR)], ["fun"], "q_uid, 1 rows 0 none 1"),
        ("a.json", '{"u-1": 1, "u-2": 0}', [row("v/u-2.mp4", **PAIR)], ["fun"], "clip, 1 rows 0 none 1"),
        ("a.jsonl", '{"id": "x", "gold": ["a", "b"]}\n', [row(job_id="x")], ["a"], "job_id, 1 rows 0 none 0"),
        (
            "a.json",
            SEVERAL,
            [row("x/41.mp4", "Who?"), row("41.mp4", "Why?")],
            ["Ann", "rain"],
            "clip question, 2 rows 0 none 0",
        ),
        ("a.json", TURNS, [row("41.mp4", "Why?")], ["rain"], "clip question, 1 rows 0 none 0"),
        ("a.json", NAMED, [row("41.mp4", "What?", **PAIR)], ["fun"], "clip question, 1 rows 0 none 1"),
        ("a.json", '{"k": {"answer": "B"}}', [row(qid="k", **PAIR)], ["rain"], "qid, 1 rows 0 none 0"),
        ("a.tsv", "uid\ttruth\n1\tB\n2\t\n", [row(uid=1, **PAIR)], ["rain"], "uid, 1 rows 0 none 0"),
    ],
)
def test_answers_of_a_file_find_their_rows(
    name: str, text: str, rows: list[dict[str, Any]], golds: list[str | None], told: str
) -> None:
    way, _, counts = told.partition(", ")
    words = "the clip's name" if way == "clip" else way.replace("clip ", "the clip's name and ")
    matched, without, left = (int(word) for word in counts.split() if word.isdecimal())
    assert rights(name, text, rows) == (
        golds,
        [
            f"vllava: --gold: by {words}, {matched} row{'s' * (matched != 1)} with a right answer, {without} without; "
            f"{left} answer{'s' * (left != 1)} without a row."
        ],
    )


def test_a_gold_file_that_fits_no_row_names_the_fields_of_both() -> None:
    message = refused(UsageError, rights, "a.json", '[{"sample": 1, "answer": "red"}]', [row(task="colour")])
    assert message == (
        "--gold 'a.json' fits no row: its answers have sample, answer; the rows have id, path, question, answer, "
        "model, error, task. Answers are found by one of id, question_id, qid, q_uid, uid, key, or by the clip's name "
        "and the question."
    )
    message = refused(UsageError, rights, "a.json", '[{"uid": 1, "answer": "red"}]', [row(uid=2)])
    assert message.startswith("--gold 'a.json' fits no row: its answers have uid, answer; the rows have id,")
    message = refused(UsageError, rights, "a.jsonl", '{"uid":1,"answer":"a"}\n{"uid":1,"answer":"b"}\n', [row(uid=1)])
    assert " Two of its answers have the same uid, 1. " in message
    assert refused(UsageError, rights, "a.jsonl", "", [row()]) == (
        "--gold 'a.jsonl' has no answers. Name the file that has them."
    )
    assert refused(UsageError, rights, "a.jsonl", '{"uid":1,"reply":"a"}\n', [row(uid=1)]) == (
        "--gold 'a.jsonl' has no field with the right answer: it has uid, reply. Call the field answer."
    )


def record(**fields: Any) -> Record:
    return next(read_records([write(Path("rows.jsonl"), [row(**fields)])]))


def test_a_row_has_its_right_answer_itself() -> None:
    found = record(answer="B", choices=["red", "blue"], chances={"A": 0.25, "B": 0.75}, job_answer="(A) red")
    assert (found.answer, found.chosen, found.gold, found.right) == ("blue", 1, "red", 0)
    assert (found.probabilities, found.golds) == ((0.25, 0.75), ("(A) red",))
    found = record(choices=["red", "blue"], job_answer=["B", "A"])
    assert (found.chosen, found.gold, found.right) == (0, "red", 0)
    found = record(answer="B", choices=["red", "red", "b"], chances={"A": 0.2, "B": 0.7, "C": 0.1}, job_answer="red")
    assert (found.chosen, found.right, found.gold) == (1, 1, "red")
    found = record(choices=["red", "blue"], job_answer="green")
    assert (found.gold, found.right, found.is_gold_unclear) == ("green", None, True)
    assert record(choices=["red", "blue"], answer_idx=1).gold == "blue"
    found = record(answer="It is red.", job_answer="red", label=7)
    assert (found.choices, found.chosen, found.gold, found.right) == ((), None, "red", None)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"choices": ["red"]}, "'choices' needs at least two choices"),
        ({"choices": "red"}, "'choices' is no list of texts"),
        ({"chances": {"red": 1.0}}, "'probabilities' needs at least two choices"),
        ({"chances": {"red": 1.5, "b": -0.5}}, "'probabilities' has a value that is no number from 0 to 1"),
        ({"chances": {"red": True, "b": 0.0}}, "'probabilities' has a value that is no number from 0 to 1"),
        ({"chances": {"red": 0.5, "b": 0.4}}, "'probabilities' sums to 0.900, not to 1"),
        ({"probabilities": [1]}, "'probabilities' is no object of a number for each choice"),
        (
            {"choices": ["red", "b"], "chances": {"red": 0.5, "c": 0.5}},
            "'probabilities' has other names than its choices, red, b",
        ),
        ({"choices": ["a", "b"]}, "'answer' is 'red', which is none of its choices, a, b, A, B"),
        ({"answer": 3}, "'answer' is not text"),
        ({"error": "x", "answer": None} | {"error": None}, ""),
    ],
)
def test_a_row_that_cant_be_used_is_refused_with_its_field(fields: dict[str, Any], fault: str) -> None:
    if not fault:
        assert record(**fields).error == "unknown"
        return
    expected = f"'rows.jsonl', row 1: {fault}. Correct it in an editor, or leave the row out."
    assert refused(OutputError, record, **fields) == expected


def test_places_that_count_from_1_are_refused_with_the_option_that_reads_them() -> None:
    fields = {"choices": ["red", "blue"], "job_answer": 2}
    assert refused(OutputError, record, **fields) == (
        "'rows.jsonl', row 1: the right answer in 'job_answer' is 2, but the places of its choices are 0 to 1. If they "
        "count from 1, give --gold-as place-from-1."
    )
    files = [write(Path("rows.jsonl"), [row(**fields)])]
    assert next(read_records(files, form="place-from-1")).gold == "blue"


def test_a_gold_file_of_many_kinds_of_json_is_read() -> None:
    pairs = json.dumps({"u": "B"})
    assert rights("b.json", pairs, [row(q_uid="u", **PAIR)])[0] == ["rain"]
