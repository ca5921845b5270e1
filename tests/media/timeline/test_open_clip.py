"""The frames of windows are those of a full decode, by every way in which a file is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.clips import GIF, MJPEG, Encoding, picture, truth, write_animation, write_clip
from tests.media.zoo import (
    CLOSED,
    MPEG2_B,
    MPEG4_B,
    OPEN,
    VP9,
    Maker,
    edited,
    encoded,
    ended,
    overwritten,
    slides,
    timed,
    turned_midway,
    wiped,
    with_sound,
)
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.sample import sample
from vllava_cli.media.timeline.clip_windows import clip_windows
from vllava_cli.media.timeline.open_clip import open_clip
from vllava_cli.nouns import ClipWindows, Framing, Pick, Windowing

WHOLE = Framing()

WAYS: dict[str, Maker] = {
    "closed.mp4": encoded(CLOSED),
    "open.mp4": encoded(OPEN),
    "open.mkv": encoded(OPEN),
    "vfr.mkv": timed(CLOSED, slides),
    "edited.mp4": edited(CLOSED, (3.0, 1.2)),
    "a.ts": encoded(MPEG2_B),
    "b.avi": encoded(MPEG4_B),
    "a.webm": encoded(VP9),
    "a.gif": encoded(GIF),
    "a.mjpeg": encoded(MJPEG),
    "sound.mkv": lambda path, frames: with_sound(path, frames, lead=5),
    "short.mp4": ended(encoded(Encoding(options=CLOSED.options, muxer_options={"movflags": "faststart"})), 0.7),
    "short.mkv": ended(CLOSED, 0.7),
    "damaged.mp4": overwritten(CLOSED, 24, 28, is_random=True),
    "noisy.ts": wiped(encoded(CLOSED), 0.4, 0.5, is_random=True),
    "turned.h264": turned_midway,
}
"""The last ones can't be read by an index everywhere: some of their windows are decoded in order."""


