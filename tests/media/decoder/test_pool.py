from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.clips import GIF, cut, picture, write_clip
from tests.machines import RECIPE
from tests.waiting import wait_for
from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder import protocol
from vllava_cli.media.decoder.client import KilledError
from vllava_cli.media.decoder.pool import Pool, Read, ReadAhead, default_workers, in_chunks
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.sample import header, sample
from vllava_cli.media.select import spread
from vllava_cli.nouns import Clip, Fit, Frames, Framing

K, T = TypeVar("K"), TypeVar("T")
ROOT = Path(__file__).parents[3]
WHOLE = Framing()
A_MOMENT_S = 60.0


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """The processes that this test has started."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: {child.pid for child in psutil.Process().children()} - before


def reads(ahead: ReadAhead[K, T]) -> dict[K, Read[K, T]]:
    """What became of each file, in order of completion."""
    found: dict[K, Read[K, T]] = {}
    while not ahead.is_over:
        found |= {read.key: read for read in ahead.take(3, is_waiting=True)}
    return found


def named(*names: str) -> list[tuple[str, Path]]:
    return [(name, Path(name)) for name in names]


@pytest.fixture
def mixed(inside: Path) -> list[tuple[str, Path]]:
    """Good files, and among them one that is missing, a damaged one and a folder."""
    write_clip(Path("a.mp4"))
    write_clip(Path("b.mkv"), 5)
    Image.fromarray(picture(5)).save("c.png")
    cut(write_clip(inside / "whole.mp4"), 0.5, "damaged.mp4")
    Path("folder").mkdir()
    return named("a.mp4", "missing.mp4", "b.mkv", "damaged.mp4", "folder", "c.png")


FAULTS = {
    "missing.mp4": "There is no file 'missing.mp4'. Check the path.",
    "damaged.mp4": "'damaged.mp4' is truncated or damaged: nothing in it can be decoded. Copy or download it again.",
    "folder": "'folder' is a folder. Name the video or image files in it.",
}


def test_headers_then_frames_of_good_and_bad_files_by_the_same_children(
    mixed: list[tuple[str, Path]], children: Callable[[], set[int]]
) -> None:
    with Pool(2) as pool:
        assert children() == set()
        headers = reads(pool.headers(mixed))
        pids = children()
        frames = reads(pool.frames((*each, WHOLE) for each in mixed))
        assert children() == pids and len(pids) == 2
    assert children() == set()
    assert {key: str(read.fault) for key, read in headers.items() if read.fault} == FAULTS
    assert {key: read.found for key, read in headers.items() if read.found} == {
        name: header(Path(name)) for name in ("a.mp4", "b.mkv", "c.png")
    }
    assert {key: str(read.fault) for key, read in frames.items() if read.fault} == FAULTS
    for name in ("a.mp4", "b.mkv", "c.png"):
        found, expected = frames[name].found, sample(Path(name), WHOLE)
        assert found and (found.clip, found.times_s) == (expected.clip, expected.times_s)
        assert (found.pixels == expected.pixels).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_frames_are_as_small_as_a_model_takes_them_once_it_is_known(fit: Fit) -> None:
    write_clip(Path("a.mp4"), width=320, height=176)
    whole, framing = sample(Path("a.mp4"), WHOLE), Framing(fit=fit)
    with Pool(1) as pool:
        (before,) = reads(pool.frames((*each, framing) for each in named("a.mp4"))).values()
        pool.fit_to(RECIPE)
        (after,) = reads(pool.frames((*each, framing) for each in named("a.mp4"))).values()
    assert before.found and before.found.pixels.shape == (8, 176, 320, 3)
    assert after.found and after.found.pixels.shape == (8, 224, 224, 3)
    assert torch.equal(video_pixels(after.found, RECIPE, fit=fit), video_pixels(whole, RECIPE, fit=fit))


def test_frames_are_spread_to_as_many_as_the_model_sees() -> None:
    write_clip(Path("a.mp4"))
    framing = Framing(at_s=(0.5, 1.5))
    with Pool(1) as pool:
        (read,) = reads(pool.frames((*each, framing) for each in named("a.mp4"))).values()
        expected = spread(sample(Path("a.mp4"), framing), framing.fit)
        assert read.found and read.found.times_s == expected.times_s == (0.5,) * 4 + (1.5,) * 4
        assert (read.found.pixels == expected.pixels).all()
        (read,) = reads(pool.frames((*each, Framing(at_s=(0.1,) * 9)) for each in named("a.mp4"))).values()
        assert type(read.fault) is UsageError


def fake(code: str) -> Sequence[str]:
    """A child that says it is ready and then does what `code` says with each request, else gives a clip's facts."""
    clip = Clip(path=Path("a.mp4"), kind="video", width=14, height=8, frame_count=3)
    frames = Frames(clip=clip, pixels=np.zeros((3, 8, 14, 3), np.uint8), times_s=(0.0, 1.0, 2.0))
    sent = protocol.result_line(frames) + frames.pixels.tobytes()
    loop = (
        "import os, sys, time\n"
        f"os.write(1, {protocol.READY!r})\n"
        "while line := os.read(0, 1 << 16):\n"
        f"    {code}\n"
        f"    os.write(1, {protocol.result_line(clip)!r} if b'header' in line else {sent!r})\n"
    )
    return [sys.executable, "-S", "-c", loop]


