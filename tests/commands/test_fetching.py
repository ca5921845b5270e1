"""Commands that fetch their model from a hub on the loopback interface, as a shell starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands.shell import Shell, environment_of
from tests.hub_server import COMMIT, REFUSED, Hub, open_hub
from tests.waiting import PATIENCE_S, wait_for

Run = Callable[..., Shell]
MODEL = "owner/model"
ASK = ["--max-new-tokens", "4", "--model", MODEL]
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def server(published: Path) -> Iterator[Hub]:
    """A hub that has the published checkpoint."""
    with open_hub() as hub:
        hub.add(MODEL, published)
        yield hub


@pytest.fixture
def nowhere() -> dict[str, str]:
    """The settings of a hub that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0"}


def arrived(home: Path) -> list[int]:
    """The sizes of files that are here in part."""
    return [path.stat().st_size for path in home.rglob("*.incomplete")]


def snapshot_of(home: Path) -> Path:
    return home / ".cache" / "huggingface" / "hub" / "models--owner--model" / "snapshots" / COMMIT


def test_the_first_question_fetches_the_model_and_the_next_asks_nobody(
    shell: Run, server: Hub, clip: Path, tmp_path: Path
) -> None:
    first = shell("ask", "--json", *ASK, clip, "Why?", environment=server.environment)
    assert (first.code, first.err) == (0, "")
    server.requests.clear()
    again = shell("ask", "--json", *ASK, clip, "Why?", environment=server.environment)
    assert (again.code, again.err, server.requests) == (0, "", [])
    assert json.loads(first.out)["answer"] == json.loads(again.out)["answer"]
    assert json.loads(again.out)["revision"] == COMMIT
    (snapshot_of(tmp_path) / SHARD).resolve().unlink()
    doctor = shell("doctor", "--model", MODEL, environment=server.environment)
    size = "1.8 MB of it here: about 1.4 MB"
    assert f"  files  {size} to fetch into {tmp_path}/.cache/huggingface/hub, {SHARD}\n" in doctor.out
    assert (doctor.code, server.requests) == (0, [])


def test_a_batch_that_is_stopped_in_a_download_goes_on_with_it(
    shell: Run, server: Hub, clip: Path, tmp_path: Path
) -> None:
    server.holds[SHARD] = 1000
    words = ["batch", *ASK, "Why?", clip, "-o", "rows.jsonl"]
    with subprocess.Popen(
        [sys.executable, "-m", "vllava_cli", *words],
        cwd=tmp_path,
        env=environment_of(tmp_path, **server.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert wait_for(lambda: 1000 in arrived(tmp_path))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in told
    server.holds.clear()
    server.requests.clear()
    done = shell(*words, environment=server.environment)
    assert done.code == 0, done.err
    assert (SHARD, 1000) in server.bodies()
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="terminals are made with pexpect")
def test_a_terminal_sees_how_far_a_download_is_and_ctrl_c_keeps_it(
    shell: Run, server: Hub, clip: Path, tmp_path: Path
) -> None:
    interrupt_at(1000, ["chat", "--model", MODEL, str(clip)], server, tmp_path)
    interrupt_at(2000, ["ask", "--model", MODEL, str(clip), "Why?"], server, tmp_path)
    assert (SHARD, 1000) in server.bodies()
    server.holds.clear()
    assert shell("ask", *ASK, clip, "Why?", environment=server.environment).code == 0
    assert (SHARD, 2000) in server.bodies()


def interrupt_at(size: int, words: list[str], server: Hub, home: Path) -> None:
    """Presses Ctrl-C in a terminal of 60 columns as soon as so much of a file has arrived."""
    import pexpect

    server.holds[SHARD] = size
    child = pexpect.spawn(
        sys.executable,
        ["-m", "vllava_cli", *words],
        cwd=str(home),
        env=environment_of(home, **server.environment, TERM="xterm-256color", LANG="C.UTF-8"),
        dimensions=(24, 60),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    child.expect(r"\rFetching: +\d+%\|.{3,30}\| [\d.]+[kM]?/\d\.\d+M \[[^\r\n]*B/s\]")
    assert wait_for(lambda: size in arrived(home))
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, "Traceback" in child.before) == (130, False)


@pytest.mark.parametrize("command", ["ask", "chat", "batch", "bench", "frames"])
def test_without_a_network_one_sentence_says_so(
    command: str, shell: Run, clip: Path, nowhere: dict[str, str], tmp_path: Path
) -> None:
    words = {"ask": [clip, "Why?"], "batch": ["Why?", clip]}.get(command, [clip])
    done = shell(command, "--model", MODEL, *words, environment=nowhere)
    begin = f"The model owner/model is not in the cache {tmp_path}/.cache/huggingface/hub"
    assert done == Shell.failed(
        f"{begin} and the hub can't be reached ({REFUSED}): run hf download owner/model where there is a network, or "
        "try --model demo, which is built in."
    )
