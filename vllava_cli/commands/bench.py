"""`vllava bench`: measures this tool on this machine, beside transformers' documented snippet and the machine's limits.

Each configuration is measured and shown as a table; the figures are saved, drawn, and compared with earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli import demo
from vllava_cli.answers import Conversation
from vllava_cli.commands import bench_report as report
from vllava_cli.commands.start import names_a_clip, read_clips
from vllava_cli.engine.measuring.figures import BenchTask, BenchTrial
from vllava_cli.errors import INTERRUPTED, MediaError, OutputError, UsageError, VllavaError
from vllava_cli.interrupt import sigint_flag
from vllava_cli.nouns import (
    DEMO_MODEL,
    STDIN,
    DecodeLimits,
    Frames,
    Framing,
    Wishes,
    counted,
)
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part
from vllava_cli.storage.jsonl import json_of, line_of
from vllava_cli.times import roughly

if TYPE_CHECKING:
    from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.nouns import LoadPlan

USAGE = 'vllava bench [CLIP] ["QUESTION"]'
QUESTION = "What happens in this video?"
DEMO_CLIP = demo.CLIPS / "red-circle-moves-left.mp4"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The request of `vllava bench`. Without a clip, the demo's is used; `random` names a model of random weights."""

    clip: Path | None = None
    wishes: tuple[Wishes, ...]
    """The configurations: the same model, loaded in different ways."""
    random: str | None = None
    task: BenchTask
    is_checked: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False
    save: Path | None = None
    compare: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        """Refuses a --plot that isn't a .png, or is the file of --save or --compare. Errors: UsageError."""
        if self.plot and self.plot.suffix.lower() != ".png":
            raise UsageError(f"--plot writes PNG: give a name that ends in .png instead of {self.plot.name!r}.")
        if self.plot and self.plot in (self.save, self.compare):
            raise UsageError(f"--plot would replace what is in {self.plot.name!r}: name another file.")


def words_of(words: Sequence[str]) -> tuple[Path | None, str]:
    """Splits the words into a clip, None if there is none, and a question, QUESTION if there is none.

    ["a.mp4"] → a.mp4, QUESTION · ["Why?"] → None, "Why?" · ["a.mp4", "Why?"] → a.mp4, "Why?". Errors: UsageError.
    """
    if len(words) > 2:
        raise UsageError(f"bench measures with one clip and one question, but {len(words)} words were given: {USAGE}.")
    if STDIN in words:
        raise UsageError("bench reads its clip often, so it can't come from stdin: save it to a file and name that.")
    has_clip = len(words) == 2 or (len(words) == 1 and names_a_clip(words[0]))
    question = QUESTION if len(words) == has_clip else words[-1]
    if not question.strip():
        raise UsageError(f"The question is empty: {USAGE}.")
    return (Path(words[0]) if has_clip else None), question


def run(bench: Bench, screen: Screen, benchmark: Callable[..., ModelBenchmark] | None = None) -> int:
    """Measures, saves and shows the figures; tests pass another `benchmark`. Errors: any VllavaError.

    Returns 0; 1 if all configurations failed or a check isn't met; 130 after Ctrl-C. Raises KeyboardInterrupt if that
    came before the first figure.
    """
    earlier = report.read_record(bench.compare) if bench.compare else None
    save, plot = (Part(path) if path else nullcontext() for path in (bench.save, bench.plot))
    with save as saved, plot as plotted:
        measuring = _Run(bench=bench, screen=screen, benchmark=benchmark)
        record, is_cut = measuring.record()
        comparison = report.compare(earlier, record) if earlier else None
        found = report.object_of(record) | ({"comparison": comparison} if comparison else {})
        if saved:
            saved.fill([line_of(found)])
        if plotted:
            from vllava_cli.commands.bar_chart import chart_png

            plotted.fill([chart_png(record)])
    measuring.show_below(comparison)
    if bench.is_json:
        screen.answer(json_of(found) + "\n")
    is_unmet = any(trial.agreement and not trial.agreement.is_met for trial in record.trials)
    return INTERRUPTED if is_cut else int(is_unmet or all(trial.fault for trial in record.trials))


