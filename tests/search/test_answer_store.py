"""The database of kept answers: its limit, its faults, and what is told of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.search.conftest import Find
from vllava_cli.media.fingerprint import SAMPLE_BYTES, sampled_digest
from vllava_cli.search.answer_store import AnswerStore, key_of


def test_what_was_put_is_found_by_a_later_process(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "a.sqlite"
    store = AnswerStore(path)
    store.put(key_of("a", 1), {"x": [1.5, None]})
    store.close()
    again = AnswerStore(path)
    assert (again.find(key_of("a", 1)), again.find(key_of("a", 2))) == ({"x": [1.5, None]}, None)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    again.close()


def test_the_oldest_go_first_and_the_file_stays_small(tmp_path: Path) -> None:
    path, most = tmp_path / "answers" / "a.sqlite", 200_000
    store = AnswerStore(path, most_bytes=most)
    for number in range(3000):
        store.put(key_of(number), "x" * 300)
        store.flush() if number % 100 == 0 else None
    store.close()
    assert path.stat().st_size <= most * 1.1
    store = AnswerStore(path, most_bytes=most)
    kept = [store.find(key_of(number)) is not None for number in range(3000)]
    assert kept == sorted(kept) and 100 < sum(kept) < 1000
    store.close()


def a_file_of_another_kind(path: Path) -> None:
    path.write_bytes(b"not a database, and longer than a header would be" * 40)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_folder_that_others_may_write(path: Path) -> None:
    path.parent.chmod(0o777)


def another_table(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE kept (other TEXT)")


def a_database_cut_short(path: Path) -> None:
    store = AnswerStore(path)
    for number in range(2000):
        store.put(key_of(number), "x" * 100)
    store.close()
    os.truncate(path, 20_000)


@pytest.mark.parametrize(
    "spoil",
    [a_file_of_another_kind, a_folder, a_folder_that_others_may_write, another_table, a_database_cut_short],
)
def test_a_database_that_cannot_be_used_is_told_once_and_the_search_goes_on(
    find: Find, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "cache" / "answers" / "answers.sqlite"
    path.parent.mkdir(parents=True, mode=0o700)
    spoil(path)
    done = find("a red circle", "a.mp4", "photo.png", store=tmp_path / "cache")
    assert (done.code, len(done.out.splitlines())) == (0, 3)
    told = [line for line in done.err.splitlines() if "answers.sqlite" in line]
    assert len(told) == 1 and "aren't kept" in told[0] and "Traceback" not in done.err


@pytest.mark.parametrize("value", ["no JSON", "[]", '{"probabilities": [1]}', '{"probabilities": {"a": 1}}', "null"])
def test_values_that_are_none_of_ours_are_asked_again(find: Find, tmp_path: Path, value: str) -> None:
    store, path = tmp_path / "cache", tmp_path / "cache" / "answers" / "answers.sqlite"
    first = find("a red circle", "photo.png", store=store)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE kept SET value = ?", (value,))
    assert find("a red circle", "photo.png", store=store).out == first.out == "photo.png  1.00\n"


def test_a_digest_follows_from_size_date_and_content_alone(tmp_path: Path) -> None:
    def digest(name: str, data: bytes, mtime_ns: int = 5) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        os.utime(path, ns=(1, mtime_ns))
        return sampled_digest(path).sha256

    data = bytes(range(256)) * 4096
    first, last = b"?" + data[1:], data[:-1] + b"?"
    middle = data[: len(data) // 2 + SAMPLE_BYTES // 4] + b"?" + data[len(data) // 2 + SAMPLE_BYTES // 4 + 1 :]
    assert digest("a", data) == digest("b", data)
    others = [
        digest("c", first),
        digest("d", last),
        digest("e", data + b"?"),
        digest("f", data, 6),
        digest("g", middle),
    ]
    assert len({digest("a", data), *others}) == 6
    assert len({digest("a", b"1"), digest("b", b"2"), digest("c", b"1" * SAMPLE_BYTES)}) == 3
