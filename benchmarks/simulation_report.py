"""The phases of a simulated run as lines, and what they had to keep to."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.simulation import Phase, Scene
from vllava_cli.measures import Bar

MOST_BYTES, MOST_SCAN_S = 1 << 30, 30.0


def bars(phases: Sequence[Phase]) -> list[Bar]:
    """Memory and the resume scan."""
    peak = max(phase.peak_bytes for phase in phases)
    scan_s = max((phase.facts or {}).get("resume_s", 0.0) for phase in phases)
    return [
        Bar(text=f"the largest peak of memory, at most 1 GiB: {peak / MOST_BYTES:.2f}", is_met=peak < MOST_BYTES),
        Bar(text=f"a resume scan, at most {MOST_SCAN_S:.0f} s: {scan_s:.1f}", is_met=scan_s < MOST_SCAN_S),
    ]


def lines(scene: Scene, phases: Sequence[Phase]) -> list[str]:
    """A table, and what the simulated engines did."""
    return [
        f"{scene.jobs:,} jobs; {scene.actors} engines, {scene.clips} clips at once, {scene.clip_s:.3g} s a clip",
        "",
        f"{'phase':20} {'wall s':>8} {'rows/s':>9} {'peak MiB':>9}  MiB at 25, 50, 75, 100% of its rows",
        *map(_line, phases),
        "",
        *(line for phase in phases for line in _facts(phase)),
        "",
    ]


def _line(phase: Phase) -> str:
    quarters = ", ".join(f"{size >> 20:,}" for size in phase.quarters_bytes)
    pace = phase.rows / phase.wall_s
    return f"{phase.name:20} {phase.wall_s:8.1f} {pace:9,.0f} {phase.peak_bytes >> 20:9,}  {quarters}".rstrip()


def _facts(phase: Phase) -> list[str]:
    facts, found = phase.facts or {}, []
    if "resume_s" in facts:
        found.append(f"resume scan of {facts['done_before']:,.0f} rows: {facts['resume_s']:.1f} s")
    if "simulated_hours" in facts:
        hours, share = facts["simulated_hours"], facts["busy_share"]
        found.append(f"what was left takes the engines {hours:.2f} hours, {share:.0%} of them at work")
    return found
