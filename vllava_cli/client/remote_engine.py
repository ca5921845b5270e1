"""`RemoteEngine`: an engine behind a server, for commands that decode their clips themselves; torch isn't needed."""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from weakref import WeakKeyDictionary

from vllava_cli import __version__
from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.client.answer_messages import (
    AnswerMessage,
    EngineFacts,
    TurnMessage,
    answer_of,
    digest_of,
    fields_of,
    message_of,
    model_digest,
)
from vllava_cli.client.connection import Address, Reply, send
from vllava_cli.client.events import events
from vllava_cli.engine.answering import AnswerRequest, AnswerResult, Batching, K, Maker, NextRequests
from vllava_cli.engine.tokens import Tokens, dropped
from vllava_cli.errors import BusyError, ServerError, ServerGoneError, VllavaError
from vllava_cli.interrupt import NEVER, Cancel, CancelError
from vllava_cli.nouns import Fit, Frames, LoadPlan
from vllava_cli.times import Activity

_SLICE_S = 0.05
_BUSY_S = 0.25
"""How long a request of a batch waits before it asks a busy server again."""
_ATTEMPTS = 8
_MOST_SENT_BYTES = 256 << 20
_REPLY_S = 30.0
"""How long the server may take for a reply that needs no pass of the model."""


@dataclass(kw_only=True)
class RemoteEngine:
    """Answers questions by the engine of a server; frames are sent once and then named by their digests."""

    address: Address
    tokens: Tokens
    facts: EngineFacts
    activity: Activity = field(default_factory=Activity)
    tower_calls: int = 0
    used_bytes: None = None
    _way: _Way = field(default_factory=lambda: _Way())
    _digests: WeakKeyDictionary[Frames, dict[Fit, str]] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def reached(cls, address: Address, tokens: Tokens) -> RemoteEngine:
        """Connects to a server. Errors: ServerError if it can't be reached, or has another model or version."""
        with send(address, "GET", "/vllava/engine", patience_s=_REPLY_S) as reply:
            if reply.status == 404:
                raise ServerError(f"The server at {address.name} is not one of vllava's. Check the address.")
            if reply.status == 401:
                raise ServerError(f"The server at {address.name} wants its token: set VLLAVA_TOKEN to it.")
            values = reply.checked().json()
        facts = fields_of(values, f"The server at {address.name} is not one of vllava's", ServerError)
        if (version := facts.text("version")) != __version__:
            raise ServerError(f"The server at {address.name} is vllava {version}, this is {__version__}: use the same.")
        found = facts.build(EngineFacts)
        if found.model != model_digest(tokens.checkpoint):
            ours = tokens.checkpoint.name
            raise ServerError(f"The server at {address.name} has another model, {found.name}, and not this {ours}.")
        return cls(address=address, tokens=replace(tokens, context_tokens=found.context_tokens), facts=found)

    @property
    def plan(self) -> LoadPlan:
        return self.facts.plan

    @property
    def maker(self) -> Maker:
        return self.facts.maker

    def make_room(self, conversation: Conversation, question: str, sampling: Sampling) -> range:
        """Drops the oldest turns until a question and its answer fit, and returns the indices of the dropped turns."""
        before, conversation.dropped = conversation.dropped, dropped(self.tokens, conversation, question, sampling)
        return range(before, conversation.dropped)

    def reading_of(self, conversation: Conversation, chunk_tokens: int) -> None:
        """The server reads a prompt when its question comes."""

    def keep_clips(self, cancel: Cancel = NEVER) -> None:
        """The server keeps what it reads."""

    def rows_that_fit(self, sampling: Sampling, *, question_characters: int) -> int:  # noqa: ARG002
        return self.facts.rows

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]:
        """Yields the text of an answer and adds the turn to the conversation, as `Engine.stream` does.

        Errors: those of `Engine.stream`; ServerGoneError if the server ends, BusyError, ServerError.
        """
        self.activity.begin("waiting for the server")
        asked = _Asked(engine=self, conversation=conversation, question=question, sampling=sampling, cancel=cancel)
        try:
            yield from asked.texts()
        finally:
            self._keep(asked, conversation)

    def answers(self, source: NextRequests[K], batching: Batching) -> Iterator[AnswerResult[K]]:
        """Yields one result for each request, in the order in which they end, as `BatchScheduler` does.

        Errors: ServerGoneError if the server ends, after the results that it gave; ServerError.
        """
        ended: queue.SimpleQueue[AnswerResult[K] | BaseException] = queue.SimpleQueue()
        leaving = threading.Event()
        running, is_over, failure = 0, False, None
        threads = ThreadPoolExecutor(batching.most_rows, thread_name_prefix="asking")
        try:
            while True:
                is_over = is_over or failure is not None or batching.cancel.is_asked()
                while not is_over and running < batching.most_rows:
                    given = source(batching.most_rows - running, is_waiting=not running)
                    is_over = given is None
                    for each in given or ():
                        running += 1
                        if isinstance(each, AnswerResult):
                            ended.put(each)
                        else:
                            threads.submit(self._answer, each, batching, ended, leaving)
                    if not given:
                        break
                if not running and is_over:
                    break
                try:
                    result = ended.get(timeout=_SLICE_S)
                except queue.Empty:
                    continue
                running -= 1
                if isinstance(result, AnswerResult):
                    self.tower_calls += result.answer.stats.tower_calls if result.answer else 0
                    yield result
                else:
                    failure = failure or result
                    leaving.set()
        finally:
            leaving.set()
            threads.shutdown(cancel_futures=True)
        if failure:
            raise failure

    def digest(self, frames: Frames, fit: Fit) -> str:
        """Returns the name of frames on the server."""
        known = self._digests.setdefault(frames, {})
        if fit not in known:
            known[fit] = digest_of(frames, fit)
        return known[fit]

    def reply_to(self, message: AnswerMessage, media: Sequence[Frames], wake: Callable[[], object]) -> Reply:
        """Asks a question, and sends the frames that the server lacks. Errors: VllavaError, and those of `wake`."""
        body = json.dumps(asdict(message)).encode()
        with self._way.taken(sum(each.pixels.nbytes for each in set(media))):
            return self._accepted(body, message, media, wake)

    def _accepted(
        self, body: bytes, message: AnswerMessage, media: Sequence[Frames], wake: Callable[[], object]
    ) -> Reply:
        for _ in range(_ATTEMPTS):
            reply = send(self.address, "POST", "/vllava/answers", body, wake=wake)
            try:
                if reply.status != 409:
                    return reply.checked()
                unknown = reply.json()["unknown"]
            except BaseException:
                reply.close()
                raise
            reply.close()
            for each in dict.fromkeys(media):
                if self.digest(each, message.fit) in unknown:
                    self._put(each, message.fit, wake)
        raise ServerError(f"The server at {self.address.name} has no room for the frames of {len(media)} clips.")

    def _put(self, frames: Frames, fit: Fit, wake: Callable[[], object]) -> None:
        body = message_of(frames, fit)
        kind = "application/octet-stream"
        with send(self.address, "PUT", "/vllava/frames", body, kind=kind, wake=wake) as reply:
            reply.checked()

    def _answer(
        self,
        request: AnswerRequest[K],
        batching: Batching,
        ended: queue.SimpleQueue[AnswerResult[K] | BaseException],
        leaving: threading.Event,
    ) -> None:
        """Answers a request in a thread, and adds its result, or what ends the whole batch, to `ended`."""
        asked = _Asked(
            engine=self,
            conversation=Conversation(attached=(request.medium,), fit=batching.fit),
            question=request.question,
            sampling=request.sampling(batching.sampling),
            leaving=leaving,
        )
        try:
            while not leaving.is_set():
                try:
                    for _ in asked.texts():
                        pass
                    break
                except BusyError:
                    leaving.wait(_BUSY_S)
            if (answer := asked.answer) is None:
                raise CancelError
            seconds = answer.stats.first_token_s + answer.stats.decode_s
            ended.put(AnswerResult(key=request.key, answer=answer, seconds=seconds))
        except ServerError as exc:
            ended.put(exc)
        except VllavaError as exc:
            ended.put(AnswerResult(key=request.key, fault=exc))
        except BaseException as exc:
            ended.put(exc)

    def _keep(self, asked: _Asked, conversation: Conversation) -> None:
        if answer := asked.answer:
            self.tower_calls += answer.stats.tower_calls
            conversation.turns.append(answer.turn(asked.question, conversation.attached, asked.sampling))
            conversation.attached = ()


