"""Values of options: sizes, names, counts and lists of them."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from tests.refusals import refused
from vllava_cli import options
from vllava_cli.answers import Sampling
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Boundary, Framing, Windowing


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512M", 512 << 20), ("4gib", 4 << 30), ("1.5k", 1536), ("1T", 1 << 40), ("2MB", 2 << 20)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert options.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "G", "-1", "much", "nan", "inf", "1e400", "4GG", "0.1", "1e30"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not a size"):
        options.size_bytes(text)


def test_lists_of_counts_are_read() -> None:
    read = options.several(options.number(int, 1, 9999))["parser"]
    assert read("1, 4,16,4") == (1, 4, 16)
    for text in ("", "1,", "0", "1,-4", "1.5", "²", "10000"):
        with pytest.raises(typer.BadParameter, match="is not a whole number from 1 to 9999"):
            read(text)


@pytest.mark.parametrize(
    ("text", "colour"),
    [("navy", "#000080"), ("#FFF", "#ffffff"), ("rgb(0, 128, 255)", "#0080ff"), ("#0a0b0c", "#0a0b0c")],
)
def test_a_colour_is_a_name_or_numbers(text: str, colour: str) -> None:
    assert options.colour_of(text) == colour
    with pytest.raises(UsageError, match=r"^'\#12' is not a colour: give a name \(grey\) or #rrggbb \(#00ff7f\)\.$"):
        options.colour_of("#12")


@pytest.mark.parametrize(("by", "name"), [("every", "every"), ("scenes", "scenes"), ("chapters", "at-chapters")])
def test_windows_and_single_frames_are_not_asked_for_together(by: Boundary, name: str) -> None:
    windowing = Windowing(by=by, every_s=1)
    assert options.windowing_with(windowing, Framing(start_s=1)) is windowing
    assert refused(UsageError, options.windowing_with, windowing, Framing(at_s=(1.0,))) == (
        f"--at can't be combined with --{name}, whose windows have frames of their own. Leave one out."
    )


def test_choices_and_their_calibration_become_part_of_the_sampling() -> None:
    warm, answers = Sampling(temperature=0.5), options.Several(("yes", "no"))
    assert options.choosing(warm, None, is_calibrated=False) == warm
    assert options.choosing(warm, answers, is_calibrated=True) == Sampling(
        temperature=0.5, choices=("yes", "no"), is_calibrated=True
    )
    assert refused(UsageError, options.choosing, warm, None, is_calibrated=True) == (
        "--calibrate needs --choices: add --choices yes,no, or leave it out."
    )


@pytest.mark.parametrize("name", ["model", "revision", "adapter", "device"])
def test_a_name_that_is_empty_is_refused(name: str) -> None:
    names: dict[str, Any] = {"model": "demo", "revision": None, "adapter": None, "device": None} | {name: ""}
    with pytest.raises(UsageError, match=f"--{name} is empty"):
        options.wishes_of(precision="auto", attention="auto", **names)
