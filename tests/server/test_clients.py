"""Programs that know nothing of vllava ask the served model: the openai package, the llm program and curl."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engine.engines import ask, conversation_about, engine_of
from tests.server.serving import Served
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.generate import Engine

CIRCLE, STAR = demo.CLIPS / "red-circle-moves-left.mp4", demo.CLIPS / "yellow-star.png"
FIRST, SECOND, OF_STAR = "What happens in this video?", "And its colour?", "What shape is it?"


@cache
def engine() -> Engine:
    """An engine of its own, for the answers to compare with."""
    return engine_of(demo.CHECKPOINT)


def said(conversation: Conversation, question: str, **sampling: Any) -> str:
    return ask(engine(), conversation, question, Sampling(**sampling)).text


def uri(path: Path) -> str:
    kind = "image/png" if path.suffix == ".png" else "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def shown(path: Path, question: str, **framing: Any) -> dict[str, Any]:
    name = "image_url" if path.suffix == ".png" else "video_url"
    medium = {"type": name, name: {"url": uri(path)} | framing}
    return {"role": "user", "content": [medium, {"type": "text", "text": question}]}


@pytest.fixture
def client(demo_served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def create(client: openai.OpenAI, *messages: dict[str, Any], **fields: Any) -> Any:
    made: Any = client.chat.completions
    return made.create(model="demo", messages=messages, **fields)


def test_openai_gets_the_answers_that_ask_gives(client: openai.OpenAI) -> None:
    conversation = conversation_about(CIRCLE)
    found = create(client, shown(CIRCLE, FIRST))
    choice = found.choices[0]
    assert (choice.message.content, choice.finish_reason) == (said(conversation, FIRST), "stop")
    stats = conversation.turns[0].stats
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (stats.prompt_tokens, stats.new_tokens)
    assert found.model == client.models.list().data[0].id == client.models.retrieve("demo").id == "demo"
    assert found.vllava["frame_times_s"] == [list(conversation.media[0].times_s)]
    assert create(client, shown(STAR, OF_STAR)).choices[0].message.content == "Star."


def test_openai_streams_and_counts(client: openai.OpenAI) -> None:
    *parts, last = create(client, shown(CIRCLE, FIRST), stream=True, stream_options={"include_usage": True})
    texts = [part.choices[0].delta.content for part in parts]
    assert "".join(filter(None, texts)) == said(conversation_about(CIRCLE), FIRST)
    assert len(texts) > 3
    assert parts[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.total_tokens) == ([], last.usage.prompt_tokens + last.usage.completion_tokens)


def test_openai_goes_on_with_a_conversation(client: openai.OpenAI) -> None:
    conversation = conversation_about(CIRCLE)
    answer = said(conversation, FIRST)
    messages = [shown(CIRCLE, FIRST), {"role": "assistant", "content": answer}]
    found = create(client, *messages, {"role": "user", "content": SECOND})
    assert found.choices[0].message.content == said(conversation, SECOND)
    assert found.usage.prompt_tokens == conversation.turns[1].stats.prompt_tokens
    assert found.usage.prompt_tokens_details.cached_tokens > 0


def test_openai_sees_the_part_of_a_clip_that_it_names(client: openai.OpenAI) -> None:
    found = create(client, shown(CIRCLE, FIRST, start=0.5, end="1s"))
    times = found.vllava["frame_times_s"][0]
    assert (len(times), times == sorted(times), times[0] >= 0.5, times[-1] < 1) == (8, True, True, True)


def test_openai_gets_several_answers_that_a_seed_repeats(client: openai.OpenAI) -> None:
    sampled = {"n": 3, "seed": 5, "temperature": 1.5, "top_p": 0.9, "max_tokens": 6}
    first, second = (create(client, shown(CIRCLE, FIRST), **sampled) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    usual: dict[str, Any] = {"temperature": 1.5, "top_p": 0.9, "max_new_tokens": 6}
    assert texts == [said(conversation_about(CIRCLE), FIRST, seed=seed, **usual) for seed in (5, 6, 7)]


def test_openai_stops_where_it_is_told(client: openai.OpenAI) -> None:
    whole = said(conversation_about(CIRCLE), FIRST)
    stop = whole.split()[2]
    found = create(client, shown(CIRCLE, FIRST), stop=["never said", stop]).choices[0]
    assert (found.message.content, found.finish_reason) == (whole[: whole.index(stop)], "stop")
    short = create(client, shown(CIRCLE, FIRST), max_completion_tokens=2).choices[0]
    assert (short.finish_reason, whole.startswith(short.message.content)) == ("length", True)


def test_openai_gets_log_probabilities(client: openai.OpenAI) -> None:
    choice = create(client, shown(CIRCLE, FIRST), logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().strip() == choice.message.content
    for token in tokens:
        tops = [each.logprob for each in token.top_logprobs]
        assert (tops, tops[0]) == (sorted(tops, reverse=True), token.logprob)
        assert sum(map(math.exp, tops)) <= 1.0001


def test_openai_asks_for_a_choice(client: openai.OpenAI) -> None:
    conversation, choices = conversation_about(CIRCLE), ("left", "right", "up")
    found = create(client, shown(CIRCLE, FIRST), extra_body={"choices": choices, "calibrate": True})
    answer = said(conversation, FIRST, choices=choices, is_calibrated=True)
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (answer, "stop")
    wanted = dict(zip(choices, conversation.turns[0].probabilities, strict=True))
    assert found.vllava["probabilities"] == pytest.approx(wanted, abs=1e-4)


def test_openai_asks_many_things_at_once(demo_served: Served) -> None:
    async def answers() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{demo_served.url}/v1", api_key="none", max_retries=0) as client:
            made: Any = client.chat.completions

            async def answer(name: str, question: str) -> str:
                parts = await made.create(model="demo", messages=[shown(demo.CLIPS / name, question)], stream=True)
                return "".join([part.choices[0].delta.content or "" async for part in parts])

            return list(await asyncio.gather(*(answer(name, question) for name, question, _ in demo.QUESTIONS)))

    assert asyncio.run(answers()) == [answer for _, _, answer in demo.QUESTIONS]


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"messages": [shown(CIRCLE, "so " * 4000)]}, openai.BadRequestError, None),
    ],
)
def test_openai_raises_its_own_errors(
    fields: dict[str, Any], error: type[openai.APIStatusError], param: str | None, client: openai.OpenAI
) -> None:
    made: Any = client.chat.completions
    with pytest.raises(error) as caught:
        made.create(**({"model": "demo", "messages": [shown(CIRCLE, FIRST)]} | fields))
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_llm_asks_about_a_picture_and_goes_on_without_a_stream(demo_served: Served, tmp_path: Path) -> None:
    entry = {"model_id": "vllava", "model_name": "demo", "api_base": f"{demo_served.url}/v1", "vision": True}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([entry]))  # JSON is YAML
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    conversation = conversation_about(STAR)
    more = ("What colour is it?", ["-c", "--no-stream"])
    for question, words in ((OF_STAR, ["-m", "vllava", "-a", str(STAR)]), more):
        command = [sys.executable, "-m", "llm", *words, question]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (found.returncode, found.stdout) == (0, f"{said(conversation, question)}\n")


@pytest.mark.parametrize("is_on_a_port", [False, True])
def test_curl_watches_an_answer(is_on_a_port: bool, demo_served: Served, tmp_path: Path) -> None:
    body = {"model": "demo", "messages": [shown(CIRCLE, FIRST)], "stream": True}
    (tmp_path / "body.json").write_text(json.dumps(body))
    place = [demo_served.url] if is_on_a_port else ["--unix-socket", demo_served.socket, "http://localhost"]
    place[-1] += "/v1/chat/completions"
    found = subprocess.run(
        ["curl", "-sS", "-N", "-d", f"@{tmp_path / 'body.json'}", *place], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    *lines, done, end = found.stdout.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    parts = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "") for line in lines]
    assert "".join(parts) == said(conversation_about(CIRCLE), FIRST)
