from __future__ import annotations

from itertools import accumulate, chain, pairwise
from pathlib import Path

import pytest

from tests.clips import Pixels
from tests.media.timeline.reels import ENCODINGS, FPS, GIF, drawn, scene, timeline_of, write
from vllava_cli.media.timeline.scenes import scene_starts

LENGTHS = (14, 30, 8, 40, 22)
STARTS = tuple(frames / FPS for frames in accumulate(LENGTHS, initial=0))[:-1]


def reel() -> list[Pixels]:
    return list(chain.from_iterable(scene(number, frames) for number, frames in enumerate(LENGTHS)))


@pytest.mark.parametrize("name", ENCODINGS)
def test_scenes_begin_at_the_cuts_whether_or_not_key_frames_are_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, reel(), ENCODINGS[name])
    with timeline_of(path) as timeline:
        found = scene_starts(path, timeline, 0.0, timeline.duration_s)
        part = scene_starts(path, timeline, 2.0, 8.0)
    assert found == pytest.approx(STARTS, abs=0.002)
    assert part == pytest.approx((2.0, 4.4, 5.2), abs=0.002)


def test_a_file_without_an_index_is_decoded_for_its_cuts(tmp_path: Path) -> None:
    path = write(tmp_path / "reel.gif", reel(), GIF)
    assert scene_starts(path, None, 0.0, 12.0) == pytest.approx(STARTS)


CALM = scene(0, 60)
FADE = [drawn(40 + 5 * index, 30) for index in range(40)]
TOO_SHORT = list(chain.from_iterable(scene(number, 2) for number in range(30)))


@pytest.mark.parametrize("name", ["auto.mp4", "even.mp4", "mjpeg.avi"])
@pytest.mark.parametrize(
    ("pictures", "starts"),
    [
        (CALM, (0.0,)),
        (CALM[:20] + [drawn(255, 0)] * 2 + CALM[22:], (0.0,)),
        (CALM[:20] + [drawn(level, 0) for level in (250, 180, 120)] + CALM[23:], (0.0,)),
        (FADE, (0.0,)),
        (CALM[:3] + scene(2, 40), (0.0,)),
    ],
    ids=["motion", "flash", "slow flash", "fade", "a scene that is too short"],
)
def test_what_is_no_cut_begins_no_scene(
    tmp_path: Path, name: str, pictures: list[Pixels], starts: tuple[float, ...]
) -> None:
    path = write(tmp_path / name, pictures, ENCODINGS[name])
    with timeline_of(path) as timeline:
        assert scene_starts(path, timeline, 0.0, timeline.duration_s) == pytest.approx(starts)


@pytest.mark.parametrize("name", ["auto.mp4", "even.mp4", "mjpeg.avi"])
def test_no_scene_is_shorter_than_half_a_second(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, CALM[:30] + TOO_SHORT, ENCODINGS[name])
    with timeline_of(path) as timeline:
        found = (*scene_starts(path, timeline, 0.0, timeline.duration_s), timeline.duration_s)
    assert all(after - before >= 0.5 - 1e-6 for before, after in pairwise(found))
