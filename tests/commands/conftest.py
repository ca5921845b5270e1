"""Commands that start at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.batch import fork_server
from tests.commands.shell import Shell


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
        done = vllava.run(*words, folder=tmp_path)
        return Shell(code=done.code, out=done.out, err=done.err)

    return run
