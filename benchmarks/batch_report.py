"""What `vllava batch` and the loop took, as a table that a page of the documentation can hold, as bars, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from benchmarks.machine import Machine
from benchmarks.turns import Race, Turn
from vllava_cli.measures import Bar

HEAD = (
    "| clips x questions | loop s | vllava s | times as fast | loop CPU s | vllava CPU s | model idle "
    "| other answers |\n" + "|---" * 8 + "|"
)
_MOST_IDLE = 0.15
_MOST_OTHERS = 0.05


def line(race: Race) -> str:
    """The row of one workload: medians, and in brackets the fastest and the slowest turn."""
    cells = [race.workload.text]
    cells += [_spread(turn.times.wall_s for turn in turns) for turns in (race.loop, race.vllava)]
    cells += [f"{race.speedup:.2f}"]
    cells += [_spread(turn.times.cpu_s for turn in turns) for turns in (race.loop, race.vllava)]
    cells += [_spread(100 * share for share in race.idle_shares) + " %"]
    cells += [f"{race.differing} of {race.workload.jobs}"]
    return "| " + " | ".join(cells) + " |"


def bars(races: Sequence[Race]) -> Iterator[Bar]:
    """Each bar that the measured workloads say something about."""
    for race in races:
        least = race.workload.least_speedup
        text = f"{race.workload.text}: at least {least:g} times as fast: {race.speedup:.2f}"
        yield Bar(text=text, is_met=race.speedup >= least)
    for race in races:
        share = statistics.median(race.idle_shares)
        text = f"{race.workload.text}: the model idle for less than {_MOST_IDLE:.0%} of the run: {share:.1%}"
        yield Bar(text=text, is_met=share < _MOST_IDLE)
    for race in races:
        text = f"{race.workload.text}: the loop's answers: all but {race.differing} of {race.workload.jobs}"
        yield Bar(text=text, is_met=race.differing == 0)


def disturbance(races: Sequence[Race]) -> str | None:
    """A sentence where other processes took so much of the machine that the figures mean little."""
    share = max(race.others_share for race in races)
    if share <= _MOST_OTHERS:
        return None
    return f"Other processes took up to {share:.0%} of the cores during a turn: measure again on a machine at rest."


def as_json(races: Sequence[Race], found: Sequence[Bar], machine: Machine) -> str:
    """Everything that was measured, with the bars."""
    whole = {
        "machine": machine.facts(),
        "workloads": [_facts(race) for race in races],
        "bars": [asdict(bar) for bar in found],
    }
    return json.dumps(whole, indent=1)


def _facts(race: Race) -> dict[str, object]:
    work = race.workload
    return {
        "workload": work.name,
        "clips": work.clips,
        "questions": list(work.questions),
        "speedup": race.speedup,
        "differing": race.differing,
        "loop": [_turn_facts(turn) for turn in race.loop],
        "vllava": [_turn_facts(turn) for turn in race.vllava],
    }


def _turn_facts(turn: Turn) -> dict[str, object]:
    return asdict(turn.times) | {"stats": dict(turn.stats)}


def _spread(numbers: Iterable[float]) -> str:
    """[2.0, 1.5, 9.0] → "2.00 (1.50-9.00)"."""
    known = sorted(numbers)
    return f"{statistics.median(known):.2f} ({known[0]:.2f}-{known[-1]:.2f})"
