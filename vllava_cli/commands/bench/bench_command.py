"""`vllava bench`: measures each configuration on this machine, shows tables, saves and compares the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.commands.bench import bench_report as report
from vllava_cli.commands.bench.bench_record import BenchMachine, BenchRecord, ClipFacts, object_of, read_record
from vllava_cli.commands.bench.bench_request import DEMO_CLIP, Bench, Configuration
from vllava_cli.commands.bench.comparison import Comparison, compare
from vllava_cli.commands.start import read_clips
from vllava_cli.engine.measuring.figures import BenchTrial, Figure
from vllava_cli.errors import INTERRUPTED, CheckpointError, ContextError, MediaError, MemoryShortError, WishError
from vllava_cli.interrupt import sigint_flag
from vllava_cli.nouns import DEMO_MODEL, Checkpoint, Conversation, Frames, Framing, LoadPlan, Wishes, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part
from vllava_cli.storage.jsonl import json_of, line_of
from vllava_cli.times import roughly

if TYPE_CHECKING:
    from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
    from vllava_cli.engine.tokens import Tokens

LOOP_S = 60.0
"""The time of the documentation's loop: it decodes a film from its beginning to its end."""
FAULTS = (WishError, MemoryShortError, CheckpointError, ContextError)
"""Errors that end one configuration, and not another."""


class BenchTools:
    """The tools that measure; a test has others. Each method imports what it needs when it is called."""

    def frames_figure(self, path: Path, bench: Bench, is_interrupted: Callable[[], bool]) -> Figure:
        """Reads the clip in the bounded process, beside the documentation's loop in another. Errors: MediaError."""
        from vllava_cli.engine.measuring.timing import alternate, seconds_of
        from vllava_cli.media.decoder.client import DecoderClient

        limits, note, repeat = bench.limits, "", bench.task.repeat
        loop_limits = replace(limits, timeout_s=min(LOOP_S, limits.timeout_s))
        with DecoderClient(limits) as guard, DecoderClient(loop_limits) as other:
            works: list[Callable[[], object]] = [partial(guard.sample, path, Framing())]
            try:
                other.documented(path)
                works.append(partial(other.documented, path))
            except MediaError as exc:
                note = f"There is no figure of the documentation's loop: {str(exc).partition('. ')[0]}."
            measures = [partial(seconds_of, work, "cpu") for work in works]
            ours, *loop = alternate(measures, device="cpu", repeat=repeat, is_interrupted=is_interrupted, faults=())
        return Figure(name="frames", unit="s", ours=ours, snippet=loop[0] if loop else None, note=note)

    def benchmark(self, *, plan: LoadPlan, **words: Any) -> ModelBenchmark:
        """Errors: MemoryShortError."""
        from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark, fastest

        return ModelBenchmark(plan=plan, speed=fastest(plan), **words)


def run(bench: Bench, screen: Screen, tools: BenchTools | None = None) -> int:
    """Returns 0, 1 if nothing could be measured or a check isn't met, 130 after Ctrl-C. Errors: any VllavaError."""
    earlier = read_record(bench.compare) if bench.compare else None
    with _claimed(bench.save) as save, _claimed(bench.plot) as plot:
        record, is_cut = _Run(bench=bench, screen=screen, tools=tools or BenchTools()).go()
        if is_cut and not any(trial.lines or trial.fault for trial in record.trials):
            return INTERRUPTED
        comparison = compare(earlier, record) if earlier else None
        found = object_of(record) | ({"comparison": asdict(comparison)} if comparison else {})
        if save:
            _put(save, line_of(found))
        if plot:
            from vllava_cli.commands.bench.bar_chart import chart_png

            _put(plot, chart_png(record))
    if bench.is_json:
        screen.answer(json_of(found) + "\n")
    else:
        _show_below(record, comparison, screen)
    is_unmet = any(trial.agreement and not trial.agreement.is_met for trial in record.trials)
    return INTERRUPTED if is_cut else int(is_unmet or all(trial.fault for trial in record.trials))