def test_a_process_that_dies_of_one_window_leaves_the_others_theirs() -> None:
    dying = struct.pack(">d", 1.5)  # as it stands in a pickled framing
    framings = [Framing(start_s=number / 2, end_s=number / 2 + 1) for number in range(6)]
    with Pool(1, command=fake(f"{dying!r} in line and os._exit(9)")) as pool:
        files = [(number, Path("a.mp4"), framing) for number, framing in enumerate(framings) if number != 1]
        found = reads(pool.frames_of_windows(files, most_together=1))
    assert [key for key, read in found.items() if read.found] == [0, 2, 4, 5]
    crash = "'a.mp4' can't be decoded: the decoder crashed on it (status 9). Convert it to mp4 (H.264)."
    assert str(found[3].fault) == crash


@pytest.mark.parametrize("most_together", [1, 4])
@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_process_that_is_replaced_goes_on_with_the_windows(
    name: str, most_together: int, children: Callable[[], set[int]]
) -> None:
    path = write_clip(Path(name), 60, encoding=GIF) if name == "a.gif" else write_clip(Path(name), 60)
    files = [(number, path, Framing(start_s=number / 2, end_s=number / 2 + 1)) for number in range(10)]
    found = dict[int, Read[int, Frames]]()
    with Pool(1) as pool:
        ahead = pool.frames_of_windows(files, most_together=most_together)
        while not ahead.is_over:
            found |= {read.key: read for read in ahead.take(1, is_waiting=True)}
            if len(found) == 3:  # it has read others, so that none is blamed
                for pid in children():
                    psutil.Process(pid).kill()
    assert found.keys() == {key for key, *_ in files}
    for key, path, framing in files:
        read, alone = found[key].found, spread(sample(path, framing), "crop")
        assert read and read.times_s == alone.times_s and (read.pixels == alone.pixels).all()


GOOD = [f"{number}.mp4" for number in range(20)]


@pytest.mark.parametrize("call", ["headers", "frames"])
def test_a_file_that_hangs_holds_up_its_own_worker_alone(call: str) -> None:
    hang = "while b'hang.mp4' in line and not os.path.exists('all others are read'): time.sleep(0.01)"
    with Pool(2, command=fake(hang)) as pool:
        files = named("hang.mp4", *GOOD)
        ahead = pool.headers(files) if call == "headers" else pool.frames((*each, WHOLE) for each in files)
        first: list[str] = []
        while len(first) < len(GOOD):
            first += [read.key for read in ahead.take(3, is_waiting=True)]
        Path("all others are read").touch()
        rest = reads(ahead)  # type: ignore[arg-type]
    assert first == GOOD
    assert list(rest) == ["hang.mp4"] and not rest["hang.mp4"].fault


