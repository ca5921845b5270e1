"""The JSON object in a request's body, whose fields are checked one by one; what is wrong is told with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, get_args

from vllava_cli.errors import UsageError
from vllava_cli.nouns import FRAMES_PER_CLIP, Fit, Framing, Pick
from vllava_cli.server.openai.protocol_errors import RequestError
from vllava_cli.storage.fields import Fields, parsed_object
from vllava_cli.times import framing_of, time_of

MOST_VALUES = 1 << 18
"""The most values in a body: parsed, each takes about a hundred bytes."""
_Value = TypeVar("_Value")


def read_body(body: bytes) -> BodyFields:
    """Parses a body. Errors: RequestError."""
    check_values(body)
    try:
        found = parsed_object(body)
        if rb"\ud" in body.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("The body has half of a surrogate pair in a text. Send valid Unicode.") from None
    except UnicodeDecodeError:
        raise RequestError("The body is not UTF-8. Send JSON in UTF-8.") from None
    except ValueError as exc:
        raise RequestError(f"The body is not a JSON object ({cut(str(exc))}). Send one.") from exc
    return BodyFields(found, "", error=UsageError)


def check_values(body: bytes | bytearray) -> None:
    """Raises a RequestError for a body that would take much memory as objects."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise RequestError(f"The body has more than {MOST_VALUES:,} values. Ask in smaller requests.")


class BodyFields(Fields):
    """The fields of a body; what is wrong is told as a RequestError: "messages[0].role is not one of …: it is 7"."""

    def refuse(self, key: str, what: str) -> NoReturn:
        param = self.place(key)
        raise RequestError(f"{param} is {what}{_told(self._values.get(key), what)}.", param=param)

    def fault(self, key: str, message: str, *, code: str | None = None) -> NoReturn:
        raise RequestError(message, param=self.place(key), code=code)

    def place(self, key: str) -> str:
        """Writes the place of a field: "messages" and "entry 1" and "role" → "messages[0].role"."""
        parts = [part for part in f"{self._where}, {key}".split(", ") if part]
        steps = (f"[{int(part[6:]) - 1}]" if part.startswith("entry ") else f".{part}" for part in parts)
        return "".join(steps).lstrip(".")

    def optional(self, key: str, read: Callable[[str], _Value], *, default: Any) -> _Value:
        """Reads a field that may be missing or null."""
        return default if not self.has(key) or self._values[key] is None else read(key)

    def is_text(self, key: str) -> bool:
        return isinstance(self._values.get(key), str)

    def is_empty(self, key: str) -> bool:
        return self._values.get(key) in (None, [], {})

    def count(self, key: str, *, most: int) -> int:
        found = self.whole(key, least=1)
        return found if found <= most else self.refuse(key, f"more than {most}")


def read_framing(given: BodyFields, fit: Fit) -> Framing:
    """Reads the fields start, end, at and pick of an object that names a clip. Errors: RequestError."""

    def seconds(at: BodyFields, key: str) -> float:
        try:
            return time_of(at.text(key)) if at.is_text(key) else at.seconds(key)
        except RequestError:
            raise
        except UsageError as exc:
            at.fault(key, str(exc))

    at_s = given.optional("at", lambda key: given.each(key, seconds, most=FRAMES_PER_CLIP), default=None)
    pick: Pick = given.optional("pick", lambda key: given.one_of(key, get_args(Pick)), default="uniform")
    try:
        return framing_of(
            given.optional("start", lambda key: seconds(given, key), default=None),
            given.optional("end", lambda key: seconds(given, key), default=None),
            at_s=at_s,
            fit=fit,
            most=FRAMES_PER_CLIP,
            pick=pick,
        )
    except RequestError:
        raise
    except UsageError as exc:  # its sentence names options of the command line, which are fields here
        raise RequestError(str(exc).replace("--", ""), param=given.place("")) from exc


def _told(value: object, what: str) -> str:
    """Writes the value that a message is about, cut to a line, unless the message says enough: "x" → ": it is "x""."""
    if isinstance(value, list | dict):
        return f": it is {'a list' if isinstance(value, list) else 'an object'}" if what.startswith("not ") else ""
    return "" if value in (None, "") else f": it is {cut(json.dumps(value))}"


def cut(text: str) -> str:
    """Shortens a text for a message."""
    return text if len(text) <= 80 else f"{text[:80]}…"
