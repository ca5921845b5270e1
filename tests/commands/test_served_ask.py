"""`vllava ask` by a server: the same bytes as without one, whatever is asked, and whatever becomes of the server."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Zygote
from tests.checkpoints import write_checkpoint
from tests.commands.shell import Shell, environment_of
from tests.engine.engines import engine_of
from tests.server.serving import Served, served
from tests.waiting import wait_for
from vllava_cli import __version__, demo
from vllava_cli.client.events import event_line
from vllava_cli.client.place import ServerState
from vllava_cli.commands import served_ask
from vllava_cli.nouns import DEMO_MODEL, Wishes
from vllava_cli.screen import Screen
from vllava_cli.server.own.interrupts import Interrupts
from vllava_cli.server.serve_settings import ServeSettings

QUESTION = "What happens in this video?"
DEMO_NOTICE = "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.\n"
GONE = "vllava: the server ended; loading the model here.\n"


class Counted(Interrupts):
    """Counts the asks that came."""

    count = 0

    def known(self, id: str) -> Any:
        self.count += 1
        return super().known(id)


def found(folder: Path, state: ServerState) -> dict[str, str]:
    """Lets commands find a server; returns the environment in which they do."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "vllava").mkdir(mode=0o700)
    (folder / "vllava" / "a.json").write_text(json.dumps(asdict(state)))
    return {"XDG_RUNTIME_DIR": str(folder)}


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("s")) as running:
        running.service.interrupts = Counted()
        yield running


