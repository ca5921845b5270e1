"""A cache layer with room behind what it holds, so that a step of decoding copies its own token and no other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM_TOKENS = 64
"""How many tokens are made room for when there is none left."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """`keys` and `values` [B, heads, L, size] are the first L positions of larger tensors; others may replace them."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As every layer's: adds [B, heads, new, size] each, and returns all that is held."""
        if not self.is_initialized:
            self.put(key_states[..., :0, :], value_states[..., :0, :])
        self._keys, self.keys = _appended(self._keys, self.keys, key_states)
        self._values, self.values = _appended(self._values, self.values, value_states)
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Holds these from now on, and nothing else."""
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self._keys = self._values = None
        self.is_initialized = True


def roomy_cache(layers: int) -> DynamicCache:
    """An empty cache of so many layers with room."""
    cache = DynamicCache()
    cache.layers = [RoomyLayer() for _ in range(layers)]
    return cache


def _appended(room: Tensor | None, held: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """(room, the part of it that is held) with `new` behind `held`, in a larger room where this one is full."""
    length, total = held.shape[-2], held.shape[-2] + new.shape[-2]
    if room is None or room.shape[-2] < total or not _is_start(held, room):
        room = torch.empty((*new.shape[:-2], total + ROOM_TOKENS, new.shape[-1]), dtype=new.dtype, device=new.device)
        room[..., :length, :] = held
    room[..., length:total, :] = new
    return room, room[..., :total, :]


def _is_start(held: Tensor, room: Tensor) -> bool:
    """Whether `held` is all rows, heads and sizes of the first positions of `room`."""
    is_there = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    return is_there and held.shape[:-2] == room.shape[:-2] and held.shape[-1] == room.shape[-1]
