"""`--keep` starts one server, however many ask for it at once, and it stays as long as the longest of them wants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands.shell import Shell, environment_of
from tests.engine.engines import engine_of
from tests.server.found import environment_for
from tests.server.serving import served
from tests.waiting import wait_for
from vllava_cli import __version__, demo
from vllava_cli.client.place import ModelFile, id_of
from vllava_cli.commands.keeping import command_of
from vllava_cli.nouns import Wishes
from vllava_cli.server.life.own_place import OwnPlace
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.storage.files import locked, release

QUESTION = "What happens in this video?"


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(model="demo"), ["--model=demo"]),
        (Wishes(model="a/b", revision="-x"), ["--model=a/b", "--revision=-x"]),
        (
            Wishes(model="a/b", device="cpu", precision="4bit", attention="flash_attention_2"),
            ["--model=a/b", "--device=cpu", "--precision=4bit", "--attention=flash"],
        ),
    ],
)
def test_the_server_has_the_wishes_of_the_ask(wishes: Wishes, words: list[str]) -> None:
    start = [sys.executable, "-P", "-m", "vllava_cli", "serve", "--idle=60.0"]
    assert command_of(wishes, 60.0) == start + words


def test_a_folder_is_served_by_its_absolute_path(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_checkpoint.parent)
    wishes = Wishes(model=small_checkpoint.name, adapter=".")
    ends = [f"--model={small_checkpoint.resolve()}", f"--adapter={small_checkpoint.parent.resolve()}"]
    assert command_of(wishes, 1.0)[-2:] == ends


def test_two_at_once_start_one_server_which_outlives_them(tmp_path: Path) -> None:
    environment = environment_of(tmp_path) | {"XDG_RUNTIME_DIR": str(tmp_path)}
    words = ["ask", "--model", "demo", demo.clips()[0], QUESTION]

    def begun(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "vllava_cli", *words, *more], env=environment, cwd=tmp_path, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    for done in [begun("--keep", "200"), begun("--keep", "300")]:
        out, err = done.communicate(timeout=120)
        assert (done.returncode, out, err.count("\n")) == (0, "A blue star grows.\n", 1), err
    [state] = (tmp_path / "vllava").glob("*.json")
    pid = json.loads(state.read_text())["pid"]
    try:
        third = Shell.run(*words, "--keep", "0.5", "-v", folder=tmp_path, environment=environment)
        assert third.err.startswith(f"server: {state.with_suffix('.sock')}, process {pid}.\n")
        assert not wait_for(lambda: not state.exists(), patience_s=1.5)
    finally:
        os.kill(pid, signal.SIGTERM)
    assert wait_for(lambda: {path.suffix for path in state.parent.iterdir()} <= {".log"})


@pytest.mark.parametrize("words", [(), ("--every", "1s", "--json")])
def test_a_server_that_runs_stays_for_longer(tmp_path: Path, words: tuple[str, ...]) -> None:
    settings = ServeSettings(wishes=Wishes(model="demo"), idle_s=100.0)
    with served(engine_of(demo.CHECKPOINT), tmp_path, settings) as running:
        environment = environment_for(running, tmp_path / "run")
        ask = ("ask", "--model", "demo", *words, demo.clips()[0], QUESTION, "--keep")
        for time, idle_s in (("50", 100.0), ("300", 300.0), ("200", 300.0)):
            done = Shell.run(*ask, time, folder=tmp_path, environment=environment)
            assert (done.code, running.service.settings.idle_s) == (0, idle_s), done.err


def test_a_server_of_files_that_have_changed_is_in_the_way(tmp_path: Path, small_checkpoint: Path) -> None:
    settings = ServeSettings(wishes=Wishes(model=str(small_checkpoint.resolve())))
    with served(engine_of(small_checkpoint), tmp_path, settings) as running:
        folder, id = tmp_path / "vllava", id_of(settings.wishes, __version__)
        old = ModelFile(path=str(small_checkpoint / "config.json"), bytes=1, modified_ns=1)
        folder.mkdir(mode=0o700)
        OwnPlace(folder=folder, id=id).tell(replace(running.service.state, files=(old,)))
        lock = locked(folder / f"{id}.lock")
        try:
            ask = ("ask", "--model", small_checkpoint, demo.clips()[0], QUESTION, "--keep", "1m")
            done = Shell.run(*ask, folder=tmp_path, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
        finally:
            release(lock)
    assert done == Shell.failed(
        "--keep can't start a server: that of process 0 has the model as it was before its files changed. End it with "
        "vllava serve --stop."
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ask_that_is_ended_while_it_waits_ends_the_server_that_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    environment = environment_of(tmp_path) | {"XDG_RUNTIME_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "vllava_cli", "ask", "--model", "demo", demo.clips()[0], QUESTION, "--keep", "200"]
    ask = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = tmp_path / "vllava"
    assert wait_for(lambda: any(folder.glob("*.lock"))), "the server begins"
    ask.send_signal(number)
    assert (ask.communicate(timeout=60), ask.returncode) == ((b"", b""), 128 + number)
    assert wait_for(lambda: list(folder.iterdir()) == [])


def test_a_server_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    words = ["ask", "--model", "./none", "--keep", "1m", demo.clips()[0], QUESTION]
    there = {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = Shell.run(*words, folder=tmp_path, environment=there)
    sentence = (
        "There is no model folder ./none: give the folder of a Video-LLaVA checkpoint, a hub id, or --model demo."
    )
    assert done == Shell.failed(f"--keep can't start a server: {sentence}")
    assert list((tmp_path / "vllava").iterdir()) == []
    refused = Shell.run(*words, "--server", "off", folder=tmp_path, environment=there)
    wanted = "--keep starts a server here, and --server off uses none here. Leave one out."
    assert refused == Shell.failed(wanted, code=2)
