"""Opens s3://, gs:// and other URLs that fsspec knows; the library of the scheme reads them in large blocks.

A bucket's endpoint comes from the environment or from fsspec's configuration (AWS_ENDPOINT_URL, FSSPEC_S3_ENDPOINT_URL,
STORAGE_EMULATOR_HOST), not from the URL. The user set it, so vllava doesn't check its address. If the URL names a
host (ftp, sftp, webhdfs, smb, …), vllava checks once that the host's addresses are allowed. The scheme's library
connects later, without such a check.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.policy import (
    Allowed,
    Content,
    Timeouts,
    missing,
    paced,
    passing,
    refused,
    scrubbed,
    unfetched,
)

BLOCK_BYTES = 8 << 20

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "adl", "abfs", "abfss", "oci", "oss", "tos", "hf", "r2")
"""Schemes whose URLs name a bucket, not a host."""
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
"""Names of classes of botocore, aiohttp, requests and google; none of these libraries needs to be installed."""


@contextmanager
def opened_store(url: str, allowed: Allowed, timeouts: Timeouts) -> Iterator[Content]:
    """Opens a URL. Errors: FetchError, also if the scheme's library isn't installed or an address isn't allowed."""
    scheme = allowed.scheme(url)
    if scheme not in _BUCKETS:
        _check_host(url, allowed)
    filesystem = _filesystem(url, scheme)
    with ExitStack() as ends:
        with _as_fetch_error(url, scheme):
            if filesystem.info(url).get("type") == "directory":
                raise unfetched(url, "it is a folder", "Name the files in it")
            file = ends.enter_context(filesystem.open(url, "rb", block_size=BLOCK_BYTES, cache_type="none"))

        def read() -> bytes:
            with _as_fetch_error(url, scheme):
                block: bytes = file.read(BLOCK_BYTES)
                return block

        yield Content(size_bytes=getattr(file, "size", None), blocks=paced(url, read, timeouts))


@contextmanager
def _as_fetch_error(url: str, scheme: str) -> Iterator[None]:
    """Turns errors of the library into a FetchError."""
    try:
        yield
    except FetchError:
        raise
    except Exception as exc:  # each library has types of its own
        raise fault_of(url, scheme, exc) from exc


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
    except Exception as exc:  # the library refuses its configuration
        raise fault_of(url, scheme, exc) from exc


def _check_host(url: str, allowed: Allowed) -> None:
    try:
        host = urlsplit(url).hostname
        found = socket.getaddrinfo(host, None) if host else []
    except (OSError, ValueError) as exc:
        raise unfetched(url, "there is no such host") from exc
    for address in sorted({str(info[4][0]) for info in found}):
        allowed.check_address(address, url)


def fault_of(url: str, scheme: str, exc: Exception) -> FetchError:
    """Makes the FetchError for an error of a scheme's library."""
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
    """Returns the HTTP status of an error, None if the library doesn't keep it."""
    code = str(getattr(exc, "code", getattr(exc, "status", None)))
    return int(code) if code.isdecimal() else None


def _is_busy(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno is not None and exc.errno not in _LASTING_ERRNOS
