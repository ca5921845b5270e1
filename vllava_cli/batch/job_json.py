"""Jobs in JSON: an object a line, or one list of objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from vllava_cli.batch.job_lines import MAX_JOB_BYTES, JobRow, Where, lines, text_of
from vllava_cli.errors import UsageError

MAX_LIST_BYTES = 64 << 20
"""A list is held whole while it is read; the questions of a benchmark have some MB."""
_NO_SPACE = re.compile(r"[^ \t\r\n]")


def objects(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """An object a line; empty lines are left out. Errors: UsageError."""
    for where, text in lines(source, file):
        begin = _skip(text, 0)
        if begin == len(text):
            continue
        values, end = _object(text, begin, where)
        if _skip(text, end) != len(text):
            raise where.fault("there is more than one JSON object in it")
        yield JobRow(where, values)


def listed(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """The objects of one list, parsed one by one, so that a message can say which of them is at fault."""
    data = source.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        most = f"more than {MAX_LIST_BYTES >> 20} MiB, the most that is read of a list"
        remedy = f"Write an object a line, which may be any number: jq -c '.[]' {file} > jobs.jsonl"
        raise UsageError(f"{file} has {most}. {remedy}.")
    text = text_of(data, Where(file, 1))
    begin = _skip(text, 0)
    if text[begin : begin + 1] != "[":
        raise UsageError(f"{file} is no JSON list. If each of its lines is an object, let its name end in .jsonl.")
    place = _skip(text, begin + 1)
    where = Where(file, 1 + text.count("\n", 0, place), 1)
    is_over = text[place : place + 1] == "]"
    while not is_over:
        values, end = _object(text, place, where)
        yield JobRow(where, values)
        mark = _skip(text, end)
        if text[mark : mark + 1] not in (",", "]"):
            raise where.fault("neither a comma nor the end of the list comes after it")
        is_over = text[mark] == "]"
        begin, place = place, mark if is_over else _skip(text, mark + 1)
        where = Where(file, where.line + text.count("\n", begin, place), (where.number or 0) + 1)
    if _skip(text, place + 1) != len(text):
        raise where._replace(number=None).fault("the list is over, but something comes after it")


def _object(text: str, place: int, where: Where) -> tuple[dict[str, object], int]:
    """The JSON object that begins there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, place)
    except RecursionError as exc:
        raise where.fault("it is nested too deeply") from exc
    except ValueError as exc:
        raise where.fault(f"it is not JSON ({getattr(exc, 'msg', exc)})") from exc
    if not isinstance(value, dict):
        raise where.fault("it is not a JSON object")
    if end - place > MAX_JOB_BYTES:
        raise where.too_long()
    return value, end


def _skip(text: str, place: int) -> int:
    """Where the white space ends."""
    found = _NO_SPACE.search(text, place)
    return found.start() if found else len(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """An infinity could be read, but not be written into a row again."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
