"""`vllava find` prints the same hits by a server as without one, and keeps the same answers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.batch.fork_server import Zygote
from tests.server.cutting import cut
from tests.server.found import environment_for
from tests.server.serving import Served

WORDS = ("find", "--model", "demo", "--precision", "fp32", "--every", "2s", "-r", "a red circle", ".")


def kept(cache: Path) -> dict[bytes, object]:
    """The values in the answer store, by their keys."""
    (path,) = cache.rglob("answers.sqlite")
    rows = sqlite3.connect(path).execute("SELECT key, value FROM kept").fetchall()
    return dict(rows)


@pytest.mark.parametrize("left_bytes", [None, 5_000])
def test_hits_and_kept_answers_are_the_same_by_a_server(
    vllava: Zygote, footage: Path, demo_served: Served, tmp_path: Path, left_bytes: int | None
) -> None:
    """Also by one that ends before all is answered."""
    alone = vllava.run(*WORDS, "--server", "off", folder=footage, environment={"VLLAVA_CACHE": str(tmp_path / "a")})
    with cut(demo_served.socket, tmp_path / "cut.sock", left_bytes or 1 << 30) as server:
        found = environment_for(demo_served, tmp_path / "run", socket=str(tmp_path / "cut.sock"))
        found |= {"VLLAVA_CACHE": str(tmp_path / "b")}
        served = vllava.run(*WORDS, "--verbose", "--batch-size", "2", folder=footage, environment=found)
        assert server.has_ended == (left_bytes is not None)
    assert (served.code, served.out) == (alone.code, alone.out)
    assert alone.out and f"server: {server.path}.\n" in served.err
    assert served.err.count("the server ended; loading the model here") == (left_bytes is not None)
    assert kept(tmp_path / "b").keys() == kept(tmp_path / "a").keys()
