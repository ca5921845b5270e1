"""A run of bench as a value, and as the object that --json prints and --save writes. Read back, it is distrusted."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllava_cli import __version__
from vllava_cli.commands.provenance import version_of
from vllava_cli.engine.measuring.figures import BenchTask, BenchTrial, Figure
from vllava_cli.errors import OutputError
from vllava_cli.nouns import Clip, Hardware
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import as_output_error, opened
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, refuse_damaged, refuse_foreign, row_of

VERSION = 1
PACKAGES = ("torch", "transformers", "av", "bitsandbytes")


@dataclass(frozen=True, kw_only=True)
class BenchMachine:
    """The machine of a run, its libraries (None for what isn't installed) and the date in UTC."""

    cpu: str
    cores: int
    ram_bytes: int
    gpus: tuple[str, ...]
    versions: dict[str, str | None]
    measured_at: str

    @classmethod
    def of(cls, hardware: Hardware) -> BenchMachine:
        versions: dict[str, str | None] = {"vllava": __version__, "python": platform.python_version()}
        return cls(
            cpu=hardware.cpu_name,
            cores=hardware.cpu_cores,
            ram_bytes=hardware.ram_total_bytes,
            gpus=tuple(gpu.name for gpu in hardware.accelerators),
            versions=versions | {name: version_of(name) for name in PACKAGES},
            measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """The clip that was measured with."""

    path: Path
    width: int
    height: int
    frame_count: int
    duration_s: float | None
    codec: str

    @classmethod
    def of(cls, clip: Clip) -> ClipFacts:
        facts = {each.name: getattr(clip, each.name) for each in fields(cls)}
        return cls(**facts | {"path": clip.path.absolute()})


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """A whole run, or as much of it as there was time for."""

    machine: BenchMachine
    model: str
    """As it was named, or "random 7b"."""
    revision: str | None
    clip: ClipFacts
    task: BenchTask
    trials: tuple[BenchTrial, ...] = ()


def object_of(record: BenchRecord) -> dict[str, Any]:
    """Times in the unit of their line, memory in bytes but for lines in MiB, speeds in a second."""
    found = asdict(record)
    for trial, values in zip(record.trials, found["trials"], strict=True):
        values["lines"] = [_line_of(figure) for figure in trial.lines]
        if trial.agreement:
            values["agreement"]["is_met"] = trial.agreement.is_met
    found["clip"]["path"] = os.fspath(record.clip.path)
    return {"type": "bench", "version": VERSION, **found.pop("task"), **found, "frames": None}


def read_record(path: Path) -> BenchRecord:
    """Reads what --save wrote. Errors: OutputError for anything else."""
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        row = row_of(file.read(MAX_ROW_BYTES + 1))
    if row is None or row.get("type") != "bench":
        refuse_foreign(path)
    saved = Fields(row, "the object", error=_FieldError)
    try:
        if (version := saved.whole("version", least=1)) > VERSION:
            raise _FieldError(f"it is of version {version}, and this vllava reads up to {VERSION}: update vllava")
        return saved.build(BenchRecord, task=saved.build(BenchTask))
    except _FieldError as exc:
        refuse_damaged(path, str(exc))


class _FieldError(OutputError):
    """A field that isn't what it must be; the file is named by who catches it."""


def _line_of(figure: Figure) -> dict[str, Any]:
    found = asdict(figure)
    for side, measured in (("ours", figure.ours), ("snippet", figure.snippet)):
        if measured:
            found[side] |= {"median": measured.median, "least": measured.least, "most": measured.most}
    return found | {"of_snippet": figure.of_snippet, "of_limit": figure.of_limit, "note": figure.remark}
