"""What /set changes: how tokens are chosen, and whether reasons are shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vllava_cli.choices import choices_of
from vllava_cli.commands.chat.nearest import nearest
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Sampling

SAMPLING_HELP: Mapping[str, str] = {
    "temperature": "0 always takes the likeliest token; higher is more varied.",
    "top-p": "Sample only from the likeliest tokens that add up to it.",
    "seed": "A number makes sampling repeatable; none is a new one each time.",
    "max-new-tokens": "The longest answer, in tokens.",
    "guard": "on stops an answer that repeats itself.",
    "choices": "Texts with commas between, yes,no: the likeliest is the answer; none lets the model speak.",
    "calibrate": "on divides each choice's likelihood by what it would be if the clip were blank.",
}
HELP: Mapping[str, str] = {**SAMPLING_HELP, "verbose": "on says what was chosen, why, and how long it took."}
VALUES: Mapping[str, tuple[str, ...]] = {
    "temperature": ("0", "0.2", "0.7", "1"),
    "top-p": ("0.5", "0.9", "1"),
    "seed": ("none", "0", "1"),
    "max-new-tokens": ("64", "256", "512", "1024"),
    "guard": ("on", "off"),
    "choices": ("none", "yes,no"),
    "calibrate": ("on", "off"),
    "verbose": ("on", "off"),
}
"""Likely values of each setting, for completion."""
MOST_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that /set changes and /set alone lists."""

    sampling: Sampling = field(default_factory=Sampling)
    is_verbose: bool = False

    def changed(self, name: str, value: str) -> Settings:
        """The settings with one of them changed. Errors: UsageError."""
        if canonical(name) == "verbose":
            return replace(self, is_verbose=_switch("verbose", value))
        return replace(self, sampling=changed(self.sampling, name, value))

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) of each, as /set takes them."""
        return [*rows(self.sampling), ("verbose", _shown(self.is_verbose))]


def changed(sampling: Sampling, name: str, value: str) -> Sampling:
    """The sampling with one setting changed: changed(Sampling(), "top_p", "0.9"). Errors: UsageError."""
    match canonical(name):
        case "temperature":
            return replace(sampling, temperature=_number("temperature", value, most=100.0))
        case "top-p":
            return replace(sampling, top_p=_number("top-p", value, most=1.0))
        case "seed":
            return replace(sampling, seed=_seed(value))
        case "max-new-tokens":
            return replace(sampling, max_new_tokens=_count("max-new-tokens", value))
        case "guard":
            return replace(sampling, has_guard=_switch("guard", value))
        case "choices":
            return replace(sampling, choices=() if value.lower() == "none" else choices_of(value))
        case "calibrate":
            return replace(sampling, is_calibrated=_switch("calibrate", value))
        case other:
            raise UsageError(f"{other} doesn't change how tokens are chosen: /set {other} {value} sets it.")


def rows(sampling: Sampling) -> list[tuple[str, str]]:
    """(name, value) of each part of the sampling, as /set takes them."""
    return [
        ("temperature", _plain(sampling.temperature)),
        ("top-p", _plain(sampling.top_p)),
        ("seed", "none" if sampling.seed is None else str(sampling.seed)),
        ("max-new-tokens", str(sampling.max_new_tokens)),
        ("guard", _shown(sampling.has_guard)),
        ("choices", ",".join(sampling.choices) or "none"),
        ("calibrate", _shown(sampling.is_calibrated)),
    ]


def canonical(name: str) -> str:
    """ "top_p" → "top-p". Errors: UsageError for a name that isn't a setting."""
    plain = name.lower().replace("_", "-")
    if plain not in HELP:
        raise UsageError(f"There is no setting {name}.{nearest(plain, tuple(HELP))} /set lists them.")
    return plain


def _number(name: str, value: str, *, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise UsageError(f"{name} can't be {value}: give a number from 0 to {most:g}.")
    return number


def _seed(value: str) -> int | None:
    number = _whole(value)
    if value.lower() == "none":
        return None
    if number is None or not 0 <= number <= MOST_SEED:
        raise UsageError(f"seed can't be {value}: give a whole number from 0 to 2^63 - 1, or none.")
    return number


def _count(name: str, value: str) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise UsageError(f"{name} can't be {value}: give a whole number from 1.")
    return number


def _whole(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _switch(name: str, value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise UsageError(f"{name} can't be {value}: give on or off.")
    return value.lower() == "on"


def _plain(number: float) -> str:
    """1.0 → "1"; every digit that the number has."""
    return str(number).removesuffix(".0")


def _shown(is_on: bool) -> str:
    return "on" if is_on else "off"
