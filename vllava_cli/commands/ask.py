"""`vllava ask`: answers one question about some clips, and streams the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.answers import (
    Agreeing,
    Agreement,
    Answer,
    Conversation,
    Sampling,
)
from vllava_cli.choices import shares
from vllava_cli.commands.asked import Ask
from vllava_cli.commands.provenance import ShownClip, counts, report, seeded
from vllava_cli.commands.reach import LIGHT_MODULES, named, reached
from vllava_cli.commands.start import cut_notice, keep_clips, prepare, show, start
from vllava_cli.errors import INTERRUPTED, UsageError
from vllava_cli.imports import MODEL_MODULES
from vllava_cli.interrupt import Cancel, sigint_flag
from vllava_cli.media.fingerprint import Fingerprint, Hashing
from vllava_cli.nouns import (
    Fit,
    Frames,
    counted,
)
from vllava_cli.prompt import heard
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AnswerEngine, AskEngine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.timeline.spoken import Spoken

Check = Callable[["Tokens"], object]
"""Raises an error if a question doesn't fit these tokens."""


class Means:
    """The ways in which an answer gets its frames, its engine, and a flag for Ctrl-C: those of a process of its own.

    `copy` is a file with the content of stdin, where somebody has read stdin already.
    """

    began_s = BEGAN_S
    """The moment from which the account of the answer's time begins."""
    _engine: AnswerEngine
    """The engine that `start` returned."""

    def __init__(self, *, copy: Path | None = None) -> None:
        self._copy = copy

    def prepare(
        self, ask: Ask, shifts: Sequence[float], screen: Screen, watch: Stopwatch, on_file: Callable[[Path], object]
    ) -> tuple[tuple[Frames, ...], Tokens, float]:
        """Returns what `start.prepare` returns. Errors: any VllavaError."""
        return prepare(
            [(clip, ask.framing) for clip in ask.clips],
            ask.wishes,
            limits=ask.limits,
            screen=screen,
            watch=watch,
            on_file=on_file,
            shifts=shifts,
            subs=ask.subs,
            copy=self._copy,
            modules=LIGHT_MODULES if named(ask.server) else MODEL_MODULES,
        )

    def start(
        self, ask: Ask, tokens: Tokens, conversation: Conversation, screen: Screen, watch: Stopwatch, check: Check
    ) -> tuple[AskEngine, float]:
        """Returns what `start.start` returns, or the engine of a server that is named. Errors: any VllavaError."""
        if address := named(ask.server):
            engine = reached(address, tokens, screen.log)
            check(engine.tokens)
            self._engine = engine
            return engine, watch.lap("reaching the server")
        self._engine, load_s = start(
            ask.wishes,
            tokens,
            {medium.kind for medium in conversation.attached},
            screen.log,
            watch,
            check=check,
            has_clip_cache=ask.has_clip_cache,
            conversation=None if ask.agreeing else conversation,
        )
        return self._engine, load_s

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        """Lets Ctrl-C set a flag while the block runs; yields the function that reads it."""
        return sigint_flag()

    def answers_about(self, samples: Sequence[Frames], question: str, sampling: Sampling, fit: Fit) -> list[Answer]:
        """Returns the answers about the samples of a clip, in their order; call `start` before. Errors: VllavaError."""
        from vllava_cli.engine.agreement import answers_about

        return answers_about(self._engine, samples, question, sampling, fit)


def run(ask: Ask, screen: Screen, means: Means | None = None) -> int:
    """Answers the question and returns the exit code: 0, or 130 after Ctrl-C. Errors: any VllavaError."""
    means = means or Means()
    watch = Stopwatch(began_s=means.began_s)
    watch.lap("start")
    with Hashing() as hashing:
        return _run(replace(ask, sampling=seeded(ask.sampling)), screen, hashing, watch, means)


