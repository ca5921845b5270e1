"""What is promised of the frames of one clip, and what of it a race kept. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vllava_cli.measures import Bar
from vllava_cli.media.measuring.race import GUARDED, TORCHCODEC, Race, Result
from vllava_cli.nouns import Clip

_LONG_S, _TEN_MINUTES_S, _HOUR_S = 60.0, 0.95 * 600, 0.95 * 3600
"""Above the first a clip is long; a film of 59 minutes counts as one of an hour."""
_PLAIN_CODECS, _PLAIN_CONTAINERS = ("h264", "hevc"), ("mp4", "mov", "m4v")
_MIB = 1 << 20
_MAX_MB = 300


@dataclass(frozen=True, kw_only=True)
class Promise:
    """At most `most` of what a rival takes, for the clips that it is about."""

    text: str
    most: float
    rival: Callable[[Race], Result]
    is_about: Callable[[Clip], bool]

    @property
    def head(self) -> str:
        return f"at most {self.most:.2f} {self.text}"


def is_long(clip: Clip) -> bool:
    return (clip.duration_s or 0.0) > _LONG_S


def is_short(clip: Clip) -> bool:
    return clip.duration_s is not None and not is_long(clip)


def is_of_ten_minutes(clip: Clip) -> bool:
    """H.264 or HEVC in MP4, up to an hour."""
    return _is_plain(clip) and _TEN_MINUTES_S <= (clip.duration_s or 0.0) < _HOUR_S


def is_of_an_hour(clip: Clip) -> bool:
    """H.264 or HEVC in MP4, and more."""
    return _is_plain(clip) and (clip.duration_s or 0.0) >= _HOUR_S


def is_1080p(clip: Clip) -> bool:
    """Either way round."""
    return min(clip.width, clip.height) == 1080 and max(clip.width, clip.height) <= 1920


PROMISES = (
    Promise(
        text="of the loop, h264 and hevc of 10 minutes",
        most=1 / 20,
        rival=lambda race: race.loop,
        is_about=is_of_ten_minutes,
    ),
    Promise(
        text="of the loop, h264 and hevc of 60 minutes",
        most=1 / 100,
        rival=lambda race: race.loop,
        is_about=is_of_an_hour,
    ),
    Promise(text="of the loop, short clips", most=1.1, rival=lambda race: race.loop, is_about=is_short),
    Promise(
        text="of torchcodec's exact mode, long files",
        most=0.8,
        rival=lambda race: race.of(TORCHCODEC),
        is_about=is_long,
    ),
    Promise(
        text="of torchcodec's exact mode, short clips",
        most=0.8,
        rival=lambda race: race.of(TORCHCODEC),
        is_about=is_short,
    ),
    Promise(text="of the floor, long files", most=1.3, rival=lambda race: race.floor, is_about=is_long),
    Promise(text="of the floor, short clips", most=1.3, rival=lambda race: race.floor, is_about=is_short),
)


def bars(race: Race, clip: Clip) -> Iterator[Bar]:
    """Those that apply to the clip and that something was found out about."""
    if race.is_certain and race.is_identical is not None:
        is_met = race.is_identical and replace(race, ours_way=GUARDED).is_identical is not False
        yield Bar(text=f"identical frames: {'yes' if is_met else 'NO'}", is_met=is_met)
    for promise in PROMISES:
        if promise.is_about(clip):
            yield from _share_bar(race, promise)
    if is_1080p(clip) and race.ours.mib:
        yield memory_bar(race.ours.mib)


def memory_bar(mib: float) -> Bar:
    mb = mib * _MIB / 1e6
    return Bar(text=f"under {_MAX_MB} MB for 1080p: {mb:.0f} MB at most", is_met=mb < _MAX_MB)


def _is_plain(clip: Clip) -> bool:
    return clip.codec in _PLAIN_CODECS and clip.container in _PLAIN_CONTAINERS


def _share_bar(race: Race, promise: Promise) -> Iterator[Bar]:
    rival = promise.rival(race)
    if (share := race.share_of(rival)) is not None:
        yield Bar(text=f"{promise.head}: {share:.3f}", is_met=share <= promise.most)
    elif rival.stopped_at_s and race.ours.median_s and race.ours.median_s / rival.stopped_at_s <= promise.most:
        yield Bar(text=f"{promise.head}: less than {race.ours.median_s / rival.stopped_at_s:.3f}", is_met=True)
