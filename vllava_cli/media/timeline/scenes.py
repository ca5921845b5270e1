"""Finds where the scenes of a video begin: at hard cuts, which key frames and the sizes of packets lead to.

Key frames are looked at first. A group of pictures is decoded only if its two key frames differ and no key frame is at
the cut, or if one of its packets is much larger than those around it. A fade is no cut.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vllava_cli.media.timeline.key_frames import Look, Looker, SmallPicture, difference
from vllava_cli.media.timeline.unindexed import all_looks
from vllava_cli.media.video.index import DistrustError
from vllava_cli.media.video.packet_table import REORDERING
from vllava_cli.nouns import Framing

if TYPE_CHECKING:
    from vllava_cli.media.video.packet_table import PacketTable
    from vllava_cli.media.video.seek import Timeline

SHORTEST_S = 0.5
"""No scene is shorter; what is shorter is a flash, or belongs to the scene before it."""
CLEAR = 11.5
"""Pictures that differ by more are of different scenes, if the change comes at once."""
_OUTLIER = 2.5
"""A cut changes the picture by this factor more than the steps around it, which are motion; the largest of them doesn't
count, as a cut may take two steps."""
_AROUND_S = 0.2
"""How far the steps lie that a cut is compared with."""
_JUMP_SHARE, _JUMP, _JUMP_ROWS = 0.2, 1.6, 8
"""A packet is much larger if it has this share of a key frame's size, and is larger by this factor than the packets so
many rows before and behind it."""


@dataclass(kw_only=True, eq=False)
class Cut:
    """The first frame of a scene, with small pictures around it."""

    time_s: float
    before: SmallPicture
    after: SmallPicture
    earlier: SmallPicture
    later: SmallPicture
    """The first and the last picture within `SHORTEST_S` of it, as far as they were looked at."""

    @property
    def is_lasting(self) -> bool:
        """False if the cut is one of the two around a flash."""
        old, new = (self.before, self.earlier), (self.after, self.later)
        return min(difference(one, other) for one in old for other in new) >= CLEAR


def scene_starts(path: Path, timeline: Timeline | None, start_s: float, end_s: float) -> tuple[float, ...]:
    """Returns the times of the first frames of the scenes from `start_s` to `end_s`; the first is `start_s` itself.

    Without a timeline, or where the index proves wrong, every frame of the file is decoded. Errors: MediaError.
    """
    return (start_s, *(cut.time_s for cut in find_cuts(path, timeline, start_s, end_s)))


def find_cuts(path: Path, timeline: Timeline | None, start_s: float, end_s: float) -> list[Cut]:
    """Returns the cuts in a part of a video, in order. Errors: those of `scene_starts`."""
    if timeline:
        stretch = timeline.stretch(Framing(start_s=start_s, end_s=end_s))
        with suppress(DistrustError), Looker.of(path, timeline) as looker:
            return apart(_indexed_cuts(looker, timeline, stretch), start_s, end_s)
    looks = (look for look in all_looks(path) if start_s <= look.time_s < end_s)
    return apart(cuts_among(looks), start_s, end_s)


def cuts_among(looks: Iterable[Look], ahead: Look | None = None) -> list[Cut]:
    """Returns the cuts among frames that follow each other, each where the picture changes at once and stays so.

    `ahead` is a look at an earlier frame, by which the end of a flash is told from a cut.
    """
    times_s, steps = list[float](), list[float]()
    found: list[tuple[int, Cut]] = []
    waiting, recent = deque[Cut](), deque[Look]()
    before: Look | None = None
    for look in looks:
        while waiting and look.time_s - waiting[0].time_s >= SHORTEST_S:
            waiting.popleft()
        while len(recent) > 1 and look.time_s - recent[0].time_s > SHORTEST_S:
            recent.popleft()
        for cut in waiting:
            cut.later = look.picture
        if before:
            times_s.append(look.time_s)
            steps.append(difference(before.picture, look.picture))
            if steps[-1] >= CLEAR:
                waiting.append(_cut(look, before, recent[0]))
                found.append((len(steps) - 1, waiting[-1]))
        elif ahead:
            recent.append(replace(ahead, time_s=look.time_s))
        recent.append(look)
        before = look
    return [cut for place, cut in found if cut.is_lasting and _stands_out(place, times_s, steps)]


def apart(cuts: Iterable[Cut], start_s: float, end_s: float) -> list[Cut]:
    """Leaves out cuts that would make a scene too short. Two cuts around a flash are both left out."""
    kept = list[Cut]()
    for cut in cuts:
        if kept and cut.time_s - kept[-1].time_s < SHORTEST_S:
            if difference(kept[-1].before, cut.after) < CLEAR:
                kept.pop()
        elif start_s + SHORTEST_S <= cut.time_s <= end_s - SHORTEST_S:
            kept.append(cut)
    return kept


def _cut(look: Look, before: Look, earlier: Look) -> Cut:
    pictures = look.picture, before.picture, earlier.picture
    return Cut(time_s=look.time_s, after=pictures[0], before=pictures[1], earlier=pictures[2], later=pictures[0])


def _stands_out(place: int, times_s: list[float], steps: list[float]) -> bool:
    first = bisect_left(times_s, times_s[place] - _AROUND_S)
    around = sorted(steps[first:place] + steps[place + 1 : bisect_right(times_s, times_s[place] + _AROUND_S)])
    return len(around) < 2 or steps[place] >= _OUTLIER * around[-2]


def _indexed_cuts(looker: Looker, timeline: Timeline, stretch: range) -> Iterator[Cut]:
    table = timeline.index.packet_table
    looks = looker.key_frames(stretch)
    lengths = Counter(after.row - before.row for before, after in pairwise(looks))
    end_s = timeline.time_s(timeline.index.pts(stretch[-1]))
    for ahead, before, after in zip([None, *looks], looks, [*looks[1:], None], strict=False):
        if after is None:
            if before.time_s <= end_s:  # no key frame is behind the end
                yield from cuts_among(looker.frames(timeline.shown_at(before.time_s), stretch[-1]), ahead)
            return
        last = timeline.shown_at(max(after.time_s, min(after.time_s + SHORTEST_S, end_s)))
        has_changed = difference(before.picture, after.picture) >= CLEAR
        has_jump = table is not None and _has_jump(table, before.row, after.row)
        if has_changed and not has_jump and table and _is_unasked(table, before, after, lengths, timeline):
            cut = _cut(after, before, before)
            for look in looker.frames(timeline.shown_at(after.time_s), last):
                cut.later = look.picture
            if cut.is_lasting:
                yield cut
        elif has_changed or has_jump:
            cuts = cuts_among(looker.frames(timeline.shown_at(before.time_s), last), ahead)
            yield from (cut for cut in cuts if cut.time_s <= after.time_s)


def _is_unasked(table: PacketTable, before: Look, after: Look, lengths: Counter[int], timeline: Timeline) -> bool:
    """Returns True if an encoder put a key frame where none was due, as it does at a cut, and shows it first.

    A key frame is due at the end of the longest group, and where many groups end. Frames that come after it in the file
    may be shown before it.
    """
    row, length = after.row, after.row - before.row
    keys_between = np.searchsorted(table.keys, row) - np.searchsorted(table.keys, before.row)
    is_rare = lengths[length] <= max(1, sum(lengths.values()) // 10) and length < 0.95 * max(lengths) - 1
    if before.row < 0 or keys_between != 1 or not is_rare:
        return False
    if table.is_by_dts:
        return timeline.shown_at(after.time_s) <= row
    return not (table.stamps[row + 1 : row + 1 + REORDERING] < table.stamps[row]).any()


def _has_jump(table: PacketTable, row: int, after: int) -> bool:
    """Returns True if a packet between two key frames is much larger than those around it."""
    sizes = table.sizes[row + 1 : after]
    if row < 0 or len(sizes) < 2 or len(table.keys[(table.keys > row) & (table.keys < after)]):
        return False
    least = _JUMP_SHARE * min(table.sizes[row], table.sizes[after])
    for place in np.flatnonzero(sizes >= least).tolist():
        around = [*sizes[max(0, place - _JUMP_ROWS) : place], *sizes[place + 1 : place + 1 + _JUMP_ROWS]]
        if sizes[place] >= _JUMP * max(around):
            return True
    return False
