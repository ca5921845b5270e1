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
        self._given: tuple[Tensor, Tensor] | None = None
        """The beginning of the room, as it was held last: as long as it is what is held, the room stays."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As every layer's: adds [B, heads, new, size] each, and returns all that is held."""
        if not self.is_initialized:
            self.put(key_states[..., :0, :], value_states[..., :0, :])
        length, new = self.keys.shape[2], key_states.shape[2]
        keys, values = self._with_room(length + new)
        keys.narrow(2, length, new).copy_(key_states)
        values.narrow(2, length, new).copy_(value_states)
        self.keys, self.values = self._given = keys.narrow(2, 0, length + new), values.narrow(2, 0, length + new)
        return self._given

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Holds these from now on, and nothing else."""
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self._keys = self._values = self._given = None
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
            self.keys, self.values = self._given = self._keys[:, :, :length], self._values[:, :, :length]

    def _with_room(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The room, a larger one where this is too small or others have replaced what it held."""
        keys, values, given = self._keys, self._values, self._given
        if keys is not None and values is not None and tokens <= keys.shape[2]:
            if given and given[0] is self.keys and given[1] is self.values:
                return keys, values
            if _is_start(self.keys, keys) and _is_start(self.values, values):
                return keys, values
        size = max(tokens + ROOM_TOKENS, self._least_room)
        self._keys, self._values = _enlarged(self.keys, size), _enlarged(self.values, size)
        return self._keys, self._values


def roomy_cache(layers: int, *, least_room: int = 0) -> DynamicCache:
    """An empty cache of so many layers with room, for so many tokens at least."""
    cache = DynamicCache()
    cache.layers = [RoomyLayer(least_room) for _ in range(layers)]
    return cache


def _is_start(held: Tensor, room: Tensor) -> bool:
    """Whether `held` is all rows, heads and sizes of the first positions of `room`."""
    is_there = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    return is_there and held.shape[:2] == room.shape[:2] and held.shape[3] == room.shape[3]


def _enlarged(held: Tensor, size: int) -> Tensor:
    """[B, heads, size, ...] that begins with what is held; zeros behind it, as masked NaN would still be NaN."""
    rows, heads, length, width = held.shape
    room = held.new_zeros((rows, heads, size, width))
    room[:, :, :length] = held
    return room