def test_a_child_that_dies_costs_its_file_alone() -> None:
    with Pool(2, command=fake("if b'die.mp4' in line or b'die too.mp4' in line: os.abort()")) as pool:
        found = reads(pool.headers(named("1.mp4", "die.mp4", "2.mp4", "3.mp4", "die too.mp4", "4.mp4")))
    crashed = "'{}' can't be decoded: the decoder crashed on it (SIGABRT). Convert it to mp4 (H.264)."
    assert {name: str(read.fault) for name, read in found.items() if read.fault} == {
        name: crashed.format(name) for name in ("die.mp4", "die too.mp4")
    }
    assert sorted(found) == ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "die too.mp4", "die.mp4"]


@pytest.mark.parametrize(("cores", "workers", "share"), [(2, 2, "1"), (16, 8, "2"), (2, 4, "1"), (6, 1, "6")])
def test_processes_that_decode_side_by_side_share_the_cores(
    inside: Path, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, share: str
) -> None:
    monkeypatch.setattr("vllava_cli.media.decoder.pool.cpu_cores", lambda: cores)
    with Pool(workers, command=fake("open('share', 'w').write(os.environ['VLLAVA_DECODER_CORES'])")) as pool:
        reads(pool.headers(named("1.mp4")))
    assert (inside / "share").read_text() == share


def test_no_child_for_a_file_that_is_not_there(children: Callable[[], set[int]]) -> None:
    with Pool(4, command=fake("pass")) as pool:
        reads(pool.headers(named("1.mp4")))
        assert len(children()) == 1
    assert children() == set()


def test_a_pool_that_is_closed_while_all_are_busy_leaves_no_process(children: Callable[[], set[int]]) -> None:
    with Pool(3, command=fake("time.sleep(60)")) as pool:
        ahead = pool.headers(named(*GOOD))
        assert wait_for(lambda: len(children()) == 3)
    assert children() == set()
    assert ahead.take(1, is_waiting=True) == [] and ahead.is_over
    assert wait_for(lambda: threads() == [])


def threads() -> list[threading.Thread]:
    """Those that read ahead."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]


def test_a_pool_that_is_closed_while_its_worker_waits_for_room_leaves_no_thread() -> None:
    with Pool(1, command=fake("pass"), max_bytes=1) as pool:
        ahead = pool.frames((*each, WHOLE) for each in named(*GOOD))
        assert ahead.take(0, is_waiting=True) == [] and not ahead.is_over
    assert wait_for(lambda: threads() == [])
    assert [read.key for read in ahead.take(9, is_waiting=True)] == GOOD[:1] and ahead.is_over


CALLER = """
import os, signal, sys, threading
from pathlib import Path
from vllava_cli.media.decoder.pool import Pool

