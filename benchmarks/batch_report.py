"""The cost of `vllava batch` and the loop: a table that a page of the documentation can hold, targets, and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from benchmarks.batch_trial import BatchRepeat, BatchTrial
from benchmarks.harness import Target
from benchmarks.machine import Machine

HEAD = (
    "| clips x questions | loop s | vllava s | times as fast | loop CPU s | vllava CPU s | model idle "
    "| other answers |\n" + "|---" * 8 + "|"
)
_MOST_IDLE = 0.15
_MOST_OTHERS = 0.05


def batch_row(trial: BatchTrial) -> str:
    """The row of one workload: medians, and in brackets the fastest and the slowest repeat."""
    cells = [trial.workload.text]
    cells += [_spread(repeat.times.wall_s for repeat in repeats) for repeats in (trial.loop, trial.vllava)]
    cells += [f"{trial.speedup:.2f}"]
    cells += [_spread(repeat.times.cpu_s for repeat in repeats) for repeats in (trial.loop, trial.vllava)]
    cells += [_spread(100 * share for share in trial.idle_shares) + " %"]
    cells += [f"{trial.differing} of {trial.workload.jobs}"]
    return "| " + " | ".join(cells) + " |"


def batch_targets(trials: Sequence[BatchTrial]) -> Iterator[Target]:
    """The targets that the measured workloads say something about."""
    for trial in trials:
        least = trial.workload.least_speedup
        text = f"{trial.workload.text}: at least {least:g} times as fast: {trial.speedup:.2f}"
        yield Target(text=text, is_met=trial.speedup >= least)
    for trial in trials:
        share = statistics.median(trial.idle_shares)
        text = f"{trial.workload.text}: the model idle for less than {_MOST_IDLE:.0%} of the run: {share:.1%}"
        yield Target(text=text, is_met=share < _MOST_IDLE)
    for trial in trials:
        text = f"{trial.workload.text}: the loop's answers: all but {trial.differing} of {trial.workload.jobs}"
        yield Target(text=text, is_met=trial.differing == 0)


def disturbance(trials: Sequence[BatchTrial]) -> str | None:
    """A sentence where other processes took so much of the machine that the figures mean little."""
    share = max(trial.others_share for trial in trials)
    if share <= _MOST_OTHERS:
        return None
    return f"Other processes took up to {share:.0%} of the cores during a repeat: measure again on a machine at rest."


def batch_json(trials: Sequence[BatchTrial], found: Sequence[Target], machine: Machine) -> str:
    """Everything that was measured, with the targets."""
    facts = {
        "machine": machine.facts(),
        "workloads": [_facts(trial) for trial in trials],
        "targets": [asdict(target) for target in found],
    }
    return json.dumps(facts, indent=1)


def _facts(trial: BatchTrial) -> dict[str, object]:
    work = trial.workload
    return {
        "workload": work.name,
        "clips": work.clips,
        "questions": list(work.questions),
        "speedup": trial.speedup,
        "differing": trial.differing,
        "loop": [_repeat_facts(repeat) for repeat in trial.loop],
        "vllava": [_repeat_facts(repeat) for repeat in trial.vllava],
    }


def _repeat_facts(repeat: BatchRepeat) -> dict[str, object]:
    return asdict(repeat.times) | {"stats": dict(repeat.stats)}


def _spread(numbers: Iterable[float]) -> str:
    """[2.0, 1.5, 9.0] → "2.00 (1.50-9.00)"."""
    known = sorted(numbers)
    return f"{statistics.median(known):.2f} ({known[0]:.2f}-{known[-1]:.2f})"
