"""With --verbose, every second is a part of something, and the parts add up to the whole."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from vllava_cli import demo

CLIP = str(demo.clips()[0])
HAPPENS = "What happens in this video?"
DEMO = ("--model", "demo", "--verbose")
LOADING = ["the model's files", "planning", "fetching weights", "loading"]
BEFORE = ["start", "finding the model", "frames", "imports", *LOADING]
TURN = ["first token", "decoding", "keeping"]
BATCH = ["start", "jobs", "imports", "headers", *LOADING]


def whole_of(told: str, names: list[str]) -> float:
    """The seconds of a sentence, once its parts are known to be among these, in this order, and to add up."""
    found = re.search(r"(\d+\.\d\d) s(?:: ([^.;\d]+ \d+\.\d\d(?:, [^.;\d]+ \d+\.\d\d)*))?\.?$", told)
    assert found, told
    whole_s = float(found[1])
    parts = [part.rpartition(" ") for part in (found[2] or "").split(", ") if part]
    named = [name for name, _, _ in parts]
    assert named == [name for name in names if name in named], told
    assert abs(sum(float(seconds) for *_, seconds in parts) - whole_s) < 0.005 * (len(names) + 2), told
    return whole_s


def test_ask_accounts_for_all_of_its_process(tmp_path: Path) -> None:
    began_s = time.perf_counter()
    done = Shell.run("ask", CLIP, HAPPENS, *DEMO, "--json", folder=tmp_path)
    lived_s = time.perf_counter() - began_s
    last = done.err.splitlines()[-1]
    assert last.startswith("stopped: end; 149 prompt tokens")
    whole_s = whole_of(last, [*BEFORE, "first token", "decoding", "hashing", "keeping"])
    assert 0 < whole_s <= lived_s + 0.01
    assert ": start " in last and "imports " in last, "no machine does these in less than 5 ms"


def test_a_chat_accounts_for_its_start_and_each_turn(vllava: Zygote, tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    done = vllava.run("chat", CLIP, *DEMO, "--session", "s.jsonl", folder=folder, stdin=f"{HAPPENS}\n".encode())
    ready, turn = done.err.splitlines()[-2:]
    assert ready.startswith("ready after ") and turn.startswith("turn 1: stopped: end; ")
    whole_of(ready, BEFORE)
    whole_of(turn, TURN)


def test_a_batch_accounts_for_its_run(vllava: Zygote, tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    done = vllava.run("batch", HAPPENS, CLIP, *DEMO, "-o", "out.csv", folder=folder)
    last = done.err.splitlines()[-1]
    assert last.startswith("took ")
    whole_of(last, [*BATCH, "answering", "finishing"])
    again = vllava.run("batch", HAPPENS, CLIP, *DEMO, "-o", "out.csv", folder=folder)
    whole_of(again.err.splitlines()[-1], ["start", "jobs", "finishing"])
