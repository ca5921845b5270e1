"""What is told of a job: one JSON object, the same keys in the same order for an answer and for an error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from vllava_cli.batch.job_list import id_of
from vllava_cli.batch.jobs import CLIP_STATE, FIRST_KEYS, PATH_BYTES, ROW_KEYS, Job
from vllava_cli.choices import by_choice
from vllava_cli.commands.provenance import MADE_WITH, Making
from vllava_cli.errors import (
    ContextError,
    FetchError,
    MediaError,
    MemoryShortError,
    OverflowedError,
    UsageError,
    VllavaError,
)
from vllava_cli.nouns import Answer, Precision

PROBABILITIES = "probabilities"
COLUMNS = tuple(key for key in ROW_KEYS if key not in (PROBABILITIES, PATH_BYTES))
ErrorKind = Literal[
    "missing", "fetch", "unreadable", "changed", "trim", "context", "memory", "overflow", "question", "bug"
]
"""missing: no such file · fetch: it can't be had from its URL · unreadable: neither a video nor an image, or damaged ·
changed: other bytes than when the run began · trim: --start, --end or --at don't suit the clip · context, memory: no
room for it · overflow: the model's numbers aren't numbers · question: an empty one · bug: ours."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What all rows of a run have in common."""

    model: str
    revision: str | None
    choices: tuple[str, ...] = ()
    signature: str = ""
    """That of the jobs' ids."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job; exactly one of `answer` and `fault` is there."""

    job: Job
    answer: Answer | None = None
    times_s: tuple[float, ...] | None = None
    """None for an image."""
    fault: Fault | None = None
    seconds: float = 0.0
    precision: Precision | None = None
    """Of the engine that it came to; None before a model is loaded."""
    making: Making | None = None
    """Of an answer."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: ErrorKind
    message: str

    @classmethod
    def of_clip(cls, error: Exception, path: Path) -> Fault:
        """What kept a clip's frames from being read."""
        match error:
            case UsageError():
                return cls(kind="trim", message=str(error))
            case FetchError():
                return cls(kind="missing" if error.is_missing else "fetch", message=str(error))
            case MediaError():
                exists = os.path.exists(path)
                return cls(kind="unreadable" if exists else "missing", message=str(error))
        return cls(kind="bug", message=_last_line(error))

    @classmethod
    def of_question(cls, error: Exception) -> Fault:
        """What kept a question from being answered."""
        kinds: tuple[tuple[type[Exception], ErrorKind], ...] = (
            (ContextError, "context"),
            (MemoryShortError, "memory"),
            (OverflowedError, "overflow"),
            (UsageError, "question"),
        )
        kind = next((kind for family, kind in kinds if isinstance(error, family)), "bug")
        message = str(error) if isinstance(error, VllavaError) else _last_line(error)
        return cls(kind=cast(ErrorKind, kind), message=message)


def row_of(outcome: Outcome, about: About) -> dict[str, Any]:
    """The row of an outcome, times and seconds rounded to what they can mean."""
    job, answer, fault, making = outcome.job, outcome.answer, outcome.fault, outcome.making
    row: dict[str, Any] = {
        "id": job.id,
        "path": job.path,
        "question": job.question,
        "answer": answer.text if answer else None,
        "stop_reason": answer.stop_reason if answer else None,
        "frame_times_s": None if outcome.times_s is None else [round(time_s, 4) for time_s in outcome.times_s],
        "model": about.model,
        "revision": about.revision,
        "precision": outcome.precision,
        "seconds": round(outcome.seconds, 4),
        "error": {"kind": fault.kind, "message": fault.message} if fault else None,
        "stray": answer.stats.stray_tokens if answer else None,
        "seed": making.seed if making else None,
        CLIP_STATE: job.state,
        MADE_WITH: making.row() if making else None,
    }
    if about.choices:
        row[PROBABILITIES] = _probabilities(answer, about.choices)
    return {**row, **job.fields}


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of some file is one of a batch, by whichever version."""
    return id_of(row) is not None and all(key in row for key in FIRST_KEYS)


def _probabilities(answer: Answer | None, choices: tuple[str, ...]) -> dict[str, float] | None:
    if answer is None:
        return None
    return by_choice(choices, answer.probabilities)


def _last_line(error: Exception) -> str:
    """KeyError("width") → "KeyError: 'width'": of a traceback that another process sent, the line that says what."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[-1:]])
