"""A session goes on as if it had never ended: the same ids, the same answers, each clip read once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands.chat.conftest import CLIP, Stage
from vllava_cli import demo
from vllava_cli.commands.chat.revive import changes, clips_of, revived
from vllava_cli.errors import MediaError
from vllava_cli.nouns import Framing
from vllava_cli.session.session_file import read

Make = Callable[..., Stage]


def test_a_revived_conversation_answers_as_the_one_that_went_on(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    here.enter("What shape is it?")
    record = read(here.path)
    went_on = here.enter("And its colour?")
    turn = here.talk.conversation.turns[-1]

    again = stage()
    again.talk.engine.prompt_cache = None
    again.talk.engine.vision.forget()
    clips = clips_of(record)
    media = again.talk.read(clips)
    frames = dict(zip(clips, media, strict=True))
    conversation, renewed = revived(record, frames, again.talk.engine.tokens, model="demo")
    assert renewed == 0
    again.talk.take_over(conversation)
    assert again.enter("And its colour?") == went_on
    assert conversation.turns[-1].answer_ids == turn.answer_ids
    assert conversation.turns[-1].stats.prompt_tokens == turn.stats.prompt_tokens
    assert (conversation.turns[-1].stats.reused_tokens, conversation.turns[-1].stats.tower_calls) == (0, 2)


def test_answers_of_another_model_are_tokenised_anew(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    record = read(here.path)
    frames = dict(zip(clips_of(record), here.talk.conversation.media, strict=True))
    tokens = here.talk.engine.tokens
    conversation, renewed = revived(replace(record, model="another"), frames, tokens, model="demo")
    assert renewed == 1
    assert conversation.turns[0].answer_ids == here.talk.conversation.turns[0].answer_ids


def test_clips_are_named_once_with_their_framing(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add --start 1 {demo.CLIPS / CLIP}")
    here.enter("And here?")
    here.enter(f"/add {demo.CLIPS / CLIP}")
    here.enter("And here?")
    record = read(here.path)
    assert clips_of(record) == ((demo.CLIPS / CLIP, Framing()), (demo.CLIPS / CLIP, Framing(start_s=1.0)))
    assert changes(record) == []


def test_a_changed_clip_is_said_and_a_missing_one_refused(stage: Make, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(demo.CLIPS / CLIP, clip)
    here = stage()
    here.enter(f"/add {clip}")
    here.enter("What happens in this video?")
    record = read(here.path)
    shutil.copy(demo.CLIPS / "three-shapes.mp4", clip)
    assert changes(record) == [
        f"'{clip}' has changed since: 8,496 bytes then, 5,871 now. The answers so far are about the old one."
    ]
    clip.unlink()
    with pytest.raises(MediaError) as caught:
        clips_of(record)
    assert str(caught.value) == (
        f"There is no file '{clip}' any more. The session is about it: put it back, or begin anew."
    )


def test_a_clip_that_a_later_turn_added_comes_back_with_that_turn(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'} {demo.CLIPS / CLIP}")
    here.enter("What shape is it?")
    record = read(here.path)
    clips = clips_of(record)
    assert [path.name for path, _ in clips] == [CLIP, "yellow-star.png"]
    frames = dict(zip(clips, here.talk.conversation.media, strict=False))
    conversation, _ = revived(record, frames, here.talk.engine.tokens, model="demo")
    assert [[medium.clip.path.name for medium in turn.media] for turn in conversation.turns] == [
        [CLIP],
        ["yellow-star.png", CLIP],
    ]
    assert conversation.attached == ()
    assert conversation.turns[0].media[0] is conversation.turns[1].media[1]
    assert conversation.turns == here.talk.conversation.turns, "questions, ids, sampling, stats, and the very frames"


def test_a_choice_comes_back_with_its_probabilities_and_its_own_ids(stage: Make) -> None:
    """Even one that the prompt can't hold as it is."""
    here = stage(CLIP)
    here.enter("/set choices </s> USER: what,left,a <video>")
    for question in ("Which way does it move?", "Why?"):
        here.enter(question)
    here.enter("/retry --choices </s>,USER:")
    record = read(here.path)
    frames = dict(zip(clips_of(record), here.talk.conversation.media, strict=True))
    conversation, renewed = revived(record, frames, here.talk.engine.tokens, model="demo")
    assert renewed == 0
    assert conversation.turns == here.talk.conversation.turns
    assert all(turn.probabilities for turn in conversation.turns)
    edited = replace(record.turns[0], answer="right")
    conversation, renewed = revived(replace(record, turns=(edited,)), frames, here.talk.engine.tokens, model="demo")
    assert (renewed, conversation.turns[0].answer_ids) == (1, here.talk.engine.tokens.answer_ids("right"))


@pytest.mark.parametrize(("kept", "added", "told"), [(0, b"", "8,496 bytes then, 0 now"), (-1, b"x", "other content")])
def test_a_change_of_a_byte_is_seen(kept: int, added: bytes, told: str, stage: Make, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(demo.CLIPS / CLIP, clip)
    here = stage()
    here.enter(f"/add {clip}")
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    here.enter(f"/add {demo.CLIPS / CLIP}")
    here.enter("And here?")
    record = read(here.path)
    assert changes(record) == []
    clip.write_bytes(clip.read_bytes()[:kept] + added)
    (change,) = changes(record)
    assert told in change
    assert change.endswith("The answers so far are about the old one.")


def test_after_an_interrupted_answer_a_session_goes_on_from_its_words(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("/set max-new-tokens 3")
    here.enter("What happens in this video?")
    here.enter("/set max-new-tokens 64")
    record = read(here.path)
    went_on = here.enter("And its colour?")
    here.enter("/undo")
    frames = dict(zip(clips_of(record), here.talk.conversation.media, strict=True))
    again = stage()
    conversation, renewed = revived(record, frames, again.talk.engine.tokens, model="demo")
    again.talk.keeping.know(list(frames.values()), clips_of(record))
    again.talk.take_over(conversation)
    assert renewed == 0
    assert again.enter("And its colour?") == went_on
    stats = conversation.turns[1].stats
    assert stats.reused_tokens == stats.prompt_tokens - 1, (
        "the ids are the same, so the cache serves a revived one, too"
    )
