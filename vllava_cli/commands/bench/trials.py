"""Goes through the configurations: each is planned, loaded and measured; what ends one early doesn't end the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from vllava_cli.commands.bench import telling
from vllava_cli.commands.bench.instruments import Instruments, IsInterrupted
from vllava_cli.commands.bench.request import Bench, Configuration
from vllava_cli.errors import CheckpointError, ContextError, MemoryShortError, WishError
from vllava_cli.measures import Line, Trial
from vllava_cli.nouns import LoadPlan
from vllava_cli.screen import Screen
from vllava_cli.times import roughly

if TYPE_CHECKING:
    from vllava_cli.engine.measuring.contest import Subject, Task

LONG_S = 60.0
FAULTS = (WishError, MemoryShortError, CheckpointError, ContextError)
"""What one configuration can fail by, and another not."""


@dataclass(kw_only=True)
class Trials:
    """The configurations of a run; `done` has each as far as it got, also while it is measured."""

    bench: Bench
    subject: Subject
    task: Task
    instruments: Instruments
    screen: Screen
    done: list[Trial] = field(default_factory=list)
    _phrase: str = ""
    """What is being measured, for the spinner."""
    _end_s: float | None = None
    """When this configuration will be through, as far as that can be guessed."""

    @property
    def has_lines(self) -> bool:
        """Whether the configuration that is measured has figures that could be lost."""
        return bool(self.done and self.done[-1].lines)

    def go(self, is_interrupted: IsInterrupted) -> bool:
        """Whether Ctrl-C cut it short. Errors: MediaError, OutputError."""
        try:
            with self._progress():
                self._say("frames")
                frames = self.instruments.frames_line(self.bench, is_interrupted=is_interrupted)
            for configuration in self.bench.configurations:
                if is_interrupted():
                    break
                self._begin(configuration)
                self._try(configuration, frames, is_interrupted)
                self._free()
        except KeyboardInterrupt:
            return True
        return is_interrupted()

    def _try(self, configuration: Configuration, frames: Line, is_interrupted: IsInterrupted) -> None:
        """Tells what became of it, whatever did."""
        try:
            self._measure(configuration, frames, is_interrupted)
        except FAULTS as exc:
            self._change(replace(self.done[-1], fault=str(exc)))
        finally:
            telling.tell_trial(self.done[-1], self.screen, is_shown=not self.bench.outputs.is_json)

    def _measure(self, configuration: Configuration, frames: Line, is_interrupted: IsInterrupted) -> None:
        """Errors: those of FAULTS; KeyboardInterrupt."""
        tools = self.instruments
        plan = tools.plan(configuration.wishes, tools.hardware(), self.subject.tokens.checkpoint)
        subject = tools.fitted(self.subject, plan, self.task)
        self._change(replace(self.done[-1], plan=plan))
        telling.tell_plan(subject.tokens.checkpoint.model, plan, self.screen, is_shown=not self.bench.outputs.is_json)
        with self._progress():
            self._say("how fast the device is")
            self._change(replace(self.done[-1], speed=tools.speed(plan)))
            self._contest(subject, plan, frames, is_interrupted)

    def _contest(self, subject: Subject, plan: LoadPlan, frames: Line, is_interrupted: IsInterrupted) -> None:
        asked = (subject, plan, self.task)
        lines = self.instruments.contest(*asked, is_interrupted=is_interrupted, tell=self._say, expect=self._expect)
        for line in _with_frames(lines, frames):
            self._change(replace(self.done[-1], lines=(*self.done[-1].lines, line)))
        if self.bench.is_checked and not is_interrupted():
            self._free()
            agreement = self.instruments.check(*asked, is_interrupted=is_interrupted, tell=self._say)
            self._change(replace(self.done[-1], agreement=agreement))

    def _expect(self, how: Literal["at least", "about"], seconds: float) -> None:
        """Says how long it will take; the least only where that is long."""
        if how == "about":
            self._end_s = time.monotonic() + seconds
        if how == "about" or seconds >= LONG_S:
            what = "this configuration" if len(self.bench.configurations) > 1 else "all"
            self.screen.notice(f"vllava: {how} {roughly(seconds)} to measure {what}.")

    def _begin(self, configuration: Configuration) -> None:
        self._end_s = None
        self.done.append(Trial(precision=configuration.precision, attention=configuration.attention))

    def _free(self) -> None:
        if plan := self.done[-1].plan:
            self.instruments.free(plan)

    def _change(self, trial: Trial) -> None:
        self.done[-1] = trial

    def _say(self, phrase: str) -> None:
        self._phrase = phrase

    @contextmanager
    def _progress(self) -> Iterator[None]:
        def parts() -> list[str]:
            total = len(self.bench.configurations)
            left_s = self._end_s - time.monotonic() if self._end_s else 0.0
            return [
                f"Measuring: {self._phrase}",
                *([f"about {roughly(left_s)} left"] if left_s > 0 else []),
                *([f"{len(self.done)} of {total}"] if total > 1 and self.done else []),
            ]

        with self.screen.progress(parts, is_shared=False):
            yield


def _with_frames(lines: Iterator[Line], frames: Line) -> Iterator[Line]:
    """Behind the first line, which says how long loading takes."""
    for number, line in enumerate(lines):
        yield line
        if number == 0:
            yield frames
