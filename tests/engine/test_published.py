"""The published checkpoint's layout: prompts have the ids of its own tokenizer file, and answers are generate's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests import published as layout
from tests.engine.batches import as_asked, crossed, run
from tests.engine.engines import FREE, ask, conversation_about, engine_like, engine_of, saying
from tests.published import write_published
from tests.reference import Reference, read_reference
from vllava_cli import demo
from vllava_cli.answers import (
    Conversation,
    Sampling,
    Stats,
    Turn,
)
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.tokens import Tokens, unobeyed
from vllava_cli.errors import OverflowedError

VIDEO, IMAGE = "<video>" * layout.TOKENS_PER_VIDEO, "<image>" * layout.TOKENS_PER_IMAGE
CIRCLE = next(path for path in demo.clips() if path.name == "red-circle-moves-left.mp4")
PICTURE = next(path for path in demo.clips() if path.suffix == ".png")
NO_STATS = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0, decode_s=0)


@pytest.fixture(scope="module")
def engine(published: Path) -> Engine:
    return engine_of(published)


@pytest.fixture(scope="module")
def reference(published: Path) -> Reference:
    return read_reference(published)


@pytest.fixture(scope="module")
def file(published: Path) -> Tokenizer:
    return Tokenizer.from_file(str(published / "tokenizer.json"))


def answered(conversation: Conversation, question: str, answer: str, tokens: Tokens) -> Conversation:
    """The conversation behind an answer that somebody gave."""
    turn = Turn(
        question=question,
        answer=answer,
        answer_ids=tokens.answer_ids(answer),
        media=conversation.attached,
        stop_reason="end",
        sampling=FREE,
        stats=NO_STATS,
    )
    return replace(conversation, attached=(), turns=[*conversation.turns, turn])


@pytest.mark.parametrize(
    ("paths", "question", "text"),
    [
        ([CIRCLE], "Why?", f"USER: {VIDEO}\nWhy? ASSISTANT:"),
        ([PICTURE], "Why?", f"USER: {IMAGE}\nWhy? ASSISTANT:"),
        ([CIRCLE, CIRCLE], "Why?", f"USER: {VIDEO}\n{VIDEO}\nWhy? ASSISTANT:"),
        ([PICTURE, CIRCLE], "Why?", f"USER: {IMAGE}\n{VIDEO}\nWhy? ASSISTANT:"),
        ([CIRCLE], "  What\n is  here? ", f"USER: {VIDEO}\nWhat\n is  here? ASSISTANT:"),
        ([CIRCLE], "Say </s> or <video>, <pad>", f"USER: {VIDEO}\nSay < /s> or < video>, < pad> ASSISTANT:"),
        ([], "Why?", "USER: Why? ASSISTANT:"),
    ],
)
def test_a_prompt_has_the_ids_that_the_tokenizer_file_gives(
    paths: list[Path], question: str, text: str, engine: Engine, file: Tokenizer
) -> None:
    ids = engine.tokens.prompt_ids(conversation_about(*paths), question)
    assert ids == file.encode(text).ids


def test_later_turns_have_the_ids_that_the_tokenizer_file_gives(engine: Engine, file: Tokenizer) -> None:
    tokens = engine.tokens
    talk = answered(conversation_about(CIRCLE), "Why?", "A red circle.", tokens)
    talk = replace(answered(talk, "Where?", "Left.", tokens), attached=conversation_about(PICTURE).attached)
    text = f"USER: {VIDEO}\nWhy? ASSISTANT: A red circle. USER: Where? ASSISTANT: Left."
    text += f" USER: {IMAGE}\nAnd here? ASSISTANT:"
    assert tokens.prompt_ids(talk, "And here?") == file.encode(text).ids


def test_the_lone_space_stands_behind_each_placeholder(engine: Engine, file: Tokenizer) -> None:
    """As in training, and as transformers' own tests of the published checkpoint have it: … 32001 29871 13 …"""
    space, line = file.token_to_id("▁"), file.token_to_id("<0x0A>")
    ids = engine.tokens.prompt_ids(conversation_about(PICTURE, CIRCLE), "Why?")
    for placeholder in (layout.IMAGE, layout.VIDEO):
        last = len(ids) - ids[::-1].index(placeholder)
        assert ids[last : last + 2] == [space, line]
        assert ids[ids.index(placeholder) - 1] == (space if placeholder == layout.IMAGE else line)


