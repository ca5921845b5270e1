"""The changes since an earlier run: configurations are matched by what was loaded, figures by their names. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vllava_cli.commands.bench.bench_record import BenchRecord
from vllava_cli.engine.measuring.figures import BenchTrial, Figure, Measured, Unit
from vllava_cli.nouns import counted

Verdict = Literal["better", "worse", "same", "unsure"]
"""same: the spreads overlap, so no change is certain · unsure: one of them was measured once, so it has no spread."""


@dataclass(frozen=True, kw_only=True)
class FigureChange:
    """The medians of one figure then and now; with factor 1.2 it is 1.2 times as good now.

    The snippet didn't change: where it is better or worse as well, the machine was faster or slower.
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
    """A configuration that is in both runs."""

    configuration: str
    lines: tuple[FigureChange, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run beside an earlier one: its date, what else is different, and the configurations that it hasn't."""

    measured_at: str
    differences: tuple[str, ...]
    """They may be why: "torch was 2.10.0, is 2.13.0"."""
    trials: tuple[TrialChange, ...]
    unmatched: tuple[str, ...]


def compare(then: BenchRecord, now: BenchRecord) -> Comparison:
    earlier = {_key(then, trial): trial for trial in reversed(then.trials) if trial.plan}
    pairs = [(earlier.get(_key(now, trial)), trial) for trial in now.trials]
    changes = (TrialChange(configuration=trial.name, lines=tuple(_changes(old, trial))) for old, trial in pairs if old)
    after = dict(_circumstances(now))
    return Comparison(
        measured_at=then.machine.measured_at,
        differences=tuple(
            f"{what} was {before}, is {after[what]}"
            for what, before in _circumstances(then)
            if after.get(what, before) != before
        ),
        trials=tuple(changes),
        unmatched=tuple(trial.name for old, trial in pairs if not old),
    )


def _key(record: BenchRecord, trial: BenchTrial) -> tuple[str, ...]:
    return (record.model, trial.precision, trial.name if trial.plan else "")


def _changes(then: BenchTrial, now: BenchTrial) -> Iterator[FigureChange]:
    earlier = {(figure.name, figure.unit): figure for figure in then.lines}
    for figure in now.lines:
        old = earlier.get((figure.name, figure.unit))
        if old and old.ours and figure.ours:
            factor, verdict = _judged(figure, old.ours, figure.ours)
            of_snippet = (
                _judged(figure, old.snippet, figure.snippet) if old.snippet and figure.snippet else (None, None)
            )
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
    """How many times as good it is now, and whether the spreads allow to say so."""
    before = figure.goodness(then.median)
    factor = figure.goodness(now.median) / before if before and now.median else None
    if factor is None or (then.least <= now.most and now.least <= then.most):
        return factor, "same"
    if figure.unit != "MiB" and 1 in (len(then.values), len(now.values)):
        return factor, "unsure"
    return factor, "better" if factor > 1 else "worse"


def _circumstances(record: BenchRecord) -> Iterator[tuple[str, str]]:
    """(what, how it was) of all that figures depend on."""
    machine, clip, task = record.machine, record.clip, record.task
    yield "the CPU", f"{machine.cpu} ({counted(machine.cores, 'core')})"
    yield "the RAM", f"{machine.ram_bytes / 2**30:.0f} GiB"
    yield "the GPU", ", ".join(machine.gpus) or "none"
    yield "the model", record.model
    yield "the clip", f"{clip.path.name} ({clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')})"
    yield "the question", repr(task.question)
    yield "--max-new-tokens", str(task.new_tokens)
    yield "--batch-size", ",".join(map(str, task.batches))
    yield "the revision", record.revision or "none"
    yield from ((name, release or "not installed") for name, release in machine.versions.items())
