"""Figures as a run of bench finds them, made up, and instruments that give them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.machines import DEMO
from vllava_cli.commands.bench.instruments import Instruments, IsInterrupted, Tell
from vllava_cli.commands.bench.record import Asked, ClipFacts, Machine, Record
from vllava_cli.commands.bench.request import Bench
from vllava_cli.errors import MemoryShortError, VllavaError
from vllava_cli.measures import Agreement, Expect, Line, Measured, Trial
from vllava_cli.nouns import Checkpoint, Clip, Frames, Hardware, LoadPlan, Speed, Wishes
from vllava_cli.screen import Screen


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
LOAD = Line(name="load", unit="s", ours=measured(0.5, 0.4, 0.6), snippet=measured(2.0), limit=0.1)
FRAMES = Line(name="frames", unit="s", ours=measured(0.02, 0.021), snippet=measured(0.05, 0.06), limit=0.01)
PREFILL = Line(name="prefill", unit="tokens/s", ours=measured(12345.6), snippet=measured(10000), limit=20000)
FIRST = Line(name="first token", unit="ms", ours=measured(41.23, 42.0, 40.8), snippet=measured(80.0, 81.0, 82.0))
DECODE = Line(
    name="decode, batch 1",
    unit="tokens/s",
    ours=measured(400.0, 410.0, 390.0),
    snippet=measured(100.0, 101.0, 99.0),
    limit=500.0,
)
BATCH = Line(name="decode, batch 16", unit="tokens/s", ours=measured(800.0), note="The snippet ran out of memory.")
PEAK = Line(name="peak memory", unit="MiB", ours=measured(512.0), snippet=measured(1024.0), note="On a CPU it is all.")
LINES = (LOAD, PREFILL, FIRST, DECODE, BATCH, PEAK)
AGREEMENT = Agreement(tokens=64, equal_tokens=64, largest_difference=1.5e-5, tolerance=1e-4, must_be_equal=True)
TRIAL = Trial(precision="auto", attention="auto", plan=PLAN, speed=SPEED, lines=(LOAD, FRAMES, *LINES[1:]))
FAULTY = Trial(precision="fp16", attention="flash", fault="fp16 can't be had on a CPU: leave it out.")
MACHINE = Machine(
    cpu="A CPU",
    cores=2,
    ram_bytes=8 << 30,
    gpus=(),
    versions=(("vllava", "0.1.0"), ("torch", "2.13.0"), ("bitsandbytes", None)),
    measured_at="2026-11-22T19:40:05Z",
)
ASKED = Asked(
    model="demo",
    revision=None,
    clip=ClipFacts(path=Path("/clips/a.mp4"), width=64, height=48, frame_count=24, duration_s=2.4, codec="h264"),
    question="What happens?",
    new_tokens=64,
    repeat=3,
    batches=(1, 16),
)
RECORD = Record(machine=MACHINE, asked=ASKED, trials=(TRIAL, FAULTY))


def frames(name: str = "a.mp4") -> Frames:
    return Frames(
        clip=Clip(path=Path("/clips") / name, kind="video", width=64, height=48, frame_count=24),
        pixels=np.zeros((8, 1, 1, 3), np.uint8),
        times_s=(0.0,) * 8,
    )


@dataclass(frozen=True)
class FakeTokens:
    checkpoint: Checkpoint = DEMO


@dataclass(frozen=True)
class FakeSubject:
    tokens: FakeTokens = FakeTokens()


@dataclass
class FakeInstruments(Instruments):
    """Gives made-up figures; `faults` says after how many lines which trial fails, counted from 0."""

    faults: dict[int, tuple[int, VllavaError]] = field(default_factory=dict)
    agreement: Agreement = AGREEMENT
    is_cut_after: int | None = None
    """Ctrl-C comes behind this line of each trial; -1 is before the first."""
    expected: tuple[tuple[Literal["at least", "about"], float], ...] = ()
    """What each trial says of its length, before its first line."""
    calls: list[str] = field(default_factory=list)

    def frames(self, bench: Bench, _: Screen) -> Frames:
        self.calls.append(f"frames {bench.clip}")
        return frames()

    def task(self, *_: object) -> Any:
        return "the task"

    def subject(self, *_: object) -> Any:
        self.calls.append("subject")
        return FakeSubject()

    def fetch(self, *_: object) -> None:
        self.calls.append("fetch")

    def hardware(self) -> Hardware:
        return Hardware(cpu_name="A CPU", cpu_cores=2, ram_total_bytes=8 << 30, ram_free_bytes=4 << 30)

    def plan(self, wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
        self.calls.append(f"plan {wishes.precision} {wishes.attention}")
        if wishes.attention == "flash_attention_2":
            return super().plan(wishes, hardware, checkpoint)
        return replace(PLAN, dtype="bfloat16" if wishes.precision == "bf16" else "float32")

    def free(self, plan: LoadPlan) -> None:
        self.calls.append(f"free {plan.device}")

    def fitted(self, subject: Any, *_: object) -> Any:
        return subject

    def speed(self, _: LoadPlan) -> Speed:
        return SPEED

    def contest(self, *_: object, is_interrupted: IsInterrupted, tell: Tell, expect: Expect) -> Iterator[Line]:
        number = sum(call.startswith("contest") for call in self.calls)
        self.calls.append(f"contest {number}")
        most, fault = self.faults.get(number, (len(LINES), None))
        if self.is_cut_after == -1:
            signal.raise_signal(signal.SIGINT)
        for how, seconds in self.expected:
            expect(how, seconds)
        for place, line in enumerate(LINES[:most]):
            if is_interrupted():
                raise KeyboardInterrupt
            tell(line.name)
            yield line
            if self.is_cut_after == place:
                signal.raise_signal(signal.SIGINT)
        if fault:
            raise fault

    def check(self, *_: object, **__: object) -> Agreement:
        self.calls.append("check")
        return self.agreement

    def frames_line(self, *_: object, **__: object) -> Line:
        return FRAMES


SHORT = MemoryShortError("The model needs 15 GiB, and 4 GiB are free. Close other programs.")
