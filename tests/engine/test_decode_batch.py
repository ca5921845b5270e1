"""A row of a crowd has the logits that it would have alone, whatever is beside it and whoever came and left."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.engine.batches import QUESTIONS
from vllava_cli.engine.decode_batch import CPU_PASS_TOKENS, Crowd, Prefix, gathered, read_prefixes, rows_at_once
from vllava_cli.engine.forward import embed
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Conversation, Frames

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = " ".join(["and what else is there to see"] * 16)
ASKED = (*QUESTIONS[:6], LONG)


class Life:
    """A crowd that rows join and leave, and what each row has been fed."""

    def __init__(self, engine: Engine, media: Sequence[Frames], seed: int) -> None:
        self.random = random.Random(seed)
        self.engine, self.media = engine, media
        self.prompts: list[tuple[Frames, list[int]]] = []
        self.crowd = self._newcomers()

    def go_on(self) -> None:
        self.random.choice([self.step, self.step, self.join, self.leave])()

    def step(self) -> None:
        ids = [self.random.randrange(10, 300) for _ in self.prompts]
        self.crowd.step(ids)
        for (_, fed), token in zip(self.prompts, ids, strict=True):
            fed.append(token)

    def join(self) -> None:
        self.crowd.join(self._newcomers())

    def leave(self) -> None:
        """Those who stay may stand in another order."""
        staying = self.random.sample(range(len(self.prompts)), self.random.randint(1, len(self.prompts)))
        self.crowd.leave(staying)
        self.prompts = [self.prompts[number] for number in staying]

    def check(self) -> None:
        wanted = torch.stack([alone(self.engine, medium, fed) for medium, fed in self.prompts])
        assert len(self.crowd) == len(self.prompts)
        assert float((self.crowd.logits - wanted).abs().max()) < 1e-4
        assert self.crowd.is_held.sum(1).tolist() == [len(fed) for _, fed in self.prompts]
        assert self.crowd.cache.get_seq_length() == self.crowd.is_held.shape[1]

    def _newcomers(self) -> Crowd:
        kind = self.random.choice(["video", "image"])
        media = [medium for medium in self.media if medium.kind == kind]
        asked = [(self.random.choice(media), self.random.choice(ASKED)) for _ in range(self.random.randint(1, 4))]
        prompts = [(medium, prompt_of(self.engine, medium, question)) for medium, question in asked]
        self.prompts += [(medium, list(ids)) for medium, ids in prompts]
        return crowd_of(self.engine, prompts)


def prompt_of(engine: Engine, medium: Frames, question: str) -> tuple[int, ...]:
    return tuple(engine.tokens.prompt_ids(Conversation(attached=(medium,)), question))


def prefixes_of(engine: Engine, media: Sequence[Frames]) -> list[Prefix]:
    beginnings = [tuple(engine.tokens.known_ids(Conversation(attached=(medium,)))) for medium in media]
    seen = [{medium.kind: engine.sight.features(medium, "crop")} for medium in media]
    return read_prefixes(engine.llama, list(zip(beginnings, seen, strict=True)), engine.tokens)


def crowd_of(engine: Engine, prompts: Sequence[tuple[Frames, tuple[int, ...]]]) -> Crowd:
    prefixes = prefixes_of(engine, [medium for medium, _ in prompts])
    return gathered(engine.llama, [(prefix, ids) for prefix, (_, ids) in zip(prefixes, prompts, strict=True)])


@torch.inference_mode()
def alone(engine: Engine, medium: Frames, ids: Sequence[int]) -> Tensor:
    """The logits [vocabulary] behind these ids in one pass without a cache."""
    embeddings = embed(engine.llama, list(ids), {medium.kind: engine.sight.features(medium, "crop")}, engine.tokens)
    hidden = engine.model.model.language_model(inputs_embeds=embeddings, use_cache=False)[0]
    logits: Tensor = engine.model.lm_head(hidden[0, -1])
    return logits


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_come_and_go_change_no_others_logits(
    seed: int, random_engine: Engine, media: tuple[Frames, ...]
) -> None:
    life = Life(random_engine, media[:6], seed)
    for _ in range(24):
        life.go_on()
        life.check()


def test_the_same_holds_for_the_demo_model(demo_engine: Engine, media: tuple[Frames, ...]) -> None:
    life = Life(demo_engine, media[:4], 1)
    for happens in (life.join, life.step, life.leave, life.join, life.step):
        happens()
    life.check()


def test_columns_that_nobody_needs_go_with_the_row_that_did(random_engine: Engine, media: tuple[Frames, ...]) -> None:
    prompts = [(media[0], prompt_of(random_engine, media[0], question)) for question in ("Why?", LONG, "Where is it?")]
    short, long, other = (len(ids) for _, ids in prompts)
    crowd = crowd_of(random_engine, prompts[:2])
    crowd.join(crowd_of(random_engine, prompts[2:]))
    crowd.leave([0, 1])
    assert crowd.is_held.shape[1] == long
    crowd.join(crowd_of(random_engine, prompts[2:]))
    crowd.leave([2])
    assert (crowd.is_held.shape[1], crowd.cache.get_seq_length()) == (other, other)
    assert short < other < long
    assert bool(crowd.is_held.all())


def test_prefixes_that_are_read_together_are_those_of_each_alone_and_stay_as_they_are(
    random_engine: Engine, media: tuple[Frames, ...]
) -> None:
    videos = [medium for medium in media if medium.kind == "video"][:4]
    together = prefixes_of(random_engine, videos)
    singly = [prefix for medium in videos for prefix in prefixes_of(random_engine, [medium])]
    before = [(layer.keys.clone(), layer.values.clone()) for prefix in together for layer in prefix.cache.layers]
    for one, other in zip(together, singly, strict=True):
        assert one.ids == other.ids
        for mine, theirs in zip(one.cache.layers, other.cache.layers, strict=True):
            assert torch.allclose(mine.keys, theirs.keys, atol=1e-5)
            assert torch.allclose(mine.values, theirs.values, atol=1e-5)
    ids = prompt_of(random_engine, videos[0], "Why?")
    for _ in range(2):
        gathered(random_engine.llama, [(prefix, ids) for prefix in together]).step([20] * 4)
    layers = [layer for prefix in together for layer in prefix.cache.layers]
    for layer, (keys, values) in zip(layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_a_prompt_that_begins_otherwise_is_refused(random_engine: Engine, media: tuple[Frames, ...]) -> None:
    video, image = media[0], media[1]
    (prefix,) = prefixes_of(random_engine, [video])
    with pytest.raises(ValueError, match="a prompt doesn't begin with its prefix"):
        gathered(random_engine.llama, [(prefix, prompt_of(random_engine, image, "Why?"))])


@pytest.mark.parametrize(("length", "rows"), [(1, CPU_PASS_TOKENS), (136, 15), (2048, 1), (2049, 1), (99_999, 1)])
def test_a_pass_reads_so_many_rows_and_never_none(length: int, rows: int, random_engine: Engine) -> None:
    assert rows_at_once(random_engine.llama, length) == rows
