"""Decides which URLs and addresses `--allow` permits, and when a download is too slow; writes the errors about URLs.

A URL that leads to this machine's own files or memory, or wraps another URL, is never allowed. Private addresses are
treated like public ones, because clusters have them. A URL may carry secrets, which no message shows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote

from vllava_cli.errors import FetchError, MissingError, UsageError
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.nouns import counted

LOOPBACK = "loopback"
LINK_LOCAL = "link-local"

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]+"
"""A scheme has two letters or more: C:// is a drive."""
_URL = re.compile(rf"({_SCHEME})(://|::)")
_CHAIN = re.compile(rf"::{_SCHEME}(://|::)")
"""Finds chains of URLs. http://[::1]/x is no chain, nor is s3://b/a::b.mp4."""

_NEVER = frozenset(
    (
        *("file", "local", "localfs", "memory", "data", "dir", "root", "git", "dvc", "pyscript"),
        *("simplecache", "filecache", "blockcache", "cached", "cache", "reference", "generic", "dask", "tblocal"),
        *("asynclocal", "asyncwrapper", "async_wrapper", "async-wrapper"),
        *("zip", "tar", "libarchive", "blosc", "gzip", "bz2", "xz", "zstd"),
    )
)
"""fsspec's schemes for this machine's own files and memory, and its schemes that only wrap another scheme."""

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
"""Addresses at which clouds give out credentials, besides 169.254.0.0/16."""

_WRAPPERS = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""IPv6 with an IPv4 address at its end: NAT64, NAT64 of a site, IPv4-compatible."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The schemes and the kinds of addresses that the user agreed to; none, unless `--allow` names some."""

    schemes: frozenset[str] = frozenset()
    """The schemes in lower case."""
    addresses: frozenset[str] = frozenset()
    """loopback: this machine itself · link-local: a cloud's metadata service and others of this network segment."""

    def check_address(self, address: str, url: str) -> None:
        """Raises a FetchError for an address to which a URL leads, unless the user agreed to its kind."""
        kind = kind_of(address)
        if kind is not None and kind not in self.addresses:
            raise beyond(url, address, "name another host" if kind == "nowhere" else f"add --allow {kind}")

    def scheme(self, url: str) -> str:
        """Returns the scheme of a URL that may be fetched. Errors: FetchError for any other URL."""
        scheme, shown = scheme_of(url), without_secrets(url)
        if scheme is None:
            raise FetchError(f"{shown} is not a URL: name it with its scheme, like s3://bucket/clip.mp4.")
        if _CHAIN.search(url) or "::" in url.partition("://")[0]:
            raise FetchError(f"{shown} can't be fetched: it is a chain of URLs. Name the clip's own URL.")
        if scheme in _NEVER:
            raise FetchError(
                f"{shown} can't be fetched: {scheme} doesn't lead to another machine. Name the clip's own URL."
            )
        if scheme not in self.schemes:
            raise FetchError(f"{shown} isn't allowed: add --allow {scheme}.")
        return scheme


class PassingError(FetchError):
    """A fault that may be gone a moment later, so that another attempt may succeed."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of an open URL. Errors while `blocks` are read: FetchError, MissingError, PassingError."""

    size_bytes: int | None
    """The size that the server states; None if it states none."""
    blocks: Iterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """The time that a server may take.

    4 GB take at most three days; a server that sends next to nothing is given up after a minute.
    """

    connect_s: float = 20
    silence_s: float = 60
    block_s: float = 120
    """The longest wait for the answer or for its next bytes, even if single bytes of its headers arrive meanwhile."""
    grace_s: float = 60
    """From then on, a download must be at least as fast as `least_bytes_per_s` on average."""
    least_bytes_per_s: int = 16 << 10
    clock: Callable[[], float] = time.monotonic


def allowed(words: Sequence[str]) -> Allowed:
    """Reads the words of `--allow`: ["s3,https", "loopback"]. Errors: UsageError for a scheme that is never allowed."""
    named = {word.strip().lower() for each in words for word in each.split(",")}
    schemes, addresses = named - {LOOPBACK, LINK_LOCAL}, named & {LOOPBACK, LINK_LOCAL}
    for scheme in sorted(schemes):
        if scheme in _NEVER:
            what = "it doesn't lead to another machine. Name local files by their paths"
            raise UsageError(f"{scheme} can't be allowed: {what}.")
        if not re.fullmatch(_SCHEME, scheme):
            raise UsageError(f"{scheme!r} can't be allowed: name schemes, loopback or link-local, like s3,https.")
    return Allowed(schemes=frozenset(schemes), addresses=frozenset(addresses))


