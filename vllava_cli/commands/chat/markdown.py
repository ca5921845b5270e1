"""A conversation as Markdown, for /export. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vllava_cli.choices import shares
from vllava_cli.commands.chat.moments import moments
from vllava_cli.nouns import Conversation, Frames, StopReason, Turn
from vllava_cli.screen import clean, one_line

_STOPS: dict[StopReason, str] = {
    "length": "cut off at the longest answer allowed",
    "context": "cut off: the context was full",
    "repetition": "stopped: the answer repeated itself",
    "interrupted": "stopped by Ctrl-C",
}


def markdown(conversation: Conversation, *, model: str) -> str:
    """The clips with the moments that the model saw, then each question as a quotation and its answer."""
    return clean("\n".join(_blocks(conversation, model)))


def _blocks(conversation: Conversation, model: str) -> Iterator[str]:
    names = ", ".join(one_line(medium.clip.path.name) for medium in conversation.media)
    yield f"# {_plain(names) if names else 'A conversation'}\n"
    yield f"Model: {_plain(model)}\n"
    for turn in conversation.turns:
        yield from map(_clip, turn.media)
        yield _quoted(turn.question)
        yield _answer(turn)


def _clip(frames: Frames) -> str:
    return f"Shown: `{one_line(str(frames.clip.path)).replace('`', '')}`, {moments(frames)}.\n"


def _quoted(question: str) -> str:
    return "".join(f"> {line}\n" for line in question.strip().splitlines())


def _answer(turn: Turn) -> str:
    stop = _STOPS.get(turn.stop_reason) or _plain(shares(turn.sampling.choices, turn.probabilities))
    return f"{turn.answer.strip()}\n" + (f"\n*({stop})*\n" if stop else "")


def _plain(text: str) -> str:
    """Characters that Markdown would read otherwise, escaped: "a_b" → "a\\_b"."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#" else letter for letter in text)
