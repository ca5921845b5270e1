"""Which file beside a clip has its subtitles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vllava_cli.media.timeline.sidecars import Sidecars, finder

ORDER = ["talk.srt", "talk.vtt", "talk.ASS", "talk.de.srt", "talk.en.srt", "talk.en-US.vtt", "talk.pt-br.ass"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_name_of_the_clip_comes_first_then_the_ending_then_the_language(tmp_path: Path, first: int) -> None:
    for name in reversed([*ORDER[first:], "talk.txt", "talk2.srt", "talk.part2.srt", "talking.srt"]):
        (tmp_path / name).touch()
    assert Sidecars().beside(f"{tmp_path}/talk.mp4") == f"{tmp_path}/{ORDER[first]}"
    assert Sidecars().beside(f"{tmp_path}/other.mp4") is None


def test_a_folder_is_listed_once_for_all_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed: list[str] = []
    scan = os.scandir

    def counted(folder: str) -> Iterator[Any]:
        listed.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", counted)
    Path("a.b.srt").touch()
    beside = finder("auto")
    assert beside and [beside(clip) for clip in ("a.b.mp4", "./a.b.mkv", "a.mp4", "s3://x/a.b.mp4", "gone/a.mp4")] == [
        *("a.b.srt", "./a.b.srt", None, None, None)
    ]
    assert listed == [".", ".", "gone"]


def test_a_named_file_is_that_of_any_clip() -> None:
    beside = finder(Path("x.srt"))
    assert beside and beside("a.mp4") == "x.srt"
    assert finder(None) is None
