"""What /set changes, within which limits."""

from __future__ import annotations

import pytest

from tests.refusals import refused
from vllava_cli.answers import Sampling
from vllava_cli.commands.chat.settings import SETTINGS, changed, setting_rows
from vllava_cli.errors import UsageError

CHANGES = [
    ("temperature", "0.7", Sampling(temperature=0.7)),
    ("top_p", "0", Sampling(top_p=0.0)),
    ("TOP_P", "1", Sampling()),
    ("seed", "7", Sampling(seed=7)),
    ("seed", "None", Sampling()),
    ("max-new-tokens", "1", Sampling(max_new_tokens=1)),
    ("guard", "off", Sampling(has_guard=False)),
    ("guard", "ON", Sampling()),
    ("choices", "yes, no", Sampling(choices=("yes", "no"))),
    ("choices", "None", Sampling()),
    ("calibrate", "on", Sampling(is_calibrated=True)),
]


@pytest.mark.parametrize(("name", "value", "sampling"), CHANGES)
def test_changes(name: str, value: str, sampling: Sampling) -> None:
    assert changed(Sampling(), name, value) == sampling


REFUSED = [
    *(("temperature", value, "give a number from 0 to 100") for value in ("hot", "-1", "100.1", "nan")),
    ("top-p", "1.1", "give a number from 0 to 1"),
    *(("seed", value, "give a whole number from 0 to 2^63 - 1, or none") for value in ("-1", "0.5", str(1 << 63))),
    *(("max-new-tokens", value, "give a whole number from 1") for value in ("0", "many")),
    *((name, "maybe", "give on or off") for name in ("guard", "calibrate", "verbose")),
]


@pytest.mark.parametrize(("name", "value", "remedy"), REFUSED)
def test_values_out_of_their_limits_are_refused(name: str, value: str, remedy: str) -> None:
    assert refused(UsageError, SETTINGS[name].read, value) == f"{name} can't be {value}: {remedy}."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", "There is no setting temprature. Did you mean temperature? /set lists them."),
        ("t", "There is no setting t. Did you mean temperature or top-p? /set lists them."),
        ("colour", "There is no setting colour. /set lists them."),
        ("choices", "'1' is only one choice: give two or more, separated by commas, like yes,no."),
    ],
)
def test_an_unknown_name_and_a_single_choice_are_refused(name: str, message: str) -> None:
    assert refused(UsageError, changed, Sampling(), name, "1") == message


def test_rows_are_what_set_takes() -> None:
    sampling = Sampling(temperature=0.1 + 0.2, top_p=0.123456789, choices=("a b", "c"))
    rows = setting_rows(sampling, is_verbose=True)
    assert rows == [
        ("temperature", "0.30000000000000004"),
        ("top-p", "0.123456789"),
        ("seed", "none"),
        ("max-new-tokens", "512"),
        ("guard", "on"),
        ("choices", "a b,c"),
        ("calibrate", "off"),
        ("verbose", "on"),
    ]
    again = Sampling()
    for name, value in rows[:-1]:
        again = changed(again, name, value)
    assert again == sampling
    for setting in SETTINGS.values():
        assert [setting.read(value) for value in setting.likely]
