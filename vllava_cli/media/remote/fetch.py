"""A medium at a URL as a file of this machine, for as long as it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.allow import Allowed, scheme_of, shown_url
from vllava_cli.media.remote.cache import CHUNK_BYTES, Cache, Growing
from vllava_cli.media.remote.http import RefusedError, file_system

WAITS_S = (0.5, 2.0, 8.0)
"""Before each further try, where it may only be a bad moment."""
_BLOCK_BYTES = 16 << 20
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated")
"""What stores call the version of an object."""


class Fetcher:
    """Fetches what is allowed. Errors: FetchError, a sentence without the secrets of a URL."""

    def __init__(
        self,
        allowed: Allowed,
        cache: Cache,
        *,
        waits_s: tuple[float, ...] = WAITS_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._allowed, self._cache = allowed, cache
        self._waits_s, self._sleep = waits_s, sleep

    @contextmanager
    def fetched(self, url: str) -> Iterator[Path]:
        """A regular file for the time of the block."""
        files, path = self._store(url)

        def version() -> str:
            return self._tried(url, lambda: _version(files.info(path)))

        def fill(growing: Growing) -> str:
            return self._tried(url, lambda: _copied(files, path, growing))

        with self._cache.held(url, version, fill) as entry:
            yield entry

    def _store(self, url: str) -> tuple[Any, str]:
        """fsspec's file system for a URL, and its path there."""
        scheme = scheme_of(url) or ""
        name = shown_url(url)
        if scheme not in self._allowed.schemes or "::" in url:
            raise FetchError(f"{name} may not be fetched: add --allow {scheme}, if it is meant.")
        if scheme in ("http", "https"):
            return file_system(self._allowed), url
        try:
            import fsspec

            files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as exc:
            raise FetchError(f"{name} needs a library that isn't here: {exc}. Try pip install 'vllava[ray]'.") from exc
        except Exception as exc:
            raise FetchError(f"{name} is no URL that can be fetched: {_line(exc)}. Check it.") from exc
        return files, path

    def _tried(self, url: str, attempt: Callable[[], str]) -> str:
        """What the first attempt that succeeds gives."""
        for wait_s in (*self._waits_s, None):
            try:
                return attempt()
            except FetchError as exc:
                raise FetchError(f"{shown_url(url)} can't be fetched. {exc}") from exc
            except Exception as exc:
                fault = _fault(url, exc)
                if fault is not None or wait_s is None:
                    raise fault or FetchError(
                        f"{shown_url(url)} can't be fetched: {_line(exc)}. Try again later with --retry-errors."
                    ) from exc
                self._sleep(wait_s)
        raise AssertionError("the last attempt has no end")


def _copied(files: Any, path: str, growing: Growing) -> str:
    """Errors: EOFError for less than was promised."""
    growing.again()
    facts = files.info(path)
    size = facts.get("size")
    if size:
        growing.expect(int(size))
    with files.open(path, "rb", block_size=_BLOCK_BYTES) as file:
        while piece := file.read(CHUNK_BYTES):
            growing.write(piece)
    if size and growing.bytes != int(size):
        raise EOFError(f"{growing.bytes:,} bytes came of {int(size):,}")
    return _version(facts)


def _version(facts: dict[str, Any]) -> str:
    """With the size, which everyone tells."""
    named = next((str(facts[name]) for name in _VERSIONS if facts.get(name)), "")
    return f"{named} {facts.get('size')}"


def _fault(url: str, error: Exception) -> FetchError | None:
    """Where another try would be in vain: nothing is there, or it isn't for us."""
    name, chain = shown_url(url), list(_chain(error))
    if refused := next((each for each in chain if isinstance(each, RefusedError)), None):
        return FetchError(f"{name} may not be fetched: {refused}.")
    status = next((found for each in chain if isinstance(found := getattr(each, "status", None), int)), None)
    if status is not None and (status == 429 or status >= 500):
        return None
    if any(_is_passing(each) for each in chain):
        return None
    if any(isinstance(each, PermissionError) for each in chain) or status in (401, 403):
        return FetchError(f"{name} can't be fetched: this machine may not read it. Check its credentials.")
    if any(isinstance(each, FileNotFoundError) for each in chain) or status in (404, 410):
        return FetchError(f"There is nothing at {name}. Check the URL.", is_missing=True)
    return None


def _is_passing(error: BaseException) -> bool:
    """A connection that broke or a name that wasn't found: FileNotFoundError is what fsspec makes of some of these."""
    is_network = type(error).__module__.startswith(("aiohttp", "botocore")) and not hasattr(error, "status")
    return is_network or isinstance(error, ConnectionError | TimeoutError | EOFError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        yield here
        here = here.__cause__ or here.__context__


def _line(error: BaseException) -> str:
    """One line of it, without what may be a secret behind a question mark."""
    lines = str(error).strip().splitlines()
    return (lines[0].partition("?")[0].rstrip(". ") if lines else "") or type(error).__name__
