"""A site, a cache in an empty folder, and fetchers that don't wait between attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.media.remote.site import Site, open_site
from vllava_cli.media.remote.cache import Cache
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import allowed


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "clips"


@pytest.fixture
def waits() -> list[float]:
    """How long fetchers would have waited."""
    return []


@pytest.fixture
def fetcher(folder: Path, waits: list[float]) -> Callable[..., Fetcher]:
    """Allows http on this machine unless it is told otherwise."""

    def make(
        *words: str, most_bytes: int = 1 << 20, patience_s: float = 0, queue_s: float = 0, **settings: object
    ) -> Fetcher:
        cache = Cache(folder, most_bytes, patience_s=patience_s, queue_s=queue_s)
        return Fetcher(allowed(words or ("http,loopback",)), cache, sleep=waits.append, **settings)  # type: ignore[arg-type]

    return make
