"""What stands behind an option: times, lists of times, sizes."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from vllava_cli import options
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Sampling


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("0.5", 0.5), ("1:30", 90.0), ("01:01:01.5", 3661.5), ("0", 0.0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "noon", "1:2:3:4", "-5", "nan", "inf", "1:-2", ":"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not a time"):
        options.seconds(text)


def test_lists_of_times_are_read() -> None:
    assert options.seconds_each("1.5, 3,0:12") == (1.5, 3.0, 12.0)
    for text in ("", "1,", "1;2", "1,-2"):
        with pytest.raises(Exception, match="is not a time"):
            options.seconds_each(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 << 20),
        ("4G", 4 << 30),
        ("4gib", 4 << 30),
        ("1.5k", 1536),
        ("1T", 1 << 40),
        ("2MB", 2 << 20),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert options.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "G", "-1", "much", "nan", "inf", "1e400", "4GG", "0.1", "1e30"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not a size"):
        options.size_bytes(text)


def test_names_are_read_alone_and_in_lists() -> None:
    kernels = options.some_of("auto", "flash", "sdpa")["parser"]
    assert kernels("flash, sdpa,auto,flash") == ("flash", "sdpa", "auto")
    assert options.one_of("crop", "pad")["parser"]("pad") == "pad"
    for text, name in (("", "''"), ("flash,", "''"), ("flash,fast", "'fast'"), ("Flash", "'Flash'")):
        with pytest.raises(typer.BadParameter, match=f"{name} is none of auto, flash, sdpa"):
            kernels(text)


def test_lists_of_counts_are_read() -> None:
    assert options.counts_each("1, 4,16,4") == (1, 4, 16)
    for text in ("", "1,", "0", "1,-4", "1.5", "²", "10000"):
        with pytest.raises(typer.BadParameter, match="is no list of numbers"):
            options.counts_each(text)


def test_choices_are_read() -> None:
    assert options.answers_each("yes, no") == ("yes", "no")
    for text in ("", "yes", "yes,", "yes,yes"):
        with pytest.raises(typer.BadParameter, match="choice"):
            options.answers_each(text)


def test_choices_and_their_calibration_become_part_of_the_sampling() -> None:
    warm, answers = Sampling(temperature=0.5), options.Answers(("yes", "no"))
    assert options.choosing(warm, None, is_calibrated=False) == warm
    assert options.choosing(warm, answers, is_calibrated=True) == Sampling(
        temperature=0.5, choices=("yes", "no"), is_calibrated=True
    )
    with pytest.raises(UsageError) as caught:
        options.choosing(warm, None, is_calibrated=True)
    assert str(caught.value) == (
        "--calibrate weighs --choices, and there are none: add --choices yes,no, or leave it out."
    )


def test_no_time_to_decode_is_refused() -> None:
    with pytest.raises(Exception, match="leaves no time"):
        options.positive_time("0")


@pytest.mark.parametrize("name", ["model", "revision", "adapter", "device"])
def test_a_name_that_is_empty_is_refused(name: str) -> None:
    names: dict[str, Any] = {"model": "demo", "revision": None, "adapter": None, "device": None} | {name: ""}
    with pytest.raises(UsageError, match=f"--{name} is empty"):
        options.wishes_of(precision="auto", attention="auto", **names)
