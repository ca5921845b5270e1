"""Writes and reads the events of a reply: each is a line of JSON, a list whose first entry names the event."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from vllava_cli import errors
from vllava_cli.errors import ServerError, VllavaError


def event_line(name: str, *values: Any) -> bytes:
    """Writes an event, in ASCII: "answer", "Yes" → b'["answer", "Yes"]\\n'."""
    return json.dumps([name, *values]).encode() + b"\n"


def fault_line(fault: Exception) -> bytes:
    """Writes the event of a failure: the name of its class, and its sentence."""
    known = next((kind.__name__ for kind in type(fault).__mro__ if vars(errors).get(kind.__name__) is kind), "")
    return event_line("fault", known, str(fault))


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields the name and the values of each event.

    Errors: the failure that a fault event tells; RuntimeError where that failure is a bug; ServerError for other lines.
    """
    for line in lines:
        try:
            name, *values = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            name = None
        if not isinstance(name, str):
            raise ServerError("The server sent a line that is no event: is it vllava's? Check the address.")
        if name == "fault" and len(values) == 2:
            raise _fault(*map(str, values))
        yield name, tuple(values)


def _fault(kind: str, text: str) -> Exception:
    found = vars(errors).get(kind)
    if isinstance(found, type) and issubclass(found, VllavaError):
        return found(text)
    return RuntimeError(f"the server failed: {text}")