@pytest.fixture(scope="module")
def environment(demo_server: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return found(tmp_path_factory.mktemp("r"), demo_server.service.state)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, good and bad, and what stands beside them."""
    folder = tmp_path_factory.mktemp("films")
    first, second, *_ = demo.clips()
    shutil.copy(first, folder / "a.mp4")
    shutil.copy(second, folder / "b.mp4")
    (folder / "bad.mp4").write_bytes(first.read_bytes()[:900])
    shutil.copy(first, os.fsencode(folder) + b"/caf\xe9.mp4")
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nA star is born.\n")
    (folder / "other.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nIt falls.\n")
    pictures = folder / "pictures"
    pictures.mkdir()
    command = [sys.executable, "-m", "vllava_cli", "frames", "--each", "-o", "pictures/", "--model", "demo", "a.mp4"]
    subprocess.run(command, cwd=folder, env=environment_of(folder), check=True, capture_output=True)
    shutil.copytree(pictures, folder / "damaged")
    (folder / "damaged" / "zz.png").write_bytes(b"no picture")
    return folder


CLIP = b"the first clip"
"""Stands for the content of a clip on stdin."""
ASKS: list[tuple[list[str], bytes]] = [
    (["a.mp4", QUESTION], b""),
    (["a.mp4", QUESTION, "--no-stream", "-q"], b""),
    (["a.mp4", QUESTION, "--json"], b""),
    (["./a.mp4", "b.mp4", QUESTION, "--json"], b""),
    (["a.mp4", "What shape is it?", "--choices", "star,circle,square", "--json"], b""),
    (["a.mp4", "What shape is it?", "--choices", "star,circle", "--calibrate"], b""),
    (["a.mp4", QUESTION, "--agree", "3", "--json"], b""),
    (["a.mp4", QUESTION, "--agree", "2", "--choices", "star,circle"], b""),
    (["a.mp4", QUESTION, "--subs", "auto", "--json"], b""),
    (["a.mp4", QUESTION, "--subs", "other.srt", "--json"], b""),
    (["b.mp4", QUESTION, "--subs", "auto"], b""),
    (["a.mp4", QUESTION, "--temperature", "1", "--seed", "3", "--json"], b""),
    (["a.mp4", QUESTION, "--max-new-tokens", "2", "--json", "--fit", "pad"], b""),
    (["a.mp4", QUESTION, "--at", "0.5,1", "--json"], b""),
    (["a.mp4", QUESTION, "--pick", "scenes", "--json"], b""),
    (["a.mp4", QUESTION, "--decode-timeout", "100", "--json"], b""),
    (["pictures", QUESTION, "--json"], b""),
    (["damaged", QUESTION], b""),
    (["damaged/zz.png", QUESTION], b""),
    (["a.mp4", "-"], QUESTION.encode()),
    (["a.mp4"], QUESTION.encode()),
    (["-", QUESTION, "--json"], CLIP),
    (["-", QUESTION], b"no clip"),
    (["-", QUESTION], b""),
    (["caf\udce9.mp4", QUESTION, "--json"], b""),
    (["none.mp4", QUESTION], b""),
    (["bad.mp4", QUESTION], b""),
    (["a.mp4", QUESTION, "--start", "50"], b""),
    (["a.mp4", "why " * 900], b""),
    (["a.mp4", QUESTION, "--choices", "star," + "a " * 600], b""),
    (["a.mp4", "b.mp4", QUESTION, "--agree", "2"], b""),
]


@pytest.mark.parametrize("number", range(len(ASKS)))
def test_the_bytes_are_those_without_a_server(
    number: int, vllava: Zygote, demo_server: Served, environment: dict[str, str], films: Path
) -> None:
    words, stdin = ASKS[number]
    stdin = (films / "a.mp4").read_bytes() if stdin is CLIP else stdin
    counted = demo_server.service.interrupts
    assert isinstance(counted, Counted)
    before = counted.count

    def ask(**settings: Any) -> Shell:
        return vllava.run("ask", "--model", "demo", *words, folder=films, stdin=stdin, **settings)

    by_server = ask(environment=environment)
    by_itself = ask()
    assert comparable(by_server) == comparable(by_itself)
    assert counted.count == before + (stdin != b"" or words[0] != "-")
    assert counted.interrupt("") is False and not counted._flags


def comparable(done: Shell) -> tuple[int, object, str]:
    """An outcome without what differs from run to run: times, memory, and what was known already."""
    if not done.out.startswith("{"):
        return done.code, done.out, done.err
    row = json.loads(done.out)
    assert row["timings_s"].pop("load") >= 0
    row["tokens"].pop("reused")
    return done.code, row | {"timings_s": list(row["timings_s"]), "peak_bytes": row["peak_bytes"] is None}, done.err


def test_the_model_has_the_name_that_was_typed(
    small_checkpoint: Path, vllava: Zygote, clip: Path, tmp_path: Path
) -> None:
    wishes = Wishes(model=str(small_checkpoint.resolve()))
    (tmp_path / "here").symlink_to(small_checkpoint)
    with served(engine_of(small_checkpoint), tmp_path, ServeSettings(wishes=wishes)) as running:
        environment = found(tmp_path / "r", running.service.state)
        words = ["ask", "--model", "./here", "--json", "--max-new-tokens", "5", str(clip), "what"]
        by_server = vllava.run(*words, folder=tmp_path, environment=environment)
        assert comparable(by_server) == comparable(vllava.run(*words, folder=tmp_path))
        said = vllava.run(*words, "-v", folder=tmp_path, environment=environment).err
        assert said.startswith(f"server: {running.socket}, process 0.\n")


def test_nothing_heavy_is_imported(environment: dict[str, str], films: Path) -> None:
    """Reading the state, asking and showing need none of them; http.client alone would take a fifth of the time."""
    code = (
        "import sys; sys.argv = ['vllava', *sys.argv[1:]]\n"
        "from vllava_cli.cli import main\ncode = main()\n"
        "heavy = {'numpy', 'torch', 'av', 'PIL', 'tokenizers', 'rich', 'http.client', 'ssl', 'concurrent.futures'}\n"
        "heavy = heavy & set(sys.modules) | {name for name in sys.modules if name.startswith('vllava_cli.engine')}\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    command = [sys.executable, "-c", code, "ask", "--model", "demo", "a.mp4", QUESTION]
    done = subprocess.run(
        command, cwd=films, env=environment_of(films) | environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr, bool(done.stdout)) == (0, DEMO_NOTICE, True)


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[Callable[[bytes], dict[str, str]]]:
    """Makes a server that sends some bytes after a request, and is gone; returns the environment that finds it."""
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve(data: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536):  # who only looks whether it lives sends nothing
                    connection.sendall(data)
                    listener.shutdown(socket.SHUT_RDWR)
                    return

    def start(data: bytes) -> dict[str, str]:
        threading.Thread(target=serve, args=(data,), daemon=True).start()
        state = ServerState(
            pid=1, version=__version__, wishes=Wishes(model=DEMO_MODEL), device="cpu", precision="fp32",
            attention="sdpa", socket=str(path),
        )  # fmt: skip
        return found(tmp_path / "r", state)

    with closing(listener):
        yield start


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
NOTICE = event_line("notice", DEMO_NOTICE.rstrip("\n"), False)


@pytest.mark.parametrize(
    ("data", "code", "out", "err"),
    [
        (b"", 0, "A blue star grows.\n", GONE + DEMO_NOTICE),
        (HEAD[:20], 0, "A blue star grows.\n", GONE + DEMO_NOTICE),
        (HEAD + NOTICE, 0, "A blue star grows.\n", DEMO_NOTICE + GONE),
        (HEAD + NOTICE + event_line("answer", "A blue"), 0, "A blue star grows.\n", DEMO_NOTICE + GONE),
        (HEAD + event_line("answer", "A blue star grows.") + event_line("end_answer"), 0, "A blue star grows.\n", None),
        (HEAD + event_line("answer", "A red"), 1, "A red", None),
        (HEAD + event_line("answer", "A blue star grows. It"), 1, "A blue star grows. It", None),
        (
            b'HTTP/1.1 503 Ending\r\n\r\n{"error": {"message": "The server ends."}}',
            0,
            "A blue star grows.\n",
            GONE + DEMO_NOTICE,
        ),
        (
            HEAD + event_line("fault", "ServerError", "The server ends."),
            0,
            "A blue star grows.\n",
            "vllava: The server ends. Loading the model here.\n" + DEMO_NOTICE,
        ),
        (b'HTTP/1.1 429 Busy\r\n\r\n{"error": {"message": "Many."}}', 1, "", "vllava: Many.\n"),
    ],
)
def test_a_server_that_dies_loses_nothing_and_shows_nothing_twice(
    data: bytes, code: int, out: str, err: str | None, dying: Callable[[bytes], dict[str, str]], vllava: Zygote,
    films: Path,
) -> None:  # fmt: skip
    words = ["ask", "--model", "demo", "a.mp4", QUESTION]
    done = vllava.run(*words, folder=films, environment=dying(data))
    assert (done.code, done.out) == (code, out)
    assert err is None or done.err == err
    if code and out:
        assert done.err.endswith("vllava: The server ended, and the answer isn't the same here. Ask again.\n")


def test_a_clip_on_stdin_survives_its_server(
    dying: Callable[[bytes], dict[str, str]], vllava: Zygote, films: Path
) -> None:
    stdin = (films / "a.mp4").read_bytes()
    words = ["ask", "--model", "demo", "-", QUESTION]
    done = vllava.run(*words, folder=films, environment=dying(HEAD), stdin=stdin)
    assert (done.code, done.out) == (0, "A blue star grows.\n")


def test_ctrl_c_and_a_closed_pipe_end_the_answer_in_the_server(tmp_path: Path, clip: Path) -> None:
    slow = write_checkpoint(tmp_path / "slow", layers=12)
    with served(engine_of(slow), tmp_path, ServeSettings(wishes=Wishes(model=str(slow.resolve())))) as running:
        environment = environment_of(slow) | found(tmp_path / "r", running.service.state)
        flags = running.service.interrupts._flags

        def begun() -> tuple[subprocess.Popen[bytes], bytes]:
            words = ["ask", clip, "what", "--model", slow, "--no-guard", "--max-new-tokens", "900"]
            process = subprocess.Popen(
                [sys.executable, "-m", "vllava_cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=environment,
            )  # fmt: skip
            assert process.stdout
            first = process.stdout.read(8)
            assert len(flags) == 1
            return process, first

        interrupted, first = begun()
        interrupted.send_signal(signal.SIGINT)
        rest, err = interrupted.communicate(timeout=60)
        assert (interrupted.returncode, err, (first + rest)[-1:]) == (130, b"", b"\n")
        assert wait_for(lambda: not flags)

        closed, _ = begun()
        assert closed.stdout and closed.stderr
        closed.stdout.close()
        assert (closed.wait(timeout=60), closed.stderr.read()) == (141, b"")
        assert wait_for(lambda: not flags)

        killed, _ = begun()
        killed.kill()
        killed.communicate()
        assert wait_for(lambda: not flags)
        assert running.service.resident.figures.new_tokens < 900


def test_progress_is_shown_once_it_lasts_and_follows_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.screen.PROGRESS_S", 0.01)
    err = io.StringIO()
    play = served_ask._Play(Screen(out=io.StringIO(), err=err))

    def shown(text: str) -> bool:
        return wait_for(lambda: f"vllava: {text}\n" in err.getvalue())

    def told() -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "begin", (["brief"],)
        yield "rest", ()
        yield "begin", (["reading", "1 of 2"],)
        play.wake()
        assert play._shows_at_s is not None
        play._shows_at_s = -math.inf
        play.wake()
        assert shown("reading · 1 of 2")
        yield "parts", (["reading", "2 of 2"],)
        assert shown("reading · 2 of 2")
        yield "rest", ()
        yield "ended", (7,)

    assert play.all(told()) == 7
    assert "brief" not in err.getvalue()
