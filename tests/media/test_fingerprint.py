"""A clip is known again by its size and content, a folder by its pictures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from vllava_cli.errors import MediaError
from vllava_cli.media.fingerprint import Fingerprint, StoppedError, differs, fingerprint


def write_pictures(count: int) -> Path:
    folder = Path("holiday")
    folder.mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (4, 3), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def message_for(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        fingerprint(path)
    return str(caught.value)


def test_a_file_is_its_size_and_its_sha256() -> None:
    data = os.urandom(100) * 30_000
    Path("clip.mp4").write_bytes(data)
    assert fingerprint(Path("clip.mp4")) == Fingerprint(bytes=3_000_000, sha256=hashlib.sha256(data).hexdigest())


def test_what_is_no_readable_file_is_refused_as_a_clip() -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("empty").touch()
    assert message_for(Path("none.mp4")) == "There is no file 'none.mp4'. Check the path."
    assert message_for(Path("pipe")) == "'pipe' is a named pipe, not a regular file. Save it to a file first."
    assert message_for(Path("empty")) == "'empty' is empty (0 bytes). Copy or download it again."
    assert message_for(Path("folder")) == "'folder' is a folder. Name the video or image files in it."


def test_a_folder_changes_with_its_pictures_names_and_order_alone() -> None:
    folder = write_pictures(11)
    before = fingerprint(folder)
    assert before.bytes == sum(path.stat().st_size for path in folder.iterdir())
    (folder / "notes.txt").write_text("not a picture")
    assert fingerprint(folder) == before
    for name, other in (("2", "12"), ("11", "12")):
        (folder / f"{name}.png").rename(folder / f"{other}.png")
        assert fingerprint(folder) != before
        (folder / f"{other}.png").rename(folder / f"{name}.png")
    assert fingerprint(folder) == before
    Image.new("RGB", (4, 3), (99, 0, 0)).save(folder / "2.png")
    assert fingerprint(folder) != before


def test_a_name_is_not_mistaken_for_content() -> None:
    folder = write_pictures(2)
    swapped = Path("swapped")
    swapped.mkdir()
    (swapped / "1.png").write_bytes((folder / "2.png").read_bytes())
    (swapped / "2.png").write_bytes((folder / "1.png").read_bytes())
    assert fingerprint(swapped).bytes == fingerprint(folder).bytes
    assert fingerprint(swapped).sha256 != fingerprint(folder).sha256


def test_it_stops_within_a_mebibyte() -> None:
    Path("clip.mp4").write_bytes(bytes(5 << 20))
    asked: list[bool] = []

    def is_stopped() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    with pytest.raises(StoppedError):
        fingerprint(Path("clip.mp4"), is_stopped)
    assert asked == [False, False, True]
    with pytest.raises(StoppedError):
        fingerprint(write_pictures(2), lambda: True)


def test_differences_are_told() -> None:
    path = Path("clip.mp4")
    path.write_bytes(b"a" * 1234)
    before = fingerprint(path)
    assert differs(path, before) is None
    path.write_bytes(b"b" * 1234)
    assert differs(path, before) == "'clip.mp4' has changed since: the size is the same, but not the content."
    with pytest.raises(StoppedError):
        differs(path, before, lambda: True)
    path.write_bytes(b"a" * 2345)
    assert differs(path, before, lambda: True) == "'clip.mp4' has changed since: 1,234 bytes then, 2,345 now."
    path.unlink()
    assert differs(path, before) == "There is no file 'clip.mp4' any more."
    path.symlink_to("elsewhere.mp4")
    assert differs(path, before) == "There is no file 'clip.mp4' any more."
    path.unlink()
    path.mkdir()
    assert differs(path, before) == "'clip.mp4' is a folder. Name the video or image files in it."


def test_a_folder_that_lost_a_picture_differs() -> None:
    folder = write_pictures(3)
    before = fingerprint(folder)
    assert differs(folder, before) is None
    gone = (folder / "3.png").stat().st_size
    (folder / "3.png").unlink()
    assert differs(folder, before) == (
        f"'holiday' has changed since: {before.bytes:,} bytes then, {before.bytes - gone:,} now."
    )