@pytest.mark.parametrize(
    ("videos", "images", "text"),
    [
        ([CIRCLE], [], f"USER: {VIDEO}\nWhy? ASSISTANT:"),
        ([], [PICTURE], f"USER: {IMAGE}\nWhy? ASSISTANT:"),
        ([CIRCLE], [PICTURE], f"USER: {IMAGE}\n{VIDEO}\nWhy? ASSISTANT:"),
    ],
)
def test_answers_are_those_of_generate(
    videos: list[Path], images: list[Path], text: str, engine: Engine, reference: Reference
) -> None:
    conversation = conversation_about(*images, *videos)
    ask(engine, conversation, "Why?")
    assert list(conversation.turns[0].answer_ids) == reference.answer(
        text, videos=videos, images=images, max_new_tokens=FREE.max_new_tokens
    )


def test_rows_without_a_token_never_come(engine: Engine) -> None:
    rows = {*range(layout.PAD + 1, layout.ROWS)}
    assert len(rows) == 61
    assert {*engine.tokens.banned_ids} == rows | {layout.IMAGE, layout.VIDEO, layout.PAD}
    hot = Sampling(max_new_tokens=200, temperature=2.0, seed=1, has_guard=False)
    conversation = conversation_about(CIRCLE)
    ask(engine, conversation, "Why?", hot)
    rows_at_once = run(engine, hot, as_asked(crossed(conversation.media, ("Why?", "Where?"))))
    drawn = {*conversation.turns[0].answer_ids}
    assert len(drawn) > 80
    assert not drawn & {*engine.tokens.banned_ids}
    produced = [token for each in rows_at_once.found.values() if each.answer for token in each.answer.ids]
    assert len(produced) > 100
    assert not {*produced} & {*engine.tokens.banned_ids}


def test_a_stray_letter_is_no_part_of_an_answer_nor_of_the_next_prompt(engine: Engine, file: Tokenizer) -> None:
    before, after = file.encode(" A dog.", add_special_tokens=False).ids, file.encode(" Yes.").ids[1:]
    conversation = conversation_about(CIRCLE)
    with saying(engine, *before, file.token_to_id("Ъ"), *after, file.token_to_id("Ъ")):
        answer = ask(engine, conversation, "Why?", Sampling(max_new_tokens=60))
    assert (answer.text, answer.stop_reason) == (file.decode([*before, *after]), "end")
    assert (answer.stats.stray_tokens, answer.stats.new_tokens) == (2, len(before + after) + 2)
    assert conversation.turns[0].answer_ids == (*before, *after)
    prompt = engine.tokens.prompt_ids(conversation, "Where?")
    assert file.token_to_id("Ъ") not in prompt
    later = ask(engine, conversation, "Where?")
    fresh = engine_like(engine)
    again = replace(conversation, turns=conversation.turns[:1])
    assert ask(fresh, again, "Where?").text == later.text


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Its last norm is no number."""
    folder = write_published(tmp_path_factory.mktemp("broken") / "checkpoint")
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if "language_model.model.norm.weight" in tensors:
            tensors["language_model.model.norm.weight"].fill_(float("nan"))
            save_file(tensors, shard, metadata={"format": "pt"})
    return engine_of(folder)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=1.0, seed=1), Sampling(choices=("yes", "no"))],
    ids=["greedy", "sampled", "choices"],
)
def test_numbers_that_overflow_are_an_error_and_no_empty_answer(sampling: Sampling, broken: Engine) -> None:
    conversation = conversation_about(CIRCLE)
    with pytest.raises(OverflowedError, match="try --precision bf16 or fp32"):
        ask(broken, conversation, "Why?", sampling)
    assert conversation.turns == []
    rows = run(broken, sampling, as_asked(crossed(conversation.media, ("Why?", "Where?"))))
    assert rows.said == {}
    assert {type(fault) for fault in rows.faults.values()} == {OverflowedError}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"repetition_penalty": 1.1, "eos_token_id": 2}, ("repetition_penalty 1.1",)),
        ({"do_sample": True, "temperature": 0.9, "top_p": 0.6}, ("do_sample True", "temperature 0.9", "top_p 0.6")),
        ({"do_sample": False, "temperature": 1.0, "top_k": 50, "repetition_penalty": 1.0, "num_beams": None}, ()),
        ({}, ()),
    ],
)
def test_sampling_settings_that_are_not_obeyed_are_known(settings: dict[str, object], told: tuple[str, ...]) -> None:
    assert unobeyed(settings) == told
