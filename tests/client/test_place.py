"""Where servers are found: which one suits which wishes, and what becomes of the files of dead ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from vllava_cli import __version__
from vllava_cli.client import place
from vllava_cli.client.place import ModelFile, ServerState
from vllava_cli.errors import LockedError, ServerError
from vllava_cli.nouns import Wishes
from vllava_cli.server.life.own_place import OwnPlace, taken


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "vllava"


def state_of(wishes: Wishes, **facts: Any) -> ServerState:
    usual = {"pid": os.getpid(), "version": __version__, "device": "cpu", "precision": "fp32", "attention": "sdpa"}
    return ServerState(wishes=place.as_served(wishes), **{**usual, **facts})


@contextmanager
def standing(wishes: Wishes, **facts: Any) -> Iterator[OwnPlace]:
    """A server that accepts connections, and answers nothing."""
    with taken(place.id_of(wishes, __version__)) as own, own.socket() as listener:
        listener.listen()
        own.tell(state_of(wishes, socket=listener.getsockname(), **facts))
        yield own


DEMO = Wishes(model="demo")


@pytest.mark.parametrize(
    ("served", "wished", "is_found"),
    [
        ({}, {}, True),
        ({}, {"precision": "fp32", "device": "cpu", "attention": "sdpa"}, True),
        ({}, {"precision": "bf16"}, False),
        ({}, {"device": "cuda"}, False),
        ({"precision": "fp32"}, {"precision": "fp32"}, True),
        ({"precision": "fp32"}, {}, False),
        ({"device": "cpu"}, {"precision": "fp32"}, False),
        ({"device": "cuda"}, {"device": "cuda"}, True),
        ({"model": "owner/name"}, {"model": "owner/name"}, True),
        ({"model": "owner/name"}, {"model": "owner/other"}, False),
        ({"model": "owner/name", "revision": "v1"}, {"model": "owner/name"}, False),
        ({"adapter": "owner/adapter"}, {"adapter": "owner/adapter"}, True),
        ({"adapter": "owner/adapter"}, {}, False),
        ({"model": "folder"}, {"model": "./folder"}, True),
        ({"model": "folder", "adapter": "link"}, {"model": "link", "adapter": "folder/../folder"}, True),
        ({"model": "folder"}, {"model": "other"}, False),
    ],
)
def test_a_server_is_found_by_who_wishes_what_it_has(
    served: dict[str, Any], wished: dict[str, Any], is_found: bool, runtime: Path, in_a_folder: Path
) -> None:
    for name in ("folder", "other"):
        (in_a_folder / name).mkdir()
    (in_a_folder / "link").symlink_to("folder")
    assert place.matching(replace(DEMO, **wished)) is None
    with standing(replace(DEMO, **served)) as own:
        found = place.matching(replace(DEMO, **wished))
        assert (found is not None) == is_found
        assert found in (None, *place.states())
        assert (runtime / f"{own.id}.sock").exists()
    assert place.states() == [] and list(runtime.iterdir()) == []


@pytest.mark.usefixtures("runtime")
def test_another_version_or_a_changed_checkpoint_is_not_the_same(tmp_path: Path) -> None:
    weights, gone = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(b"12")
    files = (ModelFile.of(weights), ModelFile.of(gone))
    assert (files[0].bytes, files[1].bytes) == (2, None)
    with standing(DEMO, files=files):
        assert place.matching(DEMO)
        gone.touch()
        assert not place.matching(DEMO), "a file has come"
        gone.unlink()
        assert place.matching(DEMO)
        os.utime(weights, ns=(0, 0))
        assert not place.matching(DEMO), "the file was written again"
    with standing(DEMO, version="0.0.1"):
        assert not place.matching(DEMO)
        assert len(place.states()) == 1


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("served", "wished", "is_found"),
    [(None, None, True), (None, "c0ffee", True), (None, "v1", False), ("v1", "c0ffee", True), ("v1", None, False)],
)
def test_who_names_the_commit_that_a_server_found_gets_it(
    served: str | None, wished: str | None, is_found: bool
) -> None:
    """A session of a chat names its commit, whatever its model was asked for by."""
    hub = Wishes(model="owner/name", revision=served)
    with standing(hub, revision="c0ffee"):
        assert (place.matching(replace(hub, revision=wished)) is not None) == is_found


def test_what_a_dead_server_left_is_removed_by_who_looks(runtime: Path) -> None:
    with ExitStack() as servers:
        servers.enter_context(standing(DEMO))
        left = {path.name: path.read_bytes() for path in runtime.glob("*.json")}
        (listening,) = (str(path) for path in runtime.glob("*.sock"))
    for name, content in left.items():
        (runtime / name).write_bytes(content)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(listening)
    dead.close()
    assert place.matching(DEMO) is None
    assert list(runtime.iterdir()) == []


def test_a_server_that_starts_in_a_dead_ones_place_loses_nothing(runtime: Path) -> None:
    with taken(place.id_of(DEMO, __version__)) as own, own.socket() as listener:
        own.tell(state_of(DEMO, socket=listener.getsockname()))
        assert place.matching(DEMO) is None, "it doesn't listen yet"
        assert {path.suffix for path in runtime.iterdir()} == {".json", ".lock", ".sock"}


def test_a_server_whose_files_were_deleted_leaves_those_of_the_next_one_alone(runtime: Path) -> None:
    """Files of a temp folder that are old are deleted by many systems."""
    with ExitStack() as first:
        before = first.enter_context(standing(DEMO))
        shutil.rmtree(runtime)
        assert place.states() == []
        with standing(DEMO, pid=4321):
            before.withdraw()
            first.close()
            assert [state.pid for state in place.states()] == [4321]
            assert {path.suffix for path in runtime.iterdir()} == {".json", ".lock", ".sock"}
    assert list(runtime.iterdir()) == []


def test_two_servers_with_the_same_settings_are_one_too_many(runtime: Path) -> None:
    with standing(DEMO, pid=4321), pytest.raises(LockedError) as caught, standing(DEMO):
        pass
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        "A server with this model and these settings runs already, process 4321: use it, or end it with vllava serve "
        "--stop."
    )
    with standing(DEMO), standing(replace(DEMO, precision="bf16")):
        assert len(place.states()) == 2
    assert list(runtime.iterdir()) == []


def test_only_this_user_can_reach_a_server(runtime: Path) -> None:
    before = os.umask(0)
    try:
        with standing(DEMO):
            modes = {path.suffix: path.stat().st_mode & 0o777 for path in (runtime, *runtime.iterdir())}
    finally:
        os.umask(before)
    assert modes == {"": 0o700, ".json": 0o600, ".lock": 0o600, ".sock": 0o600}


@pytest.mark.parametrize("fault", ["others may use it", "it is not a folder", "it belongs to another user"])
def test_a_folder_that_others_could_have_made_is_not_used(
    fault: str, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing(DEMO) as own:
        state = (runtime / f"{own.id}.json").read_bytes()
        if "others" in fault:
            runtime.chmod(0o750)
        elif "folder" in fault:
            runtime.rename(tmp_path / "moved")
            runtime.symlink_to(tmp_path / "moved")
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert place.matching(DEMO) is None and place.states() == []
        with pytest.raises(ServerError, match=f"is not private: {fault}"), taken("other"):
            pass
        assert (runtime / f"{own.id}.json").read_bytes() == state


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"{", b'{"pid": 1}', b"\xff", b"[" * 100_000, json.dumps({"pid": "1"}).encode(), b'{"files": 3}'],
)
def test_a_file_that_is_no_state_is_left_out(damage: bytes, runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    (runtime / "damaged.json").write_bytes(damage)
    with standing(DEMO):
        assert len(place.states()) == 1


def test_a_state_is_read_as_it_was_written(runtime: Path) -> None:
    with standing(replace(DEMO, precision="fp32", adapter="a/b"), url="http://127.0.0.1:1", began="now") as own:
        found = place.matching(replace(DEMO, precision="fp32", adapter="a/b"))
        assert found
        assert json.loads((runtime / f"{own.id}.json").read_bytes()) == json.loads(json.dumps(asdict(found)))


def test_a_path_that_is_too_long_for_a_socket_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with taken("a" * 12) as own, pytest.raises(ServerError, match="XDG_RUNTIME_DIR to a folder with a shorter path"):
        own.socket()


def test_without_a_runtime_folder_the_temp_folder_has_one_for_each_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/folder")
    assert place.runtime_folder().name == f"vllava-{os.getuid()}"


def test_looking_for_a_server_imports_nothing_heavy() -> None:
    script = "import sys, vllava_cli.client.place; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "asyncio", "http.client", "tempfile", "hashlib", "ssl", "subprocess"}
