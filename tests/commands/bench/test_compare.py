"""What changed between two runs, and what can't be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands.bench.parts import ASKED, DECODE, FAULTY, MACHINE, PLAN, RECORD, TRIAL, measured
from vllava_cli.commands.bench.compare import Change, Comparison, TrialChange, change, compare, object_of
from vllava_cli.measures import Measured, Unit


@pytest.mark.parametrize(
    ("unit", "then", "now", "told"),
    [
        ("tokens/s", (10.0, 10.1), (12.0, 12.1), "1.2x faster"),
        ("tokens/s", (12.0, 12.1), (10.0, 10.1), "1.2x slower"),
        ("s", (12.0, 12.1), (10.0, 10.1), "1.2x faster"),
        ("ms", (10.0, 10.1), (12.0, 12.1), "1.2x slower"),
        ("s", (100.0,) * 2, (95.0,) * 2, "5.3% faster"),
        ("tokens/s", (100.0,) * 2, (99.5,) * 2, "0.50% slower"),
        ("MiB", (600.0,), (300.0,), "2.0x less"),
        ("MiB", (300.0,), (600.0,), "2.0x more"),
        ("MiB", (300.0,), (300.0,), "within the spread"),
        ("clips/s", (10.0, 12.0), (11.0, 13.0), "within the spread"),
        ("clips/s", (10.0, 12.0), (12.0, 13.0), "within the spread"),
        ("clips/s", (11.0, 13.0), (10.0, 12.0), "within the spread"),
        ("s", (10.0,), (5.0, 5.1), "2.0x faster (once)"),
        ("s", (10.0, 10.1), (5.0,), "2.0x faster (once)"),
        ("s", (0.0, 0.0), (5.0, 5.1), "within the spread"),
    ],
)
def test_a_change_is_told_only_beyond_the_spread(
    unit: Unit, then: tuple[float, ...], now: tuple[float, ...], told: str
) -> None:
    assert change(Change(name="a", unit=unit, then=Measured(values=then), now=Measured(values=now))) == told


def test_configurations_are_matched_by_what_was_loaded() -> None:
    faster = replace(DECODE, ours=measured(800.0, 810.0), snippet=measured(90.0, 91.0))
    now = replace(RECORD, trials=(replace(TRIAL, lines=(faster,)), replace(TRIAL, precision="fp32"), FAULTY))
    assert DECODE.ours and DECODE.snippet and faster.ours and faster.snippet
    control = Change(name=DECODE.name, unit=DECODE.unit, then=DECODE.snippet, now=faster.snippet)
    changes = (Change(name=DECODE.name, unit=DECODE.unit, then=DECODE.ours, now=faster.ours, control=control),)
    assert compare(RECORD, now) == Comparison(
        measured_at="2026-11-22T19:40:05Z",
        differences=(),
        trials=(TrialChange(configuration="cpu, float32, sdpa", changes=changes),),
        unmatched=("cpu, float32, sdpa", "fp16, flash"),
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, asked=replace(ASKED, model="random 7b")),
        replace(RECORD, trials=(replace(TRIAL, plan=replace(PLAN, device="cuda:0")),)),
        replace(RECORD, trials=(replace(TRIAL, precision="fp32"),)),
        replace(RECORD, trials=(replace(TRIAL, plan=replace(PLAN, dtype="bfloat16")),)),
        replace(RECORD, trials=(replace(TRIAL, plan=replace(PLAN, quantisation="4bit")),)),
        replace(RECORD, trials=(replace(TRIAL, plan=replace(PLAN, attention="eager")),)),
        replace(RECORD, trials=()),
    ],
)
def test_another_configuration_is_not_compared(other: object) -> None:
    assert compare(other, replace(RECORD, trials=(TRIAL,))).trials == ()  # type: ignore[arg-type]


def test_lines_that_one_of_them_has_not_are_left_out() -> None:
    then = replace(RECORD, trials=(replace(TRIAL, lines=(replace(DECODE, ours=None), *TRIAL.lines[:2])),))
    (trial,) = compare(then, replace(RECORD, trials=(replace(TRIAL, lines=(DECODE, TRIAL.lines[0])),))).trials
    assert [each.name for each in trial.changes] == ["load"]


def test_whatever_else_differs_is_said() -> None:
    then = replace(
        RECORD,
        machine=replace(
            MACHINE,
            cpu="Another",
            ram_bytes=16 << 30,
            gpus=("H200",),
            versions=(("torch", "2.10.0"), ("bitsandbytes", "0.50")),
        ),
        asked=replace(
            ASKED,
            model="other",
            revision="abc",
            clip=replace(ASKED.clip, path=Path("/clips/b.mp4"), width=32),
            question="Why?",
            new_tokens=32,
            batches=(1,),
        ),
    )
    assert compare(then, RECORD).differences == (
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
    )
    assert compare(RECORD, RECORD).differences == ()


def test_programs_get_the_same() -> None:
    found = object_of(compare(RECORD, replace(RECORD, trials=(replace(TRIAL, lines=(DECODE,)), FAULTY))))
    assert found == {
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
                    }
                ],
            }
        ],
        "unmatched": ["fp16, flash"],
    }
