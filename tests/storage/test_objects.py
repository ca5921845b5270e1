"""Rows in an object store, here this process's memory: rows arrive while others are read, and puts break off."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import pytest

from tests.refusals import refused
from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, read_rows
from vllava_cli.storage.objects import Objects, rows_into, scratch


def row(id: str, answer: str = "Yes.") -> dict[str, str]:
    return {"id": id, "answer": answer}


@pytest.fixture
def place() -> str:
    return f"memory://{secrets.token_hex(8)}/run"


class Busy(Objects):
    """Another run puts a row as soon as anybody has looked which there are."""

    def names(self) -> list[str]:
        found = super().names()
        self.put_rows([row(secrets.token_hex(4))], 100)
        return found


def test_rows_that_arrive_while_they_are_fetched_are_left_for_the_next_time(place: str, tmp_path: Path) -> None:
    Objects(place).put_rows([row("a"), row("b", "No.")], 1)
    Objects(place).put_rows([row("b", "Maybe.")], 2)
    found = list(read_rows(rows_into(Busy(place), tmp_path)))
    assert found[:2] == [row("a"), row("b", "Maybe.")]
    assert len(found) <= 3, "a list is looked for before the rows"


def test_an_object_without_line_breaks_is_not_read_to_its_end(place: str, tmp_path: Path) -> None:
    objects = Objects(place)
    (tmp_path / "long").write_bytes(b"x" * (40 << 20))
    objects.put_file(tmp_path / "long", "rows-000001-00000000.jsonl")
    assert len(next(objects.lines())) == MAX_ROW_BYTES + 1
    assert refused(OutputError, rows_into, objects, tmp_path) == (
        f"{place} has a row without an id: it was not written by vllava batch. Name another place."
    )


def test_no_room_for_what_is_fetched_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"folder can't be used: no such file or directory\. Set TMPDIR"), scratch():
        pass
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="mine"), scratch():
        raise FileNotFoundError("mine")