@dataclass(kw_only=True)
class _Run:
    """The configurations of a run; `trials` has each as far as it got, also while it is measured."""

    bench: Bench
    screen: Screen
    tools: BenchTools
    trials: list[BenchTrial] = field(default_factory=list)
    phrase: str = ""
    """What is being measured, for the spinner."""

    def go(self) -> tuple[BenchRecord, bool]:
        """Returns the record, and whether Ctrl-C cut it short. Errors: any VllavaError."""
        path, task = self.bench.clip or DEMO_CLIP, self.bench.task
        (frames,) = read_clips([(path, Framing())], self.bench.limits, self.screen)
        if frames.kind != "video":
            raise MediaError(f"{path.name!r} is an image, and bench measures with a video: name one.")
        tokens = _tokens(self.bench, self.screen)
        tokens.prompt_ids(Conversation(attached=(frames,)), task.question)
        with self.screen.waiting("Looking at this machine"):
            from vllava_cli.hardware import probe

            machine = BenchMachine.of(probe())
        model, clip = tokens.checkpoint, ClipFacts.of(frames.clip)
        record = BenchRecord(machine=machine, model=model.name, revision=model.revision, clip=clip, task=task)
        self._show_above(record)
        if self.bench.random is None:
            from vllava_cli.engine import hub

            hub.fetch_weights(model, log=self.screen.log)
        with sigint_flag(is_early=lambda: not (self.trials and self.trials[-1].lines)) as is_interrupted:
            try:
                self._measure(tokens, frames, is_interrupted)
                is_cut = is_interrupted()
            except KeyboardInterrupt:
                is_cut = True
        return replace(record, trials=tuple(self.trials)), is_cut

    def _measure(self, tokens: Tokens, frames: Frames, is_interrupted: Callable[[], bool]) -> None:
        with self._progress("frames"):
            figure = self.tools.frames_figure(frames.clip.path, self.bench, is_interrupted)
        for configuration in self.bench.configurations:
            if is_interrupted():
                break
            steps = self._steps(configuration, tokens, frames, is_interrupted)
            self.trials.append(BenchTrial(precision=configuration.precision, attention=configuration.attention))
            try:
                self.trials[-1] = next(steps)
                self._show_plan(self.trials[-1], tokens.checkpoint)
                with self._progress("how fast the device is"):
                    for trial in steps:
                        # The line of frames follows the first, which says how long loading takes.
                        lines = trial.lines and (trial.lines[0], figure, *trial.lines[1:])
                        self.trials[-1] = replace(trial, lines=lines)
            except FAULTS as exc:
                self.trials[-1] = replace(self.trials[-1], fault=str(exc))
            finally:
                self._show_trial(self.trials[-1])

    def _steps(
        self, configuration: Configuration, tokens: Tokens, frames: Frames, is_interrupted: Callable[[], bool]
    ) -> Iterator[BenchTrial]:
        """Yields the trial of a configuration as it grows, first with its plan. Errors: those of FAULTS."""
        from vllava_cli.engine.device_speed import planned
        from vllava_cli.hardware import probe

        plan = planned(configuration.wishes, probe(), tokens.checkpoint)
        trial = BenchTrial(precision=configuration.precision, attention=configuration.attention, plan=plan)
        yield trial
        benchmark = self.tools.benchmark(
            plan=plan,
            tokens=tokens,
            random=self.bench.random,
            frames=frames,
            task=self.bench.task,
            is_interrupted=is_interrupted,
            report=partial(setattr, self, "phrase"),
            expect=self._expect,
        )
        trial = replace(trial, speed=benchmark.speed)
        yield trial
        for figure in benchmark.figures():
            trial = replace(trial, lines=(*trial.lines, figure))
            yield trial
        if self.bench.is_checked and not is_interrupted():
            yield replace(trial, agreement=benchmark.check())

    def _expect(self, seconds: float) -> None:
        what = "this configuration" if len(self.bench.configurations) > 1 else "all"
        self.screen.notice(f"vllava: about {roughly(seconds)} to measure {what}.")

    @contextmanager
    def _progress(self, phrase: str) -> Iterator[None]:
        total, self.phrase = len(self.bench.configurations), phrase

        def parts() -> list[str]:
            number = [f"{len(self.trials)} of {total}"] if total > 1 and self.trials else []
            return [f"Measuring: {self.phrase}", *number]

        with self.screen.progress(parts, is_shared=False):
            yield

    def _show_above(self, record: BenchRecord) -> None:
        """Says what a reader must know to take the figures for what they are."""
        clip, task = record.clip, record.task
        if self.bench.clip is None:
            self.screen.notice(f"vllava: no clip was given, so a clip of the demo is used: {clip.path}")
        if record.model == DEMO_MODEL:
            self.screen.notice("vllava: demo model: tiny, and its figures say nothing about the 7B model's speed.")
        rows = [
            ("clip", f"{clip.path.name}, {clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')}"),
            ("asked", f"{task.question} ({counted(task.new_tokens, 'new token')})"),
            ("shown", f"median of {task.repeat} (least-most)" if task.repeat > 1 else "one measurement each"),
        ]
        self._show("", rows)

    def _show_plan(self, trial: BenchTrial, checkpoint: Checkpoint) -> None:
        self._show(f"\n{checkpoint.model}: {trial.name}\n")
        for what, choice, reason in trial.plan.reasons if trial.plan else ():
            self.screen.detail(f"{what}: {choice}. {reason}")

    def _show_trial(self, trial: BenchTrial) -> None:
        """Shows what was measured of it, and what ended it too early."""
        below = report.notes(trial.lines)
        below += [("device", f"{report.speed(trial.speed)}.")] if trial.speed else []
        below += [("check", report.agreement(trial.agreement))] if trial.agreement else []
        self._show(report.figures_table(trial.lines, self.screen.answer_width) if trial.lines else "", below)
        if trial.fault:
            self.screen.error(trial.fault if trial.plan else f"{trial.name}: {trial.fault}")

    def _show(self, text: str, rows: Sequence[tuple[str, str]] = ()) -> None:
        if not self.bench.is_json:
            _show(self.screen, text, rows)


