"""Reads the body of a chat completion: JSON that anybody may have written → the values that the engine takes. Pure.

Video-LLaVA has no system prompt: what a system message says is put before the question that follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from vllava_cli.answers import Sampling
from vllava_cli.choices import checked
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Fit, Framing, MediaKind
from vllava_cli.prompt import MAX_QUESTION_BYTES
from vllava_cli.server.clips.clip_requests import ClipWanted
from vllava_cli.server.openai.body_fields import BodyFields, cut, read_body, read_framing
from vllava_cli.server.openai.protocol_errors import RequestError

MOST_ANSWERS = 8
MOST_STOPS = 4
MOST_LOGPROBS = 20
MOST_CHOICES = 256
ROLES = ("system", "developer", "user", "assistant")
_UNFIT = {
    "tools": "Tools can't be called by this model: leave tools out.",
    "functions": "Functions can't be called by this model: leave functions out.",
    "logit_bias": "This server has no logit_bias: leave it out.",
    "audio": "This model makes no audio: leave audio out.",
}
"""The fields that would change the answer in a way that doesn't exist here, and what is said about them."""
_KNOWN = {
    "audio",
    "calibrate",
    "choices",
    "fit",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "modalities",
    "model",
    "n",
    "presence_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
}


@dataclass(frozen=True, kw_only=True)
class AskedTurn:
    """A question with the clips that it is about, and the answer that it had; None for the question to answer."""

    question: str
    clips: tuple[ClipWanted, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """The request of a chat completion."""

    model: str | None
    turns: tuple[AskedTurn, ...]
    """At least one; only the last has no answer."""
    sampling: Sampling
    stop_texts: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """The same as in `AnswerWanted`."""
    answers: int = 1
    is_streaming: bool = False
    has_usage: bool = False
    """True if a stream ends with the numbers of tokens."""
    fit: Fit = "crop"
    ignored: tuple[str, ...] = ()
    """The fields that nothing was done with, in their order."""

    @property
    def clips(self) -> tuple[ClipWanted, ...]:
        return tuple(clip for turn in self.turns for clip in turn.clips)


def read_chat(body: bytes) -> ChatRequest:
    """Reads and checks a body. Errors: RequestError, which names the field."""
    given = read_body(body)
    _refuse_unfit(given)
    is_streaming = given.optional("stream", given.truth, default=False)
    fit: Fit = given.optional("fit", lambda key: given.one_of(key, get_args(Fit)), default="crop")
    return ChatRequest(
        model=given.optional("model", given.text, default=None),
        turns=_turns(given, fit),
        sampling=_sampling(given),
        stop_texts=given.optional("stop", lambda key: _stops(given, key), default=()),
        top_logprobs=_top_logprobs(given),
        answers=given.optional("n", lambda key: given.count(key, most=MOST_ANSWERS), default=1),
        is_streaming=is_streaming,
        has_usage=_has_usage(given, is_streaming=is_streaming),
        fit=fit,
        ignored=tuple(name for name in given.names() if name not in _KNOWN),
    )


def _refuse_unfit(given: BodyFields) -> None:
    for name, message in _UNFIT.items():
        if not given.is_empty(name):
            given.fault(name, message, code="unsupported_value")
    for name in ("tool_choice", "function_call"):
        given.optional(name, lambda key: given.one_of(key, ("none", "auto")), default=None)
    for name in ("frequency_penalty", "presence_penalty"):
        if given.optional(name, given.number, default=0):
            given.fault(name, f"This server has no {name}: set it to 0, or leave it out.", code="unsupported_value")
    given.optional("modalities", lambda key: given.each(key, lambda at, place: at.one_of(place, ("text",))), default=())
    if not given.is_empty("response_format"):
        form = given.inside("response_format").text("type")
        if form != "text":
            message = f"This model can't be held to {cut(form)}: leave response_format out, or ask with choices."
            given.fault("response_format", message, code="unsupported_value")


def _sampling(given: BodyFields) -> Sampling:
    usual = Sampling()
    longest = given.optional("max_tokens", lambda key: given.whole(key, least=1), default=usual.max_new_tokens)
    longest = given.optional("max_completion_tokens", lambda key: given.whole(key, least=1), default=longest)
    choices = given.optional("choices", lambda key: _choices(given, key), default=())
    is_calibrated = given.optional("calibrate", given.truth, default=False)
    if is_calibrated and not choices:
        given.fault("calibrate", "calibrate needs choices: add them, or leave it out.")
    return Sampling(
        max_new_tokens=longest,
        temperature=given.optional("temperature", lambda key: given.number(key, least=0, most=2), default=0.0),
        top_p=given.optional("top_p", lambda key: given.number(key, least=0, most=1), default=1.0),
        seed=given.optional("seed", lambda key: given.whole(key, least=-(1 << 63)), default=None),
        choices=choices,
        is_calibrated=is_calibrated,
    )


def _choices(given: BodyFields, key: str) -> tuple[str, ...]:
    try:
        return checked(given.each(key, lambda at, place: at.text(place), most=MOST_CHOICES))
    except RequestError:
        raise
    except UsageError as exc:
        given.fault(key, str(exc))


def _stops(given: BodyFields, key: str) -> tuple[str, ...]:
    if given.is_text(key):
        return (given.filled(key),)
    return given.each(key, lambda at, place: at.filled(place), most=MOST_STOPS)


def _top_logprobs(given: BodyFields) -> int | None:
    is_wanted = given.optional("logprobs", given.truth, default=False)
    top = given.optional("top_logprobs", given.whole, default=None)
    if top is not None and not is_wanted:
        given.fault("top_logprobs", "top_logprobs needs logprobs: set it to true, or leave top_logprobs out.")
    if top is not None and top > MOST_LOGPROBS:
        given.refuse("top_logprobs", f"more than {MOST_LOGPROBS}")
    if is_wanted and not given.is_empty("choices"):
        given.fault("logprobs", "Choices have probabilities in place of logprobs: leave one of the two out.")
    return (top or 0) if is_wanted else None


def _has_usage(given: BodyFields, *, is_streaming: bool) -> bool:
    if given.is_empty("stream_options"):
        return False
    if not is_streaming:
        given.fault("stream_options", "stream_options needs stream: set it to true, or leave stream_options out.")
    options = given.inside("stream_options")
    return options.optional("include_usage", options.truth, default=False)


def _turns(given: BodyFields, fit: Fit) -> tuple[AskedTurn, ...]:
    """Joins messages to turns: those between two answers are one question."""
    turns: list[AskedTurn] = []
    texts: list[str] = []
    clips: list[ClipWanted] = []
    is_asked, size = False, 0
    for message in given.each("messages", BodyFields.inside):
        role = message.one_of("role", ROLES)
        found, media = _content(message, role, fit)
        size += sum(len(text.encode()) for text in found)
        if role != "assistant":
            texts, clips, is_asked = texts + found, clips + media, is_asked or role == "user"
            continue
        if not is_asked:
            message.fault("role", f"{message.place('role')} is assistant, and no question stands before this answer.")
        turns.append(AskedTurn(question=_question(texts), clips=tuple(clips), answer="\n".join(found)))
        texts, clips, is_asked = [], [], False
    if not is_asked:
        given.fault("messages", "The last of the messages is not a user's: end them with a question.")
    if size > MAX_QUESTION_BYTES:
        most = f"at most {MAX_QUESTION_BYTES:,} are read: send less."
        given.fault("messages", f"The messages have {size:,} bytes of text, and {most}", code="context_length_exceeded")
    return (*turns, AskedTurn(question=_question(texts), clips=tuple(clips)))


def _question(texts: Sequence[str]) -> str:
    question = "\n".join(texts)
    if not question.strip():
        raise RequestError("A question has no text: say what you want to know of the clip.", param="messages")
    return question


def _content(message: BodyFields, role: str, fit: Fit) -> tuple[list[str], list[ClipWanted]]:
    """Reads the texts and the clips of a message."""
    if not message.is_empty("tool_calls"):
        message.fault("tool_calls", "This model calls no tools: leave tool_calls out.", code="unsupported_value")
    if message.is_text("content"):
        return [message.text("content")], []
    if role == "assistant" and message.is_empty("content"):
        return [""], []
    texts: list[str] = []
    clips: list[ClipWanted] = []
    for part in message.each("content", BodyFields.inside):
        kind = part.one_of("type", ("text", *_READERS) if role == "user" else ("text",))
        if kind == "text":
            texts.append(part.text("text"))
        else:
            clips.append(_READERS[kind](part.inside(kind), fit))
    return texts, clips


def _image(given: BodyFields, fit: Fit) -> ClipWanted:
    return ClipWanted(url=given.filled("url"), kind="image", framing=Framing(fit=fit))


def _video(given: BodyFields, fit: Fit) -> ClipWanted:
    return ClipWanted(url=given.filled("url"), kind="video", framing=read_framing(given, fit))


def _file(given: BodyFields, fit: Fit) -> ClipWanted:
    key = "file_id" if given.has("file_id") else "file_data"
    kind: MediaKind | None = None
    return ClipWanted(url=given.filled(key), kind=kind, framing=read_framing(given, fit))


_READERS: dict[str, Callable[[BodyFields, Fit], ClipWanted]] = {
    "image_url": _image,
    "video_url": _video,
    "file": _file,
}
