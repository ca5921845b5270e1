"""`vllava chat` and `ask` say the same by a server as without one; a server that ends takes nothing with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Zygote
from tests.server.cutting import cut
from tests.server.found import environment_for
from tests.server.serving import Served
from vllava_cli import demo

DEMO = ("--model", "demo", "--precision", "fp32")
RED, STAR = (str(demo.CLIPS / name) for name in ("red-circle-moves-left.mp4", "yellow-star.png"))
ENDED = "vllava: the server ended; loading the model here.\n"
LINES = (
    "What happens in this video?", "And its colour?", f"/add {STAR}", "What is in this picture?", "/undo", "/frames",
    "/retry --temperature 0.9 --seed 3", "/edit 1 What shape is it?", "/set choices yes,no", "Does it move?", "/clear",
    "/set choices none", "Why?", f"/open {STAR}", "What colour is it?", "",
)  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a session, without what no two runs have in common."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in found:
        for name in ("started_at", "ended_at", "stats"):
            row.pop(name, None)
        row["probabilities"] = [round(chance, 3) for chance in row.get("probabilities", ())]
    return found


def chat(vllava: Zygote, folder: Path, *words: str, lines: tuple[str, ...] = LINES, **environment: str) -> Any:
    """The answers, the rows of its session, and what it said."""
    folder.mkdir(exist_ok=True)
    session = folder / "session.jsonl"
    stdin = "\n".join(lines).encode()
    done = vllava.run(
        *("chat", *DEMO, "--session", str(session), *words), folder=folder, stdin=stdin, environment=environment
    )
    return (done.code, done.out, rows(session)), done.err


@pytest.mark.parametrize("left_bytes", [None, 100, 1_500, 4_000])
def test_a_chat_is_the_same_by_a_server(
    vllava: Zygote, demo_served: Served, tmp_path: Path, left_bytes: int | None
) -> None:
    """It goes on in a later chat without a server, too."""
    alone, _ = chat(vllava, tmp_path / "alone", RED, "--server", "off")
    with cut(demo_served.socket, tmp_path / "cut.sock", left_bytes or 1 << 30) as server:
        found = environment_for(demo_served, tmp_path / "run", socket=str(tmp_path / "cut.sock"))
        served, told = chat(vllava, tmp_path / "served", RED, "--verbose", **found)
        assert server.has_ended == (left_bytes is not None)
    assert served == alone
    assert told.count(f"server: {server.path}.\n") == (left_bytes != 100)
    assert told.count(ENDED) == (left_bytes not in (None, 100))
    again = [chat(vllava, tmp_path / name, lines=("And its shape?",), **found)[0] for name in ("alone", "served")]
    assert again[0] == again[1]


def test_ask_by_a_named_server_prints_the_same(vllava: Zygote, demo_served: Served, tmp_path: Path) -> None:
    for words in ((), ("--choices", "yes,no"), ("--agree", "3"), ("--json", "--seed", "3", "--temperature", "0.7")):
        asked = ("ask", *DEMO, RED, "What happens in this video?", *words, "--server")
        alone, served = (vllava.run(*asked, server, folder=tmp_path) for server in ("off", demo_served.url))
        if "--json" in words:
            made = [json.loads(each.out) for each in (alone, served)]
            for each in made:
                for name in ("timings_s", "tokens", "peak_bytes"):
                    del each[name]
            assert made[0] == made[1]
        else:
            assert (served.code, served.out, served.err) == (alone.code, alone.out, alone.err)


def test_a_named_server_that_is_not_there_is_one_sentence(vllava: Zygote, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9"
    done = vllava.run("ask", *DEMO, RED, "Why?", "--server", url, "--quiet", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"vllava: The server at {url} can't be reached: ") and done.err.count("\n") == 1
