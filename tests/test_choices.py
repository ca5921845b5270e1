"""Choices as they are written and read."""

from __future__ import annotations

import pytest

from tests.refusals import refused
from vllava_cli.choices import by_choice, checked, choices_of, shares
from vllava_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("yes,no", ("yes", "no")),
        (" moves left ,moves right,  rests", ("moves left", "moves right", "rests")),
        ("日本,a;b", ("日本", "a;b")),
    ],
)
def test_commas_stand_between_choices(text: str, choices: tuple[str, ...]) -> None:
    assert choices_of(text) == choices == checked(choices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes", "'yes' is only one choice: give two or more, separated by commas, like yes,no."),
        ("", "One of the choices '' is empty: give each a text, like yes,no."),
        ("yes,no, yes ", "'yes' is given twice as a choice: leave one out."),
    ],
)
def test_what_leaves_no_choice_is_refused(text: str, message: str) -> None:
    assert refused(UsageError, choices_of, text) == message


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((0.9951, 0.0049), "yes >99%, no <1%"),
        ((0.9949, 0.0051), "yes 99%, no 1%"),
        ((1.0, 0.0), "yes 100%, no 0%"),
        ((), ""),
    ],
)
def test_shares_are_whole_percents_that_never_round_to_all_or_nothing(parts: tuple[float, ...], said: str) -> None:
    assert shares(("yes", "no"), parts) == said


def test_shares_are_one_line() -> None:
    assert shares(("a\nb", " c  d"), (0.25, 0.75)) == "a b 25%, c d 75%"


def test_json_gets_each_choice_under_its_own_text() -> None:
    assert by_choice(("yes", "no"), (2 / 3, 1 / 3)) == {"yes": 0.666667, "no": 0.333333}
    assert by_choice(("yes", "no"), ()) == {}
