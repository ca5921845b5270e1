"""The route /v1/chat/completions: a request's clips are read, its answers are made side by side, and told as they come.

A client that goes away ends its answers. A client that reads slowly lets its own answer wait, and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from vllava_cli.answers import Answer, Conversation, Sampling, Stats, Turn
from vllava_cli.engine.resident.resident_engine import AnswerWanted, Event, Piece, RunningAnswer, TokenLogprob
from vllava_cli.engine.scoring import blank_frames
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import BusyError, ContextError, ServerError, UsageError, VllavaError
from vllava_cli.nouns import Frames, counted
from vllava_cli.server.clips.clip_requests import read_clips
from vllava_cli.server.openai.chat_request import AskedTurn, ChatRequest, read_chat
from vllava_cli.server.openai.completion_form import CompletionForm, fingerprint
from vllava_cli.server.openai.models import check_name, names_of
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse, RequestError, error_object, status_of
from vllava_cli.server.service import Service
from vllava_cli.storage.jsonl import json_of

KEEP_ALIVE_S = 10.0
"""A stream without a new token for so long gets a comment, so that no proxy takes it for dead."""
CLIENT_LEFT = 499
"""The status of a request whose client didn't wait for the answer; only the figures show it."""
_UNKNOWN = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of chat completions."""
    return [Route("/v1/chat/completions", partial(_complete, service), methods=["POST"])]


async def _complete(service: Service, request: Request) -> Response:
    asked = await run_in_threadpool(read_chat, await request.body())
    request.state.question = asked.turns[-1].question
    check_name(service, asked.model)
    most = service.resident.most_waiting
    if asked.answers > most:
        message = (
            f"n is {asked.answers}, and only {counted(most, 'question')} may wait here: ask for fewer answers at once."
        )
        raise RequestError(message, param="n")
    if service.resident.figures.waiting >= most:
        raise BusyError(f"The queue is full, with {counted(most, 'question')}. Try again in a moment.")
    caller = Caller(request)
    try:
        conversation = await _conversation(service, asked)
        completion = Completion(service, caller, asked, conversation)
    except BaseException:
        caller.close()
        raise
    if asked.is_streaming:
        return CompletionStream(completion)
    with caller:
        return AsciiJSONResponse(await completion.whole(), headers=completion.headers)


async def _conversation(service: Service, asked: ChatRequest) -> Conversation:
    """Reads the clips of a request, once it is sure that all fits into the context."""
    tokens = service.resident.tokens
    kinds = [clip.kind or "image" for clip in asked.clips]
    blanks = {kind: blank_frames(kind, tokens) for kind in set(kinds)}
    await run_in_threadpool(_check_fit, tokens, asked, [blanks[kind] for kind in kinds])
    media = await read_clips(service, asked.clips)
    await run_in_threadpool(_check_fit, tokens, asked, media)
    return await run_in_threadpool(_held, tokens, asked, media)


def _check_fit(tokens: Tokens, asked: ChatRequest, media: Sequence[Frames]) -> None:
    """Raises a ContextError with the numbers for a prompt that is too long, and a UsageError for unfit choices."""
    shown = sum(tokens.tokens_of(each.kind) for each in media)
    if shown >= tokens.context_tokens:  # tokenising that many placeholders would take long
        raise ContextError(
            f"The {len(media):,} clips have {shown:,} tokens, and the context holds {tokens.context_tokens:,}: "
            "ask about fewer clips."
        )
    ids = tokens.prompt_ids(_held(tokens, asked, media), asked.turns[-1].question)
    if asked.sampling.choices:
        tokens.option_ids(asked.sampling.choices, prompt_tokens=len(ids))
        if asked.sampling.is_calibrated and not media:
            raise UsageError("calibrate compares with a blank clip, and there is no clip: add one, or leave it out.")


def _held(tokens: Tokens, asked: ChatRequest, media: Sequence[Frames]) -> Conversation:
    """Makes the conversation before the last question; earlier answers are tokenised anew."""
    left = iter(media)
    attached = [tuple(next(left) for _ in turn.clips) for turn in asked.turns]
    turns = [_turn(tokens, turn, shown) for turn, shown in zip(asked.turns[:-1], attached, strict=False)]
    return Conversation(attached=attached[-1], fit=asked.fit, turns=turns)


def _turn(tokens: Tokens, asked: AskedTurn, media: tuple[Frames, ...]) -> Turn:
    answer = asked.answer or ""
    return Turn(
        question=asked.question,
        answer=answer,
        answer_ids=tokens.answer_ids(answer),
        media=media,
        stop_reason="end",
        sampling=Sampling(),
        stats=_UNKNOWN,
    )


class Caller:
    """The client behind a request, as far as it is still there: once it has gone, its answers are cancelled."""

    def __init__(self, request: Request) -> None:
        self.is_gone = False
        self._running: list[RunningAnswer] = []
        self._watch = asyncio.create_task(self._until_gone(request.receive))

    def owns(self, running: RunningAnswer) -> None:
        self._running.append(running)
        if self.is_gone:
            running.cancel()

    def close(self) -> None:
        """Stops the watch, and cancels answers that haven't ended."""
        self._watch.cancel()
        self._cancel()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._cancel()

    def _cancel(self) -> None:
        for running in self._running:
            running.cancel()


