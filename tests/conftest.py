"""What several tests share: small checkpoints, clips, and engines that stay loaded for the whole run."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("VLLAVA_MODEL", None)
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="vllava-run-")  # where no developer's own servers are
os.environ["TERM"] = "xterm-256color"  # a dumb one shows no progress
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and so would what the tests start

from tests.batch import fork_server
from tests.checkpoints import write_checkpoint
from tests.clips import write_clip
from tests.commands.shell import Shell
from tests.published import write_published

atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)
if TYPE_CHECKING:
    from tests.server.serving import Served

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint that knows nothing."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published checkpoint's files, small."""
    return write_published(tmp_path_factory.mktemp("checkpoints") / "published")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of H.264 with B-frames, 64x48, 10 frames a second."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="session")
def other_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "other.mp4", 5, width=48, height=64)


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[..., Shell]]:
    """Runs vllava as a process, in an empty folder, with nothing of the caller's settings."""
    yield lambda *words, **settings: Shell.run(*words, folder=tmp_path, **settings)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, of this test's own."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def vllava() -> Iterator[fork_server.Zygote]:
    with fork_server.started() as process:
        yield process


@pytest.fixture
def quick(vllava: fork_server.Zygote, tmp_path: Path) -> Callable[..., Shell]:
    """As `shell`, but forked off a process that has imported torch, unless a pipe or an environment is asked for."""

    def run(*words: str | Path, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Shell:
        if stdin or environment:
            return Shell.run(*words, folder=tmp_path, stdin=stdin, environment=environment)
        return vllava.run(*words, folder=tmp_path)

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take most of the time of a model this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's model behind a socket and a port, with nothing allowed."""
    from tests.engine.engines import engine_of
    from tests.server.serving import served
    from vllava_cli import demo

    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("served")) as running:
        yield running
