"""`vllava ask`: answers one question about some clips, and streams the answer."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.choices import shares
from vllava_cli.commands.provenance import ShownClip, counts, report, seeded
from vllava_cli.commands.start import AnswerForm, keep_clips, prepare, show, start
from vllava_cli.errors import INTERRUPTED
from vllava_cli.interrupt import Cancel, sigint_flag
from vllava_cli.media.fingerprint import Fingerprint, Hashing
from vllava_cli.nouns import Conversation, DecodeLimits, Framing, Sampling, Wishes
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The request of one `vllava ask`."""

    clips: tuple[Path, ...]
    question: str
    wishes: Wishes
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    output: AnswerForm = "stream"
    has_clip_cache: bool = True


def run(ask: Ask, screen: Screen) -> int:
    """Answers the question and returns the exit code: 0, or 130 after Ctrl-C. Errors: any VllavaError."""
    watch = Stopwatch(began_s=BEGAN_S)
    watch.lap("start")
    with Hashing() as hashing:
        return _run(replace(ask, sampling=seeded(ask.sampling)), screen, hashing, watch)


def _run(ask: Ask, screen: Screen, hashing: Hashing, watch: Stopwatch) -> int:
    clips = [(clip, ask.framing) for clip in ask.clips]
    hashes: list[Future[Fingerprint]] = []

    def hash_file(path: Path) -> None:
        if ask.output == "json":
            hashes.append(hashing.begin(path))

    media, tokens, frames_s = prepare(
        clips, ask.wishes, limits=ask.limits, screen=screen, watch=watch, on_file=hash_file
    )
    conversation = Conversation(attached=media, fit=ask.framing.fit)

    def check(tokens: Tokens) -> None:
        prompt_tokens = len(tokens.prompt_ids(conversation, ask.question))
        if ask.sampling.choices:
            tokens.option_ids(ask.sampling.choices, prompt_tokens=prompt_tokens)

    check(tokens)
    engine, load_s = start(
        ask.wishes,
        tokens,
        {medium.kind for medium in media},
        screen.log,
        watch,
        check=check,
        has_clip_cache=ask.has_clip_cache,
        conversation=conversation,
    )
    with sigint_flag() as is_interrupted:
        texts = engine.stream(conversation, ask.question, ask.sampling, cancel=Cancel(is_interrupted))
        show(texts, screen, ask.output, engine.activity)
    turn = conversation.turns[-1]
    stats = replace(turn.stats, frames_s=frames_s, load_s=load_s)
    watch.lap(turn.wait, stats.first_token_s)
    watch.lap("decoding")
    if ask.output == "json":
        conversation.turns[-1] = replace(turn, stats=stats)
        if turn.stop_reason == "interrupted":
            hashing.close()
        with screen.waiting("Hashing, so that the answer can be replayed"):
            clips_shown = [
                ShownClip(framing=ask.framing, reasons=medium.reasons).hashed(each)
                for medium, each in zip(media, hashes, strict=True)
            ]
        watch.lap("hashing")
        screen.answer(json_of(report(conversation, clips_shown, engine)) + "\n")
    elif ask.output == "whole":
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
