"""The object that --json prints and --save writes, and the same read back, each field distrusted."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from vllava_cli.commands.bench.record import Asked, ClipFacts, Machine, Reading, Record
from vllava_cli.errors import OutputError
from vllava_cli.measures import Agreement, Bar, Line, Measured, Trial, Unit
from vllava_cli.nouns import Attention, Dtype, LoadPlan, Quantisation, Speed
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import as_output_error, opened
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, refuse_damaged, refuse_foreign, row_of

VERSION = 1


def object_of(record: Record) -> dict[str, object]:
    """Times in the unit of their line, memory in bytes but for lines in MiB, speeds in a second."""
    machine, asked = record.machine, record.asked
    return {
        "type": "bench",
        "version": VERSION,
        "machine": asdict(machine) | {"gpus": list(machine.gpus), "versions": dict(machine.versions)},
        **asdict(asked),
        "clip": asdict(asked.clip) | {"path": os.fspath(asked.clip.path)},
        "batches": list(asked.batches),
        "trials": [_trial_object(trial) for trial in record.trials],
        "frames": _reading_object(record.reading) if record.reading else None,
    }


def read(path: Path) -> Record:
    """What --save wrote. Errors: OutputError for anything else."""
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        row = row_of(file.read(MAX_ROW_BYTES + 1))
    if row is None or row.get("type") != "bench":
        refuse_foreign(path)
    try:
        return record_of(row)
    except _FieldError as exc:
        refuse_damaged(path, str(exc))


def record_of(row: Mapping[str, Any]) -> Record:
    """Errors: OutputError, a fragment that names the place."""
    fields = Fields(row, "the object", error=_FieldError)
    version = fields.whole("version", least=1)
    if version > VERSION:
        raise _FieldError(f"it is of version {version}, and this vllava reads up to {VERSION}: update vllava")
    return Record(
        machine=_machine(fields.inside("machine")),
        asked=_asked(fields),
        trials=fields.each("trials", lambda trials, place: _trial(trials.inside(place))),
        reading=fields.maybe("frames", lambda key: _reading(fields.inside(key))),
    )


class _FieldError(OutputError):
    """A field that isn't what it must be; the file is named by who catches it."""


def _trial_object(trial: Trial) -> dict[str, object]:
    return {
        "precision": trial.precision,
        "attention": trial.attention,
        "plan": asdict(trial.plan) if trial.plan else None,
        "speed": asdict(trial.speed) if trial.speed else None,
        "lines": [_line_object(line) for line in trial.lines],
        "agreement": _agreement_object(trial.agreement) if trial.agreement else None,
        "fault": trial.fault,
    }


def _line_object(line: Line) -> dict[str, object]:
    return {
        "name": line.name,
        "unit": line.unit,
        "ours": _measured_object(line.ours),
        "snippet": _measured_object(line.snippet),
        "limit": line.limit,
        "of_snippet": line.of_snippet,
        "of_limit": line.of_limit,
        "note": line.remark,
    }


def _measured_object(measured: Measured | None) -> dict[str, object] | None:
    if measured is None:
        return None
    facts = {"median": measured.median, "least": measured.least, "most": measured.most}
    return {**facts, "values": list(measured.values)}


def _agreement_object(agreement: Agreement) -> dict[str, object]:
    """JSON has no infinity and no NaN, which logits can differ by: null says so."""
    difference = agreement.largest_difference
    is_finite = math.isfinite(difference)
    return asdict(agreement) | {
        "largest_difference": difference if is_finite else None,
        "is_met": agreement.is_met,
    }


def _reading_object(reading: Reading) -> dict[str, object]:
    return {"lines": [_line_object(line) for line in reading.lines], "bars": [asdict(bar) for bar in reading.bars]}


def _machine(fields: Fields) -> Machine:
    versions = fields.inside("versions")
    return Machine(
        cpu=fields.text("cpu"),
        cores=fields.whole("cores"),
        ram_bytes=fields.whole("ram_bytes"),
        gpus=fields.each("gpus", Fields.text),
        versions=tuple((name, versions.maybe(name, versions.text)) for name in versions.names()),
        measured_at=fields.moment("measured_at"),
    )


def _asked(fields: Fields) -> Asked:
    clip = fields.inside("clip")
    return Asked(
        model=fields.text("model"),
        revision=fields.maybe("revision", fields.text),
        clip=ClipFacts(
            path=clip.path("path"),
            width=clip.whole("width"),
            height=clip.whole("height"),
            frame_count=clip.whole("frame_count"),
            duration_s=clip.maybe("duration_s", clip.seconds),
            codec=clip.text("codec"),
        ),
        question=fields.text("question"),
        new_tokens=fields.whole("new_tokens", least=1),
        repeat=fields.whole("repeat", least=1),
        batches=fields.each("batches", Fields.whole),
    )


def _trial(fields: Fields) -> Trial:
    return Trial(
        precision=fields.text("precision"),
        attention=fields.text("attention"),
        plan=fields.maybe("plan", lambda key: _plan(fields.inside(key))),
        speed=fields.maybe("speed", lambda key: _speed(fields.inside(key))),
        lines=fields.each("lines", lambda lines, place: _line(lines.inside(place))),
        agreement=fields.maybe("agreement", lambda key: _agreement(fields.inside(key))),
        fault=fields.maybe("fault", fields.text),
    )


def _plan(fields: Fields) -> LoadPlan:
    return LoadPlan(
        device=fields.text("device"),
        dtype=fields.one_of("dtype", get_args(Dtype)),
        quantisation=fields.maybe("quantisation", lambda key: fields.one_of(key, get_args(Quantisation))),
        attention=fields.one_of("attention", get_args(Attention)),
        needed_bytes=fields.whole("needed_bytes"),
        device_reason=fields.text("device_reason"),
        dtype_reason=fields.text("dtype_reason"),
        quantisation_reason=fields.text("quantisation_reason"),
        attention_reason=fields.text("attention_reason"),
        context_tokens=fields.maybe("context_tokens", fields.whole),
    )


def _speed(fields: Fields) -> Speed:
    return Speed(operations=fields.number("operations", least=0), bytes=fields.number("bytes", least=0))


def _line(fields: Fields) -> Line:
    return Line(
        name=fields.text("name"),
        unit=fields.one_of("unit", get_args(Unit)),
        ours=fields.maybe("ours", lambda key: _measured(fields.inside(key))),
        snippet=fields.maybe("snippet", lambda key: _measured(fields.inside(key))),
        limit=fields.maybe("limit", lambda key: fields.number(key, least=0)),
        note=fields.text("note"),
    )


def _measured(fields: Fields) -> Measured:
    values = fields.each("values", lambda each, place: each.number(place, least=0))
    return Measured(values=values) if values else fields.refuse("values", "an empty list")


def _agreement(fields: Fields) -> Agreement:
    difference = fields.maybe("largest_difference", lambda key: fields.number(key, least=0))
    return Agreement(
        tokens=fields.whole("tokens"),
        equal_tokens=fields.whole("equal_tokens"),
        largest_difference=math.inf if difference is None else difference,
        tolerance=fields.number("tolerance", least=0),
        must_be_equal=fields.truth("must_be_equal"),
    )


def _reading(fields: Fields) -> Reading:
    return Reading(
        lines=fields.each("lines", lambda lines, place: _line(lines.inside(place))),
        bars=fields.each("bars", lambda bars, place: _bar(bars.inside(place))),
    )


def _bar(fields: Fields) -> Bar:
    return Bar(text=fields.text("text"), is_met=fields.truth("is_met"))