@pytest.mark.parametrize("overlap_s", [0.0, 0.6])
@pytest.mark.parametrize("name", WAYS)
def test_the_frames_of_windows_are_those_of_a_full_decode(name: str, overlap_s: float) -> None:
    path = WAYS[name](Path(name), 70)
    known = truth(path)
    times_s = known.times_s(range(known.count))
    with closing(open_clip(path, WHOLE)) as clip:
        windows = clip_windows(clip, Windowing(every_s=1.0, overlap_s=overlap_s), WHOLE).windows
        framings = [window.framing(WHOLE) for window in windows]
        assert windows[0].start_s == 0 and times_s[-1] < windows[-1].end_s == clip.duration_s < times_s[-1] + 3
        for place, (window, framing) in enumerate(zip(windows, framings, strict=True)):
            wanted = [place for place, time_s in enumerate(times_s) if window.start_s <= time_s < window.end_s]
            assert window.is_held == (not wanted)
            shown = [place for place, time_s in enumerate(times_s) if time_s <= window.start_s][-1:]
            chosen = [wanted[i * len(wanted) // 8] for i in range(8)] if wanted else shown
            frames, alone = clip.frames(framing, framings[place + 1 : place + 4]), sample(path, framing)
            assert frames.times_s == alone.times_s == tuple(known.times_s(chosen))
            pictures = known.pictures(chosen)
            for pixels, index in zip(frames.pixels, chosen, strict=True):
                height, width, _ = pictures[index].shape
                assert np.array_equal(pixels[:height, :width], pictures[index])
            assert np.array_equal(frames.pixels, alone.pixels) and frames.clip.faults == alone.clip.faults


def pictures_of(folder: Path, frames: int) -> Path:
    folder.mkdir()
    for index in range(frames):
        Image.fromarray(picture(index)).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("two clouds")
    return folder


@pytest.mark.parametrize(
    ("make", "rate"),
    [(pictures_of, 1), (lambda path, frames: write_animation(path.with_suffix(".webp"), frames), 10)],
)
def test_pictures_have_windows_too(make: Maker, rate: int) -> None:
    path = make(Path("a"), 23)
    with closing(open_clip(path, WHOLE)) as clip:
        found = clip_windows(clip, Windowing(every_s=7 / rate), Framing(start_s=2 / rate))
        edges = [(window.start_s, window.end_s) for window in found.windows]
        assert edges == [(first / rate, (first + 7) / rate) for first in (2, 9, 16)] and found.clip.kind == "video"
        for window, first in zip(found.windows, (2, 9, 16), strict=True):
            framing, places = window.framing(WHOLE), [i * 7 // 8 for i in range(8)]
            frames, alone = clip.frames(framing), sample(path, framing)
            assert frames.times_s == alone.times_s == tuple((first + place) / rate for place in places)
            expected = [picture(first + place) for place in places]
            assert np.array_equal(frames.pixels, np.stack(expected)) and np.array_equal(frames.pixels, alone.pixels)
            assert frames.clip == alone.clip


@pytest.mark.parametrize("name", ["open.mp4", "open.mkv", "a.gif", "short.mkv", "a.webp", "a"])
def test_frames_of_windows_can_be_picked(name: str) -> None:
    make = WAYS.get(name) or {"a.webp": write_animation, "a": pictures_of}[name]
    path = make(Path(name), 40)
    with closing(open_clip(path, WHOLE)) as clip:
        for pick in get_args(Pick):
            framing = Framing(start_s=1.0, end_s=2.5, pick=pick)
            frames, alone = clip.frames(framing), sample(path, framing)
            assert (frames.times_s, frames.reasons) == (alone.times_s, alone.reasons)
            assert np.array_equal(frames.pixels, alone.pixels) and bool(frames.reasons) == (pick != "uniform")


def test_an_image_has_no_windows() -> None:
    Image.fromarray(picture(1)).save("a.png")
    with closing(open_clip(Path("a.png"), WHOLE)) as clip:
        found = clip_windows(clip, Windowing(every_s=1), WHOLE)
        assert found == ClipWindows(clip=sample(Path("a.png"), WHOLE).clip)


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderClient]:
    with DecoderClient() as client:
        yield client


def noise(path: Path, frames: int) -> Path:
    """A video that hardly compresses, with a key frame in every second."""
    dice = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(frames):
            pixels = dice.integers(0, 256, (120, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.skipif(not hasattr(psutil.Process, "io_counters"), reason="this system doesn't count what is read")
@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: noise(Path("a.mkv"), 300), 4),
        (lambda: ended(noise, 0.9)(Path("b.mkv"), 300), 8),
        (lambda: write_clip(Path("c.gif"), 300, encoding=GIF), 8),
    ],
)
def test_a_file_is_not_read_again_for_each_window(decoder: DecoderClient, make: Callable[[], Path], most: int) -> None:
    """An index and the frames take two passes, a full decode four, one of them in search of damage."""
    path = make()
    decoder.header(path)
    process = psutil.Process(decoder.pid)
    before = process.io_counters().read_chars
    windows = decoder.windows(Windowing(every_s=1.0, overlap_s=0.25), WHOLE, path).windows
    framings = tuple(window.framing(WHOLE) for window in windows)
    for place, framing in enumerate(framings):
        assert len(decoder.window(path, framing, framings[place + 1 : place + 17]).times_s) == 8
    assert len(windows) > 30
    assert process.io_counters().read_chars - before < most * path.stat().st_size


def test_a_file_that_changes_is_opened_anew(decoder: DecoderClient) -> None:
    path, framing = Path("a.mkv"), Framing(start_s=1.0, end_s=2.0)
    for first in (20, 30, 30):
        frames = write_clip(path, first, encoding=CLOSED)
        os.utime(frames, ns=(first, first))
        assert decoder.window(path, framing).clip == sample(path, framing).clip
    path.unlink()
    with pytest.raises(MediaError, match=r"There is no file 'a\.mkv'\. Check the path\."):
        decoder.window(path, framing)


def test_a_process_that_is_killed_between_windows_is_replaced(decoder: DecoderClient) -> None:
    path = write_clip(Path("a.mp4"), 40, encoding=OPEN)
    for start_s in (0.0, 1.0, 2.0):
        framing = Framing(start_s=start_s, end_s=start_s + 1)
        frames, alone = decoder.window(path, framing), sample(path, framing)
        assert frames.times_s == alone.times_s and np.array_equal(frames.pixels, alone.pixels)
        psutil.Process(decoder.pid).kill()
