"""Many questions about one clip in one row: a prefix with the clip's tokens, and segments that see it and themselves.

Positions restart behind the prefix, so that each segment looks as if it were asked alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.asking import Item, Medium
from training.targets import IGNORED
from training.tokenizer import END, IMAGE, PAD, START, VIDEO

MULTIPLE = 32
"""Rows are padded to a multiple of this: fewer lengths, fewer new buffers."""
PADDING = -1
MEDIUM_TOKENS: dict[Medium, int] = {"video": VIDEO, "image": IMAGE}

Row = list[tuple[int, int, int, int]]
"""(id, label, segment, position) of each token"""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of packed questions, all [row, token]; a label stands on the token that it names."""

    ids: Tensor
    labels: Tensor
    segments: Tensor
    """0 for the prefix, then 1, 2, …; PADDING behind the last"""
    positions: Tensor

    @property
    def mask(self) -> Tensor:
        """[row, token, token]: what each token may look at."""
        own = self.segments[:, None, :] == self.segments[:, :, None]
        is_prefix = self.segments[:, None, :] == 0
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return ((is_prefix | own) & causal) | torch.eye(length, dtype=torch.bool)

    @property
    def prefix_end(self) -> int:
        """The position of the prefix's last token, the same in all rows."""
        return int((self.segments[0] == 0).sum()) - 1


class Packer:
    """Packs items as vllava's prompt does: "USER: <video>…\\nQ1 ASSISTANT: A1 USER: Q2 ASSISTANT: A2</s>"."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._ids = cache(self._encode)

    def pack(self, rows: Sequence[Sequence[Item]], medium: Medium, medium_tokens: int) -> Packed:
        """One row for each sequence of items, behind a prefix with `medium_tokens` placeholders."""
        start = [START, *self._ids("USER: "), *[MEDIUM_TOKENS[medium]] * medium_tokens]
        prefix = [(token, IGNORED, 0, position) for position, token in enumerate(start)]
        packed = [prefix + self._segments(items, len(prefix)) for items in rows]
        longest = max(len(row) for row in packed)
        length = -(-longest // MULTIPLE) * MULTIPLE
        padded = [row + [(PAD, IGNORED, PADDING, 0)] * (length - len(row)) for row in packed]
        ids, labels, segments, positions = torch.tensor(padded).unbind(-1)
        return Packed(ids=ids, labels=labels, segments=segments, positions=positions)

    def _segments(self, items: Sequence[Item], first: int) -> Row:
        row: Row = []
        for number, item in enumerate(items):
            tokens = enumerate(self._labelled(item), first)
            row += [(token, label, number + 1, position) for position, (token, label) in tokens]
        return row

    def _labelled(self, item: Item) -> list[tuple[int, int]]:
        """(id, label) of each token: answers are learnt, and an end behind the last."""
        pairs: list[tuple[int, int]] = []
        for position, (question, answer) in enumerate(item.turns):
            asked = f"USER: {question} ASSISTANT:" if position else f"<video>\n{question} ASSISTANT:"
            pairs += [(token, IGNORED) for token in self._ids(asked) if token != VIDEO]
            pairs += [(token, token) for token in self._ids(answer)]
        return [*pairs, (END, END)]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
