"""A file is there whole or not at all, and what stood there stays until then."""

from __future__ import annotations

import errno
import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllava_cli.errors import LockedError, OutputError
from vllava_cli.storage.files import Part, write


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def message_for(path: Path) -> str:
    with pytest.raises(OutputError) as caught:
        write(path, [b"new"])
    return str(caught.value)


def test_a_file_is_made_or_replaced() -> None:
    write(Path("a.csv"), [b"1", b"", b"2\n"])
    assert files() == {"a.csv": b"12\n"}
    write(Path("a.csv"), [])
    assert files() == {"a.csv": b""}


def test_large_files_are_written_in_bounded_memory() -> None:
    tracemalloc.start()
    write(Path("a"), (b"%015d\n" % number for number in range(300_000)))
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


def test_readers_see_the_old_file_until_the_new_one_is_whole() -> None:
    Path("a").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * (1 << 20)
            assert Path("a").read_bytes() == b"old"

    write(Path("a"), pieces())
    assert Path("a").stat().st_size == 3 << 20


def test_the_mode_of_a_file_that_is_replaced_is_kept() -> None:
    before = os.umask(0o022)
    try:
        write(Path("new"), [b"1"])
        write(Path("private"), [b"1"])
        Path("private").chmod(0o600)
        write(Path("private"), [b"2"])
    finally:
        os.umask(before)
    assert [stat.S_IMODE(Path(name).stat().st_mode) for name in ("new", "private")] == [0o644, 0o600]


def test_a_link_stays_a_link_to_the_file_that_is_replaced() -> None:
    Path("far").mkdir()
    Path("a").symlink_to("far/b")
    write(Path("a"), [b"1"])
    write(Path("a"), [b"2"])
    assert Path("a").is_symlink()
    assert (files(), [path.name for path in Path("far").iterdir()]) == ({"a": b"2"}, ["b"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("as it is"), OSError("as it is")])
def test_what_the_pieces_raise_comes_through_and_leaves_nothing(error: BaseException) -> None:
    Path("a").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"x" * (2 << 20)
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        write(Path("a"), pieces())
    assert str(caught.value) in ("", "as it is")
    assert files() == {"a": b"old"}


def test_what_a_kill_left_is_taken_over() -> None:
    Path(".a.part").write_bytes(b"half of a longer file")
    write(Path("a"), [b"new"])
    assert files() == {"a": b"new"}


def test_two_cannot_write_the_same_file_at_once() -> None:
    part = Part.begin(Path("a"))
    part.fill([b"first"])
    with pytest.raises(LockedError) as caught:
        write(Path("a"), [b"second"])
    assert str(caught.value) == "'a' is being written by another vllava. Wait for its end, or name another file."
    part.put()
    part.end()
    assert files() == {"a": b"first"}


def test_what_can_not_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
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
