"""A site, an empty folder for temporary files, and fetchers that don't wait between attempts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.media.remote.site import Site, open_site
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import allowed


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files are made here."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def waits() -> list[float]:
    """How long fetchers would have waited."""
    return []


@pytest.fixture
def fetcher(waits: list[float]) -> Callable[..., Fetcher]:
    """Allows http on this machine unless it is told otherwise."""

    def make(*words: str, **settings: object) -> Fetcher:
        return Fetcher(allowed=allowed(words or ("http,loopback",)), sleep=waits.append, **settings)  # type: ignore[arg-type]

    return make
