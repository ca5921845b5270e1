"""Reads a form with a file (multipart/form-data) as it comes: the file goes to the disk, and everything is bounded."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from vllava_cli.server.clips.uploads import ArrivingUpload, Upload, Uploads, too_large
from vllava_cli.server.openai.protocol_errors import RequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS = 16
MOST_FIELD_BYTES = 4096
SILENCE_S = 60.0
"""A client that sends nothing for so long is given up."""
_OTHER_BYTES = 1 << 18
"""What a form may have besides its file; each header of a part has at most 4 KiB, and a part has at most eight."""


@dataclass(frozen=True, kw_only=True)
class UploadForm:
    """A form that came whole: its file and its fields."""

    upload: Upload
    fields: dict[str, str]


def is_form(request: Request) -> bool:
    return _content_type(request)[0] == b"multipart/form-data"


async def read_form(request: Request, uploads: Uploads) -> UploadForm:
    """Reads a form with the fields `file` and, if it has one, `purpose`; the file is an upload from then on.

    Errors: RequestError for what isn't such a form; TooLargeError, if the headers tell that before anything is read;
    MediaError for an empty file; BusyError, OutputError.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > uploads.most_bytes + _OTHER_BYTES:
        raise too_large(uploads.most_bytes)
    reader = _FormReader(_boundary(request), uploads)
    try:
        async with asyncio.timeout(SILENCE_S) as silence:
            async for chunk in request.stream():
                await asyncio.to_thread(reader.write, chunk)
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
        return await asyncio.to_thread(reader.end)
    except TimeoutError as exc:
        raise RequestError("The upload stopped before its end. Send it again.", status=408) from exc
    except ClientDisconnect as exc:
        raise RequestError("The upload ended before its end. Send it again.") from exc
    finally:
        await asyncio.shield(asyncio.to_thread(reader.close))


@dataclass(kw_only=True)
class _Part:
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: str = ""
    is_file: bool = False
    text: bytearray = field(default_factory=bytearray)


class _FormReader:
    """Takes a form in pieces; the callbacks run during `write`."""

    def __init__(self, boundary: bytes, uploads: Uploads) -> None:
        self._uploads = uploads
        self._arriving: ArrivingUpload | None = None
        self._file_name = ""
        self._parts: list[_Part] = []
        self._header, self._value = bytearray(), bytearray()
        self._size, self._is_whole, self._is_closed = 0, False, False
        self._lock = threading.Lock()
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as exc:
            raise _not_a_form() from exc

    def write(self, data: bytes) -> None:
        with self._lock:
            self._size += len(data)
            if self._size > self._uploads.most_bytes + _OTHER_BYTES:
                raise too_large(self._uploads.most_bytes)
            try:
                if not self._is_closed:
                    self._parser.write(data)
            except FormParserError as exc:
                raise _not_a_form() from exc

    def end(self) -> UploadForm:
        if not self._is_whole:
            raise _not_a_form()
        if self._arriving is None:
            raise RequestError("The form has no file. Send one in the field 'file'.", param="file")
        fields = {part.name: part.text.decode(errors="replace") for part in self._parts if not part.is_file}
        upload = self._arriving.finish(self._file_name, fields.get("purpose", "user_data"))
        self._arriving = None
        return UploadForm(upload=upload, fields=fields)

    def close(self) -> None:
        """Removes a file that didn't come whole; a cancelled request may still be writing, in another thread."""
        with self._lock:
            self._is_closed = True
            if self._arriving:
                self._arriving.abandon()
                self._arriving = None

    def _begin_part(self) -> None:
        if len(self._parts) == MOST_PARTS:
            raise RequestError(f"The form has more than {MOST_PARTS} fields. Leave some out.")
        self._parts.append(_Part())

    def _end_header(self) -> None:
        self._parts[-1].headers.append((bytes(self._header).lower(), bytes(self._value)))
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        part = self._parts[-1]
        disposition = dict(part.headers).get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        part.name = options.get(b"name", b"").decode(errors="replace")
        part.is_file = b"filename" in options
        if part.is_file:
            if self._arriving or part.name != "file":
                raise RequestError("A form takes one file, in its field 'file'. Send others by forms of their own.")
            self._file_name = options[b"filename"].decode(errors="replace")
            self._arriving = self._uploads.begin()

    def _take(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        if part.is_file and self._arriving:
            self._arriving.write(data[start:end])
            return
        part.text += data[start:end]
        if len(part.text) > MOST_FIELD_BYTES:
            raise RequestError(f"A field of the form has more than {MOST_FIELD_BYTES:,} bytes. Shorten it.")

    def _end(self) -> None:
        self._is_whole = True


def _boundary(request: Request) -> bytes:
    kind, options = _content_type(request)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise _not_a_form()
    return options[b"boundary"]


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(request.headers.get("content-type", ""))


def _not_a_form() -> RequestError:
    return RequestError("The body is not a form with a file. Send multipart/form-data, as in curl -F file=@clip.mp4.")
