"""Damages files in the ways that break parsers; the same seed and number give the same mutant."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.fuzzing.seeds import Seed

# Where containers and codecs keep sizes and counts: before or after four letters (MP4, RIFF, Ogg, AVIF), after an EBML
# identifier, after a start code, after the synchronisation byte of a transport stream.
_MARKS = re.compile(
    rb"[A-Za-z][A-Za-z0-9]{2}[A-Za-z0-9 ]|\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x15\x49\xa9\x66|\x16\x54\xae\x6b|"
    rb"\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|[\xa3\xae\xd7\xe0\xe7\xb0\xba]\x40?|\x00\x00\x01.|\x47[\x40\x41\x01]|0&\xb2u"
)
_HEAD = 4096
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A damaged file: `recipe` says of which seed and how."""

    number: int
    name: str
    data: bytes
    recipe: str


@dataclass(kw_only=True)
class Draft:
    """A file while it is being damaged."""

    data: bytearray
    dice: random.Random
    seeds: Sequence[Seed]

    def anywhere(self) -> int:
        return self.dice.randrange(len(self.data))

    def stretch(self) -> tuple[int, int]:
        """From where to where: up to a few thousand bytes."""
        start = self.anywhere()
        return start, min(len(self.data), start + self.dice.choice((1, 4, 16, 64, 188, 512, 4096)))

    def mark(self) -> int:
        return _mark(self.data, self.dice)

    def near_mark(self) -> int:
        """Where the size or a number of a part is likely to stand."""
        return max(0, self.mark() + self.dice.choice((-4, -4, 1, 2, 4, 4, 8, 12, 16, 20, self.dice.randrange(64))))

    def order(self) -> Literal["big", "little"]:
        return "big" if self.dice.random() < 0.5 else "little"

    def another(self) -> bytes:
        """The bytes of any seed."""
        return self.dice.choice(self.seeds).data

    def write(self, start: int, written: bytes) -> None:
        start = max(0, min(start, len(self.data) - len(written)))
        self.data[start : start + len(written)] = written


def make_mutant(number: int, seeds: Sequence[Seed], *, seed: int = 0) -> Mutant:
    """One to four changes, one after another, to one of the seeds."""
    dice = random.Random(f"{seed} {number}")
    origin = dice.choice(seeds)
    draft = Draft(data=bytearray(origin.data), dice=dice, seeds=seeds)
    changes = dice.choices(CHANGES, k=dice.choice((1, 1, 2, 4)))
    for change in changes:
        change(draft)
        del draft.data[_MOST_BYTES:]
        draft.data += b"\0" * (not draft.data)
    recipe = ", ".join([origin.name, *(change.__name__ for change in changes)])
    return Mutant(number=number, name=f"{number}-{origin.name}", data=bytes(draft.data), recipe=recipe)


def flip_bits(draft: Draft) -> None:
    for _ in range(draft.dice.choice((1, 2, 8, 64))):
        draft.data[draft.anywhere()] ^= 1 << draft.dice.randrange(8)


def flip_head_bits(draft: Draft) -> None:
    for _ in range(draft.dice.choice((1, 2, 8))):
        draft.data[draft.dice.randrange(min(len(draft.data), _HEAD))] ^= 1 << draft.dice.randrange(8)


def fill(draft: Draft) -> None:
    start, end = draft.stretch()
    fills = (bytes(end - start), b"\xff" * (end - start), draft.dice.randbytes(end - start))
    draft.data[start:end] = draft.dice.choice(fills)


def remove(draft: Draft) -> None:
    start, end = draft.stretch()
    del draft.data[start:end]


def repeat(draft: Draft) -> None:
    start, end = draft.stretch()
    draft.data[start:start] = bytes(draft.data[start:end]) * draft.dice.choice((1, 1, 3, 50))


def insert(draft: Draft) -> None:
    start = draft.anywhere()
    draft.data[start:start] = draft.dice.randbytes(draft.dice.choice((1, 3, 64, 1000)))


def swap(draft: Draft) -> None:
    """Two stretches of the same length change places."""
    start, end = draft.stretch()
    other = draft.dice.randrange(len(draft.data) - (end - start) + 1)
    here, there = bytes(draft.data[start:end]), bytes(draft.data[other : other + end - start])
    draft.data[start:end] = there
    draft.data[other : other + end - start] = here


def truncate(draft: Draft) -> None:
    del draft.data[max(1, draft.anywhere()) :]


def splice(draft: Draft) -> None:
    """The head of one file and the tail of another."""
    other = draft.another()
    del draft.data[max(1, draft.anywhere()) :]
    draft.data += other[draft.dice.randrange(len(other)) :]


def set_integer(draft: Draft) -> None:
    """An extreme number where a size or a count may stand."""
    width = draft.dice.choice((1, 2, 4, 4, 4, 8))
    largest = (1 << 8 * width) - 1
    extremes = (0, 1, 2, 8, largest, largest - 1, largest >> 1, (largest >> 1) + 1, len(draft.data) % largest)
    number = draft.dice.choice((*extremes, draft.dice.randrange(largest)))
    draft.write(draft.near_mark(), number.to_bytes(width, draft.order()))


def change_integer(draft: Draft) -> None:
    """Somewhat more or less than the size or the count that stands there."""
    width, order, start = draft.dice.choice((1, 2, 4, 4, 8)), draft.order(), draft.near_mark()
    number = int.from_bytes(draft.data[start : start + width], order)
    step = draft.dice.randrange(-9, 10)
    changed = draft.dice.choice((number + step, number * 2, number * 1000, number // 2, -number))
    draft.write(start, (changed % (1 << 8 * width)).to_bytes(width, order))


def set_mark(draft: Draft) -> None:
    """The name of another part, of this or another file, in the place of one."""
    other = draft.dice.choice((draft.data, draft.another()))
    start = _mark(other, draft.dice)
    draft.write(draft.mark(), bytes(other[start : start + 4]))


CHANGES: tuple[Callable[[Draft], None], ...] = (
    flip_bits,
    flip_head_bits,
    fill,
    remove,
    repeat,
    insert,
    swap,
    truncate,
    splice,
    set_integer,
    set_integer,
    set_integer,
    change_integer,
    change_integer,
    set_mark,
)


def _mark(data: bytes | bytearray, dice: random.Random) -> int:
    """A third of them anywhere, the others near the beginning, where headers are."""
    start = dice.randrange(len(data) if dice.random() < 0.33 else min(len(data), _HEAD))
    found = _MARKS.search(data, start)
    return found.start() if found else start
