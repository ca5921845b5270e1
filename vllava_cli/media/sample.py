"""The exact eight: `sample` gives the frames that decoding the whole file and picking the reference positions gives.

Three ways lead to a video's frames, tried in this order: by its sample table, by one pass over its packets, and by
decoding it through. The first two decode only the groups of pictures that are needed, and give up at the first sign
that something isn't as the index says; the third is always right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.animation import sample_animation
from vllava_cli.media.container import codec_name, opened, video_stream
from vllava_cli.media.files import check_file, is_folder
from vllava_cli.media.folder import read_folder
from vllava_cli.media.images import look, read_still
from vllava_cli.media.select import check_trim, choose
from vllava_cli.media.upright import orientation, upright
from vllava_cli.media.video.full_decode import Survey, fetch_through, survey, survey_unknown
from vllava_cli.media.video.seek import has_constant_rate, is_seekable, sample_by_seeking
from vllava_cli.nouns import Clip, Frames, Framing, counted


def sample(path: Path, framing: Framing) -> Frames:
    """The frames of a video (eight) or an image (one), [T, H, W, 3] RGB, upright; the content decides which it is.

    `at_s` gives one frame for each time instead, in the order given; a trim concerns videos only. A folder of pictures
    is a video. Raises a `MediaError` for a file that can't be used, a `UsageError` for a wrong trim.
    """
    check_trim(framing)
    with _memory_told(path):
        if is_folder(path):
            return read_folder(path, framing)
        check_file(path)
        match look(path):
            case "still":
                return read_still(path)
            case "animation":
                return sample_animation(path, framing)
            case "video":
                return _sample_video(path, framing)


def probe(path: Path, *, is_full: bool = False) -> Clip:
    """The facts of a file, found on the way that `sample` takes; `is_full` decodes every frame of a video instead."""
    if is_full and not is_folder(path):
        check_file(path)
        with _memory_told(path):
            if look(path) == "video":
                return _through_clip(path, survey(path), "Every frame was decoded, as was asked.")
    clip = sample(path, Framing()).clip
    if clip.kind == "image" or clip.is_rate_constant is not None:
        return clip
    return replace(clip, is_rate_constant=has_constant_rate(path))


@contextmanager
def _memory_told(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as exc:
        raise MediaError(f"{quoted(path)} needs more memory than there is. Scale it down first.") from exc


def _sample_video(path: Path, framing: Framing) -> Frames:
    with opened(path) as container:
        stream = video_stream(container, path)
        if not is_seekable(stream):
            reason = f"frames coded in {codec_name(stream)} may depend on any frame before them"
            return _sample_through(path, framing, survey_unknown(container, path), reason)
    found = sample_by_seeking(path, framing)
    if isinstance(found, Frames):
        return found
    is_whole = framing == Framing(fit=framing.fit)
    known = survey(path, found.foreseen if is_whole else (), is_damaged=found.is_damaged)
    return _sample_through(path, framing, known, found.reason)


def _sample_through(path: Path, framing: Framing, known: Survey, reason: str) -> Frames:
    chosen = choose(known.times_s, framing, duration_s=known.duration_s, name=quoted(path), reported=known.reported)
    pixels = upright(fetch_through(path, chosen, known), orientation(known.matrix))
    times_s = tuple(known.times_s[index] for index in chosen)
    return Frames(clip=_through_clip(path, known, f"Decoded through: {reason}."), pixels=pixels, times_s=times_s)


def _through_clip(path: Path, known: Survey, reason: str) -> Clip:
    turn = orientation(known.matrix)
    is_lying = turn.rotation in (90, 270)
    steps = np.diff(known.times_s)
    return Clip(
        path=path,
        kind="video",
        width=known.height if is_lying else known.width,
        height=known.width if is_lying else known.height,
        frame_count=len(known.times_s),
        duration_s=known.duration_s,
        fps=known.fps,
        codec=known.codec,
        container=known.container,
        pixel_format=known.pixel_format,
        is_rate_constant=len(steps) == 0 or bool(np.ptp(steps) < 0.0015),
        way="decode",
        way_reason=reason,
        rotation=turn.rotation,
        faults=_faults(path, known),
    )


def _faults(path: Path, known: Survey) -> tuple[str, ...]:
    decoded, tally = len(known.times_s), known.tally
    expected = max(known.promised, tally.packets)
    if decoded < expected and (tally.refused or tally.is_cut or tally.packets < known.promised):
        return (
            f"{decoded} of {expected} frames of {quoted(path)} could be decoded: the file is truncated or damaged.",
        )
    if tally.is_cut:
        return (f"{quoted(path)} breaks off after {counted(decoded, 'frame')}: the file is truncated or damaged.",)
    if tally.corrupt:
        return (f"{tally.corrupt} of {decoded} frames of {quoted(path)} are damaged: parts of them are made up.",)
    return ()
