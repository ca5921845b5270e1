"""The settings that /set changes: how tokens are chosen, and whether reasons are shown. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vllava_cli.answers import Sampling
from vllava_cli.choices import choices_of
from vllava_cli.commands.chat.parser import nearest
from vllava_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting: its name in the chat, and the field of `Sampling`, or of `Screen`, that it stands for."""

    name: str
    field: str
    help: str
    parse: Callable[[str], Any]
    """Reads a value. Errors: ValueError and LookupError for a value that isn't what `wants` says; UsageError."""
    wants: str = "on or off"
    likely: tuple[str, ...] = ("on", "off")
    """The values that Tab offers."""

    def read(self, value: str) -> Any:
        """Reads a value of this setting. Errors: UsageError."""
        try:
            return self.parse(value)
        except (ValueError, LookupError):
            raise UsageError(f"{self.name} can't be {value}: give {self.wants}.") from None


def changed(sampling: Sampling, name: str, value: str) -> Sampling:
    """Returns the sampling with one setting changed: changed(sampling, "top_p", "0.9"). Errors: UsageError."""
    setting = setting_of(name)
    return replace(sampling, **{setting.field: setting.read(value)})


def setting_rows(sampling: Sampling, *, is_verbose: bool) -> list[tuple[str, str]]:
    """Returns (name, value) of each setting, written as /set takes them."""
    values = {**vars(sampling), "is_verbose": is_verbose}
    return [(setting.name, _written(values[setting.field])) for setting in SETTINGS.values()]


def setting_of(name: str) -> Setting:
    """Finds a setting by its name; "top_p" means "top-p". Errors: UsageError."""
    plain = name.lower().replace("_", "-")
    if plain not in SETTINGS:
        raise UsageError(f"There is no setting {name}.{nearest(plain, tuple(SETTINGS))} /set lists them.")
    return SETTINGS[plain]


def _within(number: float, least: float, most: float = math.inf) -> float:
    if not least <= number <= most:
        raise ValueError(number)
    return number


def _switch(value: str) -> bool:
    return {"on": True, "off": False}[value.lower()]


def _written(value: object) -> str:
    """Writes a value as /set takes it: 1.0 → "1", True → "on", ("yes", "no") → "yes,no", None → "none"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return "none" if value is None else str(value).removesuffix(".0")


_ALL = (
    Setting(
        name="temperature",
        field="temperature",
        help="0 always takes the likeliest token; higher is more varied.",
        parse=lambda value: _within(float(value), 0, 100),
        wants="a number from 0 to 100",
        likely=("0", "0.2", "0.7", "1"),
    ),
    Setting(
        name="top-p",
        field="top_p",
        help="Sample only from the likeliest tokens that add up to this probability.",
        parse=lambda value: _within(float(value), 0, 1),
        wants="a number from 0 to 1",
        likely=("0.5", "0.9", "1"),
    ),
    Setting(
        name="seed",
        field="seed",
        help="A number makes sampling repeatable; none draws a new one each time.",
        parse=lambda value: None if value.lower() == "none" else _within(int(value), 0, 2**63 - 1),
        wants="a whole number from 0 to 2^63 - 1, or none",
        likely=("none", "0", "1"),
    ),
    Setting(
        name="max-new-tokens",
        field="max_new_tokens",
        help="The longest answer, in tokens.",
        parse=lambda value: _within(int(value), 1),
        wants="a whole number from 1",
        likely=("64", "256", "512", "1024"),
    ),
    Setting(name="guard", field="has_guard", help="on stops an answer that repeats itself.", parse=_switch),
    Setting(
        name="choices",
        field="choices",
        help="Texts separated by commas, like yes,no: the likeliest is the answer; none lets the model speak.",
        parse=lambda value: () if value.lower() == "none" else choices_of(value),
        likely=("none", "yes,no"),
    ),
    Setting(
        name="calibrate",
        field="is_calibrated",
        help="on divides each choice's likelihood by what it would be if the clip were blank.",
        parse=_switch,
    ),
    Setting(
        name="verbose",
        field="is_verbose",
        help="on says what was chosen, why, and how long it took.",
        parse=_switch,
    ),
)
SETTINGS = {setting.name: setting for setting in _ALL}
