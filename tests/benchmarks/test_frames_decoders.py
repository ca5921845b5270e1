"""All decoders give the eight frames that ours gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.frames_decoders import Prepared, ffmpeg, loop, lower_bound, lower_bound_threads, ours
from tests.clips import GIF, H264, MPEG4, VP9, index_of, write_clip

KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": write_clip,
    "five.mp4": lambda path: write_clip(path, 5),
    "rotated.mp4": lambda path: write_clip(path, encoding=replace(H264, rotation=90)),
    "mirrored.mp4": lambda path: write_clip(path, encoding=replace(H264, rotation=180, is_mirrored=True)),
    "mpeg4.avi": lambda path: write_clip(path, encoding=MPEG4),
    "vp9.webm": lambda path: write_clip(path, encoding=VP9),
    "a.gif": lambda path: write_clip(path, encoding=GIF),
}


@pytest.mark.parametrize("decoder", [loop, lower_bound, lower_bound_threads])
@pytest.mark.parametrize("kind", KINDS)
def test_each_decoder_gives_our_frames(decoder: Callable[[Path], Prepared], kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / kind)
    found, right = decoder(path)(), ours(path)()
    assert found.digest == right.digest
    assert found.offsets_s == pytest.approx(right.offsets_s, abs=1e-3)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg command isn't installed")
def test_the_command_gives_the_same_frames_without_their_times(clip: Path) -> None:
    found = ffmpeg(clip)()
    assert ([index_of(picture) for picture in found.pictures], found.offsets_s) == ([0, 3, 6, 9, 12, 15, 18, 21], [])


def test_only_the_needed_groups_are_decoded_for_the_lower_bound(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 240, encoding=replace(H264, options={"g": "10", "bf": "0"}))
    data = path.read_bytes()
    (tmp_path / "b.mp4").write_bytes(data.replace(data[len(data) // 2 - 40 : len(data) // 2], b"\xff" * 40))
    found = lower_bound(tmp_path / "b.mp4")()
    assert [index_of(picture) for picture in found.pictures] == [0, 30, 60, 90, 120, 150, 180, 210]
