"""A clip in use is not read again, unless its file was written to."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vllava_cli.commands.chat.gallery import Clips, Gallery
from vllava_cli.nouns import Clip, Frames, Framing

WHOLE = Framing()


class Reader:
    """Makes frames and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, clips: Clips) -> Sequence[Frames]:
        self.asked += [path.name for path, _ in clips]
        return [
            Frames(
                clip=Clip(path=path, kind="video", width=1, height=1, frame_count=8),
                pixels=np.zeros((8, 1, 1, 3), np.uint8),
                times_s=(0.0,) * 8,
            )
            for path, _ in clips
        ]


def test_a_clip_in_use_is_read_once_under_any_name(tmp_path: Path) -> None:
    gallery, reader = Gallery(), Reader()
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    a, b = (tmp_path / "a.mp4", WHOLE), (tmp_path / "b.mp4", WHOLE)
    first = gallery.frames([a, b, a], reader.read)
    again = gallery.frames([b, (tmp_path / "folder" / ".." / "a.mp4", WHOLE), a][::2], reader.read)
    assert reader.asked == ["a.mp4", "b.mp4"]
    assert first[0] is first[2] is again[1]
    assert first[1] is again[0]


def test_another_part_a_changed_file_and_a_folder_are_read(tmp_path: Path) -> None:
    gallery, reader = Gallery(), Reader()
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"a")
    kept = [gallery.frames([(clip, WHOLE)], reader.read)]
    kept.append(gallery.frames([(clip, Framing(start_s=1.0))], reader.read))
    clip.write_bytes(b"longer")
    kept.append(gallery.frames([(clip, WHOLE)], reader.read))
    kept.append(gallery.frames([(tmp_path, WHOLE)], reader.read))
    kept.append(gallery.frames([(tmp_path, WHOLE)], reader.read))
    assert reader.asked == ["a.mp4", "a.mp4", "a.mp4", tmp_path.name, tmp_path.name]
    assert len({id(frames) for (frames,) in kept}) == 5


def test_what_nobody_holds_is_given_up(tmp_path: Path) -> None:
    gallery, reader = Gallery(), Reader()
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"a")
    gallery.frames([(clip, WHOLE)], reader.read)
    gc.collect()
    gallery.frames([(clip, WHOLE)], reader.read)
    assert reader.asked == ["a.mp4", "a.mp4"]
