"""The life of `vllava serve`: what it says, who finds it, and how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from tests.refusals import refused
from tests.waiting import wait_for
from vllava_cli import __version__
from vllava_cli.client import place
from vllava_cli.client.connection import Address, send
from vllava_cli.client.place import ServerState
from vllava_cli.engine.resident.resident_engine import ResidentEngine
from vllava_cli.errors import ServerError, UsageError
from vllava_cli.nouns import Wishes
from vllava_cli.screen import Screen
from vllava_cli.server.app import make_app
from vllava_cli.server.life import connections, launch, listeners
from vllava_cli.server.life.listeners import bound, check_reach
from vllava_cli.server.life.own_place import taken
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.server.service import Service

pytestmark = pytest.mark.usefixtures("one_thread")
DEMO = Wishes(model="demo")


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # a server sets it, and tests after this one shall not have it
    return folder


@dataclass(kw_only=True)
class Slow:
    """A route that answers once it is let."""

    has_begun: threading.Event = field(default_factory=threading.Event)
    is_let: threading.Event = field(default_factory=threading.Event)
    services: list[Service] = field(default_factory=list)

    async def answer(self, _request: Request) -> Response:
        self.has_begun.set()
        while not self.is_let.is_set():
            await asyncio.sleep(0.01)
        return PlainTextResponse("at last")


@pytest.fixture
def slow(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow()

    def with_slow(service: Service) -> Starlette:
        made.services.append(service)
        app = make_app(service)
        app.router.routes.append(Route("/slow", made.answer))
        return app

    monkeypatch.setattr(connections, "make_app", with_slow)
    yield made
    made.is_let.set()
    assert list((runtime / "vllava").iterdir()) == [], "nothing is left behind"


def client_of(state: ServerState) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=state.socket)
    return httpx.Client(transport=transport, base_url="http://localhost", timeout=60)


def serve(visit: Callable[[ServerState], object], **settings: Any) -> tuple[int, list[str]]:
    """Serves the demo while another thread visits the server; returns the exit code and the lines on stderr."""
    err, faults = io.StringIO(), []

    def guest() -> None:
        try:
            assert wait_for(lambda: bool(place.states()))
            visit(place.states()[0])
        except BaseException as exc:
            faults.append(exc)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        code = launch.run(ServeSettings(wishes=DEMO, **settings), Screen(out=io.StringIO(), err=err))
    except SystemExit as exc:
        code = int(str(exc.code))
    except KeyboardInterrupt:
        code = 130
    thread.join()
    assert faults == []
    return code, err.getvalue().splitlines()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (None, 0)]
)
def test_a_server_that_is_to_end_finishes_its_answers_and_takes_no_others(
    number: signal.Signals | None, code: int, slow: Slow
) -> None:
    answers: list[str] = []

    def visit(state: ServerState) -> None:
        with client_of(state) as client, client_of(state) as other:
            running = threading.Thread(target=lambda: answers.append(client.get("/slow").text))
            running.start()
            assert slow.has_begun.wait(60)
            if number:
                os.kill(os.getpid(), number)
            else:
                assert other.post("/vllava/stop").json() == {"is_ending": True}
            assert wait_for(lambda: not place.states())
            late = other.get("/slow")
            assert (late.status_code, late.headers["connection"]) == (503, "close")
            assert other.post("/vllava/interrupt/a").json() == {"was_running": False}, "Ctrl-C still ends an answer"
            assert other.delete("/vllava/answers/a").status_code == 200
            assert other.post("/vllava/stop").json() == {"is_ending": True}
            slow.is_let.set()
            running.join()

    ended = serve(visit)
    assert answers == ["at last"]
    assert ended[0] == code
    assert ended[1][-1] == "vllava: ending, with 1 request to answer first."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_a_second_signal_and_a_grace_that_is_over_cut_the_answers_off(
    number: signal.Signals | None, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HURRY_S", 1)
    if number is None:
        monkeypatch.setattr(launch, "GRACE_S", 0.2)
    answers: list[httpx.Response] = []

    def visit(state: ServerState) -> None:
        with client_of(state) as client, client_of(state) as other:
            running = threading.Thread(target=lambda: answers.append(client.get("/slow")))
            running.start()
            assert slow.has_begun.wait(60)
            if number is None:
                other.post("/vllava/stop")
            else:
                os.kill(os.getpid(), number)
                assert wait_for(lambda: not place.states())
                os.kill(os.getpid(), number)
            running.join()

    assert serve(visit)[0] == (128 + number if number else 0)
    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(503, "ending")]


def test_a_thread_that_never_ends_keeps_no_process(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(launch, "HURRY_S", 0.5)
    monkeypatch.setattr(launch, "GRACE_S", 0.1)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(ResidentEngine, "close", lambda _: slow.is_let.wait())
    assert serve(lambda state: client_of(state).post("/vllava/stop"))[0] == 0
    assert codes == [0]


def test_a_host_that_hangs_keeps_no_process(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would wait for the thread that fetches a clip from it."""
    codes: list[int] = []
    monkeypatch.setattr(launch, "HURRY_S", 0.5)
    monkeypatch.setattr(os, "_exit", codes.append)

    def visit(state: ServerState) -> None:
        slow.services[0].fetches.submit(slow.is_let.wait)
        client_of(state).post("/vllava/stop")

    assert (serve(visit)[0], codes) == (0, [0])


