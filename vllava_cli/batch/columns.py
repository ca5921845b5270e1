"""Which columns the rows of a run have, and whether --fields names some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllava_cli.batch.jobs import CLIP_STATE, PATH_BYTES, Job
from vllava_cli.batch.rows import COLUMNS, PROBABILITIES
from vllava_cli.commands.provenance import KEYS, LIBRARIES, MADE_WITH, AdapterFacts
from vllava_cli.errors import UsageError
from vllava_cli.storage.jsonl import is_portable, readable

_ERROR = ("kind", "message")
_CLIP_STATE = ("bytes", "mtime_ns")
_SAMPLING = ("max_new_tokens", "temperature", "top_p", "seed", "has_guard", "choices", "is_calibrated")
_MADE_WITH = (
    *KEYS,
    *(f"versions.{name}" for name in ("vllava", *LIBRARIES, "bitsandbytes", "peft")),
    *(f"sampling.{name}" for name in _SAMPLING),
    *(f"adapter.{name}" for name in AdapterFacts._fields),
)


def columns_of(jobs: Sequence[Job], choices: tuple[str, ...]) -> tuple[str, ...]:
    """Those of all rows, then each further field of a job."""
    return (*COLUMNS, *((PROBABILITIES,) if choices else ()), *further_fields(jobs))


def further_fields(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The names of what jobs have besides clip and question."""
    return tuple(dict.fromkeys(readable(name) for job in jobs for name in job.fields))


def table_columns(jobs: Sequence[Job], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The same without the objects that are no cells, and with the bytes of paths where some need them."""
    columns = [name for name in columns_of(jobs, choices) if name not in (CLIP_STATE, MADE_WITH)]
    columns[2:2] = path_columns(jobs)  # behind id and path
    return tuple(columns)


def path_columns(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The column of the bytes of paths, where one of them isn't UTF-8."""
    return () if all(is_portable(job.path) for job in jobs) else (PATH_BYTES,)


def check_fields(fields: tuple[str, ...], jobs: Sequence[Job], choices: tuple[str, ...]) -> None:
    """Raises a UsageError for one that would be empty in every row; jobs that aren't there say nothing."""
    columns = columns_of(jobs, choices) if fields and jobs else ()
    inner = {"error": _ERROR, PROBABILITIES: choices, CLIP_STATE: _CLIP_STATE, MADE_WITH: _MADE_WITH}
    for field in fields if columns else ():
        if field != PATH_BYTES and not any(
            name in columns and _has(inner.get(name), rest) for name, rest in _partings(field)
        ):
            raise UsageError(f"--fields names {field!r}, which no row has. Rows have {', '.join(columns)}.")


def _has(inner: tuple[str, ...] | None, rest: str) -> bool:
    """What a job's own field has inside, nobody knows."""
    return not rest or inner is None or rest in inner


def _partings(field: str) -> Iterator[tuple[str, str]]:
    """ "a.b.c" → ("a.b.c", ""), ("a", "b.c"), ("a.b", "c"): names may have dots themselves."""
    yield field, ""
    for at, letter in enumerate(field):
        if letter == ".":
            yield field[:at], field[at + 1 :]
