"""Files read ahead by fake readers; `test_pool.py` has the real ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.waiting import wait_for
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.client import KilledError
from vllava_cli.media.decoder.pool import Read, ReadAhead
from vllava_cli.nouns import Clip, Frames

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


class Counting:
    """A reader that is done at once, and notes which files were begun."""

    def __init__(self, read: Callable[[Path], Frames] = kibibyte) -> None:
        self.begun: list[str] = []
        self._read = read

    def __call__(self, path: Path) -> Frames:
        self.begun.append(str(path))
        return self._read(path)


def faulty(path: Path) -> Frames:
    raise MediaError(f"'{path}' is odd.")


def drained(ahead: ReadAhead[int, Frames] | ReadAhead[int, str], most: int = 8) -> list[int]:
    keys = []
    while not ahead.is_over:
        keys += [read.key for read in ahead.take(most, is_waiting=True)]
    return keys


def started(
    files: Iterable[tuple[int, Path]], *readers: Counting | Door, max_bytes: int = 1 << 20
) -> ReadAhead[int, str]:
    return ReadAhead(files, readers, max_bytes=max_bytes)  # type: ignore[arg-type]


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
    assert (last.key, last.found) == (0, "what a shows")
    assert drained(ahead) == []


def test_what_a_file_says_of_itself() -> None:
    (read,) = started(numbered("a"), Door("a")).take(1, is_waiting=True)
    assert read == Read(key=0, found="what a shows", fault=None, seconds=read.seconds)
    assert read.seconds > 0


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


def test_no_file_at_all() -> None:
    ahead = started([], Counting(), Counting())
    assert ahead.take(1, is_waiting=True) == []
    assert ahead.is_over


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


def killed(_: Path) -> Frames:
    raise KilledError


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


def test_ctrl_c_gets_through_to_who_waits() -> None:
    door = Door()
    ahead = started(numbered("a"), door)
    assert wait_for(lambda: len(door.begun) == 1)
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        ahead.take(1, is_waiting=True)
    door.open("a")
    assert len(ahead.take(1, is_waiting=True)) == 1


def test_how_long_the_caller_waited_is_added_up() -> None:
    door = Door("a")
    ahead = started(numbered("ab"), door)
    assert ahead.waited_s == 0
    assert wait_for(lambda: bool(ahead.take(1, is_waiting=False)))
    assert ahead.waited_s == 0
    asked = iter([False, True])
    ahead.take(1, is_waiting=True, is_interrupted=lambda: next(asked))
    once = ahead.waited_s
    assert once > 0
    asked = iter([False, True])
    ahead.take(1, is_waiting=True, is_interrupted=lambda: next(asked))
    assert ahead.waited_s > once
    door.open("b")


def threads() -> dict[str, bool]:
    """Names of those that read ahead, and whether they are daemons."""
    return {thread.name: thread.daemon for thread in threading.enumerate() if thread.name.startswith("read ahead")}


def test_its_threads_have_names_and_hold_up_no_exit() -> None:
    assert wait_for(lambda: threads() == {})
    door = Door()
    started(numbered("a"), door)
    assert wait_for(lambda: len(door.begun) == 1)
    assert threads() == {"read ahead 1": True}
    door.open("a")
    assert wait_for(lambda: threads() == {})
