"""Shows an answer while it comes, the state of a conversation, and a conversation as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vllava_cli.answers import Conversation, StopReason, Turn
from vllava_cli.choices import shares
from vllava_cli.commands.asked import AnswerForm
from vllava_cli.commands.provenance import counts, first_token
from vllava_cli.nouns import Frames, counted
from vllava_cli.screen import Screen, clean, one_line

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AnswerEngine

_STOPS: dict[StopReason, str] = {
    "length": "cut off at the longest answer allowed",
    "context": "cut off: the context was full",
    "repetition": "stopped: the answer repeated itself",
    "interrupted": "stopped by Ctrl-C",
}


def end_answer(turn: Turn, number: int, screen: Screen, form: AnswerForm, *, took: str) -> None:
    """Ends a streamed answer, or prints a whole one; then prints notices about the turn. `took` lists its times."""
    if form == "whole":
        screen.answer(turn.answer)
    if form != "json":
        screen.answer("" if turn.answer else "\n")  # an answer, even an empty one, is a line
        screen.end_answer()
        if turn.probabilities:
            screen.notice(shares(turn.sampling.choices, turn.probabilities))
    match turn.stop_reason:
        case "interrupted":
            screen.notice("Stopped. The text so far is kept; /undo removes it.")
        case "length":
            tokens = counted(turn.stats.new_tokens, "token")
            screen.notice(f"Cut off after {tokens}: /set max-new-tokens allows more.")
        case "context":
            screen.notice("Cut off: the context is full.")
    stats = turn.stats
    screen.detail(
        f"turn {number}: stopped: {turn.stop_reason}; {counts(stats)}; clips looked at {stats.tower_calls}; {took}"
    )


def state_rows(
    engine: AnswerEngine, conversation: Conversation, settings: Iterable[tuple[str, str]], *, file: str
) -> Iterator[tuple[str, str]]:
    """Yields (name, text) rows for /show: context, turns, settings, plan and file."""
    tokens, checkpoint = engine.tokens, engine.tokens.checkpoint
    used = tokens.used(conversation)
    clips = sum(tokens.tokens_of(medium.kind) for medium in conversation.media)
    left = max(0, tokens.context_tokens - used)
    yield "context", f"{used} of {tokens.context_tokens} tokens used, {clips} of them by clips; {left} left"
    for number, turn in enumerate(conversation.turns, 1):
        end = "" if turn.stop_reason == "end" else f"; {turn.stop_reason}"
        dropped = "; no longer in the context" if number <= conversation.dropped else ""
        yield f"turn {number}", f"{counts(turn.stats)}; {first_token(turn.stats, turn.stop_reason)}{end}{dropped}"
    yield "looked at", f"{counted(engine.tower_calls, 'clip')} since the start"
    yield from settings
    yield "model", checkpoint.name + (f", revision {checkpoint.revision}" if checkpoint.revision else "")
    for what, choice, reason in engine.plan.reasons:
        yield what, f"{choice}: {reason}"
    yield "kept in", file


def markdown(conversation: Conversation, *, model: str) -> str:
    """Writes each turn as Markdown: its clips with their frames' times, its question as a quotation, and its answer."""
    blocks = [f"# {_escaped(clip_names(conversation.media)) or 'A conversation'}\n", f"Model: {_escaped(model)}\n"]
    for turn in conversation.turns:
        for frames in turn.media:
            path = one_line(str(frames.clip.path)).replace("`", "")
            blocks.append(f"Shown: `{path}`, {frame_times(frames)}.\n")
        blocks.append("".join(f"> {line}\n" for line in turn.question.strip().splitlines()))
        stop = _STOPS.get(turn.stop_reason) or _escaped(shares(turn.sampling.choices, turn.probabilities))
        blocks.append(f"{turn.answer.strip()}\n" + (f"\n*({stop})*\n" if stop else ""))
    return clean("\n".join(blocks))


def frame_times(frames: Frames) -> str:
    """Writes "8 frames at 0:00.00 0:01.25 …", or "one picture" for an image."""
    if frames.kind == "image":
        return "one picture"
    from vllava_cli.media.contact_sheet import clock

    return f"{counted(len(frames.times_s), 'frame')} at {' '.join(map(clock, frames.times_s))}"


def clip_names(media: tuple[Frames, ...]) -> str:
    """Lists the names of clips: "dog.mp4, cat.png"."""
    return ", ".join(one_line(medium.clip.path.name) for medium in media)


def _escaped(text: str) -> str:
    """Escapes the characters that mean something in Markdown: "a_b" → "a\\_b"."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#" else letter for letter in text)