def _show_below(record: BenchRecord, comparison: Comparison | None, screen: Screen) -> None:
    """Shows all configurations below each other, and what changed."""
    width = screen.answer_width
    if len(record.trials) > 1:
        _show(screen, f"\nconfigurations\n{report.summary(record.trials, width)}", report.faults(record.trials))
    if comparison:
        rows = [("different", f"{text}.") for text in comparison.differences]
        rows += [("not in it", configuration) for configuration in comparison.unmatched]
        _show(screen, f"\nagainst the run of {comparison.measured_at}\n", rows)
        for trial in comparison.trials:
            _show(screen, f"{trial.configuration}\n{report.changes_table(trial, width)}")


def _show(screen: Screen, text: str, rows: Sequence[tuple[str, str]] = ()) -> None:
    screen.answer(text)
    if rows:
        screen.facts(rows, is_answer=True)


def _tokens(bench: Bench, screen: Screen) -> Tokens:
    """A model that can't be had is refused before torch is imported. Errors: any VllavaError."""
    if bench.random is not None:
        from vllava_cli.engine.measuring.random_weights import random_tokens

        return random_tokens(bench.random)
    from vllava_cli.engine.adapter import locate
    from vllava_cli.engine.checkpoint import describe
    from vllava_cli.engine.tokens import read_tokens

    wishes = Wishes(model=bench.model, revision=bench.revision, adapter=bench.adapter)
    source = locate(wishes, screen.log)
    with screen.waiting("Reading the model's files"):
        return read_tokens(describe(source))


@contextmanager
def _claimed(path: Path | None) -> Iterator[Part | None]:
    """A file that can be written, and that no other run writes meanwhile. Errors: OutputError, LockedError."""
    part = Part(path) if path else None
    try:
        yield part
    finally:
        if part:
            part.end()


def _put(part: Part, data: bytes) -> None:
    part.fill([data])
    part.put()
