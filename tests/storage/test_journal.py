"""A row that was acknowledged is there once, whatever dies; a second writer and foreign files are refused."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.refusals import refused
from vllava_cli.errors import LockedError, OutputError
from vllava_cli.storage.files import is_locked
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, Journal, read_rows

ROOT = Path(__file__).parents[2]
KILLS = 10
ROW_BYTES = len(json.dumps({"number": 0, "padding": "x" * 72})) + 1

PREAMBLE = """
import os, resource, subprocess, sys
from pathlib import Path
from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import Journal
path = Path(sys.argv[1])
"""
"""Comes before each of these programs, which are given a journal's path."""
WRITER = """
with Journal.open(path) as journal:
    number = sum(1 for _ in journal.rows())
    while True:
        journal.append({"number": number, "padding": "x" * 20_000})
        os.write(1, b"%d\\n" % number)
        number += 1
"""
HOLDER = """
with Journal.open(path):
    print("open", flush=True)
    sys.stdin.read()
"""
STARTER = """
with Journal.open(path):
    sleeper = "import sys; print('open', flush=True); sys.stdin.read()"
    subprocess.run([sys.executable, "-c", sleeper], close_fds=False)
"""
FULL = """
room = int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
with Journal.open(path) as journal:
    number = 0
    try:
        while True:
            journal.append({"number": number, "padding": "x" * 72})
            number += 1
    except OutputError as exc:
        print(number, path.stat().st_size, exc)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    journal.append({"number": "there is room again"})
"""
REWRITER = """
with Journal.open(path) as journal:
    while True:
        rows = list(journal.rows())
        generation = rows[0]["generation"] + 1 if rows else 0
        journal.rewrite({"generation": generation, "padding": "x" * 50_000} for _ in range(50))
        os.write(1, b"%d\\n" % generation)
"""
pytestmark = pytest.mark.usefixtures("in_a_folder")


def child(code: str, *words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def written(data: bytes, name: str = "x.jsonl") -> Path:
    Path(name).write_bytes(data)
    return Path(name)


def test_rows_are_appended_to_those_of_before() -> None:
    path = Path("x.jsonl")
    with Journal.open(path) as journal:
        assert journal.path == path
        assert journal.is_empty
        journal.append({"a": 1})
        assert not journal.is_empty
        assert list(journal.rows()) == [{"a": 1}]
    with Journal.open(path) as journal:
        journal.extend([{"b": 2}, {"c": os.fsdecode(b"caf\xe9")}])
        assert list(journal.rows()) == [{"a": 1}, {"b": 2}, {"c": os.fsdecode(b"caf\xe9")}]
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n{"c": "caf\\\\xe9", "c_bytes": "Y2Fm6Q=="}\n'


def test_every_acknowledged_row_is_there_once_after_kills() -> None:
    path = Path("x.jsonl")
    acknowledged: list[int] = []
    for kill in range(KILLS):
        with child(WRITER, path) as process:
            assert process.stdout
            first = [process.stdout.readline() for _ in range(1 + kill)]
            process.kill()
            acknowledged += [int(line) for line in [*first, *process.stdout] if line.endswith("\n")]
    with Journal.open(path) as journal:
        numbers = [row["number"] for row in journal.rows()]
    assert numbers == list(range(len(numbers)))
    assert set(acknowledged) <= set(numbers)
    assert len(acknowledged) == len(set(acknowledged)) >= len(numbers) - KILLS


def test_a_torn_last_row_of_every_length_is_cut_off() -> None:
    rows = [{"a": 1}, {"b": "é{}\n"}, {"c": [3, {"d": 4}]}]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    for kept in range(len(lines[-1]) - 1):
        path = written(b"".join(lines[:2]) + lines[-1][:kept])
        with Journal.open(path) as journal:
            assert path.read_bytes() == b"".join(lines[:2])
            journal.append({"next": kept})
        assert list(read_rows(path)) == [*rows[:2], {"next": kept}]
    with Journal.open(written(b'{"a": 1}\n{"b": 2}')) as journal:
        journal.append({"c": 3})
    assert journal.path.read_bytes() == b'{"a": 1}\n{"b": 2}\n{"c": 3}\n', "a row that lacks its break is whole"


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        *((b'{"a": 1}\n' + tail, 9) for tail in (b'{"b": \0\0\0\0\0}\n', b"\0\0\0\0", b"\n", b"x" * 200_000)),
        *((torn, 0) for torn in (b"", b"{", b'{"', b'{"type": "sess', b'{"a": 1, \0\0\0')),
    ],
)
def test_what_a_power_loss_left_of_the_last_row_is_cut_off(data: bytes, kept: int) -> None:
    path = written(data)
    Journal.open(path).close()
    assert path.read_bytes() == data[:kept]


