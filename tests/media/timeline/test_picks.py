from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import write_animation
from tests.media.timeline.reels import ENCODINGS, GIF, drawn, scene, write
from vllava_cli.errors import SessionError, UsageError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.sample import sample
from vllava_cli.media.timeline.picks import by_key_frames, by_scenes
from vllava_cli.nouns import Framing, Pick, Window
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.session_file import framing_row, read_framing
from vllava_cli.times import framing_of

PICTURES = {name: np.full((18, 32, 3), level, np.uint8) for name, level in (("A", 0), ("B", 80), ("C", 160))}


def written(choices: tuple[tuple[int, str], ...]) -> str:
    """Writes choices in short: "15s 30f" for frame 15, a scene's, and frame 30, which fills a gap."""
    return " ".join(f"{place}{reason[0]}" for place, reason in choices)


@pytest.mark.parametrize(
    ("scenes", "count", "right"),
    [
        ([(0, "A")], 90, "7f 15t 22f 30f 37f 45s 60f 75t"),
        ([(0, "A"), (60, "B")], 90, "7f 15t 22f 30s 41f 52f 63f 75s"),
        ([(0, "A"), (40, "B"), (70, "A"), (80, "C")], 90, "9f 20s 28f 37f 46f 55s 70f 85s"),
        ([(place, "ABC"[place // 5 % 3]) for place in range(0, 90, 5)], 90, "2s 7s 12s 28f 36f 45t 60f 75t"),
        ([(0, "A")], 3, "0t 0t 0t 1s 1s 1s 2t 2t"),
        ([(0, "A")], 1, "0s 0s 0s 0s 0s 0s 0s 0s"),
    ],
)
def test_scenes_that_differ_are_shown_and_each_third_is(scenes: list[tuple[int, str]], count: int, right: str) -> None:
    assert written(by_scenes([(place, PICTURES[name]) for place, name in scenes], count)) == right


def test_no_more_than_eight_scenes_are_shown_the_longest_first() -> None:
    pictures = [np.full((18, 32, 3), 25 * number, np.uint8) for number in range(10)]
    starts = [0, 10, 30, 32, 40, 50, 52, 60, 70, 80]
    assert written(by_scenes(list(zip(starts, pictures, strict=True)), 90)) == "5s 20s 36s 45s 56s 65s 75s 85s"


@pytest.mark.parametrize(
    ("places", "count", "right"),
    [
        (range(0, 100, 10), 100, "0k 10k 20k 30k 50k 60k 70k 80k"),
        ([0, 50], 100, "0k 12f 25f 37f 50k 62f 75f 87f"),
        ([], 4, "0f 0f 1f 1f 2f 2f 3f 3f"),
    ],
)
def test_key_frames_are_shown_evenly(places: list[int], count: int, right: str) -> None:
    assert written(by_key_frames(places, count)) == right


REEL = list(chain.from_iterable(scene(number, frames) for number, frames in enumerate((20, 30, 10, 40))))
REASONS = ("scene", "filled") * 4


@pytest.mark.parametrize("name", ["even.mp4", "endless.mkv", "mpeg2.ts", "reel.gif", "mpeg4.avi"])
def test_frames_of_scenes_are_those_at_their_times(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, REEL, ENCODINGS.get(name, GIF))
    frames = sample(path, Framing(pick="scenes"))
    assert frames.times_s == pytest.approx((1.0, 2.2, 3.5, 4.5, 5.5, 6.7, 8.0, 9.0))
    assert frames.reasons == REASONS
    named = sample(path, Framing(at_s=frames.times_s))
    assert named.times_s == frames.times_s and np.array_equal(named.pixels, frames.pixels) and named.reasons == ()


def test_key_frames_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "even.mp4", REEL, ENCODINGS["even.mp4"])
    with DecoderClient() as decoder:  # the reasons pass through the decoding process
        frames = decoder.sample(path, Framing(pick="keyframes"))
        part = decoder.sample(path, Framing(pick="keyframes", start_s=2.0, end_s=5.4))
    assert frames.times_s == (0.0, 1.2, 2.5, 3.7, 5.0, 6.2, 7.5, 8.7)
    assert [time_s for time_s, reason in zip(frames.times_s, frames.reasons, strict=True) if reason != "filled"] == [
        *(0.0, 2.5, 5.0, 7.5)
    ]
    assert [time_s for time_s, reason in zip(part.times_s, part.reasons, strict=True) if reason != "filled"] == [
        *(2.5, 5.0)
    ]
    assert part.times_s[0] >= 2.0 and part.times_s[-1] < 5.4


def test_folders_animations_and_images_can_be_picked_from(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, level in enumerate((40, 40, 40, 40, 200, 200, 110, 110, 110, 110)):
        Image.fromarray(drawn(level, 20)).save(folder / f"{number}.png")
    animation = write_animation(tmp_path / "moving.webp", 12)
    assert sample(folder, Framing(pick="scenes")).times_s == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    assert sample(animation, Framing(pick="keyframes")).reasons == ("key frame",) * 8
    image = sample(folder / "0.png", Framing(pick="scenes"))
    assert (image.times_s, image.reasons) == ((0.0,), ())


def test_a_window_is_picked_from_like_a_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "even.mp4", REEL, ENCODINGS["even.mp4"])
    whole = Framing(pick="scenes")
    frames = sample(path, Window(start_s=5.0, end_s=10.0).framing(whole))
    assert [time_s for time_s, reason in zip(frames.times_s, frames.reasons, strict=True) if reason == "scene"] == [
        *(5.5, 8.0)
    ]
    held = sample(path, Window(start_s=5.03, end_s=5.07, is_held=True).framing(whole))
    assert (held.times_s, held.reasons) == ((5.0,), ())


@pytest.mark.parametrize("pick", ["scenes", "keyframes"])
def test_a_pick_excludes_times_and_a_uniform_one_leaves_rows_as_they_are(pick: Pick) -> None:
    with pytest.raises(UsageError, match=f"--pick {pick} can't be combined with --at"):
        framing_of(None, None, at_s=(1.0,), fit="crop", most=8, pick=pick)
    row = framing_row(Framing(pick=pick))
    assert row == framing_row(Framing()) | {"pick": pick}
    assert read_framing(Fields(row, "row", error=SessionError), "crop") == Framing(pick=pick)
