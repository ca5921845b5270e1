"""Decoding over a cache that doesn't move says what decoding over a growing one does, also a token ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.engines import ask, engine_like
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.cuda_graph import PART_TOKENS, CudaGraphDecoder
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Frames

HAS_CUDA = torch.cuda.is_available()
QUESTIONS = ("What happens in this video?", "And its colour?", "Tell me more about it.")
LONG = Sampling(max_new_tokens=200, has_guard=False)
DRAWN = Sampling(max_new_tokens=60, has_guard=False, temperature=1.5, top_p=0.9, seed=7)


def static(engine: Engine, *, runs_ahead: bool) -> Engine:
    """The same model as on a GPU: over a cache that doesn't move."""
    made = engine_like(engine)
    made.is_static, made.runs_ahead = True, runs_ahead
    return made


def talk(engine: Engine, medium: Frames, sampling: Sampling) -> list[tuple[str, str, tuple[int, ...], int]]:
    """What each turn of a conversation said, how it ended, its ids and how many ids were reused."""
    engine.prompt_cache = None
    conversation = Conversation(attached=(medium,))
    said = [ask(engine, conversation, question, sampling) for question in QUESTIONS]
    ids = [turn.answer_ids for turn in conversation.turns]
    return [
        (answer.text, answer.stop_reason, turn, answer.stats.reused_tokens)
        for answer, turn in zip(said, ids, strict=True)
    ]


@pytest.mark.parametrize("runs_ahead", [False, True], ids=["in step", "a token ahead"])
@pytest.mark.parametrize("sampling", [LONG, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["demo_engine", "random_engine", "ending_engine"])
def test_a_conversation_is_the_same(
    name: str, sampling: Sampling, runs_ahead: bool, media: tuple[Frames, ...], request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(name)
    wanted = talk(engine, media[0], sampling)
    found = talk(static(engine, runs_ahead=runs_ahead), media[0], sampling)
    # Of an answer that its length ended, the device that runs ahead has read the last token as well.
    ahead = [0, *(int(runs_ahead and stop != "end") for _, stop, _, _ in wanted[:-1])]
    assert found == [(*turn[:3], turn[3] + more) for turn, more in zip(wanted, ahead, strict=True)]


@pytest.mark.parametrize("runs_ahead", [False, True], ids=["in step", "a token ahead"])
def test_the_last_token_that_has_room_comes(runs_ahead: bool, random_engine: Engine, media: tuple[Frames, ...]) -> None:
    """No step goes beyond the context, where the room ends."""
    engine = static(engine_like(random_engine, context_tokens=PART_TOKENS), runs_ahead=runs_ahead)
    answer = ask(engine, Conversation(attached=(media[0],)), "Why?", replace(LONG, max_new_tokens=999))
    assert answer.stop_reason == "context"
    assert answer.stats.prompt_tokens + answer.stats.new_tokens == PART_TOKENS
    assert engine.prompt_cache
    assert engine.prompt_cache.cache.layers[0].capacity == PART_TOKENS


def test_what_an_abandoned_answer_read_is_known(demo_engine: Engine, media: tuple[Frames, ...]) -> None:
    engine = static(demo_engine, runs_ahead=True)
    conversation = Conversation(attached=(media[0],))
    pieces = engine.stream(conversation, QUESTIONS[0], LONG)
    next(pieces)
    pieces.close()
    assert engine.prompt_cache
    assert len(engine.prompt_cache.cache) == len(engine.prompt_cache.ids)
    said = ask(engine, conversation, QUESTIONS[1], LONG)
    demo_engine.prompt_cache = None
    before = Conversation(turns=conversation.turns[:-1])
    assert ask(demo_engine, before, QUESTIONS[1], LONG).text == said.text


def test_the_room_stays_for_the_next_conversation(demo_engine: Engine, media: tuple[Frames, ...]) -> None:
    engine = static(demo_engine, runs_ahead=False)
    places = []
    for medium in media[:1] * 2:
        engine.prompt_cache = None  # as bench does
        ask(engine, Conversation(attached=(medium,)), QUESTIONS[0], LONG)
        assert engine.prompt_cache
        places.append(engine.prompt_cache.cache.layers[0].buffers[0].data_ptr())
    assert places[0] == places[1]


def test_a_pass_that_breaks_off_costs_the_room(demo_engine: Engine, media: tuple[Frames, ...]) -> None:
    engine = static(demo_engine, runs_ahead=False)

    def fail(*_: object) -> None:
        raise ValueError("no pass today")

    hook = engine.llama.blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="no pass today"):
        ask(engine, Conversation(attached=(media[0],)), QUESTIONS[0], LONG)
    hook.remove()
    with pytest.raises(RuntimeError, match="without a prefill"):
        engine.step(torch.zeros(1, dtype=torch.long), 0)
    talk(engine, media[0], LONG)


class FakeRecorder:
    """Records a step as the function itself; what it gives is `changed`."""

    def __init__(self, changed: Callable[[Tensor], Tensor]) -> None:
        self.changed, self.recorded = changed, 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self.recorded += 1
        result = self.changed(run()).clone()
        return lambda: result.copy_(self.changed(run())), result


@pytest.mark.parametrize(
    ("changed", "is_right"),
    [
        (lambda logits: logits, True),
        (lambda logits: logits + 1e-6 * logits.abs().max(), True),
        (lambda logits: logits.roll(1), False),
        (lambda logits: logits * float("nan"), False),
    ],
    ids=["the same", "another rounding", "others", "no numbers"],
)
def test_captured_steps_are_used_only_where_they_give_the_plain_ones_numbers(
    changed: Callable[[Tensor], Tensor], is_right: bool, media: tuple[Frames, ...], demo_engine: Engine
) -> None:
    wanted = talk(demo_engine, media[0], LONG)
    engine, told, recorder = static(demo_engine, runs_ahead=False), list[str](), FakeRecorder(changed)
    steps = CudaGraphDecoder(engine.llama, engine._emptied(), record=recorder, notice=told.append)
    engine.graph = steps
    assert talk(engine, media[0], LONG) == wanted
    assert bool(steps.graphs) == is_right
    assert len(told) == (0 if is_right else 1)
    assert recorder.recorded == (len(steps.graphs) if is_right else 1)


@pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")
@pytest.mark.gpu
def test_captured_steps_say_the_same(demo_engine: Engine, media: tuple[Frames, ...]) -> None:
    wanted = talk(demo_engine, media[0], LONG)
    model = demo_engine.model.to("cuda")
    try:
        plan = replace(demo_engine.plan, device="cuda:0")
        engine = Engine(model=model, tokens=demo_engine.tokens, plan=plan)
        assert [turn[:3] for turn in talk(engine, media[0], LONG)] == [turn[:3] for turn in wanted]
        assert engine.graph
        assert engine.graph.graphs
    finally:
        model.to("cpu")