def test_an_idle_server_ends_but_not_while_it_answers(slow: Slow) -> None:
    def visit(state: ServerState) -> None:
        with client_of(state) as client, client_of(state) as other:
            running = threading.Thread(target=lambda: client.get("/slow"))
            running.start()
            assert slow.has_begun.wait(60)
            assert not wait_for(lambda: not place.states(), patience_s=1)
            slow.is_let.set()
            running.join()
            while place.states():  # to look at it is no question
                with suppress(httpx.TransportError):
                    other.get("/vllava/status")

    code, lines = serve(visit, idle_s=0.5)
    assert (code, lines[-1]) == (0, "vllava: ending, because nobody has asked for 0.5 s.")


def test_it_says_where_it_listens_and_who_may_ask(slow: Slow) -> None:
    told: list[str] = []

    def visit(state: ServerState) -> None:
        assert httpx.get(f"{state.url}/health").json()["status"] == "ok"
        told.extend((state.socket, state.url))
        client_of(state).post("/vllava/stop")

    _, lines = serve(visit, port=0)
    assert lines[1:] == [
        f"vllava: serving demo (fp32 on cpu) at {told[0]} and {told[1]}",
        "vllava: without a token, every user of this machine may ask at that port.",
    ]
    assert slow


def test_without_unix_sockets_it_listens_on_loopback_with_a_private_token(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "HAS_UNIX_SOCKETS", False)

    def visit(state: ServerState) -> None:
        assert (state.socket, state.url.rpartition(":")[0]) == ("", "http://127.0.0.1")
        assert httpx.get(f"{state.url}/health").status_code == 401
        assert httpx.get(f"{state.url}/health", headers={"authorization": f"Bearer {state.token}"}).status_code == 200
        assert (runtime / "vllava").stat().st_mode & 0o777 == 0o700
        assert state.token not in repr(launch_status(state))
        from vllava_cli.server.life import attend

        assert attend.stop(Screen(out=io.StringIO(), err=io.StringIO()), DEMO, ()) == 0

    assert serve(visit)[0] == 0


def launch_status(state: ServerState) -> Any:
    with send(Address.of(state), "GET", "/vllava/status") as reply:
        return reply.checked().json()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 is about a port: add --port 8000, or leave it out."),
        ({"token": "0123456789"}, "--token and --name are about a port: add --port 8000, or leave them out."),
        ({"names": ("a",)}, "--token and --name are about a port: add --port 8000, or leave them out."),
        ({"port": 1, "host": "0.0.0.0"}, "--host 0.0.0.0 can be reached from other machines: set VLLAVA_TOKEN, or "),
        ({"port": 1, "host": "::"}, "--host :: can be reached from other machines: set VLLAVA_TOKEN, or "),
        ({"port": 1, "host": "films.example"}, "--host films.example can be reached from other machines: "),
        ({"port": 1, "token": "short"}, "The token is not 8 to 512 letters, digits and signs of ASCII: make one with "),
        ({"port": 1, "token": "with a blank"}, "The token is not 8 to 512 letters, "),
        ({"port": 1, "token": "caf\xe9caf\xe9caf\xe9"}, "The token is not 8 to 512 letters, "),
        ({"port": 1}, None),
        ({"port": 1, "host": "127.0.0.2"}, None),
        ({"port": 1, "host": "::1"}, None),
        ({"port": 1, "host": "0.0.0.0", "token": "0123456789"}, None),
    ],
)
def test_who_could_be_asked_by_anybody_is_not_started(settings: dict[str, Any], fault: str | None) -> None:
    made = ServeSettings(wishes=DEMO, **settings)
    if fault is None:
        check_reach(made)
    else:
        assert refused(UsageError, check_reach, made).startswith(fault)


