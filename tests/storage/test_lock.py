"""A lock keeps a second writer out, and is given back whole; who only asks keeps nobody out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from vllava_cli.errors import LockedError
from vllava_cli.storage import lock as lock_module
from vllava_cli.storage.lock import is_locked, locked, release


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)


def test_a_file_is_locked_until_it_is_released() -> None:
    path = Path("a")
    assert not is_locked(path)
    descriptor = locked(path)
    assert is_locked(path)
    with pytest.raises(LockedError, match=r"^'out\.jsonl' is being written by another vllava"):
        locked(path, told_as=Path("out.jsonl"))
    release(descriptor)
    assert not is_locked(path)


def test_two_that_only_ask_do_not_take_each_other_for_a_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    lock = lock_module._lock
    answers: list[bool] = []

    def lock_and_ask(descriptor: int, name: Path, *, is_shared: bool) -> None:
        lock(descriptor, name, is_shared=is_shared)
        monkeypatch.setattr(lock_module, "_lock", lock)
        answers.append(is_locked(path))

    monkeypatch.setattr(lock_module, "_lock", lock_and_ask)
    assert (is_locked(path), answers) == (False, [False])


def test_a_writer_waits_for_the_instant_in_which_another_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock_module.time, "sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
    descriptor = locked(path)
    os.close(asking)
    assert is_locked(path)
    release(descriptor)


def test_a_file_that_is_replaced_while_one_asks_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a")
    path.touch()
    lock = lock_module._lock
    held: list[int] = []

    def replace_and_lock(descriptor: int, name: Path, *, is_shared: bool) -> None:
        monkeypatch.setattr(lock_module, "_lock", lock)
        held.append(locked(Path("b")))
        Path("b").replace(path)
        lock(descriptor, name, is_shared=is_shared)

    monkeypatch.setattr(lock_module, "_lock", replace_and_lock)
    assert is_locked(path)
    os.close(held[0])
    assert not is_locked(path)
