"""The cost of a simulated run, as a table that a page of the documentation can hold, as targets, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.harness import Target
from benchmarks.machine import Machine
from benchmarks.simulation.run import FIRST, REST, Phase, Run

HEAD = "| phase (a process each) | wall s | peak MiB | rows | rows/s | of which s |\n" + "|---" * 6 + "|"
MOST_BYTES = 1 << 30
MOST_SCAN_S = 30.0
_MIB = 1 << 20
_QUARTERS = (0.25, 0.5, 0.75, 1.0)


def phase_row(phase: Phase) -> str:
    """The row of one phase."""
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phase.steps_s.items())
    cells = [f"{phase.name:24}", f"{phase.wall_s:.1f}", f"{phase.peak_bytes / _MIB:,.0f}"]
    cells += [f"{phase.rows:,}", f"{phase.rows_per_s:,.0f}", steps or "-"]
    return "| " + " | ".join(cells) + " |"


def sentences(run: Run) -> Iterator[str]:
    """Memory as rows are written, and what the cluster did in its own time."""
    quarters = ", ".join(f"{share:.0%} {rss / _MIB:,.0f}" for share, rss in memory(run))
    begins = " and ".join(f"{run.of(name).written[0][1] / _MIB:,.0f}" for name in (FIRST, REST))
    yield f"Memory in MiB with so many rows written: {quarters}; before the first row of the two processes {begins}."
    fleet, service = run.plan.fleet, run.plan.service
    yield (
        f"Simulated: {fleet.actors} actors with {fleet.batch} clips at once, {fleet.decoders} decoders, "
        f"{service.answer_s:g} s an answer, {service.decode_s:g} s to decode, {_told(run, 'died'):.0f} deaths, "
        f"{_told(run, 'again'):,.0f} rows came again: "
        f"{simulated_s(run) / 3600:.2f} hours, actors at work {utilisation(run):.1%}, "
        f"decoders {decoder_utilisation(run):.1%}."
    )


def simulation_targets(run: Run) -> Iterator[Target]:
    """Memory, the scan, and that all is there once."""
    for phase in run.phases:
        text = f"{phase.name}: less than {MOST_BYTES // _MIB:,} MiB: {phase.peak_bytes / _MIB:,.0f}"
        yield Target(text=text, is_met=phase.peak_bytes < MOST_BYTES)
    rest, check, jobs = run.of(REST), run.phases[-1].facts, run.plan.jobs
    scan_s = rest.steps_s["scan"]
    text = f"resume scan of {rest.facts['found']:,} rows: less than {MOST_SCAN_S:g} s: {scan_s:.1f}"
    yield Target(text=text, is_met=scan_s < MOST_SCAN_S)
    found = " ".join(rest.facts["mismatch"])
    yield Target(text=f"rows and jobs match: {found or 'yes'}", is_met=not found)
    text = f"merged: {check['rows']:,} rows, {check['ids']:,} ids of {jobs:,} jobs, {check['errors']:,} errors"
    is_whole = check["rows"] == check["ids"] == jobs and check["wrong"] == 0
    yield Target(text=f"{text}, {check['wrong']:,} of them unexpected", is_met=is_whole)


def memory(run: Run) -> Iterator[tuple[float, int]]:
    """(share of all rows, bytes then), by quarters; up to a half it is the process that is killed."""
    seen = [*run.of(FIRST).written[1:], *run.of(REST).written[1:]]
    for share in _QUARTERS:
        yield share, next(rss for rows, rss in seen if rows >= share * run.plan.jobs)


def simulated_s(run: Run) -> float:
    """Of both halves; the second begins with cold engines and nothing decoded."""
    return _told(run, "simulated_s")


def utilisation(run: Run) -> float:
    return _told(run, "answering_s") / (run.plan.fleet.actors * simulated_s(run))


def decoder_utilisation(run: Run) -> float:
    return _told(run, "decoding_s") / (run.plan.fleet.decoders * simulated_s(run))


def simulation_json(run: Run, found: Sequence[Target], machine: Machine) -> str:
    """Everything that was measured, with the targets."""
    whole = {
        "machine": machine.facts(),
        "plan": asdict(run.plan),
        "phases": [_facts(phase) for phase in run.phases],
        "memory": [{"share": share, "bytes": rss} for share, rss in memory(run)],
        "found": run.of(REST).facts["found"],
        "check": {name: run.phases[-1].facts[name] for name in ("rows", "ids", "errors", "wrong")},
        "deaths": _told(run, "died"),
        "again": _told(run, "again"),
        "simulated_s": simulated_s(run),
        "utilisation": utilisation(run),
        "decoder_utilisation": decoder_utilisation(run),
        "targets": [asdict(target) for target in found],
    }
    return json.dumps(whole, indent=1)


def _facts(phase: Phase) -> dict[str, object]:
    facts = asdict(phase)
    return {name: facts[name] for name in ("name", "wall_s", "peak_bytes", "rows", "steps_s")}


def _told(run: Run, name: str) -> float:
    return float(sum(run.of(phase).facts[name] for phase in (FIRST, REST)))
