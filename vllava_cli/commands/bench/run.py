"""`vllava bench`: measures each configuration on this machine, shows tables, keeps and compares the figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllava_cli.commands.bench import compare, saved, telling
from vllava_cli.commands.bench.compare import Comparison
from vllava_cli.commands.bench.instruments import Instruments
from vllava_cli.commands.bench.record import Asked, Record, facts_of, machine_of
from vllava_cli.commands.bench.request import Bench
from vllava_cli.commands.bench.trials import Trials
from vllava_cli.errors import INTERRUPTED
from vllava_cli.interrupt import sigint_flag
from vllava_cli.nouns import Clip
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part
from vllava_cli.storage.jsonl import json_of, line_of


def run(bench: Bench, screen: Screen, instruments: Instruments | None = None) -> int:
    """Returns 0, 1 if nothing could be measured or a check is not met, 130 after Ctrl-C. Errors: any VllavaError."""
    tools, outputs = instruments or Instruments(), bench.outputs
    earlier = saved.read(outputs.compare) if outputs.compare else None
    with _claimed(outputs.save) as save, _claimed(outputs.plot) as plot:
        record, is_cut = (_read if bench.is_frames_only else _try_all)(bench, tools, screen)
        if is_cut and not record.has_figures:
            return INTERRUPTED
        comparison = compare.compare(earlier, record) if earlier else None
        found = saved.object_of(record) | ({"comparison": compare.object_of(comparison)} if comparison else {})
        if save:
            _put(save, line_of(found))
        if plot:
            from vllava_cli.commands.bench.chart import chart_png

            _put(plot, chart_png(record))
    if outputs.is_json:
        screen.answer(json_of(found) + "\n")
    else:
        _tell(record, comparison, screen)
    return INTERRUPTED if is_cut else 1 if _has_failed(record, bench) else 0


def _try_all(bench: Bench, tools: Instruments, screen: Screen) -> tuple[Record, bool]:
    """What was measured of the configurations, and whether Ctrl-C cut it short. Errors: any VllavaError."""
    frames = tools.frames(bench, screen)
    task = tools.task(bench, frames)
    subject = tools.subject(bench, task, screen)
    checkpoint = subject.tokens.checkpoint
    record = _begun(bench, tools, screen, frames.clip, model=checkpoint.name, revision=checkpoint.revision)
    tools.fetch(subject, screen)
    trials = Trials(bench=bench, subject=subject, task=task, instruments=tools, screen=screen)
    with sigint_flag(is_early=lambda: not trials.has_lines) as is_interrupted:
        is_cut = trials.go(is_interrupted)
    return record.of(trials=tuple(trials.done)), is_cut


def _read(bench: Bench, tools: Instruments, screen: Screen) -> tuple[Record, bool]:
    """As `_try_all`, with --frames-only."""
    clip = tools.frames(bench, screen).clip
    record = _begun(bench, tools, screen, clip, model="", revision=None)
    with sigint_flag(is_early=lambda: True) as is_interrupted, screen.waiting("Measuring frames"):
        try:
            reading = tools.reading(bench, is_interrupted=is_interrupted)
        except KeyboardInterrupt:
            return record, True
    if not bench.outputs.is_json:
        telling.tell_reading(reading, screen)
    return record.of(reading=reading), False


def _begun(bench: Bench, tools: Instruments, screen: Screen, clip: Clip, *, model: str, revision: str | None) -> Record:
    """What is known before anything is measured, and told."""
    with screen.waiting("Looking at this machine"):
        machine = machine_of(tools.hardware())
    asked = Asked(
        model=model,
        revision=revision,
        clip=facts_of(clip),
        question=bench.question,
        new_tokens=bench.new_tokens,
        repeat=bench.repeat,
        batches=bench.batches,
    )
    telling.tell_start(asked, screen, is_clip_ours=bench.is_clip_ours)
    if not bench.outputs.is_json:
        telling.tell_asked(asked, screen)
    return Record(machine=machine, asked=asked)


def _tell(record: Record, comparison: Comparison | None, screen: Screen) -> None:
    """What stands below the tables."""
    if len(record.trials) > 1:
        telling.tell_summary(record.trials, screen)
    if comparison:
        telling.tell_comparison(comparison, screen)


def _has_failed(record: Record, bench: Bench) -> bool:
    """Whether nothing could be measured, or a check isn't met."""
    trials, bars = record.trials, record.reading.bars if record.reading else ()
    is_unmet = any(trial.agreement and not trial.agreement.is_met for trial in trials)
    is_missed = bench.is_checked and not all(bar.is_met for bar in bars)
    return is_unmet or is_missed or (bool(trials) and all(trial.fault for trial in trials))


@contextmanager
def _claimed(path: Path | None) -> Iterator[Part | None]:
    """A file that can be written, and that no other run writes meanwhile. Errors: OutputError, LockedError."""
    if path is None:
        yield None
        return
    part = Part(path)
    try:
        yield part
    finally:
        part.end()


def _put(part: Part, data: bytes) -> None:
    part.fill([data])
    part.put()
