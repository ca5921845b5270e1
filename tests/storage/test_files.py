"""A file is replaced in one step, and what stood there stays until then; a lock keeps a second writer out."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.refusals import refused
from vllava_cli.errors import LockedError, OutputError
from vllava_cli.storage import files as files_module
from vllava_cli.storage.files import Part, atomic_write, is_locked, locked, opened, release

pytestmark = pytest.mark.usefixtures("in_a_folder")


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def message_for(path: Path) -> str:
    return refused(OutputError, atomic_write, path, [b"new"])


def test_large_files_are_written_in_bounded_memory_and_take_their_place_when_they_are_whole() -> None:
    def numbers() -> Iterator[bytes]:
        for number in range(300_000):
            assert number % 1000 or Path("a").read_bytes() == b"old"
            yield b"%015d\n" % number

    Path("a").write_bytes(b"old")
    tracemalloc.start()
    atomic_write(Path("a"), numbers())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Path("a").read_bytes() == b"".join(b"%015d\n" % number for number in range(300_000))
    assert peak_bytes < 4_000_000


def test_a_file_takes_its_place_only_once_it_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    Path("a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", broken)
    assert message_for(Path("a")) == ("'a' can't be written: input/output error. Check the path, or name another file.")
    assert files() == {"a": b"old"}


def test_the_mode_of_a_file_that_is_replaced_is_kept() -> None:
    before = os.umask(0o022)
    try:
        atomic_write(Path("new"), [b"1"])
        atomic_write(Path("private"), [b"1"])
        Path("private").chmod(0o600)
        atomic_write(Path("private"), [b"2"])
        atomic_write(Path("given"), [b"1"], mode=0o600)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(Path(name).stat().st_mode) for name in ("new", "private", "given")]
    assert modes == [0o644, 0o600, 0o600]


def test_a_link_stays_a_link_to_the_file_that_is_replaced() -> None:
    Path("far").mkdir()
    Path("a").symlink_to("far/b")
    atomic_write(Path("a"), [b"1"])
    Path("far/.b.part").write_bytes(b"what a kill left of a longer file")
    atomic_write(Path("a"), [b"2", b"", b"3"])
    assert Path("a").is_symlink()
    assert (files(), [path.name for path in Path("far").iterdir()]) == ({"a": b"23"}, ["b"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("as it is"), OSError("as it is")])
def test_what_the_pieces_raise_comes_through_and_leaves_nothing(error: BaseException) -> None:
    Path("a").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"x" * (2 << 20)
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        atomic_write(Path("a"), pieces())
    assert str(caught.value) in ("", "as it is")
    assert files() == {"a": b"old"}


def test_two_cannot_write_the_same_file_at_once() -> None:
    part = Part(Path("a"))
    part.fill([b"first"])
    with pytest.raises(LockedError) as caught:
        atomic_write(Path("a"), [b"second"])
    assert str(caught.value) == "'a' is being written by another vllava. Wait until it ends, or name another file."
    part.put()
    part.end()
    assert files() == {"a": b"first"}


def test_what_can_not_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with pytest.raises(OutputError, match="'pipe' is not a regular file"):
        opened(Path("pipe"), os.O_RDONLY)
    assert message_for(Path("pipe")) == "'pipe' is not a regular file. Name another one."
    assert message_for(Path("folder")) == "'folder' is a folder. Name a file."
    assert message_for(Path("/dev/null")) == "'/dev/null' is not a regular file. Name another one."
    assert message_for(Path("none/a")) == (
        "'none/a' can't be written: no such file or directory. Check the path, or name another file."
    )
    assert message_for(Path("a\0")) == (
        "'a\0' can't be written: embedded null byte. Check the path, or name another file."
    )
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["folder", "pipe"]


def test_two_that_only_ask_do_not_take_each_other_for_a_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    lock = files_module._lock
    answers: list[bool] = []

    def lock_and_ask(descriptor: int, name: Path, *, is_shared: bool) -> None:
        lock(descriptor, name, is_shared=is_shared)
        monkeypatch.setattr(files_module, "_lock", lock)
        answers.append(is_locked(path))

    monkeypatch.setattr(files_module, "_lock", lock_and_ask)
    assert (is_locked(path), answers) == (False, [False])


def test_a_writer_waits_for_the_instant_in_which_another_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(files_module.time, "sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
    descriptor = locked(path)
    os.close(asking)
    assert is_locked(path)
    with pytest.raises(LockedError, match=r"^'out\.jsonl' is being written by another vllava"):
        locked(path, reported_as=Path("out.jsonl"))
    release(descriptor)
    assert not is_locked(path)


def test_a_file_that_is_replaced_while_one_asks_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    lock = files_module._lock
    held: list[int] = []

    def replace_and_lock(descriptor: int, name: Path, *, is_shared: bool) -> None:
        monkeypatch.setattr(files_module, "_lock", lock)
        held.append(locked(Path("b")))
        Path("b").replace(path)
        lock(descriptor, name, is_shared=is_shared)

    monkeypatch.setattr(files_module, "_lock", replace_and_lock)
    assert is_locked(path)
    os.close(held[0])
    assert not is_locked(path)
