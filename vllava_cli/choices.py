"""Parses the choices of a user ("yes,no") and writes their probabilities, for the command line and the chat."""

from __future__ import annotations

from collections.abc import Sequence

from vllava_cli.errors import UsageError


def choices_of(text: str) -> tuple[str, ...]:
    """Reads the text of --choices: "yes, no" → ("yes", "no"). Errors: those of `checked`."""
    return checked(text.split(","))


def checked(choices: Sequence[str]) -> tuple[str, ...]:
    """Strips the spaces around the choices. Errors: UsageError for fewer than two, an empty one, or equal ones."""
    found = tuple(choice.strip() for choice in choices)
    if "" in found:
        raise UsageError(f"One of the choices {','.join(choices)!r} is empty: give each a text, like yes,no.")
    if len(found) < 2:
        raise UsageError(f"{','.join(found)!r} is only one choice: give two or more, separated by commas, like yes,no.")
    twice = next((choice for place, choice in enumerate(found) if choice in found[:place]), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is given twice as a choice: leave one out.")
    return found


def by_choice(choices: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    """Returns {"yes": 0.93, "no": 0.07} for a JSON object; {} if an interruption left no probabilities."""
    return {choice: round(part, 6) for choice, part in zip(choices, probabilities, strict=False)}


def shares(choices: Sequence[str], probabilities: Sequence[float]) -> str:
    """Writes the probabilities as "yes 93%, no 7%"; only an exact 0 or 1 becomes 0% or 100%, others <1% or >99%."""
    parts = zip(choices, probabilities, strict=False)
    return ", ".join(f"{' '.join(choice.split())} {_percent(part)}" for choice, part in parts)


def _percent(part: float) -> str:
    if 0 < part < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= part < 1 else f"{part:.0%}"
