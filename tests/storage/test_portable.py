"""Text that every reader of JSON and UTF-8 takes, and back to the names that it stands for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli.storage.portable import exact, json_of, portable, readable

NAME = os.fsdecode(b"caf\xe9.mp4")
ENCODED = "Y2Fm6S5tcDQ="


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("été 日本 🎬", "été 日本 🎬"),
        (NAME, r"caf\xe9.mp4"),
        (os.fsdecode("é".encode() + b"\xff"), r"é\xff"),
        ("\ud800ü\udfff", r"\ud800ü\udfff"),
    ],
)
def test_text_is_readable_whatever_its_bytes(text: str, shown: str) -> None:
    assert readable(text) == shown


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"path": "é.mp4", "n": [1, None, True, 0.5]}, {"path": "é.mp4", "n": [1, None, True, 0.5]}),
        ({"path": NAME, "n": 1}, {"path": r"caf\xe9.mp4", "n": 1, "path_bytes": ENCODED}),
        ({"clips": [{"path": NAME}]}, {"clips": [{"path": r"caf\xe9.mp4", "path_bytes": ENCODED}]}),
        ({"outputs": ["é", NAME, 1]}, {"outputs": ["é", r"caf\xe9.mp4", 1], "outputs_bytes": [None, ENCODED, None]}),
        ({"a": {"model": NAME}}, {"a": {"model": r"caf\xe9.mp4", "model_bytes": ENCODED}}),
    ],
)
def test_a_name_that_is_not_utf8_has_its_bytes_beside_it(row: dict[str, Any], told: dict[str, Any]) -> None:
    assert portable(row) == told and json.loads(json_of(row)) == told
    assert exact(told) == row


def test_what_no_byte_stands_behind_is_only_readable() -> None:
    row = {"half": "\ud800", NAME: ["\ud800"], "path": NAME, "path_bytes": "its own"}
    assert portable(row) == {
        "half": r"\ud800",
        r"caf\xe9.mp4": [r"\ud800"],
        "path": r"caf\xe9.mp4",
        "path_bytes": "its own",
    }


@pytest.mark.parametrize(
    "row",
    [
        {"path": "other.mp4", "path_bytes": ENCODED},  # edited since
        {"path": r"caf\xe9.mp4", "path_bytes": "not base64"},
        {"path": r"caf\xe9.mp4", "path_bytes": 5},
        {"path": "é", "path_bytes": "w6k="},  # which is valid anyway
        {"path_bytes": ENCODED},
        {"outputs": [r"caf\xe9.mp4"], "outputs_bytes": [None, ENCODED]},
        {"outputs": [r"caf\xe9.mp4"], "outputs_bytes": [None]},
        {"outputs": ["other.mp4"], "outputs_bytes": [ENCODED]},
        {"_bytes": "", "": ""},
    ],
)
def test_bytes_that_are_not_those_of_the_text_beside_them_are_a_field(row: dict[str, Any]) -> None:
    assert exact(row) == row


def test_one_line_of_json_has_what_json_can_say() -> None:
    assert json_of({"path": Path("é"), "emoji": "🎬"}, default=str) == r'{"path": "\u00e9", "emoji": "\ud83c\udfac"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_of({"a": float("nan")})


@given(st.binary(), st.text())
def test_names_of_any_bytes_come_back(name: bytes, text: str) -> None:
    row = {
        "path": os.fsdecode(name),
        "text": text,
        "outputs": [os.fsdecode(name), text],
        "clips": [{"path": os.fsdecode(name)}, 1],
    }
    line = json_of(row)
    json.loads(line)["path"].encode()
    assert exact(json.loads(line)) == row