class _Way:
    """Bounds the bytes of the frames that threads send at once, as each is in memory several times meanwhile."""

    def __init__(self) -> None:
        self._bytes, self._changed = 0, threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Waits for room, and takes it for the time of the block; a larger clip goes alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + count <= _MOST_SENT_BYTES)
            self._bytes += count
        try:
            yield
        finally:
            with self._changed:
                self._bytes -= count
                self._changed.notify_all()


@dataclass(kw_only=True)
class _Asked:
    """One question to the server, and its answer once it has ended."""

    engine: RemoteEngine
    conversation: Conversation
    question: str
    sampling: Sampling
    cancel: Cancel = NEVER
    """Ends the answer; the text so far is the answer then."""
    leaving: threading.Event = field(default_factory=threading.Event)
    """If it is set, the answer isn't wanted any more."""
    answer: Answer | None = None
    _id: str = field(default_factory=lambda: secrets.token_hex(16))
    _is_interrupted: bool = False
    _is_begun: bool = False

    def texts(self) -> Iterator[str]:
        """Yields the text as it comes. Errors: VllavaError; CancelError once `leaving` is set."""
        with self.engine.reply_to(self._message(), self.conversation.media, self._wake) as reply:
            self._is_begun = True
            try:
                for name, values in events(reply.lines()):
                    if name == "text":
                        yield str(values[0])
                    elif name == "answer":
                        self.answer = answer_of(values[0])
                        return
            except (GeneratorExit, KeyboardInterrupt, SystemExit):
                with suppress(VllavaError):
                    self._end()
                raise
        raise ServerGoneError(f"The server at {self.engine.address.name} ended its answer too early. Ask again.")

    def _end(self) -> None:
        """Ends the answer, and keeps what the server made of it so far; nothing if it has ended already."""
        path = f"/vllava/answers/{self._id}"
        with send(self.engine.address, "DELETE", path, patience_s=_REPLY_S) as reply:
            for name, values in events(reply.checked().lines()):
                if name == "answer":
                    self.answer = answer_of(values[0])

    def _wake(self) -> None:
        if self.leaving.is_set():
            raise CancelError
        if self._is_begun and not self._is_interrupted and self.cancel.is_asked():
            self._is_interrupted = True
            self._end()

    def _message(self) -> AnswerMessage:
        conversation, digest = self.conversation, self.engine.digest
        return AnswerMessage(
            id=self._id,
            model=self.engine.facts.model,
            question=self.question,
            sampling=self.sampling,
            fit=conversation.fit,
            turns=tuple(
                TurnMessage(
                    question=turn.question,
                    answer_ids=turn.answer_ids,
                    media=tuple(digest(each, conversation.fit) for each in turn.media),
                )
                for turn in conversation.turns
            ),
            attached=tuple(digest(each, conversation.fit) for each in conversation.attached),
            dropped=conversation.dropped,
        )
