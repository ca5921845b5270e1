"""A row of a batch has the logits that it would have alone, and there are as many rows as the memory has room for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest
import torch
from torch import Tensor

from tests.engine.batches import QUESTIONS
from tests.engine.engines import engine_like, their_model
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.batch import (
    ANSWER_TOKENS,
    CPU_PASS_TOKENS,
    MOST_ON_CPU,
    rows_at_once,
    rows_in,
    rows_that_fit,
)
from vllava_cli.engine.decode_batch import DecodeBatch, read_prefixes
from vllava_cli.engine.forward import embed, free_bytes
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import SPARE_TOKENS, KVCache, PreallocatedCacheLayer
from vllava_cli.nouns import Frames

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
LONG = " ".join(["and what else is there to see"] * 16)
ASKED = (*QUESTIONS[:6], LONG)


def prompt_of(engine: Engine, medium: Frames, question: str) -> tuple[int, ...]:
    return tuple(engine.tokens.prompt_ids(Conversation(attached=(medium,)), question))


def prefixes_of(engine: Engine, media: Sequence[Frames]) -> list[KVCache]:
    beginnings = [engine.tokens.known_ids(Conversation(attached=(medium,))) for medium in media]
    features = [{medium.kind: engine.vision.features(medium, "crop")} for medium in media]
    embedded = [embed(engine.llama, *each, engine.tokens) for each in zip(beginnings, features, strict=True)]
    return read_prefixes(engine.llama, embedded)


def batch_of(engine: Engine, prompts: Sequence[tuple[Frames, tuple[int, ...]]]) -> DecodeBatch:
    prefixes = prefixes_of(engine, [medium for medium, _ in prompts])
    rests = [ids[len(prefix) :] for prefix, (_, ids) in zip(prefixes, prompts, strict=True)]
    return DecodeBatch.of(engine.llama, prefixes, rests)


def test_a_beginning_is_read_into_the_cache_and_nothing_else_of_the_last_layer_is_computed(
    random_engine: Engine,
) -> None:
    ended: list[bool] = []
    with torch.inference_mode():
        inputs = torch.randn(2, 40, random_engine.llama.embedded(torch.tensor([[1]])).shape[-1])
        whole = KVCache(len(random_engine.llama.blocks))
        random_engine.llama(inputs, whole.layers)
        hook = random_engine.llama.blocks[-1].register_forward_hook(lambda _, given, out: ended.append(out is given[0]))
        prefixes = read_prefixes(random_engine.llama, inputs.split(1))
        hook.remove()
    assert ended == [True]
    for row, prefix in enumerate(prefixes):
        for found, expected in zip(prefix.layers, whole.layers, strict=True):
            assert torch.equal(found.keys, expected.keys[row : row + 1])
            assert torch.equal(found.values, expected.values[row : row + 1])


@torch.inference_mode()
def alone(engine: Engine, medium: Frames, ids: Sequence[int]) -> Tensor:
    """The logits [vocabulary] behind these ids in one pass without a cache."""
    embeddings = embed(engine.llama, list(ids), {medium.kind: engine.vision.features(medium, "crop")}, engine.tokens)
    model = their_model(engine)
    hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False)[0]
    logits: Tensor = model.lm_head(hidden[0, -1])
    return logits


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_come_and_go_change_no_others_logits(
    seed: int, random_engine: Engine, media: tuple[Frames, ...]
) -> None:
    chance = random.Random(seed)

    def newcomers() -> list[tuple[Frames, tuple[int, ...]]]:
        kind = chance.choice(["video", "image"])
        some = chance.choices([medium for medium in media[:6] if medium.kind == kind], k=chance.randint(1, 4))
        return [(medium, prompt_of(random_engine, medium, chance.choice(ASKED))) for medium in some]

    fed = newcomers()
    batch = batch_of(random_engine, fed)
    for _ in range(24):
        happens = chance.choice(["step", "step", "join", "leave"])
        if happens == "step":
            new = [chance.randrange(10, 300) for _ in fed]
            batch.step(new)
            fed = [(medium, (*ids, token)) for (medium, ids), token in zip(fed, new, strict=True)]
        elif happens == "join":
            others = newcomers()
            batch.join(batch_of(random_engine, others))
            fed += others
        else:  # those who stay may stand in another order
            staying = chance.sample(range(len(fed)), chance.randint(1, len(fed)))
            batch.leave(staying)
            fed = [fed[number] for number in staying]
        wanted = torch.stack([alone(random_engine, medium, ids) for medium, ids in fed])
        assert len(batch) == len(fed)
        assert float((batch.logits - wanted).abs().max()) < 1e-4
        assert batch.is_used.sum(1).tolist() == [len(ids) for _, ids in fed]
        assert len(batch.cache) == batch.is_used.shape[1]


def test_columns_that_nobody_needs_go_with_the_row_that_did(random_engine: Engine, media: tuple[Frames, ...]) -> None:
    prompts = [(media[0], prompt_of(random_engine, media[0], question)) for question in ("Why?", LONG, "Where is it?")]
    short, long, other = (len(ids) for _, ids in prompts)
    batch = batch_of(random_engine, prompts[:2])
    batch.join(batch_of(random_engine, prompts[2:]))
    batch.leave([0, 1])
    assert batch.is_used.shape[1] == long
    batch.join(batch_of(random_engine, prompts[2:]))
    batch.leave([2])
    assert (batch.is_used.shape[1], len(batch.cache)) == (other, other)
    assert short < other < long
    assert bool(batch.is_used.all())


def test_prefixes_that_are_read_together_are_those_of_each_alone_and_stay_as_they_are(
    random_engine: Engine, media: tuple[Frames, ...]
) -> None:
    videos = [medium for medium in media if medium.kind == "video"][:4]
    together = prefixes_of(random_engine, videos)
    singly = [prefix for medium in videos for prefix in prefixes_of(random_engine, [medium])]
    before = [(layer.keys.clone(), layer.values.clone()) for prefix in together for layer in prefix.layers]
    for one, other in zip(together, singly, strict=True):
        for mine, theirs in zip(one.layers, other.layers, strict=True):
            assert torch.allclose(mine.keys, theirs.keys, atol=1e-5)
            assert torch.allclose(mine.values, theirs.values, atol=1e-5)
    rest = prompt_of(random_engine, videos[0], "Why?")[len(together[0]) :]
    for _ in range(2):
        DecodeBatch.of(random_engine.llama, together, [rest] * 4).step([20] * 4)
    layers = [layer for prefix in together for layer in prefix.layers]
    for layer, (keys, values) in zip(layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


@pytest.mark.parametrize(("length", "rows"), [(1, CPU_PASS_TOKENS), (136, 15), (2048, 1), (2049, 1), (99_999, 1)])
def test_a_pass_reads_so_many_rows_and_never_none(length: int, rows: int, random_engine: Engine) -> None:
    assert rows_at_once(random_engine.llama, length) == rows


@pytest.mark.parametrize(
    ("free", "row_bytes", "most", "wanted"),
    [(-5, 2, 64, 1), (1000, 2, 64, 64), (100, 0, 64, 64), (100, 10, 64, 7), (99, 10, 64, 6), (100, 1000, 64, 1)],
)
def test_seven_tenths_of_what_is_free_are_filled(free: int, row_bytes: int, most: int, wanted: int) -> None:
    assert rows_in(free, row_bytes, most=most) == wanted


def test_what_is_free_of_this_machines_memory_is_some_of_it() -> None:
    assert 0 < free_bytes("cpu") < psutil.virtual_memory().total


def holding(engine: Engine, tokens: int, *, context: int) -> Engine:
    """An engine of whose KV cache about so many tokens are free."""
    values = free_bytes("cpu") // (tokens * 4)
    checkpoint = replace(engine.tokens.checkpoint, cache_values_per_token=values)
    return engine_like(engine, checkpoint=checkpoint, context_tokens=context)


ROW = 136 + 100 + ANSWER_TOKENS
"""A video, the longest question, an answer."""


@pytest.mark.parametrize(
    ("tokens", "context", "new_tokens", "characters", "rows"),
    [
        (20 * ROW, 1024, 512, 100, range(12, 17)),
        (20 * ROW, 1024, 512, 100 + ROW, range(6, 9)),
        (20 * ROW, 1024, 1, 10, range(25, 33)),
        (20 * 200, 200, 512, 10**6, range(12, 17)),
        (1, 1024, 512, 10, range(1, 2)),
        (10**6, 1024, 512, 10, range(MOST_ON_CPU, MOST_ON_CPU + 1)),
    ],
    ids=["as it is", "longer questions", "short answers", "a short context", "hardly any memory", "much memory"],
)
def test_as_many_rows_are_answered_as_the_memory_holds(
    tokens: int, context: int, new_tokens: int, characters: int, rows: range, demo_engine: Engine
) -> None:
    engine = holding(demo_engine, tokens, context=context)
    assert rows_that_fit(engine, Sampling(max_new_tokens=new_tokens), question_characters=characters) in rows


def test_a_step_copies_its_own_token_alone_until_the_capacity_is_used_up() -> None:
    layer = PreallocatedCacheLayer()
    layer.update(*torch.randn(2, 2, 2, 10, 3))
    places = []
    for _ in range(SPARE_TOKENS + 1):
        layer.update(*torch.randn(2, 2, 2, 1, 3))
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(set(places[:-1])) == 1
    assert all(last != first for last, first in zip(places[-1], places[0], strict=True))
