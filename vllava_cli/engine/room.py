"""A cache layer with room behind what it holds, so that a step of decoding copies its own token and no other."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM_TOKENS = 64
"""How many tokens are made room for when there is none left."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """`keys` and `values` [B, heads, L, size] are the first L positions of larger tensors; others may replace them."""

    keys: Tensor
    values: Tensor

    def __init__(self, least_room: int = 0) -> None:
        super().__init__()
        self._least_room = least_room
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As every layer's: adds [B, heads, new, size] each, and returns all that is held."""
        if not self.is_initialized:
            self.put(key_states[..., :0, :], value_states[..., :0, :])
        self._keys, self.keys = self._appended(self._keys, self.keys, key_states)
        self._values, self.values = self._appended(self._values, self.values, value_states)
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Holds these from now on, and nothing else."""
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self._keys = self._values = None
        self.is_initialized = True

    @property
    def room(self) -> tuple[Tensor, Tensor]:
        """All of the larger tensors [B, heads, room, size]; what is held comes first."""
        if self._keys is None or self._values is None:
            raise RuntimeError("a layer without room")
        return self._keys, self._values

    @property
    def room_tokens(self) -> int:
        return self.room[0].shape[2]

    def hold(self, length: int) -> None:
        """So many first positions of the room are held from now on; nothing happens where there is none yet."""
        if self._keys is not None and self._values is not None:
            self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    def _appended(self, room: Tensor | None, held: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """(room, the part of it that is held) with `new` behind `held`, in a larger room where this one is full."""
        length = held.shape[2]
        total = length + new.shape[2]
        if room is None or room.shape[2] < total or not _is_start(held, room):
            size = max(total + ROOM_TOKENS, self._least_room)
            room = new.new_zeros((*new.shape[:2], size, new.shape[3]))  # what is masked may be looked at: no NaN there
            room[:, :, :length] = held
        room[:, :, length:total] = new
        return room, room[:, :, :total]


def roomy_cache(layers: int, *, least_room: int = 0) -> DynamicCache:
    """An empty cache of so many layers with room, for so many tokens at least."""
    cache = DynamicCache()
    cache.layers = [RoomyLayer(least_room) for _ in range(layers)]
    return cache


def _is_start(held: Tensor, room: Tensor) -> bool:
    """Whether `held` is all rows, heads and sizes of the first positions of `room`."""
    is_there = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    return is_there and held.shape[:2] == room.shape[:2] and held.shape[3] == room.shape[3]