@dataclass
class _Told:
    """The state of one answer so far."""

    tokens: list[TokenLogprob] = field(default_factory=list)
    answer: Answer | None = None


class Completion:
    """The answers of one request, which are being made."""

    def __init__(self, service: Service, caller: Caller, asked: ChatRequest, conversation: Conversation) -> None:
        self.caller = caller
        self._service, self._asked = service, asked
        self._told = [_Told() for _ in range(asked.answers)]
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._form = CompletionForm(
            model=asked.model or names_of(service.state.wishes)[0],
            fingerprint=fingerprint(service.state),
            media=conversation.media,
            sampling=asked.sampling,
            ignored=asked.ignored,
        )
        self.headers = {"X-Request-Id": self._form.id, "Cache-Control": "no-store"}
        loop = asyncio.get_running_loop()
        for index in range(asked.answers):
            wanted = AnswerWanted(
                conversation=conversation,
                question=asked.turns[-1].question,
                sampling=self._sampling(index),
                stop_texts=asked.stop_texts,
                top_logprobs=asked.top_logprobs,
                is_streaming=asked.is_streaming,
            )
            caller.owns(service.resident.submit(wanted, partial(self._deliver, loop, index)))

    async def whole(self) -> dict[str, Any]:
        """Waits for all answers. Errors: those of the engine; ServerError if the server ends before they do."""
        while any(told.answer is None for told in self._told):
            self._take(*await self._events.get())
        return self._form.whole(self._answers, [self._logprobs(told.tokens) for told in self._told])

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields the lines of a stream of server-sent events; a fault is the last of them."""
        try:
            for index in range(len(self._told)):
                yield _line(self._form.chunk(index, {"role": "assistant", "content": ""}))
            while any(told.answer is None for told in self._told):
                try:
                    index, event = await asyncio.wait_for(self._events.get(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": waiting\n\n"
                    continue
                self._take(index, event)
                if isinstance(event, Piece):
                    yield _line(self._form.chunk(index, {"content": event.text}, tokens=self._logprobs(event.tokens)))
                elif event.answer:
                    yield _line(self._last_chunk(index, event.answer))
            if self._asked.has_usage:
                yield _line(self._form.usage_chunk(self._answers))
            yield b"data: [DONE]\n\n"
        except Exception as exc:
            self._service.metrics.failed(status_of(exc))
            if not self.caller.is_gone:
                yield _line(error_object(exc))
            if not isinstance(exc, VllavaError):
                raise

    @property
    def _answers(self) -> list[Answer]:
        return [told.answer for told in self._told if told.answer]

    def _sampling(self, index: int) -> Sampling:
        """Returns the sampling of one of several answers: with a seed, each has a seed of its own."""
        usual = self._asked.sampling
        most = min(usual.max_new_tokens, self._service.resident.tokens.context_tokens)
        seed = None if usual.seed is None else (usual.seed + index) % (1 << 63)
        return replace(usual, max_new_tokens=most, seed=seed)

    def _deliver(self, loop: asyncio.AbstractEventLoop, index: int, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    def _take(self, index: int, event: Event) -> None:
        """Notes an event. Errors: the fault of an answer, or a ServerError for one that the server interrupted."""
        if isinstance(event, Piece):
            self._told[index].tokens += event.tokens
        elif event.fault:
            raise event.fault
        elif event.answer:
            if event.answer.stop_reason == "interrupted":
                raise self._interruption()
            self._told[index].answer = event.answer

    def _interruption(self) -> VllavaError:
        if self.caller.is_gone:
            return RequestError("The client has left.", status=CLIENT_LEFT)
        return ServerError("The server is ending, and this answer was not finished. Ask again later.")

    def _last_chunk(self, index: int, answer: Answer) -> dict[str, Any]:
        """Writes the end of an answer; that of the last answer has what all of them share."""
        chunk = self._form.chunk(index, {}, stop_reason=answer.stop_reason)
        is_last = all(told.answer for told in self._told)
        return chunk | {"vllava": self._form.extension(self._answers)} if is_last else chunk

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> Sequence[TokenLogprob] | None:
        return tokens if self._asked.top_logprobs is not None else None


class CompletionStream(Response):
    """A response that sends server-sent events as they come."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self.status_code, self.background = 200, None
        self.init_headers({**completion.headers, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        with self._completion.caller:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for line in self._completion.lines():
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _line(data: dict[str, Any]) -> bytes:
    return b"data: " + json_of(data).encode("ascii") + b"\n\n"