@dataclass(kw_only=True)
class _Run:
    """Measures the configurations of a run. `trials` has those that have begun, with the figures found so far."""

    bench: Bench
    screen: Screen
    benchmark: Callable[..., ModelBenchmark] | None
    trials: list[BenchTrial] = field(default_factory=list)

    def record(self) -> tuple[report.BenchRecord, bool]:
        """Measures all, and returns the record and whether Ctrl-C cut it short. Errors: any VllavaError."""
        path, task = self.bench.clip or DEMO_CLIP, self.bench.task
        (frames,) = read_clips([(path, Framing())], self.bench.limits, self.screen)
        if frames.kind != "video":
            raise MediaError(f"{path.name!r} is an image, but bench measures with a video: name one.")
        tokens = _tokens(self.bench, self.screen)
        tokens.prompt_ids(Conversation(attached=(frames,)), task.question)
        with self.screen.waiting("Looking at this machine"):
            from vllava_cli.hardware import probe

            machine = report.BenchMachine.of(probe())
        model, clip = tokens.checkpoint, frames.clip
        record = report.BenchRecord(machine=machine, model=model.name, revision=model.revision, clip=clip, task=task)
        self._show_above(record)
        if self.bench.random is None:
            from vllava_cli.engine import hub

            hub.fetch_weights(model, log=self.screen.log)
        with sigint_flag(is_early=lambda: not (self.trials and self.trials[-1].lines)) as is_interrupted:
            try:
                for wishes in self.bench.wishes:
                    if not is_interrupted():
                        self._measure(wishes, tokens, frames, is_interrupted)
                is_cut = is_interrupted()
            except KeyboardInterrupt:
                is_cut = True
                if not any(trial.lines or trial.fault for trial in self.trials):
                    raise
        return replace(record, trials=tuple(self.trials)), is_cut

    def _measure(self, wishes: Wishes, tokens: Tokens, frames: Frames, is_interrupted: Callable[[], bool]) -> None:
        """Measures one configuration, adds each figure to its trial when it comes, and shows them.

        Errors: MediaError and OutputError; any other fault is a part of the trial: the next one may be possible.
        """
        attention = "flash" if wishes.attention == "flash_attention_2" else wishes.attention or "auto"
        self.trials.append(BenchTrial(precision=wishes.precision or "auto", attention=attention))
        place = f"configuration {len(self.trials)} of {len(self.bench.wishes)}"
        try:
            plan = self._plan(wishes, tokens)
            from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark

            with self.screen.progress(
                lambda: [f"Measuring {place}", f"{len(self.trials[-1].lines)} figures so far"], is_shared=False
            ):
                earlier = (figure for trial in self.trials for figure in trial.lines)
                benchmark = (self.benchmark or ModelBenchmark)(
                    plan=plan,
                    limits=self.bench.limits,
                    reading=next((each for each in earlier if each.name == "frames"), None),
                    tokens=tokens,
                    random=self.bench.random,
                    frames=frames,
                    task=self.bench.task,
                    is_interrupted=is_interrupted,
                    expect=lambda s: self.screen.notice(f"vllava: about {roughly(s)} to measure {place}."),
                )
                self._note(speed=benchmark.speed)
                for figure in benchmark.figures():
                    self._note(lines=(*self.trials[-1].lines, figure))
                if self.bench.is_checked and not is_interrupted():
                    self._note(agreement=benchmark.check())
        except (MediaError, OutputError):
            raise
        except VllavaError as exc:
            self._note(fault=str(exc))
        finally:
            self._show_trial(self.trials[-1])

    def _plan(self, wishes: Wishes, tokens: Tokens) -> LoadPlan:
        from vllava_cli.engine.device_speed import planned
        from vllava_cli.hardware import probe

        plan = planned(wishes, probe(), tokens.checkpoint)
        self._note(plan=plan)
        self._show(f"\n{tokens.checkpoint.model}: {self.trials[-1].name}\n")
        for what, choice, reason in plan.reasons:
            self.screen.detail(f"{what}: {choice}. {reason}")
        return plan

    def _note(self, **found: Any) -> None:
        self.trials[-1] = replace(self.trials[-1], **found)

    def _show_above(self, record: report.BenchRecord) -> None:
        """Shows what the figures are about: the clip, the question, and how many measurements a figure has."""
        clip, task = record.clip, record.task
        if self.bench.clip is None:
            self.screen.notice(f"vllava: no clip was given, so a clip of the demo is used: {clip.path}")
        if record.model == DEMO_MODEL:
            self.screen.notice("vllava: demo model: tiny, and its figures say nothing about the 7B model's speed.")
        self._show(
            "",
            ("clip", f"{clip.path.name}, {clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')}"),
            ("asked", f"{task.question} ({counted(task.new_tokens, 'new token')})"),
            ("shown", f"median of {task.repeat} (least-most)" if task.repeat > 1 else "one measurement each"),
        )

    def _show_trial(self, trial: BenchTrial) -> None:
        """Shows the figures of a configuration, and the fault that ended it early."""
        below = report.numbered(figure.remark for figure in trial.lines)
        below += [("device", f"{report.speed(trial.speed)}.")] if trial.speed else []
        below += [("check", report.agreement(trial.agreement))] if trial.agreement else []
        self._show(report.figures_table(trial.lines, self.screen.answer_width) if trial.lines else "", *below)
        if trial.fault:
            self.screen.error(trial.fault if trial.plan else f"{trial.name}: {trial.fault}")

    def show_below(self, comparison: dict[str, Any] | None) -> None:
        """Shows a summary of several configurations, and the changes since an earlier run."""
        width = self.screen.answer_width
        if len(self.trials) > 1:
            faults = report.numbered(trial.fault or "" for trial in self.trials)
            self._show(f"\nconfigurations\n{report.summary(self.trials, width)}", *faults)
        if comparison:
            rows = [("different", f"{text}.") for text in comparison["differences"]]
            rows += [("not in it", configuration) for configuration in comparison["unmatched"]]
            self._show(f"\nagainst the run of {comparison['measured_at']}\n", *rows)
            for trial in comparison["trials"]:
                self._show(f"{trial['configuration']}\n{report.changes_table(trial['lines'], width)}")

    def _show(self, text: str, *rows: tuple[str, str]) -> None:
        if not self.bench.is_json:
            self.screen.answer(text)
            if rows:
                self.screen.facts(rows, is_answer=True)


def _tokens(bench: Bench, screen: Screen) -> Tokens:
    """Reads the model's tokenizer; a model that isn't found is refused before torch is imported."""
    if bench.random is not None:
        from vllava_cli.engine.measuring.measured_tools import random_tokens

        return random_tokens(bench.random)
    from vllava_cli.engine.adapter import locate
    from vllava_cli.engine.checkpoint import describe
    from vllava_cli.engine.tokens import read_tokens

    source = locate(bench.wishes[0], screen.log)
    with screen.waiting("Reading the model's files"):
        return read_tokens(describe(source))
