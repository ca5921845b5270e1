from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import write_clip
from vllava_cli.errors import MediaError
from vllava_cli.measures import Line, Measured
from vllava_cli.media.contest import frames_line, frames_report, installed, limits_for
from vllava_cli.nouns import DecodeLimits

LIMITS = DecodeLimits()
ONE = Measured(values=(1.0,))
NO_TORCHCODEC = "raise ImportError('no FFmpeg')"
PICTURE_NOTE = "The documentation's loop reads videos only, and a picture has no floor: there is nothing to search."


def never() -> bool:
    return False


def level(line: Line) -> Line:
    """With one for every figure."""
    return replace(
        line,
        ours=line.ours and Measured(values=(1.0,) * len(line.ours.values)),
        snippet=line.snippet and Measured(values=(1.0,) * len(line.snippet.values)),
        limit=line.limit and 1.0,
    )


@pytest.fixture
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchcodec that doesn't work, which takes no time, and no ffmpeg."""
    (tmp_path / "modules" / "torchcodec").mkdir(parents=True)
    (tmp_path / "modules" / "torchcodec" / "__init__.py").write_text(NO_TORCHCODEC)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_clip_has_all_three_figures(clip: Path) -> None:
    line = frames_line(clip, LIMITS, repeat=2, is_interrupted=never)
    two = Measured(values=(1.0, 1.0))
    assert level(line) == Line(name="frames", unit="s", ours=two, snippet=two, limit=1.0)


@pytest.mark.usefixtures("rivals")
def test_a_report_has_what_is_installed_and_the_bars_of_the_clip(clip: Path) -> None:
    report = frames_report(clip, LIMITS, repeat=1, is_interrupted=never)
    assert [level(line) for line in report.lines] == [
        Line(name="frames", unit="s", ours=ONE, snippet=ONE, limit=1.0),
        Line(name="frames, no guard", unit="s", ours=ONE, snippet=ONE, limit=1.0),
        Line(
            name="beside torchcodec",
            unit="s",
            ours=ONE,
            note="There is no figure of torchcodec's exact mode: no FFmpeg.",
        ),
        Line(name="peak memory", unit="MiB", ours=ONE, snippet=ONE),
    ]
    assert [bar.text.rpartition(": ")[0] for bar in report.bars] == [
        "identical frames",
        "at most 1.10 of the loop, short clips",
        "at most 1.30 of the floor, short clips",
    ]
    assert report.bars[0].is_met


def test_an_image_and_a_folder_of_pictures_are_read_but_not_raced(image: Path) -> None:
    for path in (image, image.parent):
        report = frames_report(path, LIMITS, repeat=1, is_interrupted=never)
        assert ([level(line) for line in report.lines], report.bars) == (
            [
                Line(name="frames", unit="s", ours=ONE, note=PICTURE_NOTE),
                Line(name="frames, no guard", unit="s", ours=ONE, note=PICTURE_NOTE),
                Line(name="peak memory", unit="MiB", ours=ONE),
            ],
            (),
        )


def test_a_stream_that_no_rival_can_search_has_our_figure(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h264")
    assert level(frames_line(path, LIMITS, repeat=1, is_interrupted=never)) == Line(
        name="frames",
        unit="s",
        ours=ONE,
        note="There is no figure of the documentation's loop: Operation not permitted. The limit isn't known: its "
        "packets don't say where its frames and key frames are.",
    )


@pytest.mark.parametrize("name", ["none.mp4", "text.mp4"])
def test_a_file_that_is_no_clip_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:1/a.ts\n")
    with pytest.raises(MediaError, match=name):
        frames_line(tmp_path / name, LIMITS, repeat=1, is_interrupted=never)


def test_nothing_is_begun_after_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        frames_line(tmp_path / "none.mp4", LIMITS, repeat=1, is_interrupted=lambda: True)


@pytest.mark.parametrize("asked", [2, 3, 4, 6])
def test_ctrl_c_ends_it_wherever_it_is(asked: int, clip: Path) -> None:
    count = iter(range(1000))
    with pytest.raises(KeyboardInterrupt):
        frames_line(clip, LIMITS, repeat=1, is_interrupted=lambda: next(count) >= asked)
    assert next(count) == asked + 1


@pytest.mark.parametrize(
    ("way", "timeout_s", "expected_s"),
    [("reference", 300.0, 60.0), ("reference", 10.0, 10.0), ("floor", 300.0, 300.0), ("ours", 10.0, 10.0)],
)
def test_the_loop_gets_a_minute_and_all_others_what_a_clip_may_take(
    way: str, timeout_s: float, expected_s: float
) -> None:
    expected = DecodeLimits(timeout_s=expected_s, memory_bytes=1 << 30)
    assert limits_for(way, DecodeLimits(timeout_s=timeout_s, memory_bytes=1 << 30)) == expected


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ((), []),
        (("torchcodec",), ["torchcodec"]),
        (("ffmpeg",), ["ffmpeg"]),
        (("torchcodec", "ffmpeg"), ["torchcodec", "ffmpeg"]),
    ],
)
def test_rivals_are_those_that_are_installed(there: Sequence[str], expected: list[str]) -> None:
    assert list(installed(there.__contains__, there.__contains__)) == expected


def test_the_process_that_asks_imports_no_decoder() -> None:
    script = "import sys, vllava_cli.media.contest; sys.exit(bool({'av', 'PIL', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
