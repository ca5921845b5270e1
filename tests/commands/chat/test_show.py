"""/show tells what each turn cost, what the context still holds, and why the model was loaded as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.commands.chat.conftest import CLIP, Stage
from vllava_cli.commands.chat.settings import Settings
from vllava_cli.commands.chat.show import show_rows
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Conversation, Sampling, Stats, StopReason, Turn

Make = Callable[..., Stage]
STATS = Stats(prompt_tokens=20, reused_tokens=5, new_tokens=3, first_token_s=0.456, decode_s=0.5)


def turn(stop_reason: StopReason = "end", stats: Stats = STATS) -> Turn:
    return Turn(question="Why?", answer="So.", answer_ids=(), stop_reason=stop_reason, sampling=Sampling(), stats=stats)


def shown(engine: Engine, conversation: Conversation, settings: Settings | None = None) -> list[tuple[str, str]]:
    engine.vision.calls = 0
    return show_rows(engine, conversation, settings or Settings(), kept_in="here.jsonl")


def test_the_rows_come_in_one_order(engine: Engine) -> None:
    settings = Settings(sampling=Sampling(temperature=0.7, top_p=0.9, seed=3, choices=("yes", "no")), is_verbose=True)
    assert shown(engine, Conversation(), settings) == [
        ("context", "0 of 4096 tokens used, 0 of them by clips; 4096 left"),
        ("looked at", "0 clips since the start"),
        ("temperature", "0.7"),
        ("top-p", "0.9"),
        ("seed", "3"),
        ("max-new-tokens", "512"),
        ("guard", "on"),
        ("choices", "yes,no"),
        ("calibrate", "off"),
        ("verbose", "on"),
        ("model", engine.tokens.checkpoint.model),
        ("device", "cpu: A test."),
        ("dtype", "float32: A test."),
        ("quantisation", "none: A test."),
        ("attention", "sdpa: A test."),
        ("kept in", "here.jsonl"),
    ]


def test_each_turn_has_its_counts_its_first_token_and_how_it_ended(engine: Engine) -> None:
    reasons: tuple[StopReason, ...] = ("end", "length", "interrupted")
    conversation = Conversation(turns=[turn(reason) for reason in reasons], dropped=1)
    counts = "20 prompt tokens (5 reused), 3 new, 4.0 tokens/s; first token 0.46 s"
    assert shown(engine, conversation)[1:4] == [
        ("turn 1", f"{counts}; no longer in the context"),
        ("turn 2", f"{counts}; length"),
        ("turn 3", f"{counts}; interrupted"),
    ]


def test_a_revision_is_part_of_the_model(engine: Engine) -> None:
    checkpoint = replace(engine.tokens.checkpoint, model="org/model", revision="0123abc")
    other = Engine(model=engine.model, tokens=replace(engine.tokens, checkpoint=checkpoint), plan=engine.plan)
    assert ("model", "org/model, revision 0123abc") in shown(other, Conversation())


def test_clips_that_wait_and_those_of_dropped_turns_count(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/show").splitlines()[0].split(maxsplit=1) == [
        "context",
        "136 of 4096 tokens used, 136 of them by clips; 3960 left",
    ]
    for question in ("What happens in this video?", "And its colour?"):
        here.enter(question)
    used = here.talk.engine.tokens.used(here.talk.conversation)
    here.talk.conversation.dropped = 1
    less = here.talk.engine.tokens.used(here.talk.conversation)
    assert 136 < less < used
    assert (
        here.enter("/show")
        .splitlines()[0]
        .endswith(f"{less} of 4096 tokens used, 136 of them by clips; {4096 - less} left")
    )
    assert here.talk.left_tokens == 4096 - less


@pytest.mark.parametrize("calls", [1, 2])
def test_how_many_clips_were_looked_at(calls: int, stage: Make) -> None:
    names = [CLIP, "yellow-star.png"][:calls]
    here = stage(*names)
    here.enter("What shape is it?")
    (row,) = (line for line in here.enter("/show").splitlines() if line.startswith("looked at"))
    assert row.split(maxsplit=2)[2] == f"{calls} clip{'s' * (calls - 1)} since the start"


def test_before_the_first_answer_there_is_no_file(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/show").splitlines()[-1].split(maxsplit=2)[2] == "a file that begins with the first answer"
    here.enter("What shape is it?")
    assert here.enter("/show").splitlines()[-1].split(maxsplit=2)[2] == str(here.path)
