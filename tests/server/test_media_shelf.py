"""The shelf decodes a clip once for all who ask for it, in processes that may die, and holds no more than it may."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.clips import write_clip, write_pictures
from vllava_cli.errors import BusyError, MediaError, ServerError, UsageError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing
from vllava_cli.server.clips import media_shelf
from vllava_cli.server.clips.media_shelf import ClipContent, MediaShelf, content_of

WHOLE = Framing()
FRAMES_BYTES = 8 * 64 * 48 * 3


@pytest.fixture
def shelf() -> Iterator[MediaShelf]:
    shelf = MediaShelf(decoders=2)
    yield shelf
    shelf.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", 20)


@pytest.fixture
def clockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written just now counts as old."""
    monkeypatch.setattr(media_shelf, "_SETTLED_NS", 0)


def stopped(shelf: MediaShelf, place: int = -1) -> int:
    """Stops a decoding process in its tracks, so that the clip that it gets next is never read."""
    client = shelf._clients[place]
    client.start()
    assert client.pid
    os.kill(client.pid, signal.SIGSTOP)
    return client.pid


def test_twenty_who_ask_for_a_clip_at_once_get_one_decode(shelf: MediaShelf, clip: Path) -> None:
    start, found = threading.Barrier(20), list[Frames]()

    def ask() -> None:
        start.wait()
        found.append(shelf.frames(clip, WHOLE))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (shelf.figures.decoded, len({id(frames) for frames in found})) == (1, 1)
    assert np.array_equal(found[0].pixels, sample(clip, WHOLE).pixels)
    assert found[0].clip == sample(clip, WHOLE).clip


@pytest.mark.usefixtures("clockless")
def test_a_clip_is_decoded_once_for_each_framing(shelf: MediaShelf, clip: Path) -> None:
    framings = (WHOLE, Framing(fit="pad"), Framing(end_s=0.5), Framing(at_s=(0.2,)), WHOLE)
    found = [shelf.frames(clip, framing) for framing in framings]
    assert shelf.figures.decoded == 4
    assert found[0] is found[4] is found[1]
    assert [len(frames.times_s) for frames in found] == [8] * 5
    assert found[3].times_s == (sample(clip, Framing(at_s=(0.2,))).times_s[0],) * 8


@pytest.mark.usefixtures("clockless")
def test_a_file_that_changes_has_new_frames(shelf: MediaShelf, clip: Path, tmp_path: Path) -> None:
    first = shelf.frames(clip, WHOLE)
    other = write_clip(tmp_path / "b.mp4", 30)
    content = other.read_bytes()
    other.replace(clip)
    second = shelf.frames(clip, WHOLE)
    os.utime(clip, ns=(0, 0))
    third = shelf.frames(clip, WHOLE)
    assert (first.clip.frame_count, second.clip.frame_count, shelf.figures.decoded) == (20, 30, 3)
    assert third is second
    clip.write_bytes(content[:-1])
    with pytest.raises(MediaError):
        shelf.frames(clip.with_name("gone.mp4"), WHOLE)


def test_a_file_that_was_just_written_is_read_again(shelf: MediaShelf, clip: Path) -> None:
    os.utime(clip, (1e10, 1e10))
    assert shelf.frames(clip, WHOLE) is shelf.frames(clip, WHOLE)
    assert shelf.figures.decoded == 2


def test_a_folder_of_pictures_is_read_each_time(shelf: MediaShelf, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder / "%d.jpg")
    first = shelf.frames(folder, WHOLE)
    next(folder.iterdir()).unlink()
    second = shelf.frames(folder, WHOLE)
    assert (first.clip.frame_count - 1, shelf.figures.clips) == (second.clip.frame_count, 0)


@pytest.mark.usefixtures("clockless")
def test_frames_and_faults_have_the_name_that_the_caller_gives(shelf: MediaShelf, clip: Path, tmp_path: Path) -> None:
    found = [shelf.frames(clip, WHOLE, name=Path(name)) for name in ("x.mp4", "y.mp4", "x.mp4")]
    assert [frames.clip.path.name for frames in found] == ["x.mp4", "y.mp4", "x.mp4"]
    assert found[0] is found[2]
    assert found[0].pixels is found[1].pixels
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for name in ("x.mp4", "y.mp4"):
        with pytest.raises(MediaError, match=f"^'{name}' is neither a video"):
            shelf.frames(tmp_path / "bad.mp4", WHOLE, name=Path(name))
    with pytest.raises(MediaError, match=r"^--start 99 s is past the end of 'z', which lasts"):
        shelf.frames(clip, Framing(start_s=99), name=Path("z"))
    with pytest.raises(UsageError, match=r"^9 frames are more than the 8"):
        shelf.frames(clip, Framing(at_s=(0.1,) * 9))


