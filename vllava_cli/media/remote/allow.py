"""Which URLs are fetched: only those of schemes that were named. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from vllava_cli.errors import UsageError

LOOPBACK, LINK_LOCAL = "loopback", "link-local"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://.+", re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+")
REMOTE = ("s3", "s3a", "gs", "gcs", "http", "https", "az", "abfs", "abfss", "adl", "hf", "oss", "r2", "sftp", "webhdfs")
"""What fsspec has beside them reads this machine's own files, memory or processes, or wraps another scheme."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What --allow said."""

    schemes: frozenset[str] = frozenset()
    has_loopback: bool = False
    """127.0.0.1 and other names of the machine itself."""
    has_link_local: bool = False
    """169.254.169.254 among them, where clouds keep a machine's credentials."""


def allowed(words: Sequence[str]) -> Allowed:
    """("s3,https", "loopback") → both schemes and the machine itself. Errors: UsageError."""
    names = {name.strip().lower() for word in words for name in word.split(",")}
    schemes = names - {LOOPBACK, LINK_LOCAL}
    for name in sorted(schemes):
        if not _SCHEME.fullmatch(name) or name not in REMOTE:
            raise UsageError(
                f"--allow {name!r} is no scheme that can be fetched: give {', '.join(('s3', 'gs', 'https'))}, …, and "
                f"{LOOPBACK} or {LINK_LOCAL} for addresses that are kept out otherwise."
            )
    return Allowed(schemes=frozenset(schemes), has_loopback=LOOPBACK in names, has_link_local=LINK_LOCAL in names)


def scheme_of(name: str) -> str | None:
    """ "s3://b/k" → "s3"; None for a path: "C:\\x", "./s3:/x", "a:b"."""
    found = _URL.fullmatch(name)
    return found[1].lower() if found else None


def shown_url(url: str) -> str:
    """Without user, password, query and fragment, where secrets are: "https://u:p@h/a?sig=x" → "https://h/a"."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
