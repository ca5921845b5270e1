"""The engine's tokens are generate's tokens, however the prompt is made up, and its stream ends as promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.checkpoints import edit_json, write_checkpoint
from tests.clips import picture
from tests.engine.engines import FREE, ask, conversation_about, engine_of, expanded, new_ids
from tests.reference import Reference, read_reference
from vllava_cli import prompt
from vllava_cli.engine.cancel import Cancel
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.errors import ContextError
from vllava_cli.nouns import Answer, Conversation, Sampling, Source


@pytest.fixture(scope="module")
def engine(small_checkpoint: Path) -> Engine:
    return engine_of(small_checkpoint)


@pytest.fixture(scope="module")
def reference(small_checkpoint: Path) -> Reference:
    return read_reference(small_checkpoint)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(picture(9, 80, 60)).save(path)
    return path


MEDIA = {
    "a video": ["clip"],
    "a clip of five frames": ["other_clip"],
    "an image": ["photo"],
    "two videos": ["clip", "other_clip"],
    "image, video, image": ["photo", "clip", "photo"],
    "video, image": ["clip", "photo"],
}


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("question", ["what is in this clip", "a red circle?"])
def test_greedy_tokens_equal_generate(
    name: str, question: str, engine: Engine, reference: Reference, request: pytest.FixtureRequest
) -> None:
    paths: list[Path] = [request.getfixturevalue(each) for each in MEDIA[name]]
    conversation = conversation_about(*paths)
    kinds = [medium.kind for medium in conversation.media]
    made = new_ids(engine, conversation, question)
    wanted = reference.answer(
        expanded(engine, prompt.turn(question, kinds)),
        videos=[path for path, kind in zip(paths, kinds, strict=True) if kind == "video"],
        images=[path for path, kind in zip(paths, kinds, strict=True) if kind == "image"],
        max_new_tokens=24,
    )
    assert made == [token for token in wanted if token != 2]
    assert len(made) > 3


def test_later_turns_equal_a_full_prefill_and_reuse_the_cache(engine: Engine, clip: Path) -> None:
    conversation = conversation_about(clip)
    ask(engine, conversation, "what is in this clip")
    for question in ("and then", "a red circle?"):
        before = list(conversation.turns)
        finished = len(engine.tokens.finished_ids(conversation))
        answer = ask(engine, conversation, question)
        assert answer.stats.reused_tokens == finished - 1  # the last token of an answer cut short was never fed
        engine.prompt_cache = None
        fresh = Conversation(turns=before)
        again = ask(engine, fresh, question)
        assert again.stats.reused_tokens == 0
        assert fresh.turns[-1].answer_ids == conversation.turns[-1].answer_ids


def test_the_same_question_again_reuses_all_but_its_last_token(engine: Engine, clip: Path) -> None:
    """A cache that covered the whole prompt would leave nothing to feed, and the answer would be noise."""
    media = conversation_about(clip).media
    engine.prompt_cache = None
    first = ask(engine, Conversation(attached=media), "what is in this clip")
    again = ask(engine, Conversation(attached=media), "what is in this clip")
    other = ask(engine, Conversation(attached=media), "what is this")
    assert again.text == first.text
    assert again.stats.reused_tokens == again.stats.prompt_tokens - 1
    engine.prompt_cache = None
    assert ask(engine, Conversation(attached=media), "what is this").text == other.text


def test_another_clip_never_meets_the_old_cache(engine: Engine, clip: Path, other_clip: Path) -> None:
    first, second = conversation_about(clip), conversation_about(other_clip)
    ask(engine, first, "what is in this clip")
    mixed = new_ids(engine, second, "what is in this clip")
    engine.prompt_cache = None
    alone = new_ids(engine, conversation_about(other_clip), "what is in this clip")
    assert mixed == alone


def test_another_fit_never_meets_the_old_cache(engine: Engine, clip: Path) -> None:
    cropped = conversation_about(clip)
    padded = Conversation(attached=cropped.attached, fit="pad")
    ask(engine, cropped, "what is in this clip")
    mixed = ask(engine, padded, "what is in this clip")
    assert mixed.stats.reused_tokens < mixed.stats.prompt_tokens - engine.tokens.checkpoint.tokens_per_video
    engine.prompt_cache = None
    again = Conversation(attached=padded.media, fit="pad")
    ask(engine, again, "what is in this clip")
    assert again.turns[0].answer_ids == padded.turns[0].answer_ids


def test_the_conversation_remembers_the_turn(engine: Engine, clip: Path) -> None:
    conversation = conversation_about(clip)
    answer = ask(engine, conversation, "what")
    assert [(turn.question, turn.answer) for turn in conversation.turns] == [("what", answer.text)]
    assert answer.stop_reason == "length"
    assert answer.stats.new_tokens == 24
    assert answer.stats.prompt_tokens + 24 == len(engine.tokens.finished_ids(conversation))
    assert (conversation.attached, len(conversation.turns[0].media)) == ((), 1)


def test_an_interruption_keeps_what_was_said(engine: Engine, clip: Path) -> None:
    conversation = conversation_about(clip)
    whole = ask(engine, conversation_about(clip), "what")
    prompt_tokens = len(engine.tokens.prompt_ids(conversation, "what"))

    def is_interrupted() -> bool:
        return bool(engine.prompt_cache and len(engine.prompt_cache.ids) == prompt_tokens + 3)

    answer = Answer.of(engine.stream(conversation, "what", FREE, cancel=Cancel(is_interrupted)))
    assert answer.stop_reason == "interrupted"
    assert answer.stats.new_tokens == 4  # the last of them was not fed any more
    assert whole.text.startswith(answer.text)
    assert conversation.turns[0].answer == answer.text


def test_an_interruption_before_the_first_token_keeps_an_empty_turn(engine: Engine, clip: Path) -> None:
    engine.prompt_cache = None
    conversation = conversation_about(clip)
    answer = Answer.of(engine.stream(conversation, "what", FREE, cancel=Cancel(lambda: True)))
    assert (answer.text, answer.stop_reason, answer.stats.new_tokens) == ("", "interrupted", 0)
    assert (conversation.turns[0].answer_ids, conversation.turns[0].stats.tower_calls) == ((), 0)


def test_a_stream_that_is_dropped_keeps_its_turn(engine: Engine, clip: Path) -> None:
    conversation = conversation_about(clip)
    pieces = engine.stream(conversation, "what", FREE)
    first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert conversation.turns[0].answer == first.text


def test_the_guard_ends_a_loop(engine: Engine, clip: Path) -> None:
    looped = ask(engine, conversation_about(clip), "what", Sampling(max_new_tokens=200))
    assert looped.stop_reason == "repetition"
    assert looped.stats.new_tokens < 200
    free = ask(engine, conversation_about(clip), "what", Sampling(max_new_tokens=200, has_guard=False))
    assert free.stop_reason == "length"
    assert free.text.startswith(looped.text)


def favouring(engine: Engine, token: int) -> Callable[[], None]:
    """Makes a token the likeliest at every step; returns what undoes it."""
    weight = engine.model.lm_head.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        engine.model.lm_head.register_forward_hook(hook := Favour(token))

    def undo() -> None:
        with torch.no_grad():
            weight.copy_(before)
        hook.is_on = False

    return undo


class Favour:
    def __init__(self, token: int) -> None:
        self.token, self.is_on = token, True

    def __call__(self, _module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return (
            logits + torch.nn.functional.one_hot(torch.tensor(self.token), logits.shape[-1]) if self.is_on else logits
        )


@pytest.mark.parametrize("name", ["<video>", "<image>", "<pad>"])
def test_special_tokens_cannot_be_generated(name: str, engine: Engine, clip: Path) -> None:
    token = engine.tokens.tokenizer.id_of(name)
    assert token
    undo = favouring(engine, token)
    try:
        for sampling in (FREE, Sampling(max_new_tokens=24, temperature=1.0, seed=1, has_guard=False)):
            conversation = conversation_about(clip)
            ask(engine, conversation, "what", sampling)
            assert len(conversation.turns[0].answer_ids) == 24
            assert token not in conversation.turns[0].answer_ids
    finally:
        undo()


def test_the_end_token_ends_the_answer_without_being_text(engine: Engine, clip: Path) -> None:
    undo = favouring(engine, 2)
    try:
        answer = ask(engine, conversation_about(clip), "what")
    finally:
        undo()
    assert (answer.text, answer.stop_reason, answer.stats.new_tokens) == ("", "end", 0)


def test_a_seed_repeats_an_answer(engine: Engine, clip: Path) -> None:
    warm = Sampling(max_new_tokens=24, temperature=1.5, seed=7, has_guard=False)
    first = ask(engine, conversation_about(clip), "what", warm).text
    assert first == ask(engine, conversation_about(clip), "what", warm).text
    assert (
        first
        != ask(engine, conversation_about(clip), "what", Sampling(max_new_tokens=24, temperature=1.5, seed=8)).text
    )


def test_the_answer_ends_where_the_context_does(tmp_path: Path, clip: Path) -> None:
    tight = engine_of(write_checkpoint(tmp_path / "tight", context=64))
    conversation = conversation_about(clip)
    answer = ask(tight, conversation, "what", Sampling(max_new_tokens=100, has_guard=False))
    assert answer.stop_reason == "context"
    assert answer.stats.prompt_tokens + answer.stats.new_tokens == 64


def test_a_prompt_that_does_not_fit_is_refused_with_the_counts(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path / "tight", context=64)
    tokens = read_tokens(describe(Source(model="tight", folder=folder)))
    with pytest.raises(ContextError) as caught:
        tokens.prompt_ids(conversation_about(clip, clip), "what")
    assert str(caught.value) == (
        "The prompt has 92 tokens (80 for 2 videos, 12 for text), and the context holds 64: "
        "ask about fewer clips, or shorten the question."
    )
    with pytest.raises(ContextError) as caught:
        tokens.prompt_ids(conversation_about(clip), "what " * 1500)
    assert str(caught.value) == (
        "The prompt has 1,549 tokens (40 for 1 video, 1,509 for text), and the context holds 64: shorten the question."
    )


def test_several_stop_tokens_are_obeyed(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path / "stops")
    edit_json(folder / "generation_config.json", eos_token_id=[2, 7])
    engine = engine_of(folder)
    assert engine.tokens.stop_ids == {2, 7}
    undo = favouring(engine, 7)
    answer = ask(engine, conversation_about(clip), "what")
    undo()
    assert (answer.text, answer.stop_reason) == ("", "end")
