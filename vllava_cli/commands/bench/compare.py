"""What changed against an earlier run: configurations are matched by what was loaded, lines by their names. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vllava_cli.commands.bench import figures
from vllava_cli.commands.bench.record import Record
from vllava_cli.measures import Line, Measured, Trial, Unit
from vllava_cli.nouns import counted

Verdict = Literal["better", "worse", "same", "unsure"]
"""same: the spreads overlap, so no change can be told · unsure: one of them was measured once, so it has no spread."""
FRAMES = "frames"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line then and now."""

    name: str
    unit: Unit
    then: Measured
    now: Measured
    control: Change | None = None
    """The snippet's, which we didn't change: where it moved as well, the machine was faster or slower."""

    @property
    def factor(self) -> float | None:
        """How many times as good: 10 tokens/s → 12 tokens/s is 1.2, and so is 12 s → 10 s."""
        then, now = self.then.median, self.now.median
        if not then or not now:
            return None
        return now / then if self.unit.endswith("/s") else then / now

    @property
    def verdict(self) -> Verdict:
        if self.then.least <= self.now.most and self.now.least <= self.then.most:
            return "same"
        if self.unit != "MiB" and 1 in (len(self.then.values), len(self.now.values)):
            return "unsure"
        return "better" if (self.factor or 0) > 1 else "worse"


@dataclass(frozen=True, kw_only=True)
class TrialChange:
    """A configuration that is in both runs."""

    configuration: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run held against an earlier one."""

    measured_at: str
    """Of the earlier one."""
    differences: tuple[str, ...]
    """What else changed, which may be why: "torch was 2.10.0, is 2.13.0"."""
    trials: tuple[TrialChange, ...]
    unmatched: tuple[str, ...]
    """Configurations that the earlier run hasn't."""


def compare(then: Record, now: Record) -> Comparison:
    matched: list[TrialChange] = []
    unmatched: list[str] = []
    for trial in now.trials:
        name, key = _name(trial), _key(now, trial)
        earlier = next((each for each in then.trials if key and _key(then, each) == key), None)
        if earlier:
            matched.append(TrialChange(configuration=name, changes=_changes(earlier.lines, trial.lines)))
        else:
            unmatched.append(name)
    if now.reading and then.reading:
        changes = _changes(then.reading.lines, now.reading.lines)
        matched.append(TrialChange(configuration=FRAMES, changes=changes))
    elif now.reading:
        unmatched.append(FRAMES)
    return Comparison(
        measured_at=then.machine.measured_at,
        differences=tuple(_differences(then, now)),
        trials=tuple(matched),
        unmatched=tuple(unmatched),
    )


def change(found: Change) -> str:
    """ "1.2x faster", "4.2% slower", "1.3x more", "within the spread" """
    if found.verdict == "same" or found.factor is None:
        return "within the spread"
    is_better = found.factor >= 1
    words = ("less", "more") if found.unit == "MiB" else ("faster", "slower")
    factor = found.factor if is_better else 1 / found.factor
    text = f"{_times(factor)} {words[0 if is_better else 1]}"
    return f"{text} (once)" if found.verdict == "unsure" else text


def object_of(comparison: Comparison) -> dict[str, object]:
    """For --json."""
    return {
        "measured_at": comparison.measured_at,
        "differences": list(comparison.differences),
        "trials": [
            {"configuration": trial.configuration, "lines": [_change_object(each) for each in trial.changes]}
            for trial in comparison.trials
        ],
        "unmatched": list(comparison.unmatched),
    }


def _times(factor: float) -> str:
    """1.234 → "1.2x", 1.042 → "4.2%"."""
    return figures.times(factor) if factor >= 1.1 else figures.share(factor - 1)


def _change_object(found: Change) -> dict[str, object]:
    medians = {"then": found.then.median, "now": found.now.median}
    verdicts = {"verdict": found.verdict, "snippet_factor": found.control.factor if found.control else None}
    return {"name": found.name, "unit": found.unit, **medians, "factor": found.factor, **verdicts}


def _changes(then: Sequence[Line], now: Sequence[Line]) -> tuple[Change, ...]:
    earlier = {(line.name, line.unit): line for line in then}
    pairs = ((earlier.get((line.name, line.unit)), line) for line in now)
    found = (_change(before, after) for before, after in pairs if before)
    return tuple(each for each in found if each)


def _change(then: Line, now: Line) -> Change | None:
    if not then.ours or not now.ours:
        return None
    control = None
    if then.snippet and now.snippet:
        control = Change(name=now.name, unit=now.unit, then=then.snippet, now=now.snippet)
    return Change(name=now.name, unit=now.unit, then=then.ours, now=now.ours, control=control)


def _key(record: Record, trial: Trial) -> tuple[str | None, ...] | None:
    """None for a configuration that wasn't loaded."""
    plan = trial.plan
    if plan is None:
        return None
    return (record.asked.model, plan.device, trial.precision, plan.dtype, plan.quantisation, plan.attention)


def _name(trial: Trial) -> str:
    return figures.configuration(trial.plan) if trial.plan else f"{trial.precision}, {trial.attention}"


def _differences(then: Record, now: Record) -> Iterator[str]:
    after = dict(_circumstances(now))
    for what, before in _circumstances(then):
        if after.get(what, before) != before:
            yield f"{what} was {before}, is {after[what]}"
    versions = dict(now.machine.versions)
    for name, release in then.machine.versions:
        if name in versions and versions[name] != release:
            yield f"{name} was {release or 'not installed'}, is {versions[name] or 'not installed'}"


def _circumstances(record: Record) -> Iterator[tuple[str, str]]:
    """(what, how it was) of all that figures depend on; the releases are compared by name."""
    machine, asked = record.machine, record.asked
    yield "the CPU", f"{machine.cpu} ({counted(machine.cores, 'core')})"
    yield "the RAM", f"{machine.ram_bytes / 2**30:.0f} GiB"
    yield "the GPU", ", ".join(machine.gpus) or "none"
    if asked.model:
        yield "the model", asked.model
    clip = asked.clip
    yield "the clip", f"{clip.path.name} ({clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')})"
    if record.trials:
        yield "the question", repr(asked.question)
        yield "--max-new-tokens", str(asked.new_tokens)
        yield "--batch-size", ",".join(map(str, asked.batches))
        yield "the revision", asked.revision or "none"
