"""What --save wrote comes back as it was; anything else is refused in a sentence that says where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands.bench.parts import AGREEMENT, PLAN, RECORD, TRIAL
from vllava_cli.commands.bench.bench_record import BenchRecord, object_of, read_record
from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import line_of

QUANTISED = replace(PLAN, quantisation="4bit", context_tokens=3080)
WHOLE = replace(RECORD, trials=(replace(TRIAL, plan=QUANTISED, agreement=AGREEMENT), *RECORD.trials))


def written(folder: Path, row: dict[str, Any]) -> Path:
    path = folder / "bench.json"
    path.write_bytes(line_of(row))
    return path


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line_of(object_of(WHOLE)))
    change(row)
    return row


@pytest.mark.parametrize("record", [RECORD, WHOLE, replace(RECORD, trials=())])
def test_figures_come_back_as_they_were_written(record: BenchRecord, tmp_path: Path) -> None:
    assert read_record(written(tmp_path, object_of(record))) == record


def test_a_reader_finds_ratios_medians_and_reasons() -> None:
    row = changed(lambda _: None)
    trial = row["trials"][0]
    assert (row["type"], row["version"], row["question"], row["batches"]) == ("bench", 1, "What happens?", [1, 16])
    assert (trial["plan"]["dtype_reason"], trial["agreement"]["is_met"]) == ("It is exact.", True)
    assert trial["lines"][0] == {
        "name": "load",
        "unit": "s",
        "ours": {"median": 0.5, "least": 0.4, "most": 0.6, "values": [0.5, 0.4, 0.6]},
        "snippet": {"median": 2.0, "least": 2.0, "most": 2.0, "values": [2.0]},
        "limit": 0.1,
        "of_snippet": 4.0,
        "of_limit": 0.2,
        "note": "",
    }


def test_what_a_later_version_adds_is_left_alone(tmp_path: Path) -> None:
    row = changed(lambda row: row.update(comparison={}, mood="good"))
    assert read_record(written(tmp_path, row)) == WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(version=2), "it is of version 2, and this vllava reads up to 1: update vllava"),
        (lambda row: row["machine"].pop("cpu"), "the object, machine: cpu is missing"),
        (lambda row: row["machine"]["versions"].update(torch=2), "machine, versions: torch is no text"),
        (lambda row: row.update(trials={}), "the object: trials is no list"),
        (lambda row: row.update(repeat=-1), "the object: repeat is no whole number from 0"),
        (lambda row: row["clip"].update(path="a.mp4"), "the object, clip: path is no absolute path"),
        (
            lambda row: row["trials"][0]["lines"][1].update(unit="furlongs"),
            "the object, trials, entry 1, lines, entry 2: unit is none of s, ms, tokens/s, clips/s, MiB",
        ),
        (lambda row: row["trials"][0]["lines"][0]["ours"].update(values=[]), "ours: values is an empty list"),
        (lambda row: row["trials"][0]["lines"][0]["ours"].update(values=[-1]), "values: entry 1 is no number from 0"),
        (lambda row: row["trials"][0]["plan"].update(quantisation="2bit"), "plan: quantisation is none of 8bit"),
        (lambda row: row["trials"][0]["speed"].update(bytes=True), "speed: bytes is no number"),
        (lambda row: row["trials"][0]["agreement"].update(must_be_equal=1), "must_be_equal is neither true nor false"),
    ],
)
def test_a_damaged_field_is_named(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, changed(change))
    with pytest.raises(OutputError) as caught:
        read_record(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"'{path}' can't be used: ")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"type": "session"}', b"\xff", b'{"type": "bench"', b"NaN"])
def test_a_foreign_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(data)
    with pytest.raises(OutputError) as caught:
        read_record(path)
    assert str(caught.value) == f"'{path}' was not written by vllava. Name another file."
