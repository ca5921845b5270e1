"""`vllava ask`: one question about some clips, one streamed answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vllava_cli.interrupt import noted
from vllava_cli.nouns import (
    DEMO_MODEL,
    Answer,
    Conversation,
    DecodeLimits,
    Frames,
    Framing,
    Piece,
    Sampling,
    Stats,
    Wishes,
)
from vllava_cli.screen import Screen

if TYPE_CHECKING:
    from vllava_cli.engine.hub import Source
    from vllava_cli.engine.stream import Engine
    from vllava_cli.engine.tokens import Tokens

Output = Literal["stream", "whole", "json"]
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one `vllava ask` was told."""

    clips: tuple[Path, ...]
    question: str
    wishes: Wishes
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    output: Output = "stream"


def run(ask: Ask, screen: Screen) -> int:
    """Answers and returns the exit code: 0, or 130 after Ctrl-C. Errors: any VllavaError."""
    conversation, tokens, frames_s = _prepare(ask, screen)
    engine, load_s = _load(ask, conversation, tokens, screen)
    with noted() as is_interrupted:
        pieces = engine.stream(conversation, ask.question, ask.sampling, is_interrupted=is_interrupted)
        answer = Answer.of(_shown(pieces, screen) if ask.output == "stream" else pieces)
    answer = replace(answer, stats=replace(answer.stats, frames_s=frames_s, load_s=load_s))
    if ask.output == "json":
        screen.answer(json.dumps(report(ask, answer, conversation, engine)) + "\n")
    elif ask.output == "whole":
        screen.answer(answer.text)
    screen.end_answer()
    screen.detail(f"stopped: {answer.stop_reason}; {_told(answer.stats)}")
    return INTERRUPTED if answer.stop_reason == "interrupted" else 0


def report(ask: Ask, answer: Answer, conversation: Conversation, engine: Engine) -> dict[str, Any]:
    """The object that --json prints; times in seconds, memory in bytes."""
    stats, plan, checkpoint = answer.stats, engine.plan, engine.tokens.checkpoint
    return {
        "answer": answer.text,
        "stop_reason": answer.stop_reason,
        "question": ask.question,
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "device": plan.device,
        "dtype": plan.dtype,
        "quantisation": plan.quantisation,
        "attention": plan.attention,
        "clips": [_clip_report(medium) for medium in conversation.media],
        "sampling": asdict(ask.sampling),
        "tokens": {"prompt": stats.prompt_tokens, "reused": stats.reused_tokens, "new": stats.new_tokens},
        "timings_s": {
            "frames": round(stats.frames_s, 4),
            "load": round(stats.load_s, 4),
            "first_token": round(stats.first_token_s, 4),
            "decode": round(stats.decode_s, 4),
        },
        "peak_bytes": stats.peak_bytes,
    }


def _prepare(ask: Ask, screen: Screen) -> tuple[Conversation, Tokens, float]:
    """Everything that can be refused before weights are read: files, model, prompt."""
    media, source, frames_s = _read(ask, screen)
    for fault in (fault for medium in media for fault in medium.clip.faults):
        screen.notice(fault)
    conversation = Conversation(attached=media, fit=ask.framing.fit)
    with screen.waiting("Reading the model's files"):
        from vllava_cli.engine.checkpoint import describe
        from vllava_cli.engine.tokens import read_tokens

        tokens = read_tokens(describe(source))
    tokens.prompt_ids(conversation, ask.question)
    return conversation, tokens, frames_s


def _read(ask: Ask, screen: Screen) -> tuple[tuple[Frames, ...], Source, float]:
    """The clips' frames, where the model is, and how long the frames took in seconds."""
    from vllava_cli.media.pick import spread
    from vllava_cli.media.spool import Reader

    with Reader(ask.limits) as reader:
        reader.start()
        from vllava_cli.engine import hub

        for clip in ask.clips:
            reader.check(clip)
        source = hub.locate(ask.wishes.model, ask.wishes.revision, is_quiet=not screen.is_moving)
        _say_what_to_expect(ask, screen)
        started_s = time.perf_counter()
        with screen.waiting("Reading frames"):
            media = tuple(spread(reader.sample(clip, ask.framing)) for clip in ask.clips)
        return media, source, time.perf_counter() - started_s


def _load(ask: Ask, conversation: Conversation, tokens: Tokens, screen: Screen) -> tuple[Engine, float]:
    from vllava_cli.engine import hub
    from vllava_cli.engine.load import load
    from vllava_cli.hardware import probe
    from vllava_cli.plan import plan

    checkpoint = tokens.checkpoint
    chosen = plan(ask.wishes, probe(), checkpoint)
    for what, choice, reason in chosen.reasons:
        screen.detail(f"{what}: {choice}. {reason}")
    if chosen.context_tokens:
        tokens = replace(tokens, context_tokens=chosen.context_tokens)
        tokens.prompt_ids(conversation, ask.question)
    hub.fetch_weights(
        hub.Source(model=checkpoint.model, folder=checkpoint.folder, revision=checkpoint.revision),
        is_quiet=not screen.is_moving,
    )
    started_s = time.perf_counter()
    kinds = {medium.kind for medium in conversation.media}
    engine = load(chosen, tokens, kinds, is_quiet=not screen.is_moving)
    return engine, time.perf_counter() - started_s


def _say_what_to_expect(ask: Ask, screen: Screen) -> None:
    if ask.wishes.model == DEMO_MODEL:
        screen.notice(
            "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
        )
    if len(ask.clips) > 1:
        screen.notice(
            "vllava: warning: the model was trained on one clip at a time: about several it may answer poorly."
        )


def _shown(pieces: Iterator[Piece], screen: Screen) -> Iterator[Piece]:
    for piece in pieces:
        screen.answer(piece.text)
        yield piece


def _clip_report(medium: Frames) -> dict[str, Any]:
    times = None if medium.kind == "image" else [round(time_s, 4) for time_s in medium.times_s]
    return {"path": str(medium.clip.path), "kind": medium.kind, "frame_times_s": times}


def _told(stats: Stats) -> str:
    rate = (
        f", {(stats.new_tokens - 1) / stats.decode_s:.1f} tokens/s" if stats.decode_s and stats.new_tokens > 1 else ""
    )
    return (
        f"{stats.prompt_tokens} prompt tokens ({stats.reused_tokens} reused), {stats.new_tokens} new{rate}; "
        f"frames {stats.frames_s:.2f} s, load {stats.load_s:.2f} s, first token {stats.first_token_s:.2f} s, "
        f"decoding {stats.decode_s:.2f} s"
    )
