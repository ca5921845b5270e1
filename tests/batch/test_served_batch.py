"""`vllava batch` and `ask --every` write the same rows by a server as without one, and lose none when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import by_id, rows_of
from tests.batch.fork_server import Zygote
from tests.server.cutting import cut
from tests.server.found import environment_for
from tests.server.serving import Served

DEMO = ("--model", "demo", "--precision", "fp32")
QUESTIONS = ("What happens in this video?", "What colour is it?", "Is there a dog?", "日本?")
ENDED = "vllava: the server ended; loading the model here.\n"


def batch(vllava: Zygote, clips: Path, name: str, *words: str | Path, **environment: str) -> tuple[int, Any, str]:
    """Its code, its rows by their ids, and what it said."""
    out = clips.parent / f"{name}.jsonl"
    questions = [word for question in QUESTIONS for word in ("-Q", question)]
    done = vllava.run("batch", *DEMO, *questions, ".", "-o", out, *words, folder=clips, environment=environment)
    rows = by_id(rows_of(out))
    return done.code, rows, done.err


@pytest.mark.parametrize(
    "words",
    [
        ("--hash",),
        ("--temperature", "0.8", "--seed", "7", "--max-new-tokens", "9"),
        ("--choices", "yes,no", "--calibrate", "--batch-size", "2"),
        ("--agree", "3", "--fit", "pad"),
    ],
    ids=lambda words: words[0],
)
def test_rows_are_the_same_by_a_server(
    vllava: Zygote, clips: Path, demo_served: Served, tmp_path: Path, words: tuple[str, ...]
) -> None:
    alone = batch(vllava, clips, "alone", *words, "--server", "off")
    found = environment_for(demo_served, tmp_path / "run")
    code, rows, told = batch(vllava, clips, "served", *words, "--verbose", **found)
    for id, row in alone[1].items():
        chances = row.pop("probabilities", None) or {}  # other rows of a pass change their last digits
        assert chances == pytest.approx(rows[id].pop("probabilities", None) or {}, abs=1e-4)
    assert (code, rows) == alone[:2]
    assert f"server: {demo_served.socket}.\n" in told
    again = batch(vllava, clips, "alone", *words, **found)
    assert len(again[1]) == len(rows) and "done before and skipped" in again[2]


def test_windows_are_the_same_by_a_server(vllava: Zygote, clips: Path, demo_served: Served, tmp_path: Path) -> None:
    found = environment_for(demo_served, tmp_path / "run")
    words = ("ask", *DEMO, "green-square-then-yellow-triangle.mp4", QUESTIONS[0], "--every", "1s", "--summary", "Why?")
    alone, served = (
        vllava.run(*words, *server, folder=clips, environment=found) for server in (("--server", "off"), ())
    )
    assert (served.code, served.out) == (alone.code, alone.out)
    assert "Summary (of the texts above" in served.out


@pytest.mark.parametrize("left_bytes", [0, 900, 2_500, 9_000, 20_000])
def test_a_server_that_ends_loses_no_row_and_does_none_twice(
    vllava: Zygote, clips: Path, demo_served: Served, tmp_path: Path, left_bytes: int
) -> None:
    _, rows, _ = batch(vllava, clips, "alone", "--server", "off")
    path = tmp_path / "cut.sock"
    with cut(demo_served.socket, path, left_bytes) as server:
        found = environment_for(demo_served, tmp_path / "run", socket=str(path))
        code, served, told = batch(vllava, clips, "served", "--batch-size", "4", **found)
        assert server.has_ended
    assert (code, served) == (1, rows)  # broken.mp4 is no video
    assert told.count(ENDED) <= 1


def test_a_server_is_not_named_beside_several_gpus(vllava: Zygote, clips: Path) -> None:
    words = ("batch", *DEMO, "Why?", "three-shapes.mp4", "--gpus", "2", "--server", "http://localhost:1")
    done = vllava.run(*words, folder=clips)
    told = "vllava: --server http://localhost:1 answers alone: leave it out, or leave out --gpus.\n"
    assert (done.code, done.err) == (2, told)


def test_a_named_server_is_never_replaced(vllava: Zygote, clips: Path, demo_served: Served) -> None:
    """What it has answered before it ended has rows, and the same command goes on."""
    with cut(demo_served.socket, None, 9_000) as server:
        code, rows, told = batch(vllava, clips, "served", "--batch-size", "4", "--server", server.url)
    assert (code, ENDED in told) == (1, False)
    assert "The server at http://127.0.0.1:" in told and 4 < len(rows) < 36
    code, rows, told = batch(vllava, clips, "served", "--server", demo_served.url)
    assert (code, len(rows)) == (1, 36) and "done before and skipped" in told
