"""An exported conversation is Markdown that reads as it was said, whatever the names and words in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vllava_cli.commands.chat.markdown import markdown
from vllava_cli.nouns import Clip, Conversation, Frames, MediaKind, Sampling, Stats, StopReason, Turn

STATS = Stats(prompt_tokens=9, reused_tokens=0, new_tokens=3, first_token_s=0.5, decode_s=0.25)


def frames(path: str, kind: MediaKind = "image") -> Frames:
    times_s = (0.0,) if kind == "image" else tuple(0.5 * place for place in range(8))
    return Frames(
        clip=Clip(path=Path(path), kind=kind, width=1, height=1, frame_count=len(times_s)),
        pixels=np.zeros((len(times_s), 1, 1, 3), np.uint8),
        times_s=times_s,
    )


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


def test_clips_stand_where_they_came_in() -> None:
    conversation = Conversation(
        turns=[
            turn("What is it?", "A dog.", frames("/a/dog.mp4", "video")),
            turn("And now?", "A cat.", frames("cat.png")),
        ]
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


def test_without_clips_and_turns_there_is_a_heading_and_the_model() -> None:
    assert markdown(Conversation(), model="demo") == "# A conversation\n\nModel: demo\n"


def test_dropped_turns_are_exported_as_well() -> None:
    conversation = Conversation(turns=[turn("One?", "1"), turn("Two?", "2")], dropped=1)
    assert "> One?" in markdown(conversation, model="demo")


def test_each_line_of_a_question_is_quoted() -> None:
    text = markdown(
        Conversation(turns=[turn("\n# One\n\n> two\r\nthree\N{LINE SEPARATOR}four\n", "Yes.")]), model="demo"
    )
    assert text.split("\n\n")[2] == "> # One\n> \n> > two\n> three\n> four"


def test_why_an_answer_ended_early_stands_behind_it() -> None:
    reasons: tuple[StopReason, ...] = ("end", "length", "context", "repetition", "interrupted")
    conversation = Conversation(turns=[turn("?", " So. \n", stop_reason=reason) for reason in reasons])
    assert markdown(conversation, model="demo").split("> ?\n\n")[1:] == [
        "So.\n\n",
        "So.\n\n*(cut off at the longest answer allowed)*\n\n",
        "So.\n\n*(cut off: the context was full)*\n\n",
        "So.\n\n*(stopped: the answer repeated itself)*\n\n",
        "So.\n\n*(stopped by Ctrl-C)*\n",
    ]


def test_how_likely_each_choice_was_stands_behind_a_chosen_answer() -> None:
    sampling = Sampling(choices=("yes_", "no"))
    chosen = replace(turn("?", "yes_"), stop_reason="choice", sampling=sampling, probabilities=(0.999, 0.001))
    stopped = replace(turn("?", ""), stop_reason="interrupted", sampling=sampling)
    text = markdown(Conversation(turns=[chosen, stopped]), model="demo")
    assert text.split("> ?\n\n")[1:] == ["yes_\n\n*(yes\\_ \\>99%, no \\<1%)*\n\n", "\n\n*(stopped by Ctrl-C)*\n"]


def test_names_are_no_markup() -> None:
    text = markdown(Conversation(attached=(frames("_a_*b*[c](d)#e`f`<g>\\h.png"),)), model="org/my_model")
    assert text == "# \\_a\\_\\*b\\*\\[c\\](d)\\#e\\`f\\`\\<g\\>\\\\h.png\n\nModel: org/my\\_model\n"


def test_a_name_ends_neither_its_quotes_nor_its_line() -> None:
    conversation = Conversation(turns=[turn("?", "Yes.", frames("/a`b\n# c\x1b[2J\u202e.png"))])
    text = markdown(conversation, model="demo")
    assert [line for line in text.splitlines() if line.startswith("# ")] == [text.splitlines()[0]]
    (shown,) = (line for line in text.splitlines() if line.startswith("Shown: "))
    assert shown.endswith(".png`, one picture.")
    assert shown.count("`") == 2


def test_no_control_characters_are_written() -> None:
    bad = "\x1b]0;x\x07\u202eso\x9b"
    text = markdown(Conversation(turns=[turn(bad, bad, frames(f"/{bad}.png"))]), model=bad)
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_a_name_that_is_not_unicode_can_be_written() -> None:
    conversation = Conversation(turns=[turn("?", "Yes.", frames("/caf\udce9.png"))])
    assert b"Shown: `/caf?.png`, one picture." in markdown(conversation, model="demo").encode()
