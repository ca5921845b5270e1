"""Figures as a run of bench finds them, made up, and tools that give them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllava_cli.commands.bench_report import BenchMachine, BenchRecord
from vllava_cli.engine.measuring.figures import Agreement, BenchTask, BenchTrial, Figure, Measured
from vllava_cli.errors import MemoryShortError, VllavaError
from vllava_cli.machine import Speed
from vllava_cli.nouns import Clip, LoadPlan


def measured(*values: float) -> Measured:
    return Measured(values=values)


PLAN = LoadPlan(
    device="cpu",
    dtype="float32",
    quantisation=None,
    attention="sdpa",
    needed_bytes=1 << 24,
    device_reason="It is the only one.",
    dtype_reason="It is exact.",
    quantisation_reason="There is room.",
    attention_reason="It is there.",
)
SPEED = Speed(operations=2.5e11, bytes=1.2e10)
LOAD = Figure(name="load", unit="s", ours=measured(0.5, 0.4, 0.6), snippet=measured(2.0), limit=0.1)
FRAMES = Figure(name="frames", unit="s", ours=measured(0.02, 0.021), snippet=measured(0.05, 0.06))
PREFILL = Figure(name="prefill", unit="tokens/s", ours=measured(12345.6), snippet=measured(10000), limit=20000)
FIRST = Figure(name="first token", unit="ms", ours=measured(41.23, 42.0, 40.8), snippet=measured(80.0, 81.0, 82.0))
DECODE = Figure(
    name="decode, batch 1",
    unit="tokens/s",
    ours=measured(400.0, 410.0, 390.0),
    snippet=measured(100.0, 101.0, 99.0),
    limit=500.0,
)
BATCH = Figure(name="decode, batch 16", unit="tokens/s", ours=measured(800.0), note="The snippet ran out of memory.")
PEAK = Figure(name="peak memory", unit="MiB", ours=measured(512.0), snippet=measured(1024.0))
LINES = (LOAD, FRAMES, PREFILL, FIRST, DECODE, BATCH, PEAK)
AGREEMENT = Agreement(tokens=64, equal_tokens=64, largest_difference=1.5e-5, tolerance=1e-3, must_be_equal=True)
TRIAL = BenchTrial(precision="auto", attention="auto", plan=PLAN, speed=SPEED, lines=LINES)
FAULTY = BenchTrial(precision="fp16", attention="flash", fault="fp16 can't be had on a CPU: leave it out.")
MACHINE = BenchMachine(
    cpu="A CPU",
    cores=2,
    ram_bytes=8 << 30,
    gpus=(),
    versions={"vllava": "0.1.0", "torch": "2.13.0", "bitsandbytes": None},
    measured_at="2026-11-22T19:40:05Z",
)
RECORD = BenchRecord(
    machine=MACHINE,
    model="demo",
    revision=None,
    clip=Clip(
        path=Path("/clips/a.mp4"), kind="video", width=64, height=48, frame_count=24, duration_s=2.4, codec="h264"
    ),
    task=BenchTask(question="What happens?", new_tokens=64, repeat=3, batches=(1, 16)),
    trials=(TRIAL, FAULTY),
)
SHORT = MemoryShortError("The model needs 15 GiB, and 4 GiB are free. Close other programs.")


@dataclass
class FakeBenchmark:
    """Gives made-up figures; `faults` says after how many figures which trial fails, counted from 0."""

    faults: dict[int, tuple[int, VllavaError]] = field(default_factory=dict)
    agreement: Agreement = AGREEMENT
    cut_after: int | None = None
    """Ctrl-C comes behind this figure of each trial; -1 is before the first."""
    calls: list[str] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)
    speed: Speed = SPEED

    def __call__(self, **words: Any) -> Any:
        self.words = words
        self.calls.append(words["plan"].dtype)
        return self

    def figures(self) -> Iterator[Figure]:
        most, fault = self.faults.get(len(self.calls) - 1, (len(LINES), None))
        if self.cut_after == -1:
            signal.raise_signal(signal.SIGINT)
        self.words["expect"](70.0)
        for place, figure in enumerate(LINES[:most]):
            if self.words["is_interrupted"]():
                raise KeyboardInterrupt
            yield figure
            if self.cut_after == place:
                signal.raise_signal(signal.SIGINT)
        if fault:
            raise fault

    def check(self) -> Agreement:
        self.calls.append("check")
        return self.agreement


def of_one(*lines: Figure, **changes: Any) -> BenchRecord:
    """A record with one trial that has these lines."""
    return replace(RECORD, trials=(replace(TRIAL, lines=lines),), **changes)
