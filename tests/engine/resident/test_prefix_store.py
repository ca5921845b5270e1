"""The store finds the longest beginning that it was given and hasn't forgotten, within its bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import HeldIds, LayerStates, Prompt
from vllava_cli.engine.resident.prefix_store import PrefixKeys, PrefixStore, keys_of
from vllava_cli.media.pixels import PixelDigests
from vllava_cli.nouns import Frames

TOKEN_BYTES = 2 * 4
"""One layer with one number as key and one as value."""


def keys(numbers: list[int]) -> PrefixKeys:
    return np.array(numbers, dtype=np.int64)


def put(store: PrefixStore, numbers: list[int]) -> None:
    """Keeps keys whose states are the sums up to each of them: they depend on all that came before."""
    sums = torch.tensor(numbers, dtype=torch.float32).cumsum(0)[None, None, :, None]

    def states(start: int, end: int) -> LayerStates:
        return [(sums[:, :, start:end].clone(), -sums[:, :, start:end])]

    store.put(keys(numbers), states)


def found(store: PrefixStore, numbers: list[int]) -> int:
    """How many numbers are held; checks that what is held is theirs."""
    held: HeldIds = store.find(keys(numbers))
    for number in (0, 1):
        parts = [part[0][number].flatten() for part in held.parts]
        expected = torch.tensor(numbers[: len(held)], dtype=torch.float32).cumsum(0) * (-1) ** number
        assert torch.equal(torch.cat(parts) if parts else torch.empty(0), expected)
    return len(held)


def common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_beginning_of_all_that_was_put_is_found(seed: int) -> None:
    chance = random.Random(seed)
    store, known = PrefixStore(1 << 30), list[list[int]]()
    for _ in range(100):
        numbers = [chance.choice([1, 2]) for _ in range(chance.randint(0, 12))]
        assert found(store, numbers) == max((common(numbers, each) for each in known), default=0)
        put(store, numbers)
        known.append(numbers)
    assert store.bytes == TOKEN_BYTES * len({tuple(each[:end]) for each in known for end in range(1, len(each) + 1)})
    store.clear()
    assert (store.bytes, found(store, known[-1])) == (0, 0)


@pytest.mark.parametrize("seed", range(10))
def test_it_stays_within_its_bytes(seed: int) -> None:
    chance, store = random.Random(seed), PrefixStore(40 * TOKEN_BYTES)
    for _ in range(300):
        numbers = [chance.randint(3, 9), *chance.choices([1, 2], k=chance.randint(1, 9))]
        found(store, numbers)
        put(store, numbers)
        assert found(store, numbers) == len(numbers)
        assert store.bytes <= 40 * TOKEN_BYTES


def test_what_was_not_used_for_the_longest_time_goes_first_and_a_shared_beginning_last() -> None:
    store, chance = PrefixStore(32 * TOKEN_BYTES), random.Random(0)
    used = [*range(10)]
    for number in used:
        put(store, [50, 51, number, 52, 53])
    for _ in range(200):
        number = chance.randrange(20)
        if number in used:
            used.remove(number)
            assert found(store, [50, 51, number, 52, 53]) == 5
        else:
            del used[0]
            put(store, [50, 51, number, 52, 53])
        used.append(number)
        assert store.bytes == 32 * TOKEN_BYTES
    assert [found(store, [50, 51, number, 52, 53]) for number in range(20)] == [
        5 if number in used else 2 for number in range(20)
    ]


def test_what_is_too_large_is_not_kept() -> None:
    store = PrefixStore(3 * TOKEN_BYTES)
    put(store, [1, 2, 3, 4])
    assert (store.bytes, found(store, [1, 2, 3, 4])) == (0, 0)


def test_prompts_are_equal_up_to_where_their_ids_pixels_or_fits_differ(
    demo_engine: Engine, media: tuple[Frames, ...]
) -> None:
    tokens, digests = demo_engine.tokens, PixelDigests(demo_engine.tokens.checkpoint)
    image, video = tokens.placeholders["image"], tokens.placeholders["video"]
    ids = (1, 9, *[video] * tokens.tokens_of("video"), 8, *[image] * tokens.tokens_of("image"), 7)
    star, shapes, other = media[0], media[1], media[2]
    second = 3 + tokens.tokens_of("video")
    base = Prompt(ids=ids, media=(star, shapes))
    same = replace(star, clip=replace(star.clip, codec="other"), pixels=star.pixels.copy())
    for prompt, length in (
        (Prompt(ids=ids, media=(same, shapes)), len(ids)),
        (Prompt(ids=(*ids[:-1], 6), media=(star, shapes)), len(ids) - 1),
        (Prompt(ids=ids, media=(other, shapes)), 2),
        (Prompt(ids=ids, media=(star, media[5])), second),
        (Prompt(ids=ids, media=(star, shapes), fit="squash"), len(ids)),
    ):
        assert common(*(keys_of(each, tokens, digests).tolist() for each in (base, prompt))) == length
