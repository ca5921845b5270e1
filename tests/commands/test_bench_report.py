"""What --save wrote comes back as it was, else a sentence says where it is wrong; what changed; and texts, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands.bench_figures import (
    AGREEMENT,
    BATCH,
    DECODE,
    FAULTY,
    FIRST,
    LINES,
    MACHINE,
    PEAK,
    PLAN,
    RECORD,
    SPEED,
    TRIAL,
    measured,
    of_one,
)
from vllava_cli.commands import bench_report as report
from vllava_cli.commands.bench_report import BenchRecord, compare, object_of, read_record
from vllava_cli.engine.measuring.figures import OVER, BenchTask, Figure, Unit
from vllava_cli.errors import OutputError
from vllava_cli.machine import Speed
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
        (lambda row: row.update(version=2), "its version is 2, but this vllava reads up to 1: update vllava"),
        (lambda row: row["machine"].pop("cpu"), "the object, machine: cpu is missing"),
        (lambda row: row["machine"]["versions"].update(torch=2), "machine, versions: torch is not a text"),
        (lambda row: row.update(trials={}), "the object: trials is not a list"),
        (lambda row: row.update(repeat=-1), "the object: repeat is not a whole number from 0"),
        (lambda row: row["clip"].update(path="a.mp4"), "the object, clip: path is not an absolute path"),
        (
            lambda row: row["trials"][0]["lines"][1].update(unit="furlongs"),
            "the object, trials, entry 1, lines, entry 2: unit is not one of s, ms, tokens/s, clips/s, MiB",
        ),
        (lambda row: row["trials"][0]["lines"][0]["ours"].update(values=[]), "ours: values is an empty list"),
        (lambda row: row["trials"][0]["lines"][0]["ours"].update(values=[-1]), "entry 1 is not a number from 0"),
        (lambda row: row["trials"][0]["plan"].update(quantisation="2bit"), "plan: quantisation is not one of 8bit"),
        (lambda row: row["trials"][0]["speed"].update(bytes=True), "speed: bytes is not a number"),
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


@pytest.mark.parametrize(
    ("unit", "then", "now", "told"),
    [
        ("tokens/s", (10.0, 10.1), (12.0, 12.1), "1.2x faster"),
        ("s", (12.0, 12.1), (10.0, 10.1), "1.2x faster"),
        ("ms", (10.0, 10.1), (12.0, 12.1), "1.2x slower"),
        ("s", (100.0,) * 2, (95.0,) * 2, "5.3% faster"),
        ("MiB", (600.0,), (300.0,), "2.0x less"),
        ("clips/s", (10.0, 12.0), (12.0, 13.0), "within the spread"),
        ("s", (10.0,), (5.0, 5.1), "2.0x faster (once)"),
        ("s", (0.0, 0.0), (5.0, 5.1), "within the spread"),
    ],
)
def test_a_change_is_told_only_beyond_the_spread(
    unit: Unit, then: tuple[float, ...], now: tuple[float, ...], told: str
) -> None:
    before, after = (of_one(replace(DECODE, unit=unit, ours=measured(*values))) for values in (then, now))
    ((found,),) = (trial["lines"] for trial in compare(before, after)["trials"])
    assert report.change(found["factor"], found["verdict"], is_memory=unit == "MiB") == told
    assert found["verdict"] in ("same", "unsure", "better" if told.endswith(("faster", "less")) else "worse")


def test_programs_get_all_of_it() -> None:
    now = replace(RECORD, trials=(*of_one(DECODE, replace(TRIAL.lines[0], ours=None)).trials, FAULTY))
    assert compare(RECORD, now) == {
        "measured_at": "2026-11-22T19:40:05Z",
        "differences": [],
        "trials": [
            {
                "configuration": "cpu, float32, sdpa",
                "lines": [
                    {
                        "name": "decode, batch 1",
                        "unit": "tokens/s",
                        "then": 400.0,
                        "now": 400.0,
                        "factor": 1.0,
                        "verdict": "same",
                        "snippet_factor": 1.0,
                        "snippet_verdict": "same",
                    }
                ],
            }
        ],
        "unmatched": ["fp16, flash"],
    }


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, model="random 7b"),
        replace(RECORD, trials=(replace(TRIAL, plan=replace(PLAN, device="cuda:0")),)),
        replace(RECORD, trials=(replace(TRIAL, precision="fp32"),)),
        replace(RECORD, trials=()),
    ],
)
def test_another_configuration_is_not_compared(other: object) -> None:
    assert compare(other, replace(RECORD, trials=(TRIAL,)))["trials"] == []  # type: ignore[arg-type]


def test_whatever_else_differs_is_said() -> None:
    versions = {"torch": "2.10.0", "bitsandbytes": "0.50"}
    machine = replace(MACHINE, cpu="Another", ram_bytes=16 << 30, gpus=("H200",), versions=versions)
    clip = replace(RECORD.clip, path=Path("/clips/b.mp4"), width=32)
    task = BenchTask(question="Why?", new_tokens=32, batches=(1,))
    then = replace(RECORD, machine=machine, model="other", revision="abc", clip=clip, task=task)
    assert compare(then, RECORD)["differences"] == [
        "the CPU was Another (2 cores), is A CPU (2 cores)",
        "the RAM was 16 GiB, is 8 GiB",
        "the GPU was H200, is none",
        "the model was other, is demo",
        "the clip was b.mp4 (32x48, 24 frames), is a.mp4 (64x48, 24 frames)",
        "the question was 'Why?', is 'What happens?'",
        "--max-new-tokens was 32, is 64",
        "--batch-size was 1, is 1,16",
        "the revision was abc, is none",
        "torch was 2.10.0, is 2.13.0",
        "bitsandbytes was 0.50, is not installed",
    ]


def test_files_of_version_0_1_are_compared() -> None:
    folder = Path(__file__).parent
    saved, frames = (
        read_record(folder / name) for name in ("bench_saved_by_0_1.json", "bench_frames_saved_by_0_1.json")
    )
    found = compare(saved, saved)
    (trial,) = found.pop("trials")
    assert found == {"measured_at": "2026-11-29T18:52:54Z", "differences": [], "unmatched": ["fp16, auto"]}
    assert (trial["configuration"], [(each["name"], each["verdict"]) for each in trial["lines"]]) == (
        "cpu, float32, sdpa",
        [(figure.name, "same") for figure in saved.trials[0].lines if figure.ours],
    )
    assert (trial["lines"][1]["then"], trial["lines"][1]["now"]) == (4.870977999871684,) * 2
    assert compare(frames, saved)["trials"] == []


WIDEST = Figure(
    name="decode, batch 16",
    unit="tokens/s",
    ours=measured(123456.0, 123457.0),
    snippet=measured(100234.5, 100236.5),
    limit=234567.0,
    note="Why not.",
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (99.6, "100"),
        (99.4, "99.4"),
        (41.23, "41.2"),
        (0.01234, "0.0123"),
        (1e-9, "0.000000"),
        (None, "-"),
    ],
)
def test_three_digits_are_shown(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_factors_shares_and_speeds_are_short() -> None:
    factors = {4.72: "4.7x", 0.951: "0.95x", 12.3: "12x", 9.96: "10x", 0.996: "1.0x", 1234: "1,234x"}
    assert {factor: report.times(factor) for factor in factors} == factors
    shares = {0.714: "71%", 0.0042: "0.42%", 0.05: "5.0%", 1.2: "120%"}
    assert {part: report.share(part) for part in shares} == shares
    fast = Speed(operations=6.12e14, bytes=4.1e12)
    assert report.speed(SPEED) == "250 GFLOP/s in a large product, 12.0 GB/s in a large copy"
    assert report.speed(fast) == "612 TFLOP/s in a large product, 4,100 GB/s in a large copy"


def test_spreads_go_first_where_there_is_less_room_and_then_the_limits_own_column() -> None:
    assert report.figures_table((FIRST, DECODE), None) == (
        "                                     vllava           snippet  times as fast  limit  of limit\n"
        "first token      ms        41.2 (40.8-42.0)  81.0 (80.0-82.0)           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400 (390-410)      100 (99-101)           4.0x    500       80%\n"
    )
    assert report.figures_table((FIRST, DECODE), 80) == (
        "                           vllava  snippet  times as fast  limit  of limit\n"
        "first token      ms          41.2     81.0           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400      100           4.0x    500       80%\n"
    )
    assert report.figures_table((WIDEST,), 60) == (
        "                              vllava snippet faster limit\n"
        "decode, batch 16[1] tokens/s 123,456 100,236   1.2x   53%\n"
    )


@pytest.mark.parametrize("width", [60, 72, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    second = replace(FIRST, name="decode, batch 1024", note="Why not.")
    (changed,) = compare(RECORD, of_one(*LINES))["trials"]
    (slower,) = compare(of_one(second, WIDEST), of_one(replace(second, ours=measured(54.3)), WIDEST))["trials"]
    tables = (
        report.figures_table((*LINES, second, WIDEST), width),
        report.summary((TRIAL, FAULTY), width),
        report.changes_table([*changed["lines"], *slower["lines"]], width),
    )
    assert max(map(len, "".join(tables).splitlines())) <= width


def test_each_note_has_one_number_and_more_than_a_limit_is_explained() -> None:
    figures = (replace(DECODE, limit=399.0), replace(BATCH, limit=799.0), replace(DECODE, limit=400.0), BATCH)
    assert [line[:20].rstrip() for line in report.figures_table(figures, None).splitlines()[1:]] == [
        *("decode, batch 1 [1]", "decode, batch 16 [2]", "decode, batch 1", "decode, batch 16 [3]")
    ]
    remarks = [figure.remark for figure in (*figures, BATCH)]
    assert report.numbered(remarks) == [("[1]", OVER), ("[2]", f"{BATCH.note} {OVER}"), ("[3]", BATCH.note)]


def test_a_summary_has_a_row_for_each_configuration() -> None:
    assert report.summary((TRIAL, FAULTY), None) == (
        "precision  attention  decode tokens/s  first token ms  prefill tokens/s  peak MiB\n"
        "auto       auto                   400            41.2            12,346       512\n"
        "fp16       flash [1]                -               -                 -         -\n"
    )
    assert report.summary((TRIAL, FAULTY), 60).splitlines()[0] == (
        "precision attention decode/s first ms prefill/s peak MiB"
    )


def test_a_change_stands_beside_the_snippets() -> None:
    faster = replace(DECODE, ours=measured(800.0, 810.0), snippet=measured(50.0, 51.0))
    (trial,) = compare(RECORD, of_one(faster, replace(PEAK, ours=measured(500.0)), BATCH))["trials"]
    assert report.changes_table(trial["lines"], None) == (
        "                            then  now             change      the snippet's\n"
        "decode, batch 1   tokens/s   400  805        2.0x faster        2.0x slower\n"
        "peak memory       MiB        512  500          2.4% less  within the spread\n"
        "decode, batch 16  tokens/s   800  800  within the spread                  -\n"
    )


def test_a_check_is_judged_in_fp32_alone() -> None:
    assert report.agreement(AGREEMENT) == (
        "64 of 64 greedy tokens are those of generate (all must be); logits differ by 1.5e-05 at most, "
        "and 0.001 is allowed: met."
    )
    assert report.agreement(replace(AGREEMENT, equal_tokens=63, largest_difference=None)) == (
        "63 of 64 greedy tokens are those of generate (all must be); logits differ by inf at most, "
        "and 0.001 is allowed: not met."
    )
    assert report.agreement(replace(AGREEMENT, equal_tokens=63, must_be_equal=False)) == (
        "63 of 64 greedy tokens are those of generate (in this dtype they may differ); logits differ by 1.5e-05 at "
        "most."
    )
