"""A conversation is asked, undone, edited, retried and interrupted: each answer is that of a full prefill of its ids.

The yardstick is transformers' own forward pass over the whole prompt with its pixels, no cache, no chunks.
"""

from __future__ import annotations

import itertools

import pytest

from tests.engine.engines import FREE as GREEDY
from tests.engine.engines import PATHS, ask
from tests.engine.stories import QUESTIONS, Story
from tests.reference import Reference
from vllava_cli.answers import Conversation
from vllava_cli.engine.generate import Engine
from vllava_cli.interrupt import Cancel
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing

SEQUENCES = 200


@pytest.fixture(scope="module")
def shown() -> dict[str, Frames]:
    return {name: sample(path, Framing()) for name, path in PATHS.items()}


@pytest.mark.parametrize("block", range(10))
def test_whatever_happens_each_answer_is_that_of_a_full_prefill(
    block: int, engine: Engine, reference: Reference, shown: dict[str, Frames]
) -> None:
    for seed in range(block * SEQUENCES // 10, (block + 1) * SEQUENCES // 10):
        engine.prompt_cache = None
        engine.vision.forget()
        story = Story(engine, reference, shown, seed)
        for _ in range(5):
            story.go_on()


def test_each_turn_prefills_only_what_it_adds(engine: Engine, shown: dict[str, Frames]) -> None:
    engine.prompt_cache = None
    conversation = Conversation(attached=(shown["red-circle-moves-left.mp4"],))
    finished = 0
    for question in QUESTIONS[:5]:
        answer = ask(engine, conversation, question, GREEDY)
        assert answer.stop_reason == "end"
        assert answer.stats.reused_tokens == finished
        finished = len(engine.tokens.finished_ids(conversation))


def holds(engine: Engine, tokens: int) -> bool:
    """Whether the last layer of the cache has as many tokens."""
    return bool(engine.prompt_cache and len(engine.prompt_cache.cache.layers[-1]) >= tokens)


def test_a_clip_that_was_interrupted_in_prefill_is_taken_up_where_it_stopped(
    engine: Engine, shown: dict[str, Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllava_cli.engine.forward.SMALL_CHUNK_TOKENS", 50)  # 136 placeholders take three chunks
    engine.prompt_cache = None
    engine.vision.forget()
    conversation = Conversation(attached=(shown["two-shapes.png"], shown["three-shapes.mp4"]))
    first = ask(engine, conversation, "How many?", GREEDY, cancel=Cancel(lambda: holds(engine, 100)))
    conversation.cut(0)
    second = ask(engine, conversation, "How many?", GREEDY)
    assert (first.stop_reason, first.stats.tower_calls) == ("interrupted", 2)
    assert (second.stats.reused_tokens, second.stats.tower_calls) == (100, 0)
    engine.prompt_cache = None
    whole = ask(engine, Conversation(attached=conversation.turns[0].media), "How many?", GREEDY)
    assert second.text == whole.text


def test_a_clip_opened_again_is_not_looked_at_again(engine: Engine, shown: dict[str, Frames]) -> None:
    engine.vision.forget()
    clip, other = shown["three-shapes.mp4"], shown["blue-star-grows.mp4"]
    calls = [
        ask(engine, Conversation(attached=(medium,)), "What is it?", GREEDY).stats.tower_calls
        for medium in (clip, other, clip)
    ]
    assert calls == [1, 1, 0]
    padded = Conversation(attached=(clip,), fit="pad")
    assert ask(engine, padded, "What is it?", GREEDY).stats.tower_calls == 1


def test_what_the_cache_holds_needs_no_second_look_even_if_it_was_forgotten(
    engine: Engine, shown: dict[str, Frames]
) -> None:
    engine.prompt_cache = None
    conversation = Conversation(attached=(shown["three-shapes.mp4"],))
    ask(engine, conversation, "How many?", GREEDY)
    engine.vision.forget()
    conversation.attached = (shown["blue-star-grows.mp4"],)
    assert ask(engine, conversation, "And here?", GREEDY).stats.tower_calls == 1


@pytest.mark.parametrize("passes", [1, 4], ids=["in prefill", "in decoding"])
def test_a_second_ctrl_c_in_the_middle_of_a_pass_costs_the_cache_and_nothing_else(
    passes: int, engine: Engine, shown: dict[str, Frames]
) -> None:
    """Some layers have the tokens of that pass then, others don't."""
    engine.prompt_cache = None
    conversation = Conversation(attached=(shown["three-shapes.mp4"],))
    ask(engine, conversation, "How many shapes are there?", GREEDY)
    left = itertools.chain(itertools.repeat(True, passes - 1), [False])

    def break_off(*_: object) -> None:
        if not next(left):
            raise KeyboardInterrupt

    hook = engine.llama.blocks[-1].register_forward_pre_hook(break_off)
    with pytest.raises(KeyboardInterrupt):
        ask(engine, conversation, "Tell me more about the shapes.", GREEDY)
    hook.remove()
    assert (len(conversation.turns), conversation.turns[1].stop_reason) == (2, "interrupted")
    assert engine.prompt_cache is None
    after_it = ask(engine, conversation, "And its colour?", GREEDY)
    assert (after_it.stats.reused_tokens, after_it.stats.tower_calls) == (0, 0)
    fresh = Conversation(turns=conversation.turns[:2])
    engine.prompt_cache = None
    ask(engine, fresh, "And its colour?", GREEDY)
    assert fresh.turns[2].answer_ids == conversation.turns[2].answer_ids
