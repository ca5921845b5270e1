"""/show says what each turn cost and what the context still holds; an export is Markdown whatever the names in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.commands.chat.conftest import CLIP, HAPPENS, Stage
from tests.commands.turns import turn
from vllava_cli.answers import (
    Conversation,
    Sampling,
    StopReason,
    Turn,
)
from vllava_cli.commands.chat.display import markdown, state_rows
from vllava_cli.commands.chat.settings import setting_rows
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Clip, Frames, MediaKind

Make = Callable[..., Stage]


def shown(engine: Engine, conversation: Conversation, *settings: tuple[str, str]) -> list[tuple[str, str]]:
    engine.vision.calls = 0
    return list(state_rows(engine, conversation, settings, file="here.jsonl"))


def test_the_rows_come_in_one_order(engine: Engine) -> None:
    settings = setting_rows(Sampling(temperature=0.7, seed=3), is_verbose=False)
    assert shown(engine, Conversation(), *settings) == [
        ("context", "0 of 4096 tokens used, 0 of them by clips; 4096 left"),
        ("looked at", "0 clips since the start"),
        *settings,
        ("model", engine.tokens.checkpoint.model),
        ("device", "cpu: A test."),
        ("dtype", "float32: A test."),
        ("quantisation", "none: A test."),
        ("attention", "sdpa: A test."),
        ("kept in", "here.jsonl"),
    ]


def test_each_turn_has_its_counts_its_first_token_and_how_it_ended(engine: Engine) -> None:
    reasons: tuple[StopReason, ...] = ("end", "length", "interrupted")
    conversation = Conversation(turns=[turn("?", "So.", stop_reason=reason) for reason in reasons], dropped=1)
    counts = "20 prompt tokens (5 reused), 3 new, 4.0 tokens/s; first token 0.46 s"
    assert shown(engine, conversation)[1:4] == [
        ("turn 1", f"{counts}; no longer in the context"),
        ("turn 2", f"{counts}; length"),
        ("turn 3", f"{counts}; interrupted"),
    ]


def test_a_chat_shows_its_clips_its_turns_and_its_file(stage: Make) -> None:
    here = stage(CLIP, "yellow-star.png")
    before = here.enter("/show").splitlines()
    assert before[0] == "context         152 of 4096 tokens used, 152 of them by clips; 3944 left"
    assert before[-1] == "kept in         a file that begins with the first answer"
    here.enter(HAPPENS, "What shape is it?")
    here.chat.conversation.dropped = 1
    used = here.chat.engine.tokens.used(here.chat.conversation)
    shown = here.enter("/show").splitlines()
    assert shown[0].endswith(f"{used} of 4096 tokens used, 152 of them by clips; {4096 - used} left")
    assert "looked at       2 clips since the start" in shown
    assert (shown[-1], here.chat.left_tokens) == (f"kept in         {here.path}", 4096 - used)


def frames(path: str, kind: MediaKind = "image") -> Frames:
    times_s = (0.0,) if kind == "image" else tuple(0.5 * place for place in range(8))
    return Frames(
        clip=Clip(path=Path(path), kind=kind, width=1, height=1, frame_count=len(times_s)),
        pixels=np.zeros((len(times_s), 1, 1, 3), np.uint8),
        times_s=times_s,
    )


def exported(*turns: Turn) -> str:
    return markdown(Conversation(turns=list(turns)), model="demo")


def test_clips_stand_where_they_came_in_also_those_of_dropped_turns() -> None:
    conversation = Conversation(
        turns=[
            turn("What is it?", "A dog.", frames("/a/dog.mp4", "video")),
            turn("And now?", "A cat.", frames("cat.png")),
        ],
        dropped=1,
    )
    assert markdown(conversation, model="demo") == (
        "# dog.mp4, cat.png\n\nModel: demo\n\n"
        "Shown: `/a/dog.mp4`, 8 frames at 0:00.00 0:00.50 0:01.00 0:01.50 0:02.00 0:02.50 0:03.00 0:03.50.\n\n"
        "> What is it?\n\nA dog.\n\nShown: `cat.png`, one picture.\n\n> And now?\n\nA cat.\n"
    )
    assert exported() == "# A conversation\n\nModel: demo\n"


ENDS: list[tuple[StopReason, str]] = [
    ("end", ""),
    ("length", "\n*(cut off at the longest answer allowed)*\n"),
    ("context", "\n*(cut off: the context was full)*\n"),
    ("repetition", "\n*(stopped: the answer repeated itself)*\n"),
    ("interrupted", "\n*(stopped by Ctrl-C)*\n"),
    ("choice", "\n*(yes\\_ \\>99%, no \\<1%)*\n"),
]


def test_why_an_answer_ended_early_stands_behind_it_and_each_line_of_a_question_is_quoted() -> None:
    chances = {"sampling": Sampling(choices=("yes_", "no")), "probabilities": (0.999, 0.001)}
    turns = [turn("\n# One\n\n> two\r\nthree\N{LINE SEPARATOR}four\n", " So. \n", stop_reason=end) for end, _ in ENDS]
    found = exported(*turns[:-1], replace(turns[-1], **chances))  # type: ignore[arg-type]
    assert found.split("> # One\n> \n> > two\n> three\n> four\n\n")[1:] == [
        f"So.\n{end}{'' if reason == 'choice' else chr(10)}" for reason, end in ENDS
    ]


def test_names_are_no_markup() -> None:
    text = markdown(Conversation(attached=(frames("_a_*b*[c](d)#e`f`<g>\\h.png"),)), model="org/my_model")
    assert text == "# \\_a\\_\\*b\\*\\[c\\](d)\\#e\\`f\\`\\<g\\>\\\\h.png\n\nModel: org/my\\_model\n"


def test_a_name_ends_neither_its_quotes_nor_its_line_nor_steers_a_terminal() -> None:
    bad = "\x1b]0;x\x07\u202eso\x9b"
    text = exported(turn(bad, bad, frames(f"/a`b\n# c{bad}.png")))
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert [line for line in text.splitlines() if line.startswith("# ")] == [text.splitlines()[0]]
    (shown,) = (line for line in text.splitlines() if line.startswith("Shown: "))
    assert shown.endswith(".png`, one picture.")
    assert shown.count("`") == 2


def test_a_name_that_is_not_unicode_can_be_written() -> None:
    text = exported(turn("?", "Yes.", frames("/caf\udce9.png")))
    assert b"Shown: `/caf?.png`, one picture." in text.encode()
