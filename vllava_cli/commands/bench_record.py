"""The record of a run of bench, its JSON object for --json and --save, and the changes since an earlier run.

A saved file is distrusted. `compare` matches configurations by the model, --precision and what was loaded, and figures
by their names and units.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vllava_cli import __version__
from vllava_cli.commands.provenance import version_of
from vllava_cli.engine.measuring.figures import BenchTask, BenchTrial, Figure, Measured, Unit
from vllava_cli.errors import OutputError
from vllava_cli.nouns import Clip, Hardware, counted
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import as_output_error, opened
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, refuse_damaged, refuse_foreign, row_of

VERSION = 1
PACKAGES = ("torch", "transformers", "av", "bitsandbytes")
Verdict = Literal["better", "worse", "same", "unsure"]
"""same: the spreads overlap, so no change is certain · unsure: one of them was measured once, so it has no spread."""


@dataclass(frozen=True, kw_only=True)
class BenchMachine:
    """The machine of a run, the versions of its libraries (None if one isn't installed) and the date in UTC."""

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
    """The facts of the clip that a run used."""

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
    """A run of bench; `trials` lacks configurations that Ctrl-C left out."""

    machine: BenchMachine
    model: str
    """The name that the user gave, or "random 7b" for random weights."""
    revision: str | None
    clip: ClipFacts
    task: BenchTask
    trials: tuple[BenchTrial, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FigureChange:
    """The medians of one figure in the earlier run and in this one; factor 1.2 means 1.2 times as good now.

    The snippet itself doesn't change: if it is better or worse as well, the machine was faster or slower.
    """

    name: str
    unit: Unit
    then: float
    now: float
    factor: float | None
    verdict: Verdict
    snippet_factor: float | None
    snippet_verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class TrialChange:
    """The changes in a configuration that both runs have."""

    configuration: str
    lines: tuple[FigureChange, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The changes since an earlier run, its date, other differences, and the configurations that the run lacks."""

    measured_at: str
    differences: tuple[str, ...]
    """Facts that may explain the changes: "torch was 2.10.0, is 2.13.0"."""
    trials: tuple[TrialChange, ...]
    unmatched: tuple[str, ...]


def object_of(record: BenchRecord) -> dict[str, Any]:
    """Makes the JSON object of a record: figures in the unit of their line, RAM in bytes, speeds per second."""
    found = asdict(record)
    for trial, values in zip(record.trials, found["trials"], strict=True):
        values["lines"] = [_line_of(figure) for figure in trial.lines]
        if trial.agreement:
            values["agreement"]["is_met"] = trial.agreement.is_met
    found["clip"]["path"] = os.fspath(record.clip.path)
    return {"type": "bench", "version": VERSION, **found.pop("task"), **found, "frames": None}


def read_record(path: Path) -> BenchRecord:
    """Reads the record that --save wrote. Errors: OutputError for any other file."""
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        row = row_of(file.read(MAX_ROW_BYTES + 1))
    if row is None or row.get("type") != "bench":
        refuse_foreign(path)
    saved = Fields(row, "the object", error=_FieldError)
    try:
        if (version := saved.whole("version", least=1)) > VERSION:
            raise _FieldError(f"its version is {version}, but this vllava reads up to {VERSION}: update vllava")
        return saved.build(BenchRecord, task=saved.build(BenchTask))
    except _FieldError as exc:
        refuse_damaged(path, str(exc))


def compare(then: BenchRecord, now: BenchRecord) -> Comparison:
    """Compares a run with an earlier one (`then`)."""
    earlier = {_key(then, trial): trial for trial in reversed(then.trials) if trial.plan}
    pairs = [(earlier.get(_key(now, trial)), trial) for trial in now.trials]
    before, after = _circumstances(then), _circumstances(now)
    return Comparison(
        measured_at=then.machine.measured_at,
        differences=tuple(
            f"{what} was {before[what]}, is {after[what]}"
            for what in before
            if after.get(what, before[what]) != before[what]
        ),
        trials=tuple(
            TrialChange(configuration=trial.name, lines=tuple(_changes(old, trial))) for old, trial in pairs if old
        ),
        unmatched=tuple(trial.name for old, trial in pairs if not old),
    )


class _FieldError(OutputError):
    """A field has a wrong value; `read_record`, which catches this error, names the file."""


def _line_of(figure: Figure) -> dict[str, Any]:
    found = asdict(figure)
    for side, measured in (("ours", figure.ours), ("snippet", figure.snippet)):
        if measured:
            found[side] |= {"median": measured.median, "least": measured.least, "most": measured.most}
    return found | {"of_snippet": figure.of_snippet, "of_limit": figure.of_limit, "note": figure.remark}


def _key(record: BenchRecord, trial: BenchTrial) -> tuple[str, ...]:
    return (record.model, trial.precision, trial.name if trial.plan else "")


def _changes(then: BenchTrial, now: BenchTrial) -> Iterator[FigureChange]:
    earlier = {(figure.name, figure.unit): figure for figure in then.lines}
    for figure in now.lines:
        old = earlier.get((figure.name, figure.unit))
        if not (old and old.ours and figure.ours):
            continue
        factor, verdict = _judged(figure, old.ours, figure.ours)
        of_snippet = _judged(figure, old.snippet, figure.snippet) if old.snippet and figure.snippet else (None, None)
        yield FigureChange(
            name=figure.name,
            unit=figure.unit,
            then=old.ours.median,
            now=figure.ours.median,
            factor=factor,
            verdict=verdict,
            snippet_factor=of_snippet[0],
            snippet_verdict=of_snippet[1],
        )


def _judged(figure: Figure, then: Measured, now: Measured) -> tuple[float | None, Verdict]:
    """Returns how many times as good a figure is now, and the verdict, which depends on the spreads."""
    before = figure.goodness(then.median)
    factor = figure.goodness(now.median) / before if before and now.median else None
    if factor is None or (then.least <= now.most and now.least <= then.most):
        return factor, "same"
    if figure.unit != "MiB" and 1 in (len(then.values), len(now.values)):
        return factor, "unsure"
    return factor, "better" if factor > 1 else "worse"


def _circumstances(record: BenchRecord) -> dict[str, str]:
    """Returns all that figures depend on: {"the CPU": "AMD EPYC (2 cores)", …, "torch": "2.13.0"}."""
    machine, clip, task = record.machine, record.clip, record.task
    return {
        "the CPU": f"{machine.cpu} ({counted(machine.cores, 'core')})",
        "the RAM": f"{machine.ram_bytes / 2**30:.0f} GiB",
        "the GPU": ", ".join(machine.gpus) or "none",
        "the model": record.model,
        "the clip": f"{clip.path.name} ({clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')})",
        "the question": repr(task.question),
        "--max-new-tokens": str(task.new_tokens),
        "--batch-size": ",".join(map(str, task.batches)),
        "the revision": record.revision or "none",
        **{name: release or "not installed" for name, release in machine.versions.items()},
    }
