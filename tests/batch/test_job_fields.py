"""The options and the times of a row, in the ways in which people write them, and what is refused."""

from __future__ import annotations

import math

import pytest

from tests.refusals import refused
from vllava_cli.batch.job_fields import choices_of, known_keys, window_of
from vllava_cli.batch.job_readers import JobRow, Location
from vllava_cli.errors import UsageError

MEND = "Correct it in an editor, or leave it out."


def row(**values: object) -> JobRow:
    return JobRow(Location("'j.csv'", 7), {"video": "a", "question": "Why?", **values})


def choices(of: JobRow, *, has_letters: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found, keys = choices_of(of, known_keys(tuple(of.values)), has_letters=has_letters)
    return found, tuple(keys)


def part(of: JobRow) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    window, keys = window_of(of, known_keys(tuple(of.values)))
    return (window.start_s, window.end_s) if window else None, tuple(keys)


RED = ("red", "blue")


@pytest.mark.parametrize(
    "value",
    [
        ["red", "blue"],
        [" red ", "blue\n"],
        ["red", "blue", None, ""],
        ["A. red", "B. blue"],
        ["(A) red", "(B) blue"],
        ["A) red", "B) blue"],
        ["A: red", "B:blue"],
        [{"choice_id": 0, "choice": "red"}, {"choice_id": 1, "choice": "blue"}],
        [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}],
        {"A": "red", "B": "blue", "C": None},
        {"b": "blue", "a": "red"},
        {"0": "red", "1": "blue"},
        '["red", "blue"]',
        "['red', 'blue']",
        "['red' 'blue']",
        "['red'\n 'blue']",
        "['A. red' \"B. blue\"]",
        "{'A': 'red', 'B': 'blue'}",
        "[{'choice': 'red'}, {'choice': 'blue'}]",
    ],
)
def test_options_are_texts_in_order_without_letters(value: object) -> None:
    for key in ("choices", "candidates", "options", "option"):
        assert choices(row(**{key: value})) == (RED, (key,))


@pytest.mark.parametrize(
    "names",
    [
        *(("a0", "a1"), ("a_0", "a_1"), ("A", "B"), ("option 0", "option 1"), ("option1", "option2")),
        *(("option_A", "option_B"), ("Option A", "Option B"), ("optionA", "optionB"), ("choice_0", "choice_1")),
        *(("candidate1", "candidate2"), ("answer_choice_0", "answer_choice_1"), ("opt1", "opt2"), ("a1", "a2")),
    ],
)
def test_options_may_be_a_field_each(names: tuple[str, ...]) -> None:
    of = row(**dict(zip(reversed(names), reversed(RED), strict=True)))
    assert choices(of) == (RED, names)
    rest = dict.fromkeys(("a2", "a3"), "") if names == ("a0", "a1") else {}
    assert choices(row(**of.values, **rest)) == (RED, (*names, *rest))


def test_numbers_are_options_and_quotes_in_them_are_read() -> None:
    assert choices(row(options=[1, 2.5, 0]))[0] == ("1", "2.5", "0")
    assert choices(row(options="[1 2 3]"))[0] == ("1", "2", "3")
    assert choices(row(options=r"""['it\'s' "a 'b'" 'c, d']"""))[0] == ("it's", "a 'b'", "c, d")
    assert choices(row(candidates=["A. Smith", "C. Jones"]))[0] == ("A. Smith", "C. Jones")


@pytest.mark.parametrize(
    "values",
    [
        *({"options": value} for value in (None, "", [], {}, "fast", {"fast": True}, 3)),
        *({"options": value} for value in ("[red, blue]", "[" * 100_000, "['a' + 'b']", [None])),
        *({"options": value} for value in ("[" + "1" * 5000 + "x]", "['a'  " * 1000 + "]", "{'a': {[1]: 2}}")),
        *({"option": "D"}, {"A": "Ann"}, {"a1": "x"}, {"a0": "", "a1": None}, {"option2": "x", "option3": "y"}),
        {"answer_1": "x", "answer_2": "y"},
    ],
)
def test_a_field_that_is_not_options_is_left_alone(values: dict[str, object]) -> None:
    assert choices(row(**values)) == ((), ())


