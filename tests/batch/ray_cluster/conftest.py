"""A cluster of three machines on this one, the demo's clips under many names, and what they are answered alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.batch.conftest import by_id, rows_of
from tests.batch.ray_cluster.machines import Machines
from tests.clips import picture, write_clip
from tests.commands.shell import Shell, environment_of
from vllava_cli import demo

QUESTIONS = ("What happens in this video?", "What colour is it?")
CLIPS = 30


@pytest.fixture(scope="package")
def store() -> Iterator[Any]:
    """A client of an S3 server on this machine, which all that is started from here asks, too."""
    pytest.importorskip("s3fs")
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    _, port = running.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield boto3.client("s3")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        running.stop()


@pytest.fixture(scope="package")
def machines(store: Any) -> Iterator[Machines]:  # noqa: ARG001  (their processes have its address)
    """Three of two CPUs each."""
    found = Machines.started()
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(scope="package")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30: a still image, one of three frames, and the demo's."""
    folder = tmp_path_factory.mktemp("cluster") / "clips"
    folder.mkdir()
    sources = sorted(demo.CLIPS.glob("*.mp4"))
    for number in range(CLIPS - 2):
        shutil.copy(sources[number % len(sources)], folder / f"clip-{number:02}.mp4")
    write_clip(folder / "short.mp4", 3)
    Image.fromarray(picture(3)).save(folder / "still.png")
    return folder


@pytest.fixture(scope="package")
def alone(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of `vllava batch` on one machine, by id."""
    folder = tmp_path_factory.mktemp("alone")
    done = Shell.run(*words(clips, "-o", "out.jsonl"), folder=folder)
    assert done.code == 0, done.err
    return rows_by_id(folder / "out.jsonl")


def words(clips: Path, *more: str) -> list[str]:
    """A command line with 60 jobs."""
    asked = [word for question in QUESTIONS for word in ("-Q", question)]
    return ["batch", "--model", "demo", *asked, str(clips), *more]


def rows_by_id(*files: Path) -> dict[str, dict[str, Any]]:
    """All rows, each once, without what differs from run to run."""
    return by_id([row for file in files for row in rows_of(file)])


def rows_in(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("part-*.jsonl"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts vllava in an empty folder and doesn't wait for it."""
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    settings = environment_of(tmp_path, **store)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*given: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "vllava_cli", *given]
        with (tmp_path / "stderr").open("ab") as err:
            processes.append(
                subprocess.Popen(command, cwd=tmp_path, env=settings, stderr=err, stdin=subprocess.DEVNULL)
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
