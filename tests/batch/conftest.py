"""A folder of clips for batches, and processes that start at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Running
from tests.waiting import wait_for
from vllava_cli import demo


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """The shipped clips and pictures, a file that is none, in a folder `work/clips`."""
    folder = tmp_path / "work" / "clips"
    folder.mkdir(parents=True)
    for clip in demo.clips():
        shutil.copy(clip, folder)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, each line a whole object; without what no two runs have in common."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id stands twice"
    return found


def until(is_so: Callable[[], bool], what: str) -> None:
    """Waits until something is so."""
    assert wait_for(is_so), f"waited in vain for {what}"


def until_rows(out: Path, count: int) -> None:
    """Waits until a run has written so many rows."""
    until(lambda: out.exists() and out.read_bytes().count(b"\n") >= count, f"{count} rows in {out.name}")


def ends_alone(run: Running) -> None:
    """Nothing that a run has started outlives it; a process that reads from it needs a moment to see its end."""
    until(lambda: not run.left_behind(), f"the end of {run.left_behind()}")
