"""Reads data: URIs, in base64 or with percent codes; their media type doesn't matter, as the content decides."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from vllava_cli.errors import MediaError, TooLargeError

_HEAD = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>[^,]*),", re.IGNORECASE)
_LONGEST_HEAD = 1000
_BLANK = re.compile(rb"[ \t\r\n\f]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, kw_only=True)
class DataUri:
    """The content of a data: URI, and a short form of the URI for messages."""

    content: bytes
    sha256: str
    name: str
    """ "'data:video/mp4,…'" """


def data_of(uri: str, most_bytes: int) -> DataUri:
    """Reads a data: URI. Errors: MediaError; TooLargeError, before the content is decoded."""
    found = _HEAD.match(uri[:_LONGEST_HEAD])
    if found is None:
        raise MediaError("A data: URI has no comma after its type. Write it like data:video/mp4;base64,AAAA….")
    name = f"'data:{re.sub('[^a-zA-Z0-9.+/-]', '', found['type'])[:60]},…'"
    is_base64 = re.search(r";[ ]*base64[ ]*$", found["parameters"], re.IGNORECASE) is not None
    body = uri[found.end() :]
    try:
        content = _base64(body, most_bytes, name) if is_base64 else _percent(body, most_bytes, name)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise MediaError(f"{name} can't be decoded: it is not valid base64. Encode the file again.") from exc
    if not content:
        raise MediaError(f"{name} is empty (0 bytes). Send the content of a clip.")
    return DataUri(content=content, sha256=hashlib.sha256(content).hexdigest(), name=name)


def _base64(body: str, most_bytes: int, name: str) -> bytes:
    """Decodes base64 in the alphabet of files or of URLs; blanks may be in it, and padding may be missing."""
    letters = unquote_to_bytes(body) if "%" in body else body.encode("ascii")
    letters = _BLANK.sub(b"", letters).translate(_URL_SAFE).rstrip(b"=")
    _check_size(len(letters) * 3 // 4, most_bytes, name)
    return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)


def _percent(body: str, most_bytes: int, name: str) -> bytes:
    content = unquote_to_bytes(body)
    _check_size(len(content), most_bytes, name)
    return content


def _check_size(size: int, most_bytes: int, name: str) -> None:
    if size > most_bytes:
        raise TooLargeError(f"{name} has {size:,} bytes, and at most {most_bytes:,} are taken. Send a shorter clip.")