def scheme_of(path: str) -> str | None:
    """Returns the scheme of a URL: "S3://b/k" → "s3", "zip::s3://b/k" → "zip".

    None for a local path: "./s3:/x", "a:b", "C:\\x", "C://x".
    """
    found = _URL.match(path)
    if not found or (found[2] == "::" and "://" not in path):
        return None
    return found[1].lower()


def kind_of(address: str) -> AddressKind | None:
    """Returns the kind of an address; None for an address of the internet or of a private network.

    If an IPv6 address wraps an IPv4 address, the inner one counts. "nowhere" stands also for text that is no address.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "nowhere"
    if parsed.is_loopback or parsed.is_unspecified:  # 0.0.0.0 connects to this machine
        return "loopback"
    if parsed.is_link_local or parsed in _METADATA:
        return "link-local"
    if isinstance(parsed, IPv6Address) and (inner := _inside(parsed)):
        return kind_of(str(inner))
    is_nowhere = parsed.is_multicast or parsed.is_reserved or (parsed.version == 4 and parsed.packed[0] == 0)
    return "nowhere" if is_nowhere else None


def paced(url: str, read: Callable[[], bytes], timeouts: Timeouts) -> Iterator[bytes]:
    """Yields the blocks that `read` returns until it returns none; only the time in `read` counts, not the caller's.

    Errors: FetchError for a download that is too slow. It is no PassingError, as the next attempt would be no faster.
    """
    size, taken_s, begun_s = 0, 0.0, timeouts.clock()
    while block := read():
        size, taken_s = size + len(block), taken_s + timeouts.clock() - begun_s
        if taken_s > timeouts.grace_s and size < taken_s * timeouts.least_bytes_per_s:
            came, least = f"{counted(size, 'byte')} came in {taken_s:,.0f} s", timeouts.least_bytes_per_s >> 10
            raise unfetched(url, f"{came}, less than {least} KiB a second", "Save it to a file, and name that")
        yield block
        begun_s = timeouts.clock()


def missing(url: str) -> MissingError:
    return MissingError(f"{without_secrets(url)} doesn't exist: the server has nothing there. Check the URL.")


def refused(url: str, remedy: str) -> FetchError:
    return FetchError(f"{without_secrets(url)} is refused: the server doesn't let us read it. {remedy}.")


def unfetched(url: str, reason: str, remedy: str = "Check the URL") -> FetchError:
    return FetchError(f"{without_secrets(url)} can't be fetched: {reason}. {remedy}.")


def passing(url: str, reason: str) -> PassingError:
    return PassingError(f"{without_secrets(url)} can't be fetched: {reason}. Try again later.")


def beyond(url: str, where: str, remedy: str) -> FetchError:
    return FetchError(f"{without_secrets(url)} leads to {where}, which isn't allowed: {remedy}.")


def without_secrets(url: str) -> str:
    """Removes login, query and fragment: "https://me:word@host/a.mp4?X-Signature=5#t" → "https://host/a.mp4"."""
    head, mark, rest = url.partition("://")
    rest = re.split("[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    return _one_line(f"{head}{mark}{authority.rpartition('@')[2]}{slash}{path}")


def scrubbed(text: str, url: str) -> str:
    """Returns the first line of a library's message about a URL, without the URL's secrets and the full stop."""
    line = (text.strip().splitlines() or [""])[0].replace(url, without_secrets(url))
    return _one_line(re.sub(r"(\w://[^\s?#]*)[?#][^\s'\")]*", r"\1", line)).rstrip(" .")


def suffix_of(url: str) -> str:
    """Returns the ending of a URL's path if media have it, else "": "s3://b/A.MP4?v=1" → ".mp4"."""
    path = without_secrets(url).partition("://")[2].partition("/")[2]
    suffix = PurePosixPath(unquote(path)).suffix.lower()
    return suffix if suffix in MEDIA_SUFFIXES else ""


def _inside(address: IPv6Address) -> IPv4Address | None:
    if any(address in wrapper for wrapper in _WRAPPERS):
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
