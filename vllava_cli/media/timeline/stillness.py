"""Finds windows in which nothing changes, from the sizes of packets and small pictures of the key frames between them.

What isn't certain isn't still. Packets tell where to look: a stretch whose packets are all tiny is decoded, since a
thing that blinks takes hardly more bytes than none, where the encoder refers to an older frame that had it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np

from vllava_cli.media.timeline.key_frames import Look, Looker, SmallPicture
from vllava_cli.media.video.index import DistrustError
from vllava_cli.media.video.packet_table import PacketTable
from vllava_cli.media.video.seek import Timeline
from vllava_cli.nouns import Framing, Window

_ALIKE = 6
"""Levels of 255 by which a place of a picture may differ that is the same: what compression changes."""
_UNTOLD = ("mpeg1video", "mpeg2video")
"""In these a small change isn't larger than none."""
_EMPTY = {"mpeg4": (128, 2, 2)}
_EMPTY_LATER = 48, 40, 7
"""What packets that say "as before" take, by codec: so many bytes and one for so many blocks of 16x16 pixels, and the
most different sizes that they have in a group of pictures. Codecs since H.264 need a bit for many blocks only."""
_LEAST_S = 2.0
"""A shorter time without a change isn't worth a look at its end."""
_TICK_S = 1e-6
_OFTEN, _SETTLING = 3, 8
"""Packets that change nothing have sizes that come again, but for so many at either end of a group of pictures."""


def with_stillness(windows: Sequence[Window], path: Path, timeline: Timeline | None) -> tuple[Window, ...]:
    """Marks the windows that show what the window before them shows, with no change in either of the two.

    Without a timeline, or where the index proves wrong, none can be told. Errors: MediaError.
    """
    table = timeline.index.packet_table if timeline else None
    if timeline is None or table is None or len(windows) < 2:
        return tuple(windows)
    stretch = timeline.stretch(Framing(start_s=windows[0].start_s, end_s=windows[-1].end_s))
    try:
        with Looker.of(path, timeline) as looker:
            spans = list(_unchanged(_links(looker, timeline, table, stretch)))
    except DistrustError:
        return tuple(windows)
    pairs = pairwise(windows)
    marked = (
        replace(window, is_still=any(start <= before.start_s and window.end_s <= end for start, end in spans))
        for before, window in pairs
    )
    return (windows[0], *marked)


_Link = tuple[Look, Look, bool]
"""Two looks that follow each other, and True if the packets between them change nothing."""


def _links(looker: Looker, timeline: Timeline, table: PacketTable, stretch: range) -> Iterator[_Link]:
    looks, last_s = looker.key_frames(stretch), timeline.time_s(timeline.index.pts(stretch[-1]))
    if not looks:
        return
    is_to_end = stretch[-1] == timeline.index.frame_count - 1 and looks[-1].time_s <= last_s
    behind = replace(looks[-1], row=len(table.sizes), time_s=inf)
    for before, after in pairwise([*looks, behind] if is_to_end else looks):
        calm = _calm_until(table, before.row, after.row, looker)
        first = timeline.shown_at(before.time_s)
        if calm == after.row and after is not behind:
            between = looker.frames(first, timeline.shown_at(after.time_s) - 1)
            yield before, after, all(_is_alike(before.picture, each.picture) for each in between)
            continue
        changes_s = inf if calm == len(table.sizes) else timeline.time_s(table.first_shown(calm))
        if changes_s - before.time_s >= _LEAST_S:  # packets that change nothing are decoded in no time
            last = min(timeline.shown_at(min(changes_s, timeline.duration_s - _TICK_S)), stretch[-1])
            until = list(looker.frames(first, last - (changes_s < inf)))
            is_same = all(_is_alike(before.picture, each.picture) for each in until)
            yield before, replace(until[-1], time_s=changes_s), is_same
        yield before, after, False


def _calm_until(table: PacketTable, row: int, after: int, looker: Looker) -> int:
    """Returns the row of the first packet behind a key frame that may change the picture, or `after`.

    Packets that change nothing have few sizes, all small, which come again. Equal key frames have equal sizes.
    """
    if row < 0 or after < 0 or looker.codec in _UNTOLD:
        return row
    least, blocks_per_byte, most_sizes = _EMPTY.get(looker.codec, _EMPTY_LATER)
    most = least + looker.blocks // blocks_per_byte
    sizes, is_key = table.sizes[row + 1 : after], np.isin(np.arange(row + 1, after), table.keys)
    others = np.where(is_key, 0, sizes)
    _, firsts, kinds, counts = np.unique(others, return_index=True, return_inverse=True, return_counts=True)
    is_rare = counts[kinds] < _OFTEN
    is_rare[:_SETTLING] = is_rare[max(0, len(sizes) - _SETTLING) :] = False
    is_calm = np.where(is_key, sizes == table.sizes[row], (sizes <= most) & ~is_rare)
    further = np.sort(firsts)[most_sizes + int(is_key.any()) :]
    return row + 1 + int(min([*np.flatnonzero(~is_calm), *further], default=len(sizes)))


def _unchanged(links: Iterator[_Link]) -> Iterator[tuple[float, float]]:
    """Yields the spans of time in which nothing changes; a span whose first picture isn't alike to all isn't one."""
    first: Look | None = None
    end_s, has_drifted = 0.0, False
    for before, after, is_calm in links:
        is_calm = is_calm and _is_alike(before.picture, after.picture)
        if first and not is_calm and not has_drifted:
            yield first.time_s, end_s
        if not is_calm:
            first = None
            continue
        first, has_drifted = (first, has_drifted) if first else (before, False)
        end_s, has_drifted = after.time_s, has_drifted or not _is_alike(first.picture, after.picture)
    if first and not has_drifted:
        yield first.time_s, end_s


def _is_alike(one: SmallPicture, other: SmallPicture) -> bool:
    return int(np.abs(one.astype(np.int16) - other).max()) <= _ALIKE
