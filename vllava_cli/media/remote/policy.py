"""The URLs and addresses that may be reached, which is only what `--allow` named, and how a URL is shown. Pure.

A URL that leads to this machine's own files or memory, or wraps another URL, is never allowed. Private ranges of
addresses are as good as public ones: clusters live there. A URL may carry secrets, which no message shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote

from vllava_cli.errors import FetchError, UsageError
from vllava_cli.media.file_check import MEDIA_SUFFIXES

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
"""fsspec's schemes for this machine's own files and memory, and for those that only pass on to another scheme."""

AddressKind = Literal["loopback", "link-local", "nowhere"]

_METADATA = frozenset(
    map(
        ip_address,
        (
            *("fd00:ec2::254", "fd20:ce::254"),  # AWS and Google over IPv6
            *("168.63.129.16", "100.100.100.200", "192.0.0.192"),  # Azure, Alibaba, Oracle
        ),
    )
)
"""Addresses at which clouds give out credentials, beside 169.254.0.0/16."""

_WRAPPERS = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""IPv6 with an IPv4 address at its end: NAT64, NAT64 of a site, IPv4-compatible."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The schemes and addresses that a user agreed to: none, unless it is named."""

    schemes: frozenset[str] = frozenset()
    """The schemes in lower case."""
    has_loopback: bool = False
    """Allows this machine itself."""
    has_link_local: bool = False
    """Allows a cloud's metadata service and others of this network segment."""

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
    """Reads the words of `--allow`: ["s3,https", "loopback"]. Errors: UsageError for what is never allowed."""
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


def kind_of(address: str) -> AddressKind | None:
    """The kind of an address, also of one wrapped in another; None for the internet and for private networks.

    "nowhere" stands also for text that is no address.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "nowhere"
    return _kind(parsed)


def is_reachable(address: str, allowed: Allowed) -> bool:
    """Say whether the user agreed to connections to this address."""
    match kind_of(address):
        case None:
            return True
        case "loopback":
            return allowed.has_loopback
        case "link-local":
            return allowed.has_link_local
        case "nowhere":
            return False


def remedy(address: str) -> str:
    """The end of a sentence about an address that is not reachable."""
    kind = kind_of(address)
    return f"add --allow {kind}" if kind in (LOOPBACK, LINK_LOCAL) else "name another host"


def without_secrets(url: str) -> str:
    """The URL as messages show it: "https://me:word@host/a.mp4?X-Signature=5#t" → "https://host/a.mp4"."""
    head, mark, rest = url.partition("://")
    rest = re.split("[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    return _one_line(f"{head}{mark}{authority.rpartition('@')[2]}{slash}{path}")


def scrubbed(text: str, url: str) -> str:
    """The first line of a library's message about a URL, without the URL's secrets and the full stop."""
    line = (text.strip().splitlines() or [""])[0].replace(url, without_secrets(url))
    return _one_line(re.sub(r"(\w://[^\s?#]*)[?#][^\s'\")]*", r"\1", line)).rstrip(" .")


def suffix_of(url: str) -> str:
    """The ending of a URL's path, "" unless media have it: "s3://b/A.MP4?v=1" → ".mp4"."""
    path = without_secrets(url).partition("://")[2].partition("/")[2]
    suffix = PurePosixPath(unquote(path)).suffix.lower()
    return suffix if suffix in MEDIA_SUFFIXES else ""


def _check(scheme: str) -> None:
    if scheme in _NEVER:
        raise UsageError(f"{scheme} can't be allowed: it leads to no other machine. Name local files by their paths.")
    if not re.fullmatch(_SCHEME, scheme):
        raise UsageError(f"{scheme!r} can't be allowed: name schemes, loopback or link-local, --allow s3,https.")


def _kind(address: IPv4Address | IPv6Address) -> AddressKind | None:
    if address.is_loopback or address.is_unspecified:  # 0.0.0.0 connects to this machine
        return "loopback"
    if address.is_link_local or address in _METADATA:
        return "link-local"
    if isinstance(address, IPv6Address) and (inner := _inside(address)):
        return _kind(inner)
    is_nowhere = address.is_multicast or address.is_reserved or (address.version == 4 and address.packed[0] == 0)
    return "nowhere" if is_nowhere else None


def _inside(address: IPv6Address) -> IPv4Address | None:
    if any(address in wrapper for wrapper in _WRAPPERS):
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
