"""Answers for this user's own commands, which decode clips themselves: they send frames once, and then questions.

`interrupts` tells why these answers are ended in another way than asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from vllava_cli import __version__
from vllava_cli.answers import Conversation, Sampling, Stats, Turn
from vllava_cli.client.answer_messages import (
    AnswerMessage,
    EngineFacts,
    TurnMessage,
    model_digest,
    plain,
)
from vllava_cli.client.events import event_line, fault_line
from vllava_cli.commands.provenance import Loaded
from vllava_cli.engine.answering import Maker
from vllava_cli.engine.resident.resident_engine import AnswerWanted, Ended, Event, Piece, RunningAnswer
from vllava_cli.errors import BusyError, ServerGoneError, UsageError, VllavaError
from vllava_cli.nouns import Frames
from vllava_cli.server.metrics import Metrics
from vllava_cli.server.openai.body_fields import check_values
from vllava_cli.server.openai.models import names_of
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse, status_of
from vllava_cli.server.own.frame_shelf import FrameShelf
from vllava_cli.server.service import Service
from vllava_cli.storage.fields import Fields, parsed_object

MOST_SENDING = 8
"""How many clips are received at once: each takes memory for its raw pixels."""
_LEAVE_S = 20.0
"""How long an interrupted answer may take to end; a pass of a large model on a CPU takes seconds."""
_NO_STATS = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)


def routes(service: Service) -> list[BaseRoute]:
    """Makes the routes of engine-level answers."""
    desk = AnswerDesk(service=service)
    return [
        Route("/vllava/engine", desk.engine),
        Route("/vllava/frames", desk.frames, methods=["PUT"]),
        Route("/vllava/answers", desk.answer, methods=["POST"]),
        Route("/vllava/answers/{id}", desk.interrupt, methods=["DELETE"]),
    ]


@dataclass(kw_only=True)
class AnswerDesk:
    """Takes frames and questions, and hands the questions to the resident engine."""

    service: Service
    _answering: dict[str, _Answering] = field(default_factory=dict)
    """The answers that are being made, by the ids that their clients chose."""

    def __post_init__(self) -> None:
        checkpoint, settings = self.service.resident.tokens.checkpoint, self.service.settings
        self._shelf = FrameShelf(checkpoint.video_recipe)
        self._way = asyncio.Semaphore(MOST_SENDING)
        self._model, self._most_frames_bytes = model_digest(checkpoint), settings.most_upload_bytes

    async def engine(self, _request: Request) -> Response:
        """Tells which model answers, and how it was loaded."""
        resident = self.service.resident
        checkpoint = resident.tokens.checkpoint
        loaded = Loaded.of(resident.plan, checkpoint)
        facts = EngineFacts(
            version=__version__,
            model=self._model,
            name=names_of(self.service.state.wishes)[0],
            plan=replace(resident.plan, forms=()),
            context_tokens=resident.tokens.context_tokens,
            rows=max(1, resident.figures.most_rows),
            maker=Maker(quantisation=loaded.quantisation, versions=loaded.versions),
        )
        return AsciiJSONResponse(asdict(facts))

    async def frames(self, request: Request) -> Response:
        """Keeps the frames of a clip."""
        try:
            async with self._way:
                message = await _body(request, self._most_frames_bytes)
                await run_in_threadpool(self._shelf.put, message)
        except VllavaError as exc:
            return refusal(exc)
        return Response(status_code=204)

    async def answer(self, request: Request) -> Response:
        """Begins an answer, whose events are streamed: its text in pieces, then the whole answer or its fault."""
        try:
            body = await _body(request, self.service.settings.most_body_bytes)
            message = await run_in_threadpool(_message, body)
            request.state.question = message.question
            if message.model != self._model:
                raise ServerGoneError("This server has another model than the one that was asked before. Ask again.")
            known = {digest: self._shelf.find(digest) for digest in message.digests}
            if unknown := [digest for digest, frames in known.items() if not frames]:
                return AsciiJSONResponse({"unknown": unknown}, status_code=409)
            wanted = self._wanted(message, {digest: frames for digest, frames in known.items() if frames})
            answering = _Answering(loop=asyncio.get_running_loop())
            answering.running = await run_in_threadpool(self.service.resident.submit, wanted, answering.deliver)
        except VllavaError as exc:
            return refusal(exc)
        self._answering[message.id] = answering
        return _AnswerResponse(
            answering, metrics=self.service.metrics, on_end=lambda: self._answering.pop(message.id, None)
        )

    async def interrupt(self, request: Request) -> Response:
        """Ends an answer, and returns its last event; nothing if it has ended before."""
        answering = self._answering.get(request.path_params["id"])
        if answering is None:
            return Response(b"")
        answering.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await answering.has_ended.wait()
        return Response(_line(answering.last) if answering.last else b"")

    def _wanted(self, message: AnswerMessage, frames: dict[str, Frames]) -> AnswerWanted:
        turns = [self._turn(turn, frames) for turn in message.turns]
        if message.dropped > len(turns):
            raise UsageError(f"{message.dropped} turns are dropped, and there are only {len(turns)}.")
        conversation = Conversation(
            attached=tuple(frames[digest] for digest in message.attached),
            fit=message.fit,
            turns=turns,
            dropped=message.dropped,
        )
        return AnswerWanted(conversation=conversation, question=message.question, sampling=_checked(message.sampling))

    def _turn(self, turn: TurnMessage, frames: dict[str, Frames]) -> Turn:
        if not self.service.resident.tokens.can_hold(turn.answer_ids):
            raise UsageError("answer_ids has an id that no answer of this model can have.")
        return Turn(
            question=turn.question,
            answer="",
            answer_ids=turn.answer_ids,
            media=tuple(frames[digest] for digest in turn.media),
            stop_reason="end",
            sampling=Sampling(),
            stats=_NO_STATS,
        )


@dataclass(kw_only=True)
class _Answering:
    """An answer on its way from the model's thread to the loop of the server."""

    loop: asyncio.AbstractEventLoop
    running: RunningAnswer | None = None
    last: Ended | None = None
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, event: Event) -> None:
        """Called in the model's thread."""
        with suppress(RuntimeError):  # the loop is closed, as the server has ended
            self.loop.call_soon_threadsafe(self._note, event)

    def cancel(self) -> None:
        if self.running:
            self.running.cancel()

    def _note(self, event: Event) -> None:
        self.events.put_nowait(event)
        if isinstance(event, Ended):
            self.last = event
            self.has_ended.set()


