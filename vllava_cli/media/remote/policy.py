"""Which schemes of URLs may be fetched, and which addresses be reached: only what `--allow` named. Pure.

What leads to this machine's own files or memory, or wraps another URL, is never allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllava_cli.errors import FetchError, UsageError
from vllava_cli.media.remote.urls import without_secrets

LOOPBACK = "loopback"
LINK_LOCAL = "link-local"

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]+"
"""Two letters or more: C:// is a drive."""
_URL = re.compile(rf"({_SCHEME})(://|::)")
_CHAIN = re.compile(rf"::{_SCHEME}(://|::)")
"""http://[::1]/x isn't one, nor is s3://b/a::b.mp4."""

_NEVER = frozenset(
    (
        *("file", "local", "localfs", "memory", "data", "dir", "root", "git", "dvc", "pyscript"),
        *("simplecache", "filecache", "blockcache", "cached", "cache", "reference", "generic", "dask", "tblocal"),
        *("asynclocal", "asyncwrapper", "async_wrapper", "async-wrapper"),
        *("zip", "tar", "libarchive", "blosc", "gzip", "bz2", "xz", "zstd"),
    )
)
"""fsspec's schemes for what lies on this machine, and for what only passes on to another scheme."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a user agreed to. Nothing is, unless it is named."""

    schemes: frozenset[str] = frozenset()
    """In lower case."""
    has_loopback: bool = False
    """Whether this machine itself may be asked."""
    has_link_local: bool = False
    """Whether a cloud's metadata service and others of this network segment may be."""

    def scheme(self, url: str) -> str:
        """The scheme of a URL that may be fetched. Errors: FetchError for any other."""
        scheme, shown = scheme_of(url), without_secrets(url)
        if scheme is None:
            raise FetchError(f"{shown} is no URL: name it with its scheme, s3://bucket/clip.mp4.")
        if _CHAIN.search(url) or "::" in url.partition("://")[0]:
            raise FetchError(f"{shown} can't be fetched: it is a chain of URLs. Name the clip's own one.")
        if scheme in _NEVER:
            raise FetchError(f"{shown} can't be fetched: {scheme} leads to no other machine. Name the clip's own URL.")
        if scheme not in self.schemes:
            raise FetchError(f"{shown} isn't allowed: add --allow {scheme}.")
        return scheme


def allowed(words: Sequence[str]) -> Allowed:
    """From what `--allow` said: ["s3,https", "loopback"]. Errors: UsageError for what is never allowed."""
    named = {word.strip().lower() for each in words for word in each.split(",")}
    schemes = named - {LOOPBACK, LINK_LOCAL}
    for scheme in sorted(schemes):
        _check(scheme)
    return Allowed(schemes=frozenset(schemes), has_loopback=LOOPBACK in named, has_link_local=LINK_LOCAL in named)


def scheme_of(path: str) -> str | None:
    """ "S3://b/k" → "s3", "zip::s3://b/k" → "zip"; None for a local path: "./s3:/x", "a:b", "C:\\x", "C://x"."""
    found = _URL.match(path)
    if not found or (found[2] == "::" and "://" not in path):
        return None
    return found[1].lower()


def _check(scheme: str) -> None:
    if scheme in _NEVER:
        raise UsageError(f"{scheme} can't be allowed: it leads to no other machine. Name local files by their paths.")
    if not re.fullmatch(_SCHEME, scheme):
        raise UsageError(f"{scheme!r} can't be allowed: name schemes, loopback or link-local, --allow s3,https.")
