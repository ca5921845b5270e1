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

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import codec_name, opened, video_stream
from vllava_cli.media.file_check import check_file, is_folder
from vllava_cli.media.images import look, read_animation, read_folder, read_still
from vllava_cli.media.select import check_trim
from vllava_cli.media.video.full_decode import decode_all, decode_uncounted
from vllava_cli.media.video.seek import has_constant_rate, is_seekable, sample_by_seeking
from vllava_cli.nouns import Clip, Frames, Framing


def sample(path: Path, framing: Framing) -> Frames:
    """The frames of a video (eight) or an image (one), [T, H, W, 3] RGB, upright; the content decides which it is.

    `at_s` gives one frame for each time instead, in the order given; a trim concerns videos only. A folder of pictures
    is a video. Raises a `MediaError` for a file that can't be used, a `UsageError` for a wrong trim.
    """
    check_trim(framing)
    with _memory_faults(path):
        if is_folder(path):
            return read_folder(path, framing)
        check_file(path)
        match look(path):
            case "still":
                return read_still(path)
            case "animation":
                return read_animation(path, framing)
            case "video":
                return _sample_video(path, framing)


def probe(path: Path, *, is_full: bool = False) -> Clip:
    """The facts of a file, found on the way that `sample` takes; `is_full` decodes every frame of a video instead."""
    if is_full and not is_folder(path):
        check_file(path)
        with _memory_faults(path):
            if look(path) == "video":
                return replace(decode_all(path).clip, way_reason="Every frame was decoded, as was asked.")
    clip = sample(path, Framing()).clip
    if clip.kind == "image" or clip.is_rate_constant is not None:
        return clip
    return replace(clip, is_rate_constant=has_constant_rate(path))


@contextmanager
def _memory_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as exc:
        raise MediaError(f"{quoted(path)} needs more memory than there is. Scale it down first.") from exc


def _sample_video(path: Path, framing: Framing) -> Frames:
    with opened(path) as container:
        stream = video_stream(container, path)
        if not is_seekable(stream):
            reason = f"frames coded in {codec_name(stream)} may depend on any frame before them"
            return decode_uncounted(container, path).frames(framing, reason)
    found = sample_by_seeking(path, framing)
    if isinstance(found, Frames):
        return found
    is_whole = framing == Framing(fit=framing.fit)
    known = decode_all(path, found.foreseen if is_whole else (), is_damaged=found.is_damaged)
    return known.frames(framing, found.reason)
