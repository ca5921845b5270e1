"""The targets for reading frames: shares of what other decoders take, and memory. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.frames_trial import LOOP, OURS, TORCHCODEC, DecoderResult, FolderTrial, FramesTrial
from benchmarks.harness import Target
from vllava_cli.nouns import Clip

_LONG_S, _TEN_MINUTES_S, _HOUR_S = 60.0, 0.95 * 600, 0.95 * 3600
"""Above the first a clip is long; a film of 59 minutes counts as one of an hour."""
_PLAIN_CODECS, _PLAIN_CONTAINERS = ("h264", "hevc"), ("mp4", "mov", "m4v")
_MAX_MB, _MAX_SAFETY, _MAX_LENGTH = 300, 0.1, 1.5


@dataclass(frozen=True, kw_only=True)
class _ShareTarget:
    """At most `most` of what another decoder takes, for the clips that it is about."""

    text: str
    most: float
    other: Callable[[FramesTrial], DecoderResult]
    is_about: Callable[[Clip], bool]


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


def _loop(trial: FramesTrial) -> DecoderResult:
    return trial.of(LOOP)


def _torchcodec(trial: FramesTrial) -> DecoderResult:
    return trial.of(TORCHCODEC)


def _lower_bound(trial: FramesTrial) -> DecoderResult:
    return trial.lower_bound


_SHARES = (
    _ShareTarget(text="the loop, h264 and hevc of 10 minutes", most=1 / 20, other=_loop, is_about=is_of_ten_minutes),
    _ShareTarget(text="the loop, h264 and hevc of 60 minutes", most=1 / 100, other=_loop, is_about=is_of_an_hour),
    _ShareTarget(text="the loop, short clips", most=1.1, other=_loop, is_about=is_short),
    _ShareTarget(text="torchcodec's exact mode, long files", most=0.8, other=_torchcodec, is_about=is_long),
    _ShareTarget(text="torchcodec's exact mode, short clips", most=0.8, other=_torchcodec, is_about=is_short),
    _ShareTarget(text="the lower bound, long files", most=1.3, other=_lower_bound, is_about=is_long),
    _ShareTarget(text="the lower bound, short clips", most=1.3, other=_lower_bound, is_about=is_short),
)


def frames_targets(trials: Sequence[FramesTrial], folder: FolderTrial | None = None) -> Iterator[Target]:
    """The targets that the measured files say something about."""
    known = [trial for trial in trials if trial.is_certain and trial.is_identical is not None]
    same = sum(trial.is_identical is True for trial in known)
    if known:
        yield Target(text=f"identical frames: {same} of {len(known)} files", is_met=same == len(known))
    for share in _SHARES:
        yield from _share_target([trial for trial in trials if share.is_about(trial.clip)], share)
    peaks = [trial.of(OURS).mib or 0.0 for trial in trials if is_1080p(trial.clip)]
    if any(peaks):
        most_mb = max(peaks) * (1 << 20) / 1e6
        yield Target(text=f"under {_MAX_MB} MB for 1080p: {most_mb:.0f} MB at most", is_met=most_mb < _MAX_MB)
    seconds = {trial.clip.path.name: trial.of(OURS).median_s for trial in trials}
    hours, minutes = seconds.get("h264-1080p-2h.mp4"), seconds.get("h264-1080p-10min.mp4")
    if hours and minutes:
        ratio = hours / minutes
        yield Target(text=f"2 h at most {_MAX_LENGTH} of 10 min: {ratio:.2f}", is_met=ratio <= _MAX_LENGTH)
    if folder:
        text = f"at most {_MAX_SAFETY:.0%} for safety on {folder.clips} short clips: {folder.cost:.1%}"
        yield Target(text=text, is_met=folder.cost <= _MAX_SAFETY)


def _share_target(trials: Sequence[FramesTrial], target: _ShareTarget) -> Iterator[Target]:
    """One that was stopped can only be beaten: what it would have taken isn't known."""
    shares = {}
    for trial in trials:
        other = target.other(trial)
        share = trial.share_of(other)
        if share is not None and (other.seconds or share <= target.most):
            shares[trial.clip.path.name] = share
    if shares:
        worst = max(shares, key=lambda name: shares[name])
        over = ", ".join(f"{name} {share:.3f}" for name, share in shares.items() if share > target.most)
        found = over or f"{shares[worst]:.3f} at most ({worst})"
        yield Target(text=f"at most {target.most:.2f} of {target.text}: {found}", is_met=not over)


def _is_plain(clip: Clip) -> bool:
    return clip.codec in _PLAIN_CODECS and clip.container in _PLAIN_CONTAINERS
