"""What the route of completions does when clients leave, read slowly or send rubbish, and when the model fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import httpx
import pytest

from tests.engine.engines import EXACT, tokens_of
from tests.server.serving import Served
from vllava_cli import demo
from vllava_cli.answers import Answer, Stats
from vllava_cli.client.place import ServerState
from vllava_cli.engine.resident.answer_events import (
    AnswerWanted,
    Ended,
    Event,
    Figures,
    Piece,
    RunningAnswer,
    TokenLogprob,
)
from vllava_cli.errors import BusyError, ForbiddenError, OverflowedError, TooLargeError
from vllava_cli.nouns import DEMO_MODEL, Wishes
from vllava_cli.server.app import make_app
from vllava_cli.server.clips.media_shelf import MediaShelf
from vllava_cli.server.openai import completions
from vllava_cli.server.openai.protocol_errors import BUG
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.server.service import Service

STATS = Stats(prompt_tokens=9, reused_tokens=4, new_tokens=2, first_token_s=0.5, decode_s=0.25)
WHY: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Why?"}]}


def answer(text: str = "", **fields: Any) -> Ended:
    return Ended(answer=Answer(**({"text": text, "stop_reason": "end", "stats": STATS} | fields)))


@dataclass
class ScriptedModel:
    """Stands for the resident engine: a test says when which event comes."""

    begin: Callable[[RunningAnswer], object] = lambda _: None
    asked: list[RunningAnswer] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    most_waiting: int = 2
    tokens: Any = field(default_factory=lambda: tokens_of(demo.CHECKPOINT))
    plan: Any = EXACT

    def submit(self, wanted: AnswerWanted, deliver: Callable[[Event], object]) -> RunningAnswer:
        running = RunningAnswer(wanted=wanted, deliver=deliver, on_cancel=lambda _: None)
        self.asked.append(running)
        self.begin(running)
        return running

    @cached_property
    def app(self) -> Any:
        state = ServerState(
            pid=0, version="1", wishes=Wishes(model=DEMO_MODEL), device="cpu", precision="fp32", attention="sdpa"
        )
        service = Service(
            settings=ServeSettings(wishes=state.wishes),
            resident=cast(Any, self),
            shelf=MediaShelf(),
            state=state,
        )
        return make_app(service)

    @property
    def cancelled(self) -> list[bool]:
        return [each.is_cancelled.is_set() for each in self.asked]


@dataclass
class Client:
    """One request to the application, without a network: what was sent to it, and a way to hang up."""

    model: ScriptedModel
    body: dict[str, Any]
    sent: list[dict[str, Any]] = field(default_factory=list)
    has_left: asyncio.Event = field(default_factory=asyncio.Event)
    may_read: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._messages = [{"type": "http.request", "body": json.dumps(WHY | self.body).encode(), "more_body": False}]
        self.may_read.set()

    async def run(self) -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"host", b"localhost")],
            "query_string": b"",
        }
        await self.model.app(scope, self._receive, cast(Any, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_read.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.text.split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(cast(Any, scenario()), 100))


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_client_that_leaves_ends_its_answers(is_streaming: bool) -> None:
    async def scenario() -> None:
        model = ScriptedModel()
        client = Client(model, {"stream": is_streaming, "n": 2})
        running = asyncio.create_task(client.run())
        await until(lambda: len(model.asked) == 2)
        model.asked[0].deliver(Piece(text="A"))
        await asyncio.sleep(0.01)
        assert model.cancelled == [False, False]
        client.has_left.set()
        await until(lambda: model.cancelled == [True, True])
        for each in model.asked:
            each.deliver(answer("A", stop_reason="interrupted"))
        await running
        assert client.status == (200 if is_streaming else 499)
        assert "error" not in client.text if is_streaming else "The client has left." in client.text

    played(scenario)


def test_a_slow_reader_stops_no_other() -> None:
    async def scenario() -> None:
        def begin(running: RunningAnswer) -> None:
            running.deliver(Piece(text="Red."))
            running.deliver(answer("Red."))

        model = ScriptedModel(begin)
        slow, quick = Client(model, {"stream": True}), Client(model, {"stream": True})
        slow.may_read.clear()
        waiting = asyncio.create_task(slow.run())
        await until(lambda: model.asked)
        await quick.run()
        assert (quick.events[-1], slow.sent) == ("[DONE]", [])
        slow.may_read.set()
        await waiting
        assert slow.events[-1] == "[DONE]"

    played(scenario)


def test_a_stream_waits_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "KEEP_ALIVE_S", 0.001)

    async def scenario() -> None:
        model = ScriptedModel()
        client = Client(model, {"stream": True})
        running = asyncio.create_task(client.run())
        await until(lambda: ": waiting\n\n" in client.text)
        model.asked[0].deliver(answer())
        await running
        assert client.events[-1] == "[DONE]"

    played(scenario)


def test_an_answer_comes_in_the_form_of_the_protocol() -> None:
    red = TokenLogprob(id=5, text="é", logprob=-0.5, top=((5, "é", -0.5), (6, "x", float("-inf"))))

    def begin(running: RunningAnswer) -> None:
        running.deliver(Piece(text="é", tokens=(red,)))
        running.deliver(answer("é", stop_reason="context"))

    async def scenario() -> None:
        body = {"logprobs": True, "top_logprobs": 2, "stop": "!", "seed": 7, "n": 2, "max_tokens": 10**9, "zoom": 1}
        whole, stream = Client(ScriptedModel(begin), body), Client(ScriptedModel(begin), body | {"stream": True})
        await whole.run()
        await stream.run()
        seeds = [each.wanted.sampling.seed for each in whole.model.asked]
        wanted = whole.model.asked[0].wanted
        assert (seeds, wanted.sampling.max_new_tokens) == ([7, 8], 4096)
        assert (wanted.stop_texts, wanted.top_logprobs) == (("!",), 2)
        tops = [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
            {"token": "x", "logprob": -9999.0, "bytes": [120]},
        ]
        logprobs = {"content": [tops[0] | {"top_logprobs": tops}], "refusal": None}
        found = json.loads(whole.text)
        assert found["choices"][1] == {
            "index": 1,
            "message": {"role": "assistant", "content": "é", "refusal": None},
            "logprobs": logprobs,
            "finish_reason": "length",
        }
        details = {"prompt_tokens_details": {"cached_tokens": 4}}
        assert found["usage"] == {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13} | details
        assert found["vllava"] == {
            "frame_times_s": [],
            "stop_reasons": ["context", "context"],
            "probabilities": None,
            "reused_tokens": 4,
            "seconds": {"first_token": 0.5, "decode": 0.25},
            "ignored": ["zoom"],
        }
        *chunks, done = stream.events
        second = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == 1]
        none = {"index": 1, "logprobs": None, "finish_reason": None}
        assert (done, second) == (
            "[DONE]",
            [
                none | {"delta": {"role": "assistant", "content": ""}},
                none | {"delta": {"content": "é"}, "logprobs": logprobs},
                none | {"delta": {}, "finish_reason": "length"},
            ],
        )
        assert [chunk.get("vllava") for chunk in chunks] == [None] * (len(chunks) - 1) + [found["vllava"]]

    played(scenario)


def fails(error: Exception) -> Callable[[RunningAnswer], object]:
    return lambda running: running.deliver(Ended(fault=error))


def refuses(error: Exception) -> Callable[[RunningAnswer], object]:
    def begin(_running: RunningAnswer) -> None:
        raise error

    return begin


ENDING = "The server is ending, and this answer was not finished. Ask again later."


@pytest.mark.parametrize(
    ("begin", "status", "error"),
    [
        (refuses(BusyError("2 wait.")), 429, ("2 wait.", "rate_limit_error", "rate_limit_exceeded")),
        (fails(OverflowedError("Too large.")), 500, ("Too large.", "server_error", None)),
        (fails(ForbiddenError("No.")), 403, ("No.", "invalid_request_error", "forbidden_media")),
        (fails(TooLargeError("Big.")), 413, ("Big.", "invalid_request_error", "media_too_large")),
        (fails(KeyError("/secret/path")), 500, (BUG, "server_error", "bug")),
        (refuses(KeyError("/secret/path")), 500, (BUG, "server_error", "bug")),
        (
            lambda running: running.deliver(answer(stop_reason="interrupted")),
            503,
            (ENDING, "server_error", "unavailable"),
        ),
    ],
)
@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_failure_has_the_protocols_form(
    begin: Callable[[RunningAnswer], object], status: int, error: tuple[str, str, str | None], is_streaming: bool
) -> None:
    async def scenario() -> None:
        model = ScriptedModel()
        client = Client(model, {"n": 2, "stream": is_streaming})
        model.begin = lambda running: begin(running) if len(model.asked) == 2 else None
        await client.run()
        message, kind, code = error
        told = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        is_begun = is_streaming and client.status == 200
        assert (client.events[-1] if is_begun else json.loads(client.text)) == told
        assert client.status == (200 if is_begun else status)
        assert model.cancelled[0]
        headers = dict(client.sent[0]["headers"])
        assert headers.get(b"retry-after") == (b"1" if status == 429 else None)

    played(scenario)


def test_a_full_queue_refuses_before_clips_are_read() -> None:
    async def scenario() -> None:
        client = Client(ScriptedModel(figures=Figures(waiting=2)), {})
        await client.run()
        assert (client.status, client.model.asked) == (429, [])

    played(scenario)


def test_more_answers_than_may_wait_are_refused_for_good() -> None:
    """A client that is told to try again would never come to an end."""

    async def scenario() -> None:
        client = Client(ScriptedModel(), {"n": 3})
        await client.run()
        error = json.loads(client.text)["error"]
        assert (client.status, error["param"], client.model.asked) == (400, "n", [])
        assert error["message"] == "n is 3, and only 2 questions may wait here: ask for fewer answers at once."

    played(scenario)


def clip(url: str = "data:video/mp4;base64,AAAA") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def about(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "Why?"}, *parts]}]


RUBBISH: list[Any] = [None, True, 7, -1, 1e300, 10**400, "x", "\0", "", [], [[]], {}, {"type": 1}, [None], [{"a": 1}]]
FIELDS = [*sorted(WHY), "stream", "stream_options", "stop", "seed", "temperature", "top_p", "max_tokens", "n"]
FIELDS += ["logprobs", "top_logprobs", "response_format", "tools", "tool_choice", "modalities", "choices", "calibrate"]
FIELDS += ["fit", "logit_bias", "frequency_penalty", "max_completion_tokens"]


def test_no_rubbish_in_a_field_is_a_fault_of_the_server() -> None:
    def begin(running: RunningAnswer) -> None:
        running.deliver(answer("A"))

    async def scenario() -> None:
        model = ScriptedModel(begin)
        bodies: list[dict[str, Any]] = [{name: value} for name in FIELDS for value in RUBBISH]
        bodies += [{"messages": [{"role": "user", "content": value}]} for value in RUBBISH]
        bodies += [{"messages": about({"type": "video_url", "video_url": value})} for value in RUBBISH]
        for body in bodies:
            client = Client(model, body)
            await client.run()
            assert client.status in (200, 400, 404), body
            if client.status != 200:
                assert set(json.loads(client.text)["error"]) == {"message", "type", "param", "code"}, body

    played(scenario)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message", "code"),
    [
        ("GET", "/v1/chat", b"", 404, "There is nothing at /v1/chat.", None),
        ("GET", "/v1/chat/completions", b"", 405, "/v1/chat/completions can't be asked by GET. Use POST.", None),
        ("POST", "/v1/chat/completions", b"{", 400, "The body is not a JSON object (Expecting", None),
        (
            "GET",
            "/v1/models/gpt-5",
            b"",
            404,
            "The model 'gpt-5' isn't served here: ask for 'demo'.",
            "model_not_found",
        ),
    ],
)
def test_what_the_routes_refuse(
    method: str, path: str, body: bytes, status: int, message: str, code: str | None, demo_served: Served
) -> None:
    found = httpx.request(method, demo_served.url + path, content=body)
    error = found.json()["error"]
    assert (found.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"model": "gpt-5"}, "model_not_found", "The model 'gpt-5' isn't served here: ask for 'demo'."),
        (
            {"messages": about(*[clip()] * 40)},
            "context_length_exceeded",
            "The 40 clips have 5,440 tokens, and the context holds 4,096: ask about fewer clips.",
        ),
        (
            {"messages": about(*[clip()] * 29, {"type": "text", "text": "so " * 400})},
            "context_length_exceeded",
            "The prompt has 4,",
        ),
        ({"choices": ["left", " left."], "calibrate": True}, None, "calibrate compares with a blank clip"),
        ({"messages": about(clip("data:video/mp4;base64,AAAA"))}, "invalid_media", ""),
    ],
)
def test_what_cannot_be_answered_is_told_before_a_clip_is_decoded(
    fields: dict[str, Any], code: str | None, message: str, demo_served: Served
) -> None:
    error = httpx.post(f"{demo_served.url}/v1/chat/completions", json=WHY | fields).json()["error"]
    assert (error["code"], error["message"][: len(message)]) == (code, message)