def test_the_least_recently_used_frames_are_dropped(tmp_path: Path) -> None:
    shelf = MediaShelf(decoders=1, most_bytes=2 * FRAMES_BYTES)
    contents = [
        ClipContent(key=(name,), opened=lambda path=path: nullcontext(path))  # type: ignore[misc]
        for name, path in ((str(n), write_clip(tmp_path / f"{n}.mp4", 10 + n)) for n in range(3))
    ]
    for place in (0, 1, 0, 2, 0, 1):
        shelf.begin(contents[place], WHOLE).result()
    figures = shelf.figures
    assert (figures.decoded, figures.clips, figures.bytes) == (4, 2, 2 * FRAMES_BYTES)
    shelf.close()


def test_the_same_pixels_are_the_same_frames_but_not_at_other_times(shelf: MediaShelf, clip: Path) -> None:
    one, other = sample(clip, WHOLE), sample(clip, WHOLE)
    assert shelf.same(one) is one
    assert shelf.same(other) is one
    slower = replace(other, times_s=tuple(2 * time_s for time_s in other.times_s))
    assert shelf.same(slower) is slower


def test_a_clip_that_takes_long_does_not_stop_others(shelf: MediaShelf, clip: Path, tmp_path: Path) -> None:
    pid = stopped(shelf)
    slow = shelf.begin(content_of(write_clip(tmp_path / "slow.mp4", 9)), WHOLE)
    assert len(shelf.frames(clip, WHOLE).times_s) == 8
    assert not slow.done()
    os.kill(pid, signal.SIGCONT)
    assert slow.result().clip.frame_count == 9


@pytest.mark.parametrize("before", [0, 1], ids=["its first clip", "a later clip"])
def test_a_clip_is_read_though_its_process_is_killed(clip: Path, tmp_path: Path, before: int) -> None:
    own = psutil.Process()
    files, children = own.num_fds(), len(own.children())
    shelf = MediaShelf(decoders=1)
    others = [write_clip(tmp_path / f"{n}.mp4", 10 + n) for n in range(before)]
    assert [shelf.frames(other, WHOLE).clip.frame_count for other in others] == list(range(10, 10 + before))
    for frame_count in (20, 21, 22):
        pid = stopped(shelf)
        asked = shelf.begin(content_of(write_clip(clip, frame_count)), WHOLE)
        os.kill(pid, signal.SIGKILL)
        assert asked.result().clip.frame_count == frame_count
    assert shelf.figures.faults == 0
    shelf.close()
    assert (own.num_fds(), len(own.children())) == (files, children)


def test_too_many_clips_that_wait_are_refused(clip: Path, tmp_path: Path) -> None:
    shelf = MediaShelf(decoders=1, most_waiting=2)
    stopped(shelf)
    paths = [write_clip(tmp_path / f"{n}.mp4", 9 + n) for n in range(2)]
    waiting: list[Future[Frames]] = [shelf.begin(content_of(path), WHOLE) for path in (*paths, paths[0])]
    with pytest.raises(BusyError, match=r"^2 clips wait to be decoded already\. Try again in a moment\.$"):
        shelf.frames(clip, WHOLE)
    shelf.close()
    for future in waiting:
        with pytest.raises(ServerError, match=r"^The server ends"):
            future.result()
    with pytest.raises(ServerError, match=r"^The server ends"):
        shelf.frames(clip, WHOLE)


def test_a_future_that_is_cancelled_is_the_callers_alone(shelf: MediaShelf, clip: Path) -> None:
    pids = [stopped(shelf, place) for place in (0, 1)]
    one, other = (shelf.begin(content_of(clip), WHOLE) for _ in range(2))
    assert one.cancel()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert other.result().clip.frame_count == 20
