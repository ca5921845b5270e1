"""What /set changes, within which limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllava_cli.commands.chat.settings import HELP, VALUES, Settings, canonical, changed, rows
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Sampling

CHANGES = [
    ("temperature", "0.7", Sampling(temperature=0.7)),
    ("temperature", "100", Sampling(temperature=100.0)),
    ("top-p", "0.9", Sampling(top_p=0.9)),
    ("top_p", "0", Sampling(top_p=0.0)),
    ("TOP_P", "1", Sampling()),
    ("seed", "7", Sampling(seed=7)),
    ("seed", "0", Sampling(seed=0)),
    ("seed", "None", Sampling()),
    ("max-new-tokens", "1", Sampling(max_new_tokens=1)),
    ("max_new_tokens", "64", Sampling(max_new_tokens=64)),
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
    ("temperature", "hot", "temperature can't be hot: give a number from 0 to 100."),
    ("temperature", "-1", "temperature can't be -1: give a number from 0 to 100."),
    ("temperature", "100.1", "temperature can't be 100.1: give a number from 0 to 100."),
    ("temperature", "nan", "temperature can't be nan: give a number from 0 to 100."),
    ("top-p", "1.1", "top-p can't be 1.1: give a number from 0 to 1."),
    ("seed", "-1", "seed can't be -1: give a whole number from 0 to 2^63 - 1, or none."),
    ("seed", "0.5", "seed can't be 0.5: give a whole number from 0 to 2^63 - 1, or none."),
    ("seed", str(1 << 63), f"seed can't be {1 << 63}: give a whole number from 0 to 2^63 - 1, or none."),
    ("max-new-tokens", "0", "max-new-tokens can't be 0: give a whole number from 1."),
    ("max-new-tokens", "many", "max-new-tokens can't be many: give a whole number from 1."),
    ("choices", "yes", "'yes' leaves no choice: give two or more, with commas between, yes,no."),
    ("calibrate", "yes", "calibrate can't be yes: give on or off."),
    ("guard", "maybe", "guard can't be maybe: give on or off."),
    ("temprature", "1", "There is no setting temprature. Did you mean temperature? /set lists them."),
    ("t", "1", "There is no setting t. Did you mean temperature or top-p? /set lists them."),
    ("colour", "1", "There is no setting colour. /set lists them."),
    ("verbose", "on", "verbose doesn't change how tokens are chosen: /set verbose on sets it."),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_refusals(name: str, value: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed(Sampling(), name, value)
    assert str(caught.value) == message


def test_only_the_named_setting_changes() -> None:
    before = Sampling(
        max_new_tokens=9, temperature=0.5, top_p=0.5, seed=3, has_guard=False, choices=("a", "b"), is_calibrated=True
    )
    assert changed(before, "seed", "none") == replace(before, seed=None)
    assert changed(before, "choices", "none") == replace(before, choices=())
    assert changed(before, "calibrate", "off") == replace(before, is_calibrated=False)


def test_settings_hold_verbose_too() -> None:
    settings = Settings().changed("verbose", "on").changed("seed", "5")
    assert settings == Settings(sampling=Sampling(seed=5), is_verbose=True)
    assert settings.changed("VERBOSE", "off").is_verbose is False
    with pytest.raises(UsageError, match=r"^verbose can't be loud: give on or off\.$"):
        settings.changed("verbose", "loud")


def test_rows_are_what_set_takes() -> None:
    assert rows(Sampling(temperature=0.25, seed=3, has_guard=False)) == [
        ("temperature", "0.25"),
        ("top-p", "1"),
        ("seed", "3"),
        ("max-new-tokens", "512"),
        ("guard", "off"),
        ("choices", "none"),
        ("calibrate", "off"),
    ]
    settings = Settings(
        sampling=Sampling(temperature=0.1 + 0.2, top_p=0.123456789, choices=("a b", "c")), is_verbose=True
    )
    again = Settings()
    for name, value in settings.rows():
        again = again.changed(name, value)
    assert again == settings


def test_every_setting_has_help_a_row_and_likely_values() -> None:
    names = [name for name, _ in Settings().rows()]
    assert names == list(HELP) == list(VALUES) == [canonical(name) for name in names]
    for name, values in VALUES.items():
        for value in values:
            Settings().changed(name, value)