def _run(ask: Ask, screen: Screen, hashing: Hashing, watch: Stopwatch, means: Means) -> int:
    agreeing = ask.agreeing
    if agreeing and len(ask.clips) > 1:
        raise UsageError(
            f"--agree samples one clip, and {len(ask.clips)} were named. Name one, or ask each with vllava batch."
        )
    shifts = agreeing.shifts(ask.framing) if agreeing else (0.0,)
    hashes: list[Future[Fingerprint]] = []

    def hash_file(path: Path) -> None:
        if ask.output == "json":
            hashes.append(hashing.begin(path))

    media, tokens, frames_s = means.prepare(ask, shifts, screen, watch, hash_file)
    conversation = Conversation(attached=media[:1] if agreeing else media, fit=ask.framing.fit)

    def spoken_for(tokens: Tokens) -> Spoken | None:
        from vllava_cli.engine.spoken_room import spoken_that_fits

        return spoken_that_fits(tokens, media[0], ask.question, ask.sampling) if ask.subs else None

    def check(tokens: Tokens) -> None:
        spoken = spoken_for(tokens)
        question = heard(spoken.text, ask.question) if spoken else ask.question
        prompt_tokens = len(tokens.prompt_ids(conversation, question))
        if ask.sampling.choices:
            tokens.option_ids(ask.sampling.choices, prompt_tokens=prompt_tokens)

    check(tokens)
    engine, load_s = means.start(ask, tokens, conversation, screen, watch, check)
    spoken = spoken_for(engine.tokens)
    if spoken:
        _tell(spoken, media[0], screen)
    question = heard(spoken.text, ask.question) if spoken else ask.question
    framing, agreement = ask.framing, None
    if agreeing:
        from vllava_cli.engine.agreement import distinct

        asked = replace(ask, question=question)
        samples = distinct(dict(zip(shifts, media, strict=True)))
        with screen.waiting(f"Answering about {counted(len(samples), 'sample')}"):
            answers = means.answers_about(list(samples.values()), question, ask.sampling, ask.framing.fit)
        shift, agreement = _agree(asked, agreeing, samples, answers, conversation, screen)
        framing = replace(framing, shift=shift)
    else:
        with means.interruptible() as is_interrupted:
            texts = engine.stream(conversation, question, ask.sampling, cancel=Cancel(is_interrupted))
            show(texts, screen, ask.output, engine.activity)
    turn = conversation.turns[-1]
    stats = replace(turn.stats, frames_s=frames_s, load_s=load_s)
    watch.lap(turn.wait, stats.first_token_s)
    watch.lap("decoding")
    if ask.output == "json":
        conversation.turns[-1] = replace(turn, stats=stats, question=ask.question)
        if turn.stop_reason == "interrupted":
            hashing.close()
        with screen.waiting("Hashing, so that the answer can be replayed"):
            clips_shown = [
                ShownClip(framing=framing, reasons=medium.reasons).hashed(each)
                for medium, each in zip(media[:1] if agreeing else media, hashes, strict=True)
            ]
        watch.lap("hashing")
        shown = report(conversation, clips_shown, engine, agreeing=agreeing, agreement=agreement, spoken=spoken)
        screen.answer(json_of(shown) + "\n")
    elif ask.output == "whole" or agreeing:
        screen.answer(turn.answer)
    screen.end_answer()
    if turn.stop_reason != "interrupted":
        keep_clips(engine, screen)
        watch.lap("keeping")
    if turn.probabilities:
        screen.detail(shares(ask.sampling.choices, turn.probabilities))
    screen.detail(f"stopped: {turn.stop_reason}; {counts(stats)}; {watch.account()}")
    if turn.stop_reason == "interrupted":
        return INTERRUPTED
    return 0


def _agree(
    ask: Ask,
    agreeing: Agreeing,
    samples: Mapping[float, Frames],
    answers: Sequence[Answer],
    conversation: Conversation,
    screen: Screen,
) -> tuple[float, Agreement | None]:
    """Joins the answers about samples, which have their shifts as keys, and adds one turn with the joined answer.

    Returns the shift of the sample whose answer is shown, and the agreement, which is told on stderr.
    """
    from vllava_cli.engine.agreement import agreed

    frames = list(samples.values())
    times_s, kind = [each.times_s for each in frames], frames[0].kind
    number, answer = agreed(answers, times_s, agreeing, ask.sampling, kind=kind)
    conversation.turns.append(answer.turn(ask.question, (frames[number],), ask.sampling))
    conversation.attached = ()
    if agreement := answer.agreement:
        is_unsure = answer.stop_reason == "unsure"
        unsure = f", less than --min-agree {agreeing.least_share:g}: there is no answer." if is_unsure else ""
        screen.notice(agreement.reason or f"{agreement.text}{unsure}")
    return list(samples)[number], answer.agreement


def _tell(spoken: Spoken, frames: Frames, screen: Screen) -> None:
    """Says what is wrong with the subtitles, which part of them the model gets, and how much had no room."""
    faults = frames.subtitles.faults if frames.subtitles else ()
    for fault in faults:
        screen.notice(fault)
    if not (spoken.source or faults):
        screen.notice("vllava: no subtitles were found: neither a file beside the clip nor a track of text in it.")
    if spoken.cut:
        screen.notice(cut_notice(spoken.cut))
    if spoken.source:
        screen.detail(f"subtitles: {len(spoken.text):,} characters from {spoken.source}.")
