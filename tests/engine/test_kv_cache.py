"""A layer with capacity holds what a plain one does, and copies no more than its new token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vllava_cli.engine.kv_cache import SPARE_TOKENS, PreallocatedCacheLayer


def states(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, 2, length, 3]."""
    return torch.randn(rows, 2, length, 3), torch.randn(rows, 2, length, 3)


def test_tokens_are_written_behind_the_others_until_the_capacity_is_used_up() -> None:
    layer = PreallocatedCacheLayer()
    layer.update(*states(2, 10))
    places = []
    for _ in range(SPARE_TOKENS + 1):
        layer.update(*states(2, 1))
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(set(places[:-1])) == 1
    assert places[-1][0] != places[0][0]
    assert places[-1][1] != places[0][1]


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(0, 2)], ids=["first", "second", "both"])
def test_shared_memory_is_never_written_into(rows: slice) -> None:
    """A row of a cache, as a prefix is one; its first row begins where the whole does."""
    whole, part = PreallocatedCacheLayer(), PreallocatedCacheLayer()
    whole.update(*states(2, 10))
    part.put(whole.keys[rows], whole.values[rows])
    part.update(*states(len(part.keys), 1))
    theirs = (part.keys.clone(), part.values.clone())
    whole.update(*states(2, 1))
    assert torch.equal(part.keys, theirs[0])
    assert torch.equal(part.values, theirs[1])
    assert not torch.equal(whole.keys[rows], part.keys)
