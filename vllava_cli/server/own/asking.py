"""POST /vllava/ask: runs `vllava ask` here for a command of this user, and sends all that it shows as events.

The command's files are opened under the names that were typed in its folder, so only this user may ask so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.commands import ask as command
from vllava_cli.commands.asked import Ask
from vllava_cli.commands.start import shifted, warn_of_demo, warn_of_many
from vllava_cli.engine.answering import AskEngine
from vllava_cli.engine.resident.resident_engine import AnswerWanted, Ended, Event, ResidentEngine, RunningAnswer
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import BusyError, MediaError, UsageError
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.media.decoder.stdin_file import Reader
from vllava_cli.nouns import STDIN, Fit, Frames, Framing, LoadPlan, Subs, Tiles, Wishes
from vllava_cli.screen import Screen
from vllava_cli.server.openai.body_fields import check_values
from vllava_cli.server.openai.protocol_errors import status_of
from vllava_cli.server.own.event_stream import EventStream
from vllava_cli.server.own.relay_screen import Relay, ScreenFacts
from vllava_cli.server.service import Service
from vllava_cli.storage.fields import Fields, parsed_object
from vllava_cli.times import Activity, Stopwatch

MOST_ASKS = 512
"""The most asks at once; each has a thread, which waits most of the time."""
_SLICE_S = 0.1
_BUSY_S = 0.2

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class AskRequest:
    """An ask of another process."""

    id: str
    """Chosen by the other process, so that it can interrupt the answer."""
    ask: Ask
    folder: Path
    """The current folder of the other process."""
    copy: Path | None
    """A file with the content of its stdin, where that is a clip."""
    screen: ScreenFacts

    @classmethod
    def read(cls, body: bytes) -> AskRequest:
        """Reads the body of a request. Errors: UsageError."""
        check_values(body)
        try:
            fields = Fields(parsed_object(body), "The request", error=UsageError)
        except ValueError as exc:
            raise UsageError(f"The request is not a JSON object: {exc}.") from exc
        return cls(
            id=fields.filled("id"),
            ask=_ask_of(fields.inside("ask")),
            folder=fields.path("folder"),
            copy=fields.maybe("copy", fields.path),
            screen=fields.inside("screen").build(ScreenFacts),
        )


def _ask_of(fields: Fields) -> Ask:
    framing = fields.inside("framing")
    at_s = framing.each("at_s", lambda values, place: values.seconds(place))
    return fields.build(
        Ask,
        clips=fields.each("clips", lambda values, place: Path(values.name(place))),
        framing=framing.build(Framing, at_s=at_s),
        subs=fields.maybe("subs", lambda key: _subs_of(fields.name(key))),
    )


def _subs_of(text: str) -> Subs:
    return "auto" if text == "auto" else Path(text.removeprefix("file:"))


def routes(service: Service) -> list[BaseRoute]:
    running = threading.BoundedSemaphore(MOST_ASKS)

    async def ask(request: Request) -> Response:
        asked = AskRequest.read(await request.body())
        request.state.question = asked.ask.question
        if not running.acquire(blocking=False):
            raise BusyError(f"{MOST_ASKS} commands ask already. Try again in a moment.")
        gone = threading.Event()
        stream = EventStream(gone=gone.set)
        name = f"ask {asked.id}"
        work = threading.Thread(target=_work, args=(service, asked, stream, gone, running), name=name, daemon=True)
        work.start()
        return stream

    return [Route("/vllava/ask", ask, methods=["POST"])]


def _work(
    service: Service, asked: AskRequest, stream: EventStream, gone: threading.Event, running: threading.Semaphore
) -> None:
    """Runs the command and tells how it ended. A client that is gone interrupts the answer."""
    fault: Exception | None = None
    try:
        with service.interrupts.known(asked.id) as interrupted:
            relay = Relay(asked.screen, stream.tell)
            cancel = Cancel(lambda: interrupted.is_set() or gone.is_set())
            code = command.run(asked.ask, relay, ServedMeans(service, asked, relay, cancel))
            stream.tell("ended", code)
    except Exception as exc:
        fault = exc
        service.metrics.failed(status_of(exc))
    finally:
        running.release()
        stream.end(fault)


class ServedMeans(command.Means):
    """Frames from the shelf, and answers by the resident engine; an interrupt or a lost client sets the flag."""

    def __init__(self, service: Service, asked: AskRequest, relay: Relay, cancel: Cancel) -> None:
        super().__init__(copy=asked.copy)
        self.began_s = time.perf_counter()
        self._service, self._asked, self._relay, self._cancel = service, asked, relay, cancel

    def prepare(
        self, ask: Ask, shifts: Sequence[float], screen: Screen, watch: Stopwatch, on_file: Callable[[Path], object]
    ) -> tuple[tuple[Frames, ...], Tokens, float]:
        with ShelfReader(self._service, self._asked, self._cancel) as reader:
            for clip in ask.clips:
                reader.check(clip)
            warn_of_demo(ask.wishes.model, screen)
            warn_of_many(len(ask.clips), screen)
            media = shifted(reader, [(clip, ask.framing) for clip in ask.clips], shifts, ask.subs, screen)
            frames_s = watch.lap("frames")
            for clip in ask.clips:
                on_file(reader.file(clip))
        return media, _named(self._service.resident.tokens, ask.wishes), frames_s

    def start(
        self,
        ask: Ask,
        tokens: Tokens,
        conversation: Conversation,
        screen: Screen,
        watch: Stopwatch,
        check: command.Check,
    ) -> tuple[AskEngine, float]:
        del ask, conversation, watch, check
        resident = self._service.resident
        for what, choice, reason in resident.plan.reasons:
            screen.detail(f"{what}: {choice}. {reason}")
        return AskedEngine(resident=resident, tokens=tokens), 0.0

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        self._relay.tell("answering", True)
        try:
            yield self._cancel.is_asked
        finally:
            self._relay.tell("answering", False)

    def answers_about(self, samples: Sequence[Frames], question: str, sampling: Sampling, fit: Fit) -> list[Answer]:
        resident = self._service.resident
        begun: list[tuple[RunningAnswer, Future[Answer]]] = []
        try:
            for frames in samples:
                about = Conversation(attached=(frames,), fit=fit)
                wanted = AnswerWanted(conversation=about, question=question, sampling=sampling, is_streaming=False)
                begun.append(_begun(resident, wanted, self._cancel))
            found = [_waited(running, answer, self._cancel) for running, answer in begun]
        finally:
            for running, _ in begun:
                running.cancel()
        # As in a batch, whose memory isn't that of one answer.
        return [replace(each, stats=replace(each.stats, peak_bytes=None)) for each in found]


class ShelfReader(Reader):
    """Reads clips by names that were typed in another folder; the shelf has their frames if the limits are its own."""

    def __init__(self, service: Service, asked: AskRequest, cancel: Cancel) -> None:
        super().__init__(asked.ask.limits, copy=asked.copy, folder=asked.folder)
        self._shelf = service.shelf if asked.ask.limits == service.shelf.limits else None
        self._cancel = cancel

    def sample(self, path: Path, framing: Framing, *, tiles: Tiles | None = None) -> Frames:
        shelf, file = self._shelf, self.file(path)
        if shelf is None or tiles:
            return super().sample(path, framing, tiles=tiles)
        is_stdin = path == Path(STDIN)
        try:
            found = _patient(lambda: shelf.frames(file, framing, name=file if is_stdin else path), self._cancel)
        except (MediaError, UsageError) as exc:
            raise type(exc)(self._as_named(str(exc), path)) from exc
        return cast(Frames, self._named(found, path)) if is_stdin else found


@dataclass(frozen=True, kw_only=True)
class AskedEngine:
    """The engine of an ask, which is the resident one; `tokens` name the model as the ask does."""

    resident: ResidentEngine
    tokens: Tokens

    @property
    def plan(self) -> LoadPlan:
        return self.resident.plan

    @property
    def maker(self) -> None:
        """The answers are made in this process."""

    @property
    def activity(self) -> Activity:
        return self.resident.activity

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]:
        """Streams as `Engine.stream` does; while the queue is full, it tries again."""

        def begun() -> tuple[Generator[str, None, None], str | None]:
            texts = self.resident.stream(conversation, question, sampling, cancel=cancel)
            return texts, next(texts, None)

        texts, first = _patient(begun, cancel)
        if first is not None:
            yield first
            yield from texts

    def keep_clips(self, cancel: Cancel = NEVER) -> None:
        """Does nothing: the resident engine keeps what it reads."""


def _patient(begin: Callable[[], _Value], cancel: Cancel) -> _Value:
    """Calls a function until it finds a free place. Errors: those of `begin`; BusyError only after a cancel."""
    while True:
        try:
            return begin()
        except BusyError:
            if cancel.is_asked():
                raise
            time.sleep(_BUSY_S)


def _begun(resident: ResidentEngine, wanted: AnswerWanted, cancel: Cancel) -> tuple[RunningAnswer, Future[Answer]]:
    """Begins an answer; the future has it at its end, or its fault."""
    answer: Future[Answer] = Future()

    def deliver(event: Event) -> None:
        if isinstance(event, Ended) and event.answer:
            answer.set_result(event.answer)
        elif isinstance(event, Ended):
            answer.set_exception(event.fault)

    return _patient(lambda: resident.submit(wanted, deliver), cancel), answer


def _waited(running: RunningAnswer, answer: Future[Answer], cancel: Cancel) -> Answer:
    while True:
        try:
            return answer.result(timeout=_SLICE_S)
        except TimeoutError:
            if cancel.is_asked():
                running.cancel()


def _named(tokens: Tokens, wishes: Wishes) -> Tokens:
    """Gives the checkpoint and its adapter the names by which this ask knows them; rows have these names."""
    checkpoint = tokens.checkpoint
    adapter = checkpoint.adapter
    if adapter and wishes.adapter:
        adapter = replace(adapter, name=wishes.adapter)
    return replace(tokens, checkpoint=replace(checkpoint, model=wishes.model, adapter=adapter))
