"""What bench tells: tables and sentences as the answer, faults on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllava_cli.commands.bench import figures
from vllava_cli.commands.bench.compare import Comparison, TrialChange, change
from vllava_cli.commands.bench.record import Asked, Reading
from vllava_cli.commands.bench.table import aligned, faults, notes, summary, table
from vllava_cli.measures import Agreement, Trial
from vllava_cli.nouns import DEMO_MODEL, LoadPlan, counted
from vllava_cli.screen import Screen


def tell_start(asked: Asked, screen: Screen, *, is_clip_ours: bool) -> None:
    """What a reader must know to take the figures for what they are."""
    if is_clip_ours:
        screen.notice(f"vllava: no clip was given, so a clip of the demo is used: {asked.clip.path}")
    if asked.model == DEMO_MODEL:
        screen.notice("vllava: demo model: tiny, and its figures say nothing about the 7B model's speed.")


def tell_asked(asked: Asked, screen: Screen) -> None:
    clip = asked.clip
    rows = [
        ("clip", f"{clip.path.name}, {clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')}"),
        ("asked", f"{asked.question} ({counted(asked.new_tokens, 'new token')})" if asked.model else ""),
        ("shown", f"median of {asked.repeat} (least-most)" if asked.repeat > 1 else "one measurement each"),
    ]
    screen.facts([(name, text) for name, text in rows if text], is_answer=True)


def tell_plan(model: str, plan: LoadPlan, screen: Screen, *, is_shown: bool) -> None:
    """How this configuration is loaded, before it is."""
    if is_shown:
        screen.answer(f"\n{model}: {figures.configuration(plan)}\n")
    for what, choice, reason in plan.reasons:
        screen.detail(f"{what}: {choice}. {reason}")


def tell_trial(trial: Trial, screen: Screen, *, is_shown: bool) -> None:
    """What was measured of it, and what ended it too early."""
    if is_shown and trial.lines:
        screen.answer(table(trial.lines, screen.answer_width))
    if is_shown and (below := [*notes(trial.lines), *_below(trial)]):
        screen.facts(below, is_answer=True)
    if trial.fault:
        screen.error(trial.fault if trial.plan else f"{trial.precision}, {trial.attention}: {trial.fault}")


def tell_reading(reading: Reading, screen: Screen) -> None:
    """What --frames-only found."""
    screen.answer("\n")
    screen.answer(table(reading.lines, screen.answer_width))
    bars = [("met" if bar.is_met else "missed", bar.text) for bar in reading.bars]
    if below := [*notes(reading.lines), *bars]:
        screen.facts(below, is_answer=True)


def tell_summary(trials: Sequence[Trial], screen: Screen) -> None:
    """All configurations below each other."""
    screen.answer("\nconfigurations\n")
    screen.answer(summary(trials, screen.answer_width))
    if found := faults(trials):
        screen.facts(found, is_answer=True)


def tell_comparison(comparison: Comparison, screen: Screen) -> None:
    screen.answer(f"\nagainst the run of {comparison.measured_at}\n")
    different = [("different", f"{text}.") for text in comparison.differences]
    missing = [("not in it", configuration) for configuration in comparison.unmatched]
    if different or missing:
        screen.facts([*different, *missing], is_answer=True)
    for trial in comparison.trials:
        screen.answer(f"{trial.configuration}\n")
        screen.answer(_changes(trial, screen.answer_width))


def agreement(found: Agreement) -> str:
    """ "64 of 64 greedy tokens are generate's; logits differ by 1.2e-05 at most, 1e-04 is allowed: met." """
    demand = "all must be" if found.must_be_equal else "in this dtype they may differ"
    tokens = f"{found.equal_tokens} of {found.tokens} greedy tokens are those of generate ({demand})"
    logits = f"logits differ by {found.largest_difference:.2g} at most, and {found.tolerance:.2g} is allowed"
    return f"{tokens}; {logits}: {'met' if found.is_met else 'not met'}."


def _below(trial: Trial) -> Iterator[tuple[str, str]]:
    """What stands under a trial's table."""
    if trial.speed:
        yield "device", f"{figures.speed(trial.speed)}."
    if trial.agreement:
        yield "check", agreement(trial.agreement)


def _changes(trial: TrialChange, width: int | None) -> str:
    """Beside each change the snippet's, where there is room: it says what the machine did."""
    rows = [("", "", "then", "now", "change", "the snippet's")]
    for each in trial.changes:
        medians = (figures.number(each.then.median), figures.number(each.now.median))
        control = change(each.control) if each.control else figures.ABSENT
        rows.append((each.name, each.unit, *medians, change(each), control))
    brief = [row[:-1] for row in rows]
    return aligned([(rows, 2), (brief, 2), (brief, 1)], width, left=2)
