"""Reads objects from JSON files that anybody may have edited or damaged: the value of each field is checked."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vllava_cli.errors import CheckpointError, VllavaError
from vllava_cli.storage.jsonl import refuse_constant

MOST_BYTES = 4 << 20
"""The largest JSON file of a checkpoint: the published weights' index has 112 kB, the config 1 kB."""
_LARGEST = 2**63 - 1
_Value = TypeVar("_Value")
_Word = TypeVar("_Word", bound=str)


def read_object(path: Path) -> dict[str, Any]:
    """Reads the object in a checkpoint's file, which may begin with a byte order mark. Errors: CheckpointError."""
    check_json_file(path, most_bytes=MOST_BYTES)
    try:
        return parsed_object(path.read_bytes())
    except OSError as exc:
        raise unusable(path, exc.strerror or str(exc)) from exc
    except ValueError as exc:
        raise unusable(path, f"it is not a JSON object ({exc})") from exc


def parsed_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object: b'{"a": 1}' → {"a": 1}. Errors: ValueError, whose text is the reason."""
    try:
        found = json.loads(data.decode("utf-8-sig"), parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"but a {type(found).__name__}")
    return found


def check_json_file(path: Path, *, most_bytes: int) -> None:
    """Raises a CheckpointError for a file larger than `most_bytes`, or not regular, as reading it may never end."""
    try:
        facts = path.stat()
    except OSError as exc:
        raise unusable(path, exc.strerror or str(exc)) from exc
    if not stat.S_ISREG(facts.st_mode):
        raise unusable(path, "it is not a regular file")
    if facts.st_size > most_bytes:
        raise unusable(path, f"it has {facts.st_size / 1e6:.1f} MB, and at most {most_bytes / 1e6:.0f} MB are read")


def unusable(path: Path, reason: str) -> CheckpointError:
    whose = "adapter" if path.name.startswith("adapter_") else "checkpoint"
    return CheckpointError(f"The file {path} can't be used: {reason}. Replace it with the original {whose}'s.")


class Fields:
    """The fields of a JSON object. A method reads the field `key` and checks that the value has the method's type.

    Errors: `error`, whose text is a fragment that begins with `where`: "line 3: answer_ids is missing".
    """

    def __init__(self, values: Mapping[str, Any], where: str, *, error: type[VllavaError]) -> None:
        self._values = values
        self._where = where
        self._error = error

    def refuse(self, key: str, what: str) -> NoReturn:
        raise self._error(f"{self._where}: {key} is {what}")

    def has(self, key: str) -> bool:
        return key in self._values

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def inside(self, key: str) -> Self:
        value = self._value(key)
        if not isinstance(value, dict):
            self.refuse(key, "not an object")
        return type(self)(value, f"{self._where}, {key}", error=self._error)

    def each(self, key: str, read: Callable[[Self, str], _Value], *, most: int = _LARGEST) -> tuple[_Value, ...]:
        values = self._value(key)
        if not isinstance(values, list):
            self.refuse(key, "not a list")
        if len(values) > most:
            self.refuse(key, f"a list of {len(values):,}, but at most {most} are allowed")
        numbered = {f"entry {place}": value for place, value in enumerate(values, 1)}
        places = type(self)(numbered, f"{self._where}, {key}", error=self._error)
        return tuple(read(places, place) for place in places._values)

    def maybe(self, key: str, read: Callable[[str], _Value]) -> _Value | None:
        return None if self._value(key) is None else read(key)

    def text(self, key: str) -> str:
        value = self._value(key)
        return value if isinstance(value, str) else self.refuse(key, "not a text")

    def filled(self, key: str) -> str:
        """Reads a text that isn't empty."""
        return self.text(key) or self.refuse(key, "empty")

    def one_of(self, key: str, words: Sequence[_Word]) -> _Word:
        value = self._value(key)
        found = next((word for word in words if word == value), None)
        return found if found is not None else self.refuse(key, f"not one of {', '.join(map(str, words))}")

    def whole(self, key: str, *, least: int = 0) -> int:
        value = self._value(key)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST:
            return value
        return self.refuse(key, f"not a whole number from {least}")

    def number(self, key: str, *, least: float = -_LARGEST, most: float = _LARGEST) -> float:
        value = self._value(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        return self.refuse(key, f"not a number from {least:g} to {most:g}")

    def seconds(self, key: str) -> float:
        return self.number(key, least=0)

    def truth(self, key: str) -> bool:
        value = self._value(key)
        return value if isinstance(value, bool) else self.refuse(key, "neither true nor false")

    def moment(self, key: str) -> str:
        text = self.text(key)
        try:
            datetime.fromisoformat(text)
        except ValueError:
            self.refuse(key, "not a date with a time")
        return text

    def sha256(self, key: str) -> str:
        text = self.text(key)
        return text if re.fullmatch("[0-9a-f]{64}", text) else self.refuse(key, "not a SHA-256")

    def path(self, key: str) -> Path:
        text = self.text(key)
        return Path(text) if _is_name(text) and Path(text).is_absolute() else self.refuse(key, "not an absolute path")

    def name(self, key: str) -> str:
        """Reads a text that can be the name, the path or the URL of a file."""
        text = self.text(key)
        return text if text and _is_name(text) else self.refuse(key, "not the name of a file")

    def build(self, kind: type[_Value], **given: Any) -> _Value:
        """Makes a dataclass from the fields of the same names, read by its annotations; `given` values aren't checked.

        Numbers must be 0 or more, and a list of floats must not be empty. A missing field gets its default, if any.
        """
        hints = _hints(cast(Any, kind))
        optional = {each.name for each in fields(cast(Any, kind)) if each.default is not MISSING}
        names = [name for name in hints if name not in given and (self.has(name) or name not in optional)]
        return kind(**given, **{name: self._read_as(name, hints[name]) for name in names})

    def _read_as(self, key: str, kind: Any) -> Any:
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            return self.maybe(key, lambda key: self._read_as(key, inner[0]))
        if origin is Literal:
            return self.one_of(key, inner)
        if origin is tuple:
            found = self.each(key, lambda values, place: values._read_as(place, inner[0]))
            return found if found or inner[0] is not float else self.refuse(key, "an empty list")
        if origin is dict:
            values = self.inside(key)
            return {name: values._read_as(name, inner[1]) for name in values.names()}
        if is_dataclass(kind):
            return self.inside(key).build(cast(type, kind))
        plain: dict[Any, Callable[[str], Any]] = {
            str: self.text,
            int: self.whole,
            float: self.seconds,
            bool: self.truth,
        }
        return self.path(key) if kind is Path else plain[kind](key)

    def _value(self, key: str) -> Any:
        return self._values[key] if key in self._values else self.refuse(key, "missing")


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields. Without the cache this takes most of the time of reading a row."""
    return get_type_hints(kind)


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