FOREIGN_FILES = [
    b"\0\0\0\x20ftypisom",
    b"\0\0\0\x20ftypisom\nmoov\n",
    b'{\n  "a": 1\n}\n',
    b"[1]\n",
    b"\n",
    b"hello",
    b"{\\rtf1",
    b'{"caf\xc3\xa9',
    b'{"a": NaN}\n',
    b'{"a": ' + b"[" * 99_999 + b"\n",
    b'{"' + b"x" * MAX_ROW_BYTES,
    b'{"a": 1}\n' + b"x" * (MAX_ROW_BYTES + 1),
]
FOREIGN = "'x.jsonl' was not written by vllava. Name another file."
DAMAGED = "'x.jsonl' can't be used: its last rows are damaged. Correct it in an editor, or name another file."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((b'{"a": 1}\nbad\n' + more, DAMAGED) for more in (b"bad too\n", b'{"torn')),
        *((data, FOREIGN) for data in FOREIGN_FILES),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_is_no_journal_is_refused_untouched(data: bytes, said: str) -> None:
    path = written(data)
    assert refused(OutputError, Journal.open, path) == said
    assert path.read_bytes() == data


def test_a_second_journal_of_the_same_file_is_refused() -> None:
    path = Path("x.jsonl")
    with Journal.open(path):
        written(b'{"a": 1}\n{"b": ')
        with pytest.raises(LockedError) as caught:
            Journal.open(path)
        assert is_locked(path)
        assert list(read_rows(path)) == [{"a": 1}]
        assert path.read_bytes() == b'{"a": 1}\n{"b": ', "a row that is being written was cut off"
    assert str(caught.value) == (
        "'x.jsonl' is being written by another vllava. Wait until it ends, or name another file."
    )
    assert caught.value.exit_code == 75
    assert not is_locked(path)
    assert not is_locked(Path("none"))
    Journal.open(path, is_private=True).close()
    Journal.open(Path("new.jsonl"), is_private=True).close()
    assert stat.S_IMODE(Path("new.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("code", [HOLDER, STARTER], ids=["itself", "a program that it started lives on"])
def test_a_journal_of_another_process_is_refused_until_that_dies(code: str) -> None:
    path = Path("x.jsonl")
    with child(code, path) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        with pytest.raises(LockedError):
            Journal.open(path)
        process.kill()
        process.wait()
        Journal.open(path).close()


def test_a_fork_does_not_keep_the_lock_of_a_journal_that_was_closed() -> None:
    path = Path("x.jsonl")
    with Journal.open(path):
        reader, writer = os.pipe()
        fork = os.fork()
        if fork == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        Journal.open(path).close()
    finally:
        os.close(writer)
        os.waitpid(fork, 0)
        os.close(reader)


@pytest.mark.parametrize(
    ("rows", "more", "reason"), [(3, 40, f"only 40 of {ROW_BYTES} bytes could be written"), (1, 0, "file too large")]
)
def test_a_full_disk_leaves_whole_rows_and_is_told(rows: int, more: int, reason: str) -> None:
    with child(FULL, "x.jsonl", str(rows * ROW_BYTES + more)) as process:
        output = process.communicate()[0]
    said = f"'x.jsonl' can't be written: {reason}. Free some disk space, or name another file."
    assert (process.returncode, output) == (0, f"{rows} {rows * ROW_BYTES} {said}\n")
    assert [row["number"] for row in read_rows(Path("x.jsonl"))] == [*range(rows), "there is room again"]


def broken(*_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def interrupted(*_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [broken, interrupted])
def test_a_row_that_does_not_reach_the_disk_is_taken_back(
    fails: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("x.jsonl")
    with Journal.open(path) as journal:
        journal.append({"a": 1})
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
                journal.append({"b": 2})
        assert "can't be written: input/output error. Check the path" in str(caught.value) or fails is interrupted
        assert path.read_bytes() == b'{"a": 1}\n'
        journal.append({"c": 3})
    assert list(read_rows(path)) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_cut_that_failed_is_made_good_before_the_next_row(
    is_rewritten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("x.jsonl")
    with Journal.open(path) as journal:
        journal.append({"a": 1})
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            patched.setattr(os, "ftruncate", broken)
            for _ in range(2):
                with pytest.raises(OutputError):
                    journal.append({"b": 2})
        assert list(read_rows(path)) == [{"a": 1}, {"b": 2}]
        if is_rewritten:
            journal.rewrite(journal.rows())
        journal.append({"c": 3})
    assert list(read_rows(path)) == [{"a": 1}, {"c": 3}]


def test_rewritten_rows_are_all_there_is_and_more_can_be_appended() -> None:
    path = Path("x.jsonl")
    with Journal.open(path) as journal:
        journal.extend({"number": number} for number in range(5))
        journal.rewrite(row for row in journal.rows() if row["number"] % 2)
        assert path.read_bytes() == b'{"number": 1}\n{"number": 3}\n'
        journal.append({"number": 5})
        assert list(journal.rows()) == [{"number": 1}, {"number": 3}, {"number": 5}]
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.rewrite([{"b": 2}, {"c": float("nan")}])
        with pytest.raises(LockedError):
            Journal.open(path)
        assert list(journal.rows()) == [{"number": 1}, {"number": 3}, {"number": 5}]
        journal.rewrite(())
        assert journal.is_empty
        journal.append({"number": 6})
    assert path.read_bytes() == b'{"number": 6}\n'
    assert [each.name for each in Path().iterdir()] == ["x.jsonl"]


def test_a_rewrite_that_is_killed_leaves_the_rows_of_before_or_all_new_ones() -> None:
    path = Path("x.jsonl")
    reached = -1
    for kill in range(KILLS):
        with child(REWRITER, path) as process:
            assert process.stdout
            first = [process.stdout.readline() for _ in range(1 + kill % 4)]
            process.kill()
            reached = [int(line) for line in [*first, *process.stdout] if line.endswith("\n")][-1]
        generations = [row["generation"] for row in read_rows(path)]
        assert len(generations) == 50
        assert set(generations) in ({reached}, {reached + 1})
    with Journal.open(path) as journal:
        journal.rewrite([{"a": 1}])
    assert path.read_bytes() == b'{"a": 1}\n'
    assert [each.name for each in Path().iterdir()] == ["x.jsonl"]


def test_no_other_journal_can_be_opened_around_a_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("x.jsonl")
    replace = Path.replace
    refusals: list[bool] = []

    def try_to_open() -> None:
        with pytest.raises(LockedError):
            Journal.open(path)
        refusals.append(is_locked(path))

    def watched(part: Path, target: Path) -> Path:
        try_to_open()
        done = replace(part, target)
        try_to_open()
        return done

    with Journal.open(path) as journal:
        monkeypatch.setattr(Path, "replace", watched)
        journal.rewrite([{"a": 1}])
        try_to_open()
    assert refusals == [True] * 3
    Journal.open(path).close()


def test_an_interrupt_just_after_the_new_rows_took_their_place_loses_neither_rows_nor_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = Path.replace

    def interrupted(part: Path, target: Path) -> Path:
        replace(part, target)
        raise KeyboardInterrupt

    path = Path("x.jsonl")
    with Journal.open(path) as journal:
        journal.append({"a": 1})
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.rewrite([{"b": 2}])
        assert is_locked(path)
        journal.append({"c": 3})
    assert path.read_bytes() == b'{"b": 2}\n{"c": 3}\n'
