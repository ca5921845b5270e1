"""A layer with room holds what a plain one does, and copies no more than its new token."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from vllava_cli.engine.kv_cache import ROOM_TOKENS, RoomyLayer, roomy_cache


def states(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, 2, length, 3]."""
    return torch.randn(rows, 2, length, 3), torch.randn(rows, 2, length, 3)


class Pair:
    """A plain layer and one with room, to which the same happens."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.plain, self.roomy = DynamicLayer(), RoomyLayer()
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.update()

    def go_on(self) -> None:
        self.random.choice([self.update, self.step, self.step, self.step, self.slice, self.crop, self.join])()
        for mine, other in ((self.roomy.keys, self.plain.keys), (self.roomy.values, self.plain.values)):
            assert torch.equal(mine, other)
        assert self.roomy.get_seq_length() == self.plain.get_seq_length()

    def update(self, length: int | None = None) -> None:
        rows = len(self.plain.keys) if self.plain.is_initialized else 4
        new = states(rows, length or self.random.choice([1, 5, ROOM_TOKENS, ROOM_TOKENS + 1]))
        given = self.roomy.update(*new)
        for mine, other in zip(given, self.plain.update(*new), strict=True):
            assert torch.equal(mine, other)

    def step(self) -> None:
        self.update(1)

    def slice(self) -> None:
        """Some rows, in any order, without some first columns."""
        rows = self.random.choices(range(len(self.plain.keys)), k=self.random.randint(1, 5))
        start = self.random.randrange(self.plain.get_seq_length())
        self._put(self.plain.keys[rows, :, start:], self.plain.values[rows, :, start:])

    def crop(self) -> None:
        surplus = self.random.randrange(self.plain.get_seq_length())
        if surplus:  # 0 has meant different things
            self.plain.crop(-surplus)
            self.roomy.crop(-surplus)

    def join(self) -> None:
        new = states(self.random.randint(1, 3), self.plain.get_seq_length())
        self._put(torch.cat([self.plain.keys, new[0]]), torch.cat([self.plain.values, new[1]]))

    def _put(self, keys: Tensor, values: Tensor) -> None:
        self.plain.keys, self.plain.values = keys, values
        self.roomy.put(keys.clone(), values.clone())


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_a_plain_layer_holds_whatever_happens_to_it(seed: int) -> None:
    pair = Pair(seed)
    for _ in range(40):
        pair.go_on()


def test_tokens_are_written_behind_the_others_until_the_room_is_full() -> None:
    layer = RoomyLayer()
    layer.update(*states(2, 10))
    places = []
    for _ in range(ROOM_TOKENS + 1):
        layer.update(*states(2, 1))
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(set(places[:-1])) == 1
    assert places[-1][0] != places[0][0]
    assert places[-1][1] != places[0][1]


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(0, 2)], ids=["first", "second", "both"])
def test_what_shares_its_memory_is_never_written_into(rows: slice) -> None:
    """A row of a cache, as a prefix is one; its first row begins where the whole does."""
    whole, part = RoomyLayer(), RoomyLayer()
    whole.update(*states(2, 10))
    part.put(whole.keys[rows], whole.values[rows])
    part.update(*states(len(part.keys), 1))
    theirs = (part.keys.clone(), part.values.clone())
    whole.update(*states(2, 1))
    assert torch.equal(part.keys, theirs[0])
    assert torch.equal(part.values, theirs[1])
    assert not torch.equal(whole.keys[rows], part.keys)


def test_fewer_heads_than_there_is_room_for_get_room_of_their_own() -> None:
    layer = RoomyLayer()
    layer.update(*states(2, 10))
    layer.keys, layer.values = layer.keys[:, :1], layer.values[:, :1]
    before = layer.keys.clone()
    keys, values = (each[:, :1] for each in states(2, 1))
    layer.update(keys, values)
    assert torch.equal(layer.keys, torch.cat([before, keys], dim=-2))


def test_a_cache_has_so_many_layers_of_its_own() -> None:
    cache = roomy_cache(3)
    cache.update(*states(1, 4), 1)
    assert [layer.get_seq_length() for layer in cache.layers] == [0, 4, 0]
