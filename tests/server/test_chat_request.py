"""What a body asks for, and what is said about a body that can't be carried out: two tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vllava_cli.answers import Sampling
from vllava_cli.nouns import Framing
from vllava_cli.server.clips.clip_requests import ClipWanted
from vllava_cli.server.openai.body_fields import MOST_VALUES
from vllava_cli.server.openai.chat_request import AskedTurn, ChatRequest, read_chat
from vllava_cli.server.openai.protocol_errors import RequestError


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def video(**fields: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": "data:v"} | fields}


IMAGE = {"type": "image_url", "image_url": {"url": "data:i", "detail": "low"}}
WHY = [user("Why?")]
HUGE = b'{"n": 1e999, "messages": [{"role": "user", "content": "A"}]}'
ASKED = ChatRequest(model="demo", turns=(AskedTurn(question="Why?"),), sampling=Sampling())


def seen(kind: Any = "video", url: str = "data:v", **framing: Any) -> ClipWanted:
    return ClipWanted(url=url, kind=kind, framing=Framing(**framing))


def read(**fields: Any) -> ChatRequest:
    return read_chat(json.dumps({"model": "demo", "messages": WHY} | fields).encode())


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([user("A"), {"role": "assistant", "content": "B"}, user("C")], [("A", (), "B"), ("C", (), None)]),
        ([{"role": "system", "content": "Be brief."}, user("A")], [("Be brief.\nA", (), None)]),
        ([{"role": "developer", "content": [text("x")]}, user("A"), user("B")], [("x\nA\nB", (), None)]),
        ([user("A"), {"role": "assistant", "content": None}, user([text("C")])], [("A", (), ""), ("C", (), None)]),
        (
            [user(IMAGE, text("A"), video(), text("B")), {"role": "assistant", "content": [text("C")]}, user("D")],
            [("A\nB", (seen("image", "data:i"), seen()), "C"), ("D", (), None)],
        ),
        (
            [user(text("A"), video(start=1, end="0:02.5"), video(at=[0, "1s"]), video(pick="scenes"))],
            [("A", (seen(start_s=1.0, end_s=2.5), seen(at_s=(0.0, 1.0)), seen(pick="scenes")), None)],
        ),
        (
            [user(text("A"), {"type": "file", "file": {"file_id": "file-1"}})],
            [("A", (seen(None, "file-1"),), None)],
        ),
        (
            [user(text("A"), {"type": "file", "file": {"filename": "x", "file_data": "data:v", "end": 3}})],
            [("A", (seen(None, end_s=3.0),), None)],
        ),
    ],
)
def test_messages_become_turns(messages: list[Any], turns: list[Any]) -> None:
    wanted = tuple(AskedTurn(question=question, clips=clips, answer=answer) for question, clips, answer in turns)
    assert read(messages=messages).turns == wanted


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, {}),
        ({"model": None, "stream": None, "temperature": None, "stop": None, "n": None, "seed": None}, {"model": None}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"is_streaming": True, "has_usage": True}),
        ({"stream": True, "stream_options": None}, {"is_streaming": True}),
        ({"stop": "."}, {"stop_texts": (".",)}),
        ({"stop": ["a", "b"]}, {"stop_texts": ("a", "b")}),
        ({"stop": [], "tools": [], "logit_bias": {}, "tool_choice": "none", "modalities": ["text"]}, {}),
        ({"n": 8}, {"answers": 8}),
        ({"logprobs": True}, {"top_logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"top_logprobs": 20}),
        ({"logprobs": False, "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}}, {}),
        ({"max_tokens": 5}, {"sampling": Sampling(max_new_tokens=5)}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"sampling": Sampling(max_new_tokens=6)}),
        (
            {"temperature": 2, "top_p": 0.5, "seed": -1},
            {"sampling": Sampling(temperature=2.0, top_p=0.5, seed=-1)},
        ),
        (
            {"choices": ["yes", " no "], "calibrate": True},
            {"sampling": Sampling(choices=("yes", "no"), is_calibrated=True)},
        ),
        ({"fit": "pad"}, {"fit": "pad"}),
        ({"user": "me", "zoom": 3}, {"ignored": ("user", "zoom")}),
    ],
)
def test_fields_become_settings(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    assert read(**fields) == replace(ASKED, **changed)


def test_the_fit_is_that_of_every_clip() -> None:
    asked = read(fit="squash", messages=[user(text("A"), IMAGE, video())])
    assert asked.clips == (seen("image", "data:i", fit="squash"), seen(fit="squash"))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": 3}, "model", "model is not a text: it is 3."),
        ({"messages": None}, "messages", "messages is not a list."),
        ({"messages": {}}, "messages", "messages is not a list: it is an object."),
        ({"messages": []}, "messages", "The last of the messages is not a user's: end them with a question."),
        ({"messages": ["Why?"]}, "messages[0]", 'messages[0] is not an object: it is "Why?".'),
        ({"messages": [{"content": "A"}]}, "messages[0].role", "messages[0].role is missing."),
        (
            {"messages": [{"role": "tool", "content": "A"}]},
            "messages[0].role",
            'messages[0].role is not one of system, developer, user, assistant: it is "tool".',
        ),
        ({"messages": [user(7)]}, "messages[0].content", "messages[0].content is not a list: it is 7."),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing."),
        (
            {"messages": [user("A"), user(text("B"), {"type": "input_audio"})]},
            "messages[1].content[1].type",
            'messages[1].content[1].type is not one of text, image_url, video_url, file: it is "input_audio".',
        ),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}, user("A")]},
            "messages[0].content[0].type",
            'messages[0].content[0].type is not one of text: it is "image_url".',
        ),
        (
            {"messages": [user(text("A"), {"type": "image_url", "image_url": "data:i"})]},
            "messages[0].content[1].image_url",
            'messages[0].content[1].image_url is not an object: it is "data:i".',
        ),
        (
            {"messages": [user(text("A"), video(url=""))]},
            "messages[0].content[1].video_url.url",
            "messages[0].content[1].video_url.url is empty.",
        ),
        (
            {"messages": [user(text("A"), video(start=3, end=2))]},
            "messages[0].content[1].video_url",
            "The part from 3 s to 2 s is empty: end must come after start.",
        ),
        (
            {"messages": [user(text("A"), video(start=3, at=[2]))]},
            "messages[0].content[1].video_url",
            "at can't be combined with start and end. Leave them out.",
        ),
        (
            {"messages": [user(text("A"), video(at=["soon"]))]},
            "messages[0].content[1].video_url.at[0]",
            "'soon' is not a time: give seconds (90.5) or h:m:s (0:01:30.5).",
        ),
        (
            {"messages": [user(text("A"), video(at=[0] * 9))]},
            "messages[0].content[1].video_url.at",
            "messages[0].content[1].video_url.at is a list of 9, but at most 8 are allowed.",
        ),
        (
            {"messages": [user(IMAGE, text(" "))]},
            "messages",
            "A question has no text: say what you want to know of the clip.",
        ),
        (
            {"messages": [{"role": "assistant", "content": "Hello!"}, user("A")]},
            "messages[0].role",
            "messages[0].role is assistant, and no question stands before this answer.",
        ),
        (
            {"messages": [user("A"), {"role": "assistant", "content": "B"}]},
            "messages",
            "The last of the messages is not a user's: end them with a question.",
        ),
        (
            {"messages": [user("A"), {"role": "assistant", "tool_calls": [{}]}, user("B")]},
            "messages[1].tool_calls",
            "This model calls no tools: leave tool_calls out.",
        ),
        (
            {"messages": [user("a" * (1 << 20)), user("b")]},
            "messages",
            "The messages have 1,048,577 bytes of text, and at most 1,048,576 are read: send less.",
        ),
        ({"stream": "yes"}, "stream", 'stream is neither true nor false: it is "yes".'),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "stream_options needs stream: set it to true, or leave stream_options out.",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "stream_options.include_usage is neither true nor false: it is 1.",
        ),
        ({"temperature": 2.1}, "temperature", "temperature is not a number from 0 to 2: it is 2.1."),
        ({"temperature": True}, "temperature", "temperature is not a number from 0 to 2: it is true."),
        ({"top_p": -1}, "top_p", "top_p is not a number from 0 to 1: it is -1."),
        ({"seed": 1.5}, "seed", "seed is not a whole number from -9223372036854775808: it is 1.5."),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is not a whole number from 1: it is 0."),
        ({"n": 9}, "n", "n is more than 8: it is 9."),
        ({"stop": 5}, "stop", "stop is not a list: it is 5."),
        ({"stop": ["a"] * 5}, "stop", "stop is a list of 5, but at most 4 are allowed."),
        ({"stop": ["a", ""]}, "stop[1]", "stop[1] is empty."),
        (
            {"top_logprobs": 2},
            "top_logprobs",
            "top_logprobs needs logprobs: set it to true, or leave top_logprobs out.",
        ),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs is more than 20: it is 21."),
        ({"tools": [{"type": "function"}]}, "tools", "Tools can't be called by this model: leave tools out."),
        ({"tool_choice": "required"}, "tool_choice", 'tool_choice is not one of none, auto: it is "required".'),
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            "This model can't be held to json_object: leave response_format out, or ask with choices.",
        ),
        (
            {"presence_penalty": 1},
            "presence_penalty",
            "This server has no presence_penalty: set it to 0, or leave it out.",
        ),
        ({"modalities": ["audio"]}, "modalities[0]", 'modalities[0] is not one of text: it is "audio".'),
        ({"fit": "zoom"}, "fit", 'fit is not one of crop, pad, squash: it is "zoom".'),
        (
            {"choices": ["yes"]},
            "choices",
            "'yes' is only one choice: give two or more, separated by commas, like yes,no.",
        ),
        ({"choices": "yes,no"}, "choices", 'choices is not a list: it is "yes,no".'),
        ({"choices": ["yes", "yes"]}, "choices", "'yes' is given twice as a choice: leave one out."),
        ({"calibrate": True}, "calibrate", "calibrate needs choices: add them, or leave it out."),
        (
            {"choices": ["a", "b"], "logprobs": True},
            "logprobs",
            "Choices have probabilities in place of logprobs: leave one of the two out.",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert (caught.value.param, str(caught.value)) == (param, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not a JSON object (Expecting value: line 1 column 1 (char 0)). Send one."),
        (b"[]", "The body is not a JSON object (but a list). Send one."),
        (b'{"n": NaN}', "The body is not a JSON object (NaN is not JSON). Send one."),
        (b'{"n": -Infinity}', "The body is not a JSON object (-Infinity is not JSON). Send one."),
        (b"\xff\xfe", "The body is not UTF-8. Send JSON in UTF-8."),
        (b'{"a":' * 100_000, "The body is not a JSON object (it is nested too deeply). Send one."),
        (b'{"a": [' + b"0," * MOST_VALUES, f"The body has more than {MOST_VALUES:,} values. Ask in smaller requests."),
        (b'{"n": ' + b"1" * 5000 + b"}", None),
        (b'{"a": "\\ud800"}', "The body has half of a surrogate pair in a text. Send valid Unicode."),
        (
            b'{"n": 1e999, "messages": [{"role": "user", "content": "A"}]}',
            "n is not a whole number from 1: it is Infinity.",
        ),
    ],
)
def test_a_body_that_is_no_json_is_refused(body: bytes, message: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat(body)
    assert message in (None, str(caught.value))