def test_the_first_options_of_a_row_count() -> None:
    assert choices(row(options=["x", "y"], choices=[["z"]]))[0] == ("x", "y")
    assert choices(row(options=[{"x": 1}], a0="p", a1="q"))[0] == ("p", "q")
    of = row(options=["x", "y"], choices={"fast": 1}, candidates="", a0="p", a1="q")
    assert choices(of) == (("x", "y"), ("options",))
    assert choices(row(options=[], a0="p", a1="q")) == (("p", "q"), ("a0", "a1"))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"candidates": ["red"]}, '"candidates" has one option, and a choice has 2 to 8'),
        ({"a0": "x", "a1": ""}, '"a0" has one option, and a choice has 2 to 8'),
        ({"choices": list("abcdefghi")}, '"choices" has 9 options, and a choice has 2 to 8'),
        ({"options": ["x", " ", "y"]}, 'option 2 of "options" is empty'),
        ({"A": None, "B": "y"}, 'option 1 of "A" is empty'),
        (
            {"options": ["A. x", "B. y", "C. x"]},
            "\"options\" has the option 'x' twice, which only --choice-style letter tells apart",
        ),
        *(
            ({"candidates": value}, '"candidates" is a list, but not of texts or numbers to choose from')
            for value in ([["x"], {"a": 1}], [[1, 2]], [True, False], [{"name": 1}], "[['x', 'y']]", ["x", ["y"]])
        ),
        ({"options": ["x\ud800", "y"]}, '"options" has half of a character (a lone surrogate)'),
    ],
)
def test_options_that_cannot_be_chosen_from_are_refused(values: dict[str, object], fault: str) -> None:
    assert refused(UsageError, choices, row(**values)) == f"'j.csv', line 7: {fault}. {MEND}"


def test_letters_tell_equal_options_apart() -> None:
    assert choices(row(options=["x", "x"]), has_letters=True)[0] == ("x", "x")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"start": 1.5, "end": 3}, (1.5, 3.0)),
        ({"start": "1:02.5", "end": "00:01:03,250"}, (62.5, 63.25)),
        ({"start": 0, "end": "3s"}, (0.0, 3.0)),
        ({"start": 2}, (2.0, math.inf)),
        ({"end": 2, "start": None}, (0.0, 2.0)),
        ({"question_end": 4, "question_start": 1}, (1.0, 4.0)),
        ({"begin": 1, "end": 4}, (1.0, 4.0)),
        ({"start_s": 1, "end_s": 2, "start_time": 5, "end_time": 6}, (1.0, 2.0)),
        ({"ts": "12.3-45.6"}, (12.3, 45.6)),
        ({"ts": [12.3, 45.6]}, (12.3, 45.6)),
        ({"timestamps": "[12.3, 45.6]"}, (12.3, 45.6)),
        ({"segment": "00:01:02,500 - 00:01:05"}, (62.5, 65.0)),
        ({"span": ["0:01", "0:04"]}, (1.0, 4.0)),
        ({"time": "1 to 4"}, (1.0, 4.0)),
        ({"start": "", "end": None}, None),
        ({"start": "nan", "end": "NaN"}, None),
    ],
)
def test_times_are_a_part_of_the_clip(values: dict[str, object], found: tuple[float, float] | None) -> None:
    used = ("start_s", "end_s") if "start_s" in values else tuple(values)
    assert part(row(**values))[0] == found
    assert set(part(row(**values))[1]) == set(used)


def test_a_missing_time_leaves_the_word_to_others() -> None:
    found, keys = part(row(start=None, end=None, ts=[1, 2]))
    assert (found, set(keys)) == ((1.0, 2.0), {"start", "end", "ts"})


@pytest.mark.parametrize(
    "values",
    [
        *({"duration": 9}, {"time": "morning"}, {"time": 5}, {"ts": "2024-05-01"}, {"timestamps": [[1, 2], [3, 4]]}),
        *({"segment": "intro-outro"}, {"segment": [1, 2, 3]}, {"span": [True, False]}, {"ts": "nan-nan"}),
        {"ts": " " * 100_000 + "x"},
        *({"start": [1], "end": [2]}, {"timestamp": "0:12"}, {"accurate_start": 1, "accurate_end": 2}, {"ts": None}),
    ],
)
def test_other_fields_are_no_times(values: dict[str, object]) -> None:
    assert part(row(**values)) == (None, ())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"start": "soon"}, "\"start\" has 'soon', which is no time in seconds or as h:m:s"),
        ({"start": True, "end": 2}, '"start" has True, which is no time in seconds or as h:m:s'),
        ({"start": 1, "end": "nan"}, "\"end\" has 'nan', which is no time in seconds or as h:m:s"),
        ({"start": -1, "end": 2}, '"start" has -1, which is no time in seconds or as h:m:s'),
        ({"start": 10**400}, f'"start" has {10**400}, which is no time in seconds or as h:m:s'),
        ({"start_time": "2024-05-01"}, "\"start_time\" has '2024-05-01', which is no time in seconds or as h:m:s"),
        ({"start": 3, "end": 3}, '"end" ends at 3 s, which is not after its start at 3 s'),
        ({"end": 0}, '"end" ends at 0 s, which is not after its start at 0 s'),
        ({"ts": "8.5-1.25"}, '"ts" ends at 1.25 s, which is not after its start at 8.5 s'),
        ({"segment": [-1, 2]}, '"segment" has -1, which is no time in seconds or as h:m:s'),
    ],
)
def test_times_that_are_no_part_are_refused(values: dict[str, object], fault: str) -> None:
    assert refused(UsageError, part, row(**values)) == f"'j.csv', line 7: {fault}. {MEND}"


def test_what_is_known_of_keys_is_found_once() -> None:
    before = known_keys.cache_info().misses
    for number in range(5):
        choices(row(only_in_this_test=number))
    assert known_keys.cache_info().misses == before + 1
