"""Picks a clip's eight frames by what they show: representatives of its scenes, or key frames.

`picked` says at which times they are and why; `by_scenes` and `by_key_frames` decide that purely, on places of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.errors import quoted
from vllava_cli.media.select import in_play, pick
from vllava_cli.media.timeline.key_frames import Look, Looker, SmallPicture, difference
from vllava_cli.media.timeline.scenes import CLEAR, Cut, apart, cuts_among, find_cuts
from vllava_cli.media.timeline.unindexed import all_looks
from vllava_cli.nouns import FRAMES_PER_CLIP, Framing, PickReason

if TYPE_CHECKING:
    from vllava_cli.media.video.seek import Timeline

Choice = tuple[int, PickReason]
"""The place of a frame in its stretch, and why it is shown."""
Scene = tuple[int, SmallPicture | None]
"""The place of a scene's first frame, and a small picture of the scene; None if there is only one scene."""


def picked(path: Path, timeline: Timeline | None, framing: Framing) -> tuple[Framing, tuple[PickReason, ...]]:
    """Returns a framing that names the times of the frames that `pick` asks for, and why each is shown.

    A uniform framing is returned as it is, without reasons. Without a timeline, every frame of the clip is looked at.
    Errors: MediaError, DistrustError.
    """
    if framing.pick == "uniform":
        return framing, ()
    chosen = _among_all(path, framing) if timeline is None else _among_indexed(path, timeline, framing)
    times_s, reasons = zip(*chosen, strict=True)
    return replace(framing, start_s=None, end_s=None, at_s=times_s, pick="uniform"), reasons


def by_scenes(scenes: Sequence[Scene], count: int) -> tuple[Choice, ...]:
    """Chooses among `count` frames: the middles of the longest scenes that differ, at least one frame in each third.

    Scenes from 0 and from 60 on, of 90 frames → 30 and 75 for them, 15 for the first third, five that fill the gaps
    """
    ends = [first for first, _ in scenes[1:]] + [count]
    lengths = [end - first for (first, _), end in zip(scenes, ends, strict=True)]
    distinct = list[int]()
    for number in sorted(range(len(scenes)), key=lambda number: -lengths[number]):
        if not any(_is_like(scenes[number], scenes[other]) for other in distinct):
            distinct.append(number)
    middles = [scenes[number][0] + lengths[number] // 2 for number in distinct]
    chosen: dict[int, PickReason] = {}
    for third in range(3):
        its = next((place for place in middles if 3 * place // count == third), None)
        chosen.setdefault((2 * third + 1) * count // 6 if its is None else its, "third" if its is None else "scene")
    for place in middles:
        if len(chosen) < FRAMES_PER_CLIP:
            chosen.setdefault(place, "scene")
    return filled(chosen, count)


def by_key_frames(places: Sequence[int], count: int) -> tuple[Choice, ...]:
    """Chooses eight of the key frames at these places, evenly; all of them if there are fewer."""
    if len(places) > FRAMES_PER_CLIP:
        places = [places[number] for number in pick(len(places))]
    return filled(dict.fromkeys(places, "key frame"), count)


def filled(chosen: Mapping[int, PickReason], count: int) -> tuple[Choice, ...]:
    """Adds the frame in the middle of the longest gap until there are eight; repeats frames if the clip has fewer."""
    full = dict(chosen)
    while len(full) < min(count, FRAMES_PER_CLIP):
        gaps = pairwise([-1, *sorted(full), count])
        before, after = max(gaps, key=lambda gap: gap[1] - gap[0])
        full[(before + after) // 2] = "filled"
    ordered = sorted(full.items())
    return tuple(ordered[place] for place in pick(len(ordered)))


def _is_like(one: Scene, other: Scene) -> bool:
    return one[1] is not None and other[1] is not None and difference(one[1], other[1]) < CLEAR


def _scenes(cuts: Sequence[Cut], places: Sequence[int]) -> list[Scene]:
    first: Scene = 0, cuts[0].before if cuts else None
    return [first, *((place, cut.after) for place, cut in zip(places, cuts, strict=True))]


def _among_indexed(path: Path, timeline: Timeline, framing: Framing) -> list[tuple[float, PickReason]]:
    stretch, index = timeline.stretch(framing), timeline.index
    if framing.pick == "keyframes":
        with Looker.of(path, timeline) as looker:
            keys = [timeline.shown_at(look.time_s) for look in looker.key_frames(stretch)]
        choices = by_key_frames([key - stretch[0] for key in keys if key in stretch], len(stretch))
    else:
        start_s = timeline.time_s(index.pts(stretch[0]))
        end_s = timeline.duration_s if framing.end_s is None else min(framing.end_s, timeline.duration_s)
        cuts = find_cuts(path, timeline, start_s, end_s)
        places = [timeline.shown_at(cut.time_s) - stretch[0] for cut in cuts]
        choices = by_scenes(_scenes(cuts, places), len(stretch))
    return [(timeline.time_s(index.pts(stretch[place])), reason) for place, reason in choices]


def _among_all(path: Path, framing: Framing) -> list[tuple[float, PickReason]]:
    looks = list[Look](all_looks(path))
    times_s = [look.time_s for look in looks]
    shown = [looks[index] for index in in_play(times_s, framing, duration_s=inf, name=quoted(path))]
    if framing.pick == "keyframes":  # each frame stands for one
        choices = by_key_frames(range(len(shown)), len(shown))
    else:
        starts = [look.time_s for look in shown]
        cuts = apart(cuts_among(shown), starts[0], inf)
        choices = by_scenes(_scenes(cuts, [starts.index(cut.time_s) for cut in cuts]), len(shown))
    return [(shown[place].time_s, reason) for place, reason in choices]