@pytest.mark.usefixtures("runtime")
def test_an_address_that_cannot_be_listened_at_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, taken("a" * 12) as own:
        port = other.getsockname()[1]
        message = refused(ServerError, bound, ServeSettings(wishes=DEMO, port=port), own)
        assert message == (
            f"Port {port} of 127.0.0.1 can't be listened at: address already in use. Name another with --port."
        )
        message = refused(UsageError, bound, ServeSettings(wishes=DEMO, port=0, host="no.such.invalid"), own)
        assert message.startswith("--host no.such.invalid is not an address of this machine: ")


def test_a_missing_library_is_told_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LIBRARIES", ("socket", "no_such_library"))
    open_to_all = ServeSettings(wishes=DEMO, port=0, host="0.0.0.0")
    assert refused(UsageError, launch.run, open_to_all, Screen(out=io.StringIO(), err=io.StringIO())) == (
        "vllava serve needs no_such_library, which isn't installed: pip install 'vllava[serve]'."
    )


def test_a_user_starts_looks_and_stops(vllava: Zygote, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    own = {"XDG_RUNTIME_DIR": str(tmp_path), "VLLAVA_TOKEN": "0123456789abcdef"}

    def run(*words: str, name: str) -> Shell:
        folder = tmp_path / name
        folder.mkdir()
        return vllava.run("serve", *words, folder=folder, environment=own)

    assert run("--status", name="none") == Shell(code=1, out="", err="vllava: no server of yours runs.\n")
    server = vllava.start("serve", "-m", "demo", "--port", "0", "--log", folder=tmp_path / "work", environment=own)
    assert wait_for(lambda: "vllava: serving demo" in server.told)
    again = run("-m", "demo", name="again")
    assert (again.code, "runs already" in again.err) == (75, True)
    shown = run("--status", "--json", name="json")
    facts = json.loads(shown.out)
    assert (facts["model"], facts["pid"], facts["version"]) == ("demo", server.pid, __version__)
    rows = run("--status", name="status").out.splitlines()
    assert [re.split("  +", row)[0] for row in rows] == [
        "model", "loaded as", "listens at", "process", "since", "answers", "memory",
    ]  # fmt: skip
    assert httpx.get(f"{facts['url']}/v1/models").status_code == 401
    other = run("--stop", "--precision", "4bit", name="other")
    assert other == Shell.failed("No server of yours has these settings: vllava serve --status shows them.")
    stopped = run("--stop", "--precision", "fp32", name="stop")
    assert stopped == Shell(code=0, out="", err=f"vllava: ended the server of demo, process {server.pid}.\n")
    ended = server.wait()
    assert (ended.code, ended.out) == (0, "")
    assert " GET /v1/models 401 " in ended.err
    assert "0123456789abcdef" not in ended.err + shown.out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--status", "--stop"], "--status shows servers and --stop ends one. Give one of them."),
        (["--json"], "--json is about --status: add it, or leave --json out."),
        (["--root", "no-such"], "--root 'no-such' is not a folder: name one, or leave it out."),
        (["--allow", "https,s3"], "--allow s3: a server fetches from https and http alone. Name these."),
        (
            ["--port", "1", "--token-file", "no-such"],
            "--token-file 'no-such' can't be read: no such file or ",
        ),
        (["--port", "1", "--token", "a", "--token-file", "b"], "--token-file can't be combined with --token or "),
        (["--allow", "file"], "file can't be allowed: it doesn't lead to another machine. "),
    ],
)
def test_other_command_lines_are_refused(words: list[str], fault: str, vllava: Zygote, tmp_path: Path) -> None:
    done = vllava.run("serve", *words, folder=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"vllava: {fault}")


@pytest.mark.usefixtures("runtime")
def test_small_pieces_leave_a_port_at_once() -> None:
    """asyncio switches off the system's waiting for more (TCP_NODELAY) only where a socket names its protocol."""
    with taken("id") as own, closing(bound(ServeSettings(wishes=DEMO, port=0), own)) as found:
        assert found.sockets[-1].proto == socket.IPPROTO_TCP
