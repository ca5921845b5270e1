"""What a run of bench found, as values: which machine, what was asked, each configuration's trial."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vllava_cli import __version__
from vllava_cli.commands.provenance import version_of
from vllava_cli.measures import Bar, Line, Trial
from vllava_cli.nouns import Clip, Hardware

PACKAGES = ("torch", "transformers", "av", "bitsandbytes")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and when it was measured, and with which releases."""

    cpu: str
    cores: int
    """Physical ones that the process could use."""
    ram_bytes: int
    gpus: tuple[str, ...]
    versions: tuple[tuple[str, str | None], ...]
    """(name, release), None for what isn't installed."""
    measured_at: str
    """UTC, to the second: 2026-11-22T19:40:05Z."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """The clip that was asked about."""

    path: Path
    width: int
    height: int
    frame_count: int
    duration_s: float | None
    codec: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked in each configuration."""

    model: str
    """As it was named, or "random 7b"; empty where only frames were measured."""
    revision: str | None
    clip: ClipFacts
    question: str
    new_tokens: int
    repeat: int
    batches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What --frames-only found."""

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole run, or as much of it as there was time for."""

    machine: Machine
    asked: Asked
    trials: tuple[Trial, ...] = ()
    reading: Reading | None = None

    @property
    def has_figures(self) -> bool:
        return self.reading is not None or any(trial.lines or trial.fault for trial in self.trials)

    def of(self, *, trials: tuple[Trial, ...] = (), reading: Reading | None = None) -> Record:
        """The same run, with what was measured."""
        return replace(self, trials=trials, reading=reading)


def machine_of(hardware: Hardware, now: datetime | None = None) -> Machine:
    versions = [("vllava", __version__), ("python", platform.python_version())]
    return Machine(
        cpu=hardware.cpu_name,
        cores=hardware.cpu_cores,
        ram_bytes=hardware.ram_total_bytes,
        gpus=tuple(gpu.name for gpu in hardware.accelerators),
        versions=(*versions, *((name, version_of(name)) for name in PACKAGES)),
        measured_at=(now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def facts_of(clip: Clip) -> ClipFacts:
    return ClipFacts(
        path=clip.path.absolute(),
        width=clip.width,
        height=clip.height,
        frame_count=clip.frame_count,
        duration_s=clip.duration_s,
        codec=clip.codec,
    )
