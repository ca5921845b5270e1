from __future__ import annotations

from pathlib import Path

import pytest

from tests.clips import Encoding, Pixels
from tests.media.timeline.reels import ENCODINGS, drawn, timeline_of, write
from vllava_cli.media.timeline.stillness import with_stillness
from vllava_cli.media.timeline.windows import even_windows
from vllava_cli.nouns import Windowing

STILL = [drawn(120, 20)] * 120
MOVING = [drawn(120, 20 + index) for index in range(40)]
DRIFT = [drawn(120, 60 - index / 20) for index in range(120)]
BLINK = [drawn(120, 20)] * 70 + [drawn(120, 21)] * 2 + [drawn(120, 20)] * 48


def marks(path: Path) -> str:
    """A letter for each window of two seconds: S for still."""
    with timeline_of(path) as timeline:
        windows = with_stillness(even_windows(Windowing(every_s=2.0), 0.0, timeline.duration_s), path, timeline)
    return "".join("S" if window.is_still else "." for window in windows)


RESTS = [*STILL, *MOVING, *[MOVING[-1]] * 120]


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize(
    ("pictures", "right"),
    [(STILL, ".SSSSS"), (DRIFT, "......"), (BLINK, ".SS..S"), (RESTS, ".SSSSS...SSSSS")],
    ids=["still", "drift", "blink", "rests"],
)
def test_a_window_is_still_only_if_nothing_changes_in_it_and_in_the_one_before_it(
    tmp_path: Path, name: str, pictures: list[Pixels], right: str
) -> None:
    """No window may be called still that isn't; an encoder may leave open that one is."""
    found = marks(write(tmp_path / name, pictures, ENCODINGS[name]))
    assert [letter for letter, truth in zip(found, right, strict=True) if truth == "."] == ["."] * right.count(".")


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libvpx-vp9", {"crf": "40", "b": "0", "deadline": "good", "cpu-used": "8", "g": "48"}),
        ("libx264", {"crf": "35", "g": "12", "refs": "3"}),
    ],
)
def test_a_thing_that_blinks_is_not_still(tmp_path: Path, codec: str, options: dict[str, str], period: int) -> None:
    """Its packets may be as small as those of a still clip: they refer to older frames, which had the thing."""
    pictures = [drawn(120, 20 if index % period < period / 2 else 60) for index in range(120)]
    encoding = Encoding(codec=codec, options=options)
    assert marks(write(tmp_path / "blinks.mkv", pictures, encoding)) == "......"


def test_a_still_clip_is_told(tmp_path: Path) -> None:
    assert marks(write(tmp_path / "still.mp4", STILL, ENCODINGS["even.mp4"])) == ".SSSSS"
    assert marks(write(tmp_path / "still.mkv", STILL, ENCODINGS["endless.mkv"])) == ".SSSSS"
