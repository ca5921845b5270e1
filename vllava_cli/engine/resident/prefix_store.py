"""Keeps what the model made of prompts, so that a prompt is read only from where it differs from all before it.

The store is a tree: a node has the keys and values of some ids, and its children go on from there in different ways.
A beginning that many prompts share is in memory once. What wasn't used for the longest time goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from vllava_cli.engine.kv_cache import HeldIds, LayerStates, Prompt
from vllava_cli.engine.tokens import Tokens
from vllava_cli.media.pixels import PixelDigests

PrefixKeys = npt.NDArray[np.int64]
"""The ids of a prompt; those of its placeholders are replaced by numbers that follow from the medium's pixels."""


def keys_of(prompt: Prompt, tokens: Tokens, digests: PixelDigests) -> PrefixKeys:
    """Makes the numbers by which prompts are compared: two prompts share what their equal first numbers stand for."""
    keys = np.array(prompt.ids, dtype=np.int64)
    for medium, start in zip(prompt.media, tokens.media_starts(prompt.ids, prompt.media), strict=True):
        digest = int(digests.of(medium, prompt.fit)[:15], 16)
        keys[start : start + tokens.tokens_of(medium.kind)] = -1 - digest
    return keys


@dataclass(kw_only=True, eq=False)
class PrefixNode:
    """Some ids of a prompt, with what the model made of them after all ids above them in the tree."""

    keys: PrefixKeys
    states: LayerStates
    parent: PrefixNode | None = None
    children: dict[int, PrefixNode] = field(default_factory=dict)
    """Nodes that go on from here, by the first of their keys."""

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.itemsize for layer in self.states for each in layer)


class PrefixStore:
    """A tree of prompts that were read, of at most `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._root = PrefixNode(keys=np.empty(0, np.int64), states=())
        self._used: OrderedDict[PrefixNode, None] = OrderedDict()
        """All nodes, the one that wasn't used for the longest time first; a node always comes before its parent."""

    def find(self, keys: PrefixKeys) -> HeldIds:
        """Returns what is kept of the longest beginning of a prompt."""
        path, count = self._walk(keys)
        self._touch(path)
        parts = [node.states for node in path]
        if path and count < len(path[-1].keys):
            parts[-1] = _cut(parts[-1], 0, count)
        return HeldIds(parts=parts)

    def put(self, keys: PrefixKeys, states: Callable[[int, int], LayerStates]) -> None:
        """Keeps what was read of a prompt. `states(start, end)` copies that of its ids from `start` to `end`."""
        path, count = self._walk(keys)
        self._touch(path)
        start = sum(len(node.keys) for node in path[:-1]) + count
        if start == len(keys):
            return
        if path and count < len(path[-1].keys):
            path[-1] = self._split(path[-1], count)
        node = PrefixNode(keys=keys[start:].copy(), states=states(start, len(keys)))
        self._add(node, path[-1] if path else self._root)
        self._touch([*path, node])
        while self.bytes > self.most_bytes:
            self._remove(next(iter(self._used)))

    def clear(self) -> None:
        """Forgets everything."""
        self._root.children.clear()
        self._used.clear()
        self.bytes = 0

    def _walk(self, keys: PrefixKeys) -> tuple[list[PrefixNode], int]:
        """Returns the nodes that a prompt begins with, and how many keys of the last one are equal."""
        path: list[PrefixNode] = []
        node, start, count = self._root, 0, 0
        while start < len(keys) and (child := node.children.get(int(keys[start]))):
            path.append(child)
            count = _equal(child.keys, keys[start:])
            if count < len(child.keys):
                break
            node, start = child, start + count
        return path, count

    def _touch(self, path: list[PrefixNode]) -> None:
        for node in reversed(path):
            self._used.move_to_end(node)

    def _split(self, node: PrefixNode, count: int) -> PrefixNode:
        """Divides a node in two, of which the first has `count` ids; returns that one."""
        upper = PrefixNode(keys=node.keys[:count].copy(), states=part_of(node.states, 0, count))
        lower = PrefixNode(keys=node.keys[count:].copy(), states=part_of(node.states, count, len(node.keys)))
        lower.children = node.children
        parent = node.parent or self._root
        del self._used[node]
        self.bytes -= node.bytes
        self._add(upper, parent)
        self._add(lower, upper)
        for child in lower.children.values():
            child.parent = lower
        self._touch([upper, lower])
        return upper

    def _add(self, node: PrefixNode, parent: PrefixNode) -> None:
        node.parent = parent
        parent.children[int(node.keys[0])] = node
        self._used[node] = None
        self.bytes += node.bytes

    def _remove(self, node: PrefixNode) -> None:
        del self._used[node]
        self.bytes -= node.bytes
        if node.parent:
            del node.parent.children[int(node.keys[0])]


@torch.inference_mode()
def part_of(states: LayerStates, start: int, end: int) -> LayerStates:
    """Returns the states of some ids; a true part is copied, so that the memory of the rest can be freed."""
    part = [(keys[:, :, start:end], values[:, :, start:end]) for keys, values in states]
    is_whole = start == 0 and end == states[0][0].shape[2]
    return states if is_whole else [(keys.clone(), values.clone()) for keys, values in part]


def _equal(some: PrefixKeys, others: PrefixKeys) -> int:
    """Counts how many first numbers are equal."""
    length = min(len(some), len(others))
    differs = some[:length] != others[:length]
    return int(differs.argmax()) if differs.any() else length


def _cut(states: LayerStates, start: int, end: int) -> LayerStates:
    return [(keys[:, :, start:end], values[:, :, start:end]) for keys, values in states]
