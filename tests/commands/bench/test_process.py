"""`vllava bench` as its users start it: a process that really measures, tiny shapes and few tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.commands.shell import Shell
from vllava_cli.commands.bench.bench_record import read_record

Run = Callable[..., Shell]
FEW = ("--random-weights", "tiny", "--repeat", "1", "--batch-size", "1", "--max-new-tokens", "3", "--device", "cpu")


def test_everything_is_measured_saved_and_checked(shell: Run, clip: Path, tmp_path: Path) -> None:
    done = shell("bench", clip, "Why?", *FEW, "--precision", "fp32,fp16", "--check", "--json", "--save", "a.json", "-q")
    record = read_record(tmp_path / "a.json")
    assert json.loads(done.out) == json.loads((tmp_path / "a.json").read_bytes())
    exact, impossible = record.trials
    names = [
        "load",
        "frames",
        "vision",
        "prefill",
        "first token",
        "first token, turn 2",
        "decode, batch 1",
        "peak memory",
        "batch",
    ]
    assert [figure.name for figure in exact.lines] == names
    assert exact.agreement is not None
    assert exact.agreement.is_met
    assert exact.speed is not None
    # Behind the semicolon stands what to use instead, which is up to the CPU: tests/test_plan.py has both.
    assert str(impossible.fault).startswith("--precision fp16 is refused on the CPU, where fp16 is slower than fp32; ")
    assert (done.code, done.err) == (0, f"vllava: fp16, auto: {impossible.fault}\n")
    assert (record.model, record.task.question, record.clip.path) == ("random tiny", "Why?", clip)
