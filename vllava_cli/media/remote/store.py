"""s3://, gs:// and whatever else fsspec knows: a file that is read in large blocks, by the library of that scheme.

A bucket's endpoint comes from the environment or from fsspec's configuration (AWS_ENDPOINT_URL, FSSPEC_S3_ENDPOINT_URL,
STORAGE_EMULATOR_HOST), not from the URL: it is the user's own word, and its address isn't checked. Where the URL names
a host (ftp, sftp, webhdfs, smb, …), that host's addresses are, though only once: its library connects by itself later.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.addresses import is_reachable, remedy
from vllava_cli.media.remote.policy import Allowed
from vllava_cli.media.remote.source import Facts, Timeouts, check_same, missing, paced, passing, refused, unfetched
from vllava_cli.media.remote.urls import scrubbed, without_secrets

BLOCK_BYTES = 8 << 20

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "adl", "abfs", "abfss", "oci", "oss", "tos", "hf", "r2")
"""Schemes whose URLs name a bucket, no host."""
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_CREDENTIALS = {
    "s3": "Check AWS_ACCESS_KEY_ID and AWS_PROFILE, or set FSSPEC_S3_ANON=true for a public bucket",
    "gs": "Check GOOGLE_APPLICATION_CREDENTIALS, or set FSSPEC_GS_TOKEN=anon for a public bucket",
}
_ALIASES = {"s3a": "s3", "gcs": "gs"}
_LASTING_ERRNOS = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)
_UNKNOWN = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError")
_PASSING = ("HTTPClientError", "ConnectionError", "ClientError", "ResponseStreamingError", "RetryError")
"""Classes of botocore, aiohttp, requests and google, by name: none of them need be installed."""


@contextmanager
def opened_store(url: str, scheme: str, allowed: Allowed, timeouts: Timeouts) -> Iterator[StoreSource]:
    """Errors: FetchError for a library that isn't installed and for an address that isn't allowed."""
    if scheme not in _BUCKETS:
        _check_host(url, allowed)
    yield StoreSource(url, scheme, _filesystem(url, scheme), timeouts)


@dataclass(frozen=True)
class StoreSource:
    """A `Source`; made by `opened_store`."""

    url: str
    scheme: str
    filesystem: Any
    timeouts: Timeouts = field(default_factory=Timeouts)

    def facts(self) -> Facts:
        with self._told():
            info = self.filesystem.info(self.url)
            if info.get("type") == "directory":
                raise unfetched(self.url, "it is a folder", "Name the files in it")
            return Facts.of(info)

    def chunks(self, facts: Facts) -> Generator[bytes, None, None]:
        with self._told(), self.filesystem.open(self.url, "rb", block_size=BLOCK_BYTES, cache_type="none") as file:
            check_same(self.url, Facts.of(getattr(file, "details", None) or {}), facts)
            yield from paced(self.url, partial(file.read, BLOCK_BYTES), self.timeouts)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the library raises becomes a FetchError; what who reads the chunks raises never comes here."""
        try:
            yield
        except FetchError:
            raise
        except Exception as exc:  # each library has types of its own
            raise _fault(self.url, self.scheme, exc) from exc


def _filesystem(url: str, scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as exc:
        package = _PACKAGES.get(scheme)
        what = f"pip install {package}" if package else f"install what fsspec needs for {scheme}"
        raise unfetched(url, f"the library for {scheme} isn't installed", f"Run {what}" if package else what) from exc
    except ValueError as exc:
        raise unfetched(url, f"fsspec knows no scheme {scheme}") from exc
    except Exception as exc:  # a configuration that its library refuses
        raise _fault(url, scheme, exc) from exc


def _check_host(url: str, allowed: Allowed) -> None:
    try:
        host = urlsplit(url).hostname
        found = socket.getaddrinfo(host, None) if host else []
    except (OSError, ValueError) as exc:
        raise unfetched(url, "there is no such host") from exc
    for address in sorted({str(info[4][0]) for info in found}):
        if not is_reachable(address, allowed):
            raise FetchError(f"{without_secrets(url)} leads to {address}, which isn't allowed: {remedy(address)}.")


def _fault(url: str, scheme: str, exc: Exception) -> FetchError:
    code, names = _code(exc), {kind.__name__ for kind in type(exc).__mro__}
    reason = scrubbed(str(exc), url) or type(exc).__name__
    if isinstance(exc, FileNotFoundError) or code in (404, 410):
        return missing(url)
    if (
        isinstance(exc, PermissionError)
        or code in (401, 403)
        or names & set(_UNKNOWN)
        or reason.startswith("Forbidden")
    ):
        return refused(url, _CREDENTIALS.get(_ALIASES.get(scheme, scheme), f"Check the credentials for {scheme}"))
    is_passing = isinstance(exc, (TimeoutError, EOFError)) or names & set(_PASSING) or _is_busy(exc)
    if is_passing or (code is not None and (code >= 500 or code in (408, 429))):
        return passing(url, reason)
    return unfetched(url, reason)


def _code(exc: Exception) -> int | None:
    """HTTP's, where the library keeps it."""
    code = str(getattr(exc, "code", getattr(exc, "status", None)))
    return int(code) if code.isdecimal() else None


def _is_busy(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno is not None and exc.errno not in _LASTING_ERRNOS
