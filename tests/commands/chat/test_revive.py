"""A session goes on as if it had never ended: the same ids, the same answers, each clip read once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands.chat.conftest import Stage
from vllava_cli import demo
from vllava_cli.commands.chat.revive import changes, clips_of, revived
from vllava_cli.errors import MediaError
from vllava_cli.nouns import Framing
from vllava_cli.session import read

Make = Callable[..., Stage]
CLIP = "red-circle-moves-left.mp4"


def test_a_revived_conversation_answers_as_the_one_that_went_on(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    here.enter("What shape is it?")
    record = read(here.path)
    went_on = here.enter("And its colour?")
    turn = here.talk.conversation.turns[-1]

    again = stage()
    again.talk.engine.memory = None
    again.talk.engine.sight.forget()
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
