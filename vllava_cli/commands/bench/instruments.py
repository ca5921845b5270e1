"""What a run of bench measures with; each imports what it needs when it is asked, and a test has others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from vllava_cli.commands.bench.record import Reading
from vllava_cli.commands.bench.request import Bench
from vllava_cli.commands.start import read_clips
from vllava_cli.errors import MediaError
from vllava_cli.measures import Agreement, Expect, Line
from vllava_cli.nouns import Checkpoint, Conversation, Frames, Framing, Hardware, LoadPlan, Speed, Wishes
from vllava_cli.screen import Screen

if TYPE_CHECKING:
    from vllava_cli.engine.measuring.contest import Subject, Task
    from vllava_cli.engine.tokens import Tokens

IsInterrupted = Callable[[], bool]
Tell = Callable[[str], object]


class Instruments:
    """The real ones."""

    def frames(self, bench: Bench, screen: Screen) -> Frames:
        """Errors: MediaError."""
        (frames,) = read_clips([(bench.clip, Framing())], bench.limits, screen)
        if frames.kind != "video":
            raise MediaError(f"{bench.clip.name!r} is an image, and bench measures with a video: name one.")
        return frames

    def subject(self, bench: Bench, task: Task, screen: Screen) -> Subject:
        """The model with all that can be refused of it; no weight is read. Errors: any VllavaError."""
        if bench.random is not None:
            from vllava_cli.engine.measuring import contest

            subject = contest.random_subject(bench.random)
        else:
            tokens = _tokens(bench, screen)  # a model that can't be had is told before torch is imported
            from vllava_cli.engine.measuring import contest

            subject = contest.Subject(tokens=tokens)
        subject.tokens.prompt_ids(Conversation(attached=(task.frames,)), task.question)
        return subject

    def fetch(self, subject: Subject, screen: Screen) -> None:
        """Has the weights on this disk. Errors: HubError, CheckpointError."""
        if subject.random is None:
            from vllava_cli.engine import hub

            checkpoint = subject.tokens.checkpoint
            hub.fetch_weights(checkpoint, log=screen.log)

    def task(self, bench: Bench, frames: Frames) -> Task:
        from vllava_cli.engine.measuring.contest import Task

        return Task(
            frames=frames,
            question=bench.question,
            new_tokens=bench.new_tokens,
            repeat=bench.repeat,
            batches=bench.batches,
        )

    def hardware(self) -> Hardware:
        """As it is now."""
        from vllava_cli.hardware import probe

        return probe()

    def free(self, plan: LoadPlan) -> None:
        """Gives back what a model held that nobody holds any more."""
        from vllava_cli.engine.measuring.turns import free

        free(plan.device)

    def plan(self, wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
        """Errors: WishError, MemoryShortError."""
        from vllava_cli.engine.device_speed import planned

        return planned(wishes, hardware, checkpoint)

    def fitted(self, subject: Subject, plan: LoadPlan, task: Task) -> Subject:
        """The model with as much context as the plan has memory for. Errors: ContextError."""
        if plan.context_tokens is None:
            return subject
        tokens = replace(subject.tokens, context_tokens=plan.context_tokens)
        tokens.prompt_ids(Conversation(attached=(task.frames,)), task.question)
        return replace(subject, tokens=tokens)

    def speed(self, plan: LoadPlan) -> Speed:
        """Errors: MemoryShortError."""
        from vllava_cli.engine.device_speed import measured

        return measured(plan)

    def contest(
        self,
        subject: Subject,
        plan: LoadPlan,
        task: Task,
        *,
        is_interrupted: IsInterrupted,
        tell: Tell,
        expect: Expect,
    ) -> Iterator[Line]:
        """Errors: MemoryShortError, CheckpointError."""
        from vllava_cli.engine.measuring.contest import contest

        return contest(subject, plan, task, is_interrupted=is_interrupted, tell=tell, expect=expect)

    def check(
        self, subject: Subject, plan: LoadPlan, task: Task, *, is_interrupted: IsInterrupted, tell: Tell
    ) -> Agreement:
        """Errors: MemoryShortError, CheckpointError."""
        from vllava_cli.engine.measuring.contest import check

        return check(subject, plan, task, is_interrupted=is_interrupted, tell=tell)

    def frames_line(self, bench: Bench, *, is_interrupted: IsInterrupted) -> Line:
        """Errors: MediaError."""
        from vllava_cli.media.contest import frames_line

        return frames_line(bench.clip, bench.limits, repeat=bench.repeat, is_interrupted=is_interrupted)

    def reading(self, bench: Bench, *, is_interrupted: IsInterrupted) -> Reading:
        """What --frames-only measures. Errors: MediaError."""
        from vllava_cli.media.contest import frames_report

        report = frames_report(bench.clip, bench.limits, repeat=bench.repeat, is_interrupted=is_interrupted)
        return Reading(lines=report.lines, bars=report.bars)


def _tokens(bench: Bench, screen: Screen) -> Tokens:
    from vllava_cli.engine.adapter import locate
    from vllava_cli.engine.checkpoint import describe
    from vllava_cli.engine.tokens import read_tokens

    wishes = Wishes(model=bench.model, revision=bench.revision, adapter=bench.adapter)
    source = locate(wishes, screen.log)
    with screen.waiting("Reading the model's files"):
        return read_tokens(describe(source))
