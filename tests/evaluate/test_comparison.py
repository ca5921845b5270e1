"""`--against`: two runs about the same questions."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests.evaluate.judging import row, write
from tests.refusals import refused
from vllava_cli.errors import UsageError
from vllava_cli.evaluate.score import ScoreRequest, run
from vllava_cli.screen import Screen

pytestmark = pytest.mark.usefixtures("in_a_folder")
CHOICES = ("red", "blue")


def rows_of(answers: str, *, run: str, gold: str = "rrrrrrrb", **fields: Any) -> list[dict[str, Any]]:
    """A row for each letter: r is red, b is blue, x an error; two rows about each clip."""
    names = {"r": "red", "b": "blue"}
    return [
        row(
            f"{number // 2}.mp4",
            f"Question {number}?",
            names.get(letter),
            choices=CHOICES,
            error=None if letter in names else "missing",
            job_answer=names[right],
            run=run,
            **fields,
        )
        for number, (letter, right) in enumerate(zip(answers, gold, strict=True))
    ]


def compared(one: list[dict[str, Any]], two: list[dict[str, Any]], *, is_json: bool = True) -> Any:
    write(Path("one.jsonl"), one), write(Path("two.jsonl"), two)
    out = io.StringIO()
    request = ScoreRequest(rows=(Path("one.jsonl"),), against=Path("two.jsonl"), is_json=is_json)
    assert run(request, Screen(out=out, err=io.StringIO())) == 0
    return json.loads(out.getvalue())["against"] if is_json else out.getvalue().partition("against")[2]


ONE, TWO = rows_of("rrrbbbxb", run="one"), list(reversed(rows_of("rrbrrrrx", run="two")))


def test_two_runs_are_compared_row_by_row() -> None:
    found = compared(ONE, TWO)
    gain, changed = found.pop("gain"), found.pop("changed")
    agreed, expected = 2 / 6, (2 / 6 * 5 / 6) + (4 / 6 * 1 / 6)
    one, two = [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]
    expected = sum((one.count(place) / 6) * (two.count(place) / 6) for place in (0, 1))
    assert found == {
        "file": "two.jsonl",
        "rows": 8,
        "only_first": 0,
        "only_second": 0,
        "answered_by_both": 6,
        "agreement": pytest.approx(agreed),
        "kappa": pytest.approx((agreed - expected) / (1 - expected)),
        "with_gold": 8,
        "both_right": 2,
        "only_first_right": 2,
        "only_second_right": 4,
        "neither_right": 0,
        "mcnemar_p": pytest.approx(2 * stats.binom.cdf(2, 6, 0.5)),
    }
    assert (gain["value"], gain["rows"]) == (2 / 8, 8) and gain["low"] < 0.25 < gain["high"]
    assert [each["question"] for each in changed] == [f"Question {number}?" for number in range(2, 8)]
    assert changed[0] == {
        "id": ONE[2]["id"],
        "other_id": TWO[5]["id"],
        "path": "1.mp4",
        "question": "Question 2?",
        "first": "red",
        "second": "blue",
        "gold": "red",
        "right": "first",
    }
    assert [each["right"] for each in changed] == ["first", "second", "second", "second", "second", "first"]


def test_the_table_has_the_first_ten_changes() -> None:
    one, two = rows_of("r" * 12, run="one", gold="r" * 12), rows_of("b" * 12, run="two", gold="r" * 12)
    lines = [line.strip() for line in compared(one, two, is_json=False).splitlines()]
    assert lines[:7] == [
        "two.jsonl",
        "pairs              12",
        "agreement          0.0% of 12, kappa 0.000",
        "right              both 0, only these 12, only the other 0, neither 0",
        "gain of the other  -100.0 points (-100.0 to -100.0), McNemar p = 0.000488",
        "changed            12 answers, of which the first 10; --json has all",
        "0.mp4: Question 0? 'red' → 'blue', right is 'red'",
    ]
    assert len(lines) == 16


def test_rows_of_other_folders_are_joined_by_their_ids() -> None:
    one, two = rows_of("rrrr", run="one", gold="rrrr"), rows_of("rrbb", run="two", gold="rrrr")
    for number, (its, other) in enumerate(zip(one, two, strict=True)):
        its["question_id"] = other["question_id"] = number
        other |= {"path": f"elsewhere/{other['path']}", "question": "What, then?"}
    assert (compared(one, two)["rows"], compared(one, two)["agreement"]) == (4, 0.5)


def test_a_question_that_is_asked_twice_is_paired_in_order() -> None:
    one = [row("a.mp4", answer=answer, run="one", time=number) for number, answer in enumerate(("red", "blue", "grey"))]
    two = [row("a.mp4", answer=answer, run="two", time=number) for number, answer in enumerate(("Red.", "green"))]
    found = compared(one, two)
    assert (found["rows"], found["only_first"], found["only_second"]) == (2, 1, 0)
    assert [(each["first"], each["second"], each["right"]) for each in found["changed"]] == [("blue", "green", None)]
    assert (found["kappa"], found["mcnemar_p"], found["gain"]["value"]) == (None, None, None)


def test_runs_about_other_questions_cant_be_compared() -> None:
    assert refused(UsageError, compared, [row("a.mp4")], [row("b.mp4")]) == (
        "--against has no question about a clip of the rows. Name a run with the same jobs."
    )
