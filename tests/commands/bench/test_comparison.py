"""What changed between two runs, and what is uncertain."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.commands.bench.parts import DECODE, FAULTY, MACHINE, PLAN, RECORD, TRIAL, measured, of_one
from vllava_cli.commands.bench.bench_record import read_record
from vllava_cli.commands.bench.bench_report import change
from vllava_cli.commands.bench.comparison import compare
from vllava_cli.engine.measuring.figures import BenchTask, Unit


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
    before, after = (of_one(replace(DECODE, unit=unit, ours=measured(*values))) for values in (then, now))
    ((found,),) = (trial.lines for trial in compare(before, after).trials)
    assert change(found.factor, found.verdict, is_memory=unit == "MiB") == told


def test_programs_get_all_of_it() -> None:
    now = replace(RECORD, trials=(*of_one(DECODE, replace(TRIAL.lines[0], ours=None)).trials, FAULTY))
    assert asdict(compare(RECORD, now)) == {
        "measured_at": "2026-11-22T19:40:05Z",
        "differences": (),
        "trials": (
            {
                "configuration": "cpu, float32, sdpa",
                "lines": (
                    {
                        "name": "decode, batch 1",
                        "unit": "tokens/s",
                        "then": 400.0,
                        "now": 400.0,
                        "factor": 1.0,
                        "verdict": "same",
                        "snippet_factor": 1.0,
                        "snippet_verdict": "same",
                    },
                ),
            },
        ),
        "unmatched": ("fp16, flash",),
    }


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, model="random 7b"),
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


def test_whatever_else_differs_is_said() -> None:
    versions = {"torch": "2.10.0", "bitsandbytes": "0.50"}
    machine = replace(MACHINE, cpu="Another", ram_bytes=16 << 30, gpus=("H200",), versions=versions)
    clip = replace(RECORD.clip, path=Path("/clips/b.mp4"), width=32)
    task = BenchTask(question="Why?", new_tokens=32, batches=(1,))
    then = replace(RECORD, machine=machine, model="other", revision="abc", clip=clip, task=task)
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


def test_files_of_version_0_1_are_compared() -> None:
    folder = Path(__file__).parent
    saved, frames = (read_record(folder / name) for name in ("saved_by_0_1.json", "frames_saved_by_0_1.json"))
    found = compare(saved, saved)
    assert (found.measured_at, found.differences, found.unmatched) == ("2026-11-29T18:52:54Z", (), ("fp16, auto",))
    (trial,) = found.trials
    assert (trial.configuration, [(each.name, each.verdict) for each in trial.lines]) == (
        "cpu, float32, sdpa",
        [(figure.name, "same") for figure in saved.trials[0].lines if figure.ours],
    )
    assert (trial.lines[1].then, trial.lines[1].now) == (4.870977999871684,) * 2
    assert compare(frames, saved).trials == ()
