"""/show says what each turn cost and what the context still holds; an export is Markdown whatever the names in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands.chat.conftest import CLIP, HAPPENS, Stage
from vllava_cli.commands.chat.display import markdown, state_rows
from vllava_cli.commands.chat.settings import Settings
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Clip, Conversation, Frames, MediaKind, Sampling, Stats, StopReason, Turn

Make = Callable[..., Stage]
STATS = Stats(prompt_tokens=20, reused_tokens=5, new_tokens=3, first_token_s=0.456, decode_s=0.5)


def turn(question: str, answer: str, *media: Frames, stop_reason: StopReason = "end") -> Turn:
    return Turn(
        question=question,
        answer=answer,
        answer_ids=(),
        media=media,
        stop_reason=stop_reason,
        sampling=Sampling(),
        stats=STATS,
    )


def shown(engine: Engine, conversation: Conversation, settings: Settings | None = None) -> list[tuple[str, str]]:
    engine.vision.calls = 0
    return list(state_rows(engine, conversation, settings or Settings(), file="here.jsonl"))


def test_the_rows_come_in_one_order(engine: Engine) -> None:
    settings = Settings(sampling=Sampling(temperature=0.7, seed=3))
    assert shown(engine, Conversation(), settings) == [
        ("context", "0 of 4096 tokens used, 0 of them by clips; 4096 left"),
        ("looked at", "0 clips since the start"),
        *settings.rows(),
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


def test_clips_that_wait_and_those_of_dropped_turns_count(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/show").splitlines()[0].split(maxsplit=1) == [
        "context",
        "136 of 4096 tokens used, 136 of them by clips; 3960 left",
    ]
    here.enter(HAPPENS, "And its colour?")
    used = here.chat.engine.tokens.used(here.chat.conversation)
    here.chat.conversation.dropped = 1
    less = here.chat.engine.tokens.used(here.chat.conversation)
    assert 136 < less < used
    context = here.enter("/show").splitlines()[0]
    assert context.endswith(f"{less} of 4096 tokens used, 136 of them by clips; {4096 - less} left")
    assert here.chat.left_tokens == 4096 - less


def test_how_many_clips_were_encoded_and_where_the_turns_are(stage: Make) -> None:
    here = stage(CLIP, "yellow-star.png")
    assert here.enter("/show").splitlines()[-1].split(maxsplit=2)[2] == "a file that begins with the first answer"
    shown = here.enter("What shape is it?", "/show").splitlines()
    assert shown[-1].split(maxsplit=2)[2] == str(here.path)
    (row,) = (line for line in shown if line.startswith("looked at"))
    assert row.split(maxsplit=2)[2] == "2 clips since the start"


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
        "# dog.mp4, cat.png\n"
        "\n"
        "Model: demo\n"
        "\n"
        "Shown: `/a/dog.mp4`, 8 frames at 0:00.00 0:00.50 0:01.00 0:01.50 0:02.00 0:02.50 0:03.00 0:03.50.\n"
        "\n"
        "> What is it?\n"
        "\n"
        "A dog.\n"
        "\n"
        "Shown: `cat.png`, one picture.\n"
        "\n"
        "> And now?\n"
        "\n"
        "A cat.\n"
    )
    assert exported() == "# A conversation\n\nModel: demo\n"


def test_each_line_of_a_question_is_quoted() -> None:
    text = exported(turn("\n# One\n\n> two\r\nthree\N{LINE SEPARATOR}four\n", "Yes."))
    assert text.split("\n\n")[2] == "> # One\n> \n> > two\n> three\n> four"


ENDS: list[tuple[StopReason, str]] = [
    ("end", ""),
    ("length", "\n*(cut off at the longest answer allowed)*\n"),
    ("context", "\n*(cut off: the context was full)*\n"),
    ("repetition", "\n*(stopped: the answer repeated itself)*\n"),
    ("interrupted", "\n*(stopped by Ctrl-C)*\n"),
]


@pytest.mark.parametrize(("reason", "end"), ENDS)
def test_why_an_answer_ended_early_stands_behind_it(reason: StopReason, end: str) -> None:
    assert exported(turn("?", " So. \n", stop_reason=reason)).split("> ?\n\n")[1] == f"So.\n{end}"


def test_how_likely_each_choice_was_stands_behind_a_chosen_answer() -> None:
    sampling = Sampling(choices=("yes_", "no"))
    chosen = replace(turn("?", "yes_"), stop_reason="choice", sampling=sampling, probabilities=(0.999, 0.001))
    stopped = replace(turn("?", ""), stop_reason="interrupted", sampling=sampling)
    assert exported(chosen, stopped).split("> ?\n\n")[1:] == [
        "yes_\n\n*(yes\\_ \\>99%, no \\<1%)*\n\n",
        "\n\n*(stopped by Ctrl-C)*\n",
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