with Pool(2, command=[sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as pool:
    ahead = pool.headers((number, Path("a.mp4")) for number in range(9))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    ahead.take(1, is_waiting=True)
"""


def test_ctrl_c_ends_a_caller_that_waits_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CALLER], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize(("cores", "workers"), [(0, 1), (1, 1), (2, 2), (8, 8), (9, 8), (128, 8)])
def test_as_many_workers_as_cores_up_to_eight(cores: int, workers: int) -> None:
    assert default_workers(cores) == workers


# --- ReadAhead, with fake readers


KIB = 1 << 10


def numbered(names: Iterable[str]) -> Iterator[tuple[int, Path]]:
    return ((number, Path(name)) for number, name in enumerate(names))


def kibibyte(path: Path) -> Frames:
    """Frames of 1008 bytes."""
    clip = Clip(path=path, kind="video", width=14, height=8, frame_count=3)
    return Frames(clip=clip, pixels=np.zeros((3, 8, 14, 3), np.uint8), times_s=(0.0, 1.0, 2.0))


class Door:
    """A reader that lets a file pass when its name is opened, and notes which were begun."""

    def __init__(self, *open_names: str) -> None:
        self.begun: list[str] = []
        self._open = set(open_names)
        self._change = threading.Condition()

    def open(self, name: str) -> None:
        with self._change:
            self._open.add(name)
            self._change.notify_all()

    def __call__(self, path: Path) -> str:
        with self._change:
            self.begun.append(str(path))
            assert self._change.wait_for(lambda: str(path) in self._open, timeout=30)
        return f"what {path} shows"


@dataclass
class Counting:
    """A reader that is done at once, and notes which files were begun."""

    read: Callable[[Path], Frames] = kibibyte
    begun: list[str] = field(default_factory=list)

    def __call__(self, path: Path) -> Frames:
        self.begun.append(str(path))
        return self.read(path)


def faulty(path: Path) -> Frames:
    raise MediaError(f"'{path}' is odd.")


def killed(_: Path) -> Frames:
    raise KilledError


def drained(ahead: ReadAhead[int, str]) -> list[int]:
    return list(reads(ahead))


def started(
    files: Iterable[tuple[int, Path]], *readers: Counting | Door, max_bytes: int = 1 << 20, gathered: int = 1
) -> ReadAhead[int, str]:
    chunks = ([file] for file in files)
    return ReadAhead(chunks, readers, max_bytes=max_bytes, gathered=gathered)  # type: ignore[arg-type]


def test_windows_of_a_clip_share_chunks_and_know_the_next_ones() -> None:
    framings = [Framing(start_s=number) for number in range(4)]
    files = [(number, Path(name), framings[number]) for name, number in zip("aaaab", (0, 1, 2, 3, 0), strict=True)]
    whole = [[(key, framing, later) for key, _, framing, _, later in chunk] for chunk in in_chunks(files, 3)]
    assert whole == [
        [(number, framings[number], tuple(framings[number + 1 :])) for number in range(3)],
        [(3, framings[3], ())],
        [(0, framings[0], ())],
    ]


def test_no_more_windows_are_taken_than_a_chunk_must_know() -> None:
    left = iter(range(100))
    files = ((number, Path("a"), WHOLE) for number in left)
    assert len(next(in_chunks(files, 4))) == 4 and next(left) == 8


def test_a_chunk_is_read_by_one_worker_and_its_results_come_one_by_one() -> None:
    door = Door("a", "c")
    chunks = [list(numbered("abc")), [(3, Path("d"))]]
    ahead: ReadAhead[int, str] = ReadAhead(chunks, [door, door], max_bytes=1 << 20)
    first = [read.key for read in ahead.take(9, is_waiting=True)]
    assert wait_for(lambda: len(door.begun) == 3)
    assert first == [0] and sorted(door.begun) == ["a", "b", "d"]
    door.open("d")
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [3] and not ahead.is_over
    door.open("b")
    rest = list[int]()
    while not ahead.is_over:
        rest += [read.key for read in ahead.take(9, is_waiting=True)]
    assert rest == [1, 2]


def test_the_rest_of_a_chunk_is_left_out_when_it_stops() -> None:
    door = Door()
    ahead: ReadAhead[int, str] = ReadAhead([list(numbered("abc"))], [door], max_bytes=1 << 20)
    assert wait_for(lambda: len(door.begun) == 1)
    ahead.stop()
    door.open("a")
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [0]
    assert wait_for(lambda: ahead.is_over) and len(door.begun) == 1


def test_files_come_in_order_of_completion() -> None:
    door = Door("b", "c")
    ahead = started(numbered("abc"), door, door)
    assert wait_for(lambda: len(door.begun) == 3)
    first = ahead.take(1, is_waiting=True) + ahead.take(1, is_waiting=True)
    assert sorted((read.key, read.found, read.fault) for read in first) == [
        (1, "what b shows", None),
        (2, "what c shows", None),
    ]
    assert ahead.take(1, is_waiting=False) == []
    assert not ahead.is_over
    door.open("a")
    (last,) = ahead.take(9, is_waiting=True)
    assert last == Read(key=0, found="what a shows", fault=None, seconds=last.seconds)
    assert last.seconds > 0
    assert drained(ahead) == []


def test_a_fault_is_part_of_the_answer_and_stops_nothing() -> None:
    def read(path: Path) -> Frames:
        return faulty(path) if path.name == "b" else kibibyte(path)

    ahead = started(numbered("abc"), Counting(read))
    reads = [read for _ in range(3) for read in ahead.take(1, is_waiting=True)]
    assert [(read.key, read.found is None, str(read.fault)) for read in reads] == [
        (0, False, "None"),
        (1, True, "'b' is odd."),
        (2, False, "None"),
    ]
    assert type(reads[1].fault) is MediaError
    assert drained(ahead) == []


def test_nothing_is_begun_while_enough_lies_ready() -> None:
    reader = Counting()
    ahead = started(numbered("abcdefgh"), reader, max_bytes=2 * KIB)
    assert wait_for(lambda: len(reader.begun) == 3)
    assert not wait_for(lambda: len(reader.begun) > 3, patience_s=0.1)
    assert [read.key for read in ahead.take(1, is_waiting=False)] == [0]
    assert wait_for(lambda: len(reader.begun) == 4)
    assert not wait_for(lambda: len(reader.begun) > 4, patience_s=0.1)
    assert drained(ahead) == [1, 2, 3, 4, 5, 6, 7]
    assert reader.begun == list("abcdefgh")


def test_one_is_always_allowed() -> None:
    reader = Counting()
    ahead = started(numbered("abcd"), reader, max_bytes=0)
    for key in range(4):
        assert [read.key for read in ahead.take(9, is_waiting=True)] == [key]
    assert drained(ahead) == []


def test_results_are_gathered_and_then_taken_until_none_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.media.decoder.pool.GATHERING_S", A_MOMENT_S)
    door = Door("a")
    ahead = started(numbered("abcde"), door, gathered=2)
    assert wait_for(lambda: len(door.begun) == 2)
    assert ahead.take(9, is_waiting=False) == []
    for first, names in ((0, "b"), (2, "cd")):
        for name in names:
            door.open(name)
        assert [read.key for read in ahead.take(1, is_waiting=True)] == [first]
        assert [read.key for read in ahead.take(9, is_waiting=False)] == [first + 1]
        assert ahead.take(9, is_waiting=False) == []
    door.open("e")
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [4], "no other comes"
    assert ahead.is_over


def test_gathering_ends_where_memory_does_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.media.decoder.pool.GATHERING_S", A_MOMENT_S)
    assert next(iter(reads(started(numbered("ab"), Counting(), max_bytes=0, gathered=9)))) == 0
    monkeypatch.setattr("vllava_cli.media.decoder.pool.GATHERING_S", 0.05)
    door = Door("a")
    ahead = started(numbered("ab"), door, gathered=2)
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [0]
    door.open("b")


def test_faults_have_no_size_but_a_number() -> None:
    reader = Counting(faulty)
    ahead = started(((number, Path(str(number))) for number in count()), reader)
    assert wait_for(lambda: len(reader.begun) == 1024)
    assert not wait_for(lambda: len(reader.begun) > 1024, patience_s=0.1)
    assert len(ahead.take(2000, is_waiting=False)) == 1024
    assert wait_for(lambda: len(reader.begun) == 2048)
    ahead.stop()


def test_every_file_is_read_once_by_many_readers() -> None:
    readers = [Counting() for _ in range(8)]
    ahead = started(numbered(map(str, range(500))), *readers, max_bytes=20 * KIB)
    assert sorted(drained(ahead)) == list(range(500))
    assert sorted(int(name) for reader in readers for name in reader.begun) == list(range(500))


def test_what_the_files_raise_reaches_the_caller_behind_what_was_begun() -> None:
    door = Door("a")

    def files() -> Iterator[tuple[int, Path]]:
        yield from numbered("ab")
        raise LookupError("line 3 of the jobs")

    ahead = started(files(), door, door)
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [0]
    assert ahead.take(9, is_waiting=False) == []
    door.open("b")
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [1]
    assert not ahead.is_over
    with pytest.raises(LookupError, match="line 3 of the jobs"):
        ahead.take(9, is_waiting=True)
    assert ahead.is_over
    assert ahead.take(9, is_waiting=True) == []


def test_after_a_stop_nothing_is_begun_and_what_was_comes() -> None:
    door = Door()
    ahead = started(numbered("abcd"), door, door)
    assert wait_for(lambda: len(door.begun) == 2)
    ahead.stop()
    for name in "abcd":
        door.open(name)
    assert sorted(drained(ahead)) == [0, 1]
    assert sorted(door.begun) == ["a", "b"]


def test_a_stop_while_the_files_keep_one_waiting() -> None:
    go, reader = threading.Event(), Counting()

    def files() -> Iterator[tuple[int, Path]]:
        yield from numbered("a")
        assert go.wait(30)
        yield from numbered("b")

    ahead = started(files(), reader, reader)
    assert [read.key for read in ahead.take(9, is_waiting=True)] == [0]
    ahead.stop()
    assert ahead.is_over
    go.set()
    assert ahead.take(9, is_waiting=True) == []
    assert not wait_for(lambda: len(reader.begun) > 1, patience_s=0.05)


def test_a_reader_that_was_killed_ends_it_all() -> None:
    ahead = started(numbered("abc"), Counting(killed))
    assert ahead.take(9, is_waiting=True) == []
    assert ahead.is_over


def test_a_note_of_ctrl_c_ends_the_waiting() -> None:
    door, asked = Door(), list[None]()

    def is_interrupted() -> bool:
        asked.append(None)
        return len(asked) > 2

    ahead = started(numbered("a"), door)
    assert ahead.take(1, is_waiting=True, is_interrupted=is_interrupted) == []
    assert not ahead.is_over
    door.open("a")
    assert len(ahead.take(1, is_waiting=True)) == 1


def test_a_stop_in_the_middle_of_taking_does_not_block() -> None:
    """As a signal's handler calls it, in the thread that waits."""
    door = Door()
    ahead = started(numbered("ab"), door)
    assert wait_for(lambda: len(door.begun) == 1)

    def is_interrupted() -> bool:
        ahead.stop()
        door.open("a")
        return False

    assert [read.key for read in ahead.take(9, is_waiting=True, is_interrupted=is_interrupted)] == [0]
    assert ahead.is_over


def test_how_long_the_caller_waited_is_added_up() -> None:
    door = Door("a")
    ahead = started(numbered("ab"), door)
    assert ahead.waited_s == 0
    assert wait_for(lambda: bool(ahead.take(1, is_waiting=False)))
    assert ahead.waited_s == 0
    asked = iter([False, True])
    ahead.take(1, is_waiting=True, is_interrupted=lambda: next(asked))
    assert ahead.waited_s > 0
    door.open("b")


def test_its_threads_hold_up_no_exit() -> None:
    assert wait_for(lambda: threads() == [])
    door = Door()
    started(numbered("a"), door)
    assert wait_for(lambda: len(door.begun) == 1)
    assert [thread.daemon for thread in threads()] == [True]
    door.open("a")
    assert wait_for(lambda: threads() == [])