class _AnswerResponse(StreamingResponse):
    """Streams the events of an answer; a client that goes away ends the answer."""

    def __init__(self, answering: _Answering, *, metrics: Metrics, on_end: Callable[[], object]) -> None:
        super().__init__(self._lines(), media_type="application/x-ndjson")
        self._answering, self._metrics, self._on_end = answering, metrics, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.cancel()
            self._on_end()

    async def _lines(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._answering.events.get()
            if isinstance(event, Ended) and event.fault:
                self._metrics.failed(status_of(event.fault))
            yield _line(event)
            if isinstance(event, Ended):
                return


def _line(event: Event) -> bytes:
    if isinstance(event, Piece):
        return event_line("text", event.text)
    if event.answer:
        return event_line("answer", plain(event.answer))
    return fault_line(event.fault or RuntimeError("an answer ended without a fault"))


def refusal(fault: VllavaError) -> Response:
    """Makes the reply for a request that can't be answered."""
    status = 429 if isinstance(fault, BusyError) else 503 if isinstance(fault, ServerGoneError) else 400
    headers = {"Retry-After": "1"} if status == 429 else None
    return AsciiJSONResponse({"error": {"message": str(fault)}}, status_code=status, headers=headers)


async def _body(request: Request, most_bytes: int) -> bytearray:
    """Reads the body of a request. Errors: UsageError if it is too long."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most_bytes:
            raise UsageError(f"The body has more than the {most_bytes:,} bytes that may be sent.")
    return found


def _message(body: bytearray) -> AnswerMessage:
    """Reads the message of a question. Errors: UsageError."""
    check_values(body)
    try:
        return Fields(parsed_object(bytes(body)), "the question", error=UsageError).build(AnswerMessage)
    except ValueError as exc:
        raise UsageError(f"The question is no JSON object: {exc}.") from exc


def _checked(sampling: Sampling) -> Sampling:
    """Returns the sampling if an engine can obey it. Errors: UsageError."""
    if sampling.max_new_tokens < 1 or not 0 < sampling.top_p <= 1:
        raise UsageError("max_new_tokens must be 1 or more, and top_p above 0 and at most 1.")
    if sampling.blank_choice and sampling.blank_choice not in sampling.choices:
        raise UsageError(f"{sampling.blank_choice!r} is not one of the choices.")
    return sampling
