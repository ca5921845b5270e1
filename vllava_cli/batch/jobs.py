"""One question about one clip is a job; its id is the same in every run that would ask the same of the same file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from vllava_cli.errors import UsageError
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.nouns import Adapter, Framing, Sampling, Wishes

ID_DIGITS = 32
FIRST_KEYS = (
    *("id", "path", "question", "answer", "stop_reason", "frame_times_s"),
    *("model", "revision", "precision", "seconds", "error"),
)
"""Those that a row has had from the first version on."""
PATH_BYTES = "path_bytes"
"""Only in the row of a path that isn't UTF-8, as files have it."""
CLIP_STATE = "clip_state"
ROW_KEYS = (*FIRST_KEYS, "stray", "seed", CLIP_STATE, "made_with", "probabilities", PATH_BYTES)
"""What a row says of itself, in its order; a job's further fields come behind, under other names."""
_NOTHING: dict[str, object] = {}


def _nothing() -> Mapping[str, object]:
    """One for all: a dictionary for each of a million jobs would take 64 MB."""
    return _NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A question about a clip, as it was asked for; `fields` come back in the row."""

    path: str
    question: str
    fields: Mapping[str, object] = field(default_factory=_nothing)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The same, of a file that was looked at; size in bytes, both -1 where there is no such file and for a URL."""

    id: str
    path: str
    question: str
    size: int
    mtime_ns: int
    fields: Mapping[str, object] = field(default_factory=_nothing)
    repeat: int = 0
    """How many equal jobs come before it."""

    @property
    def state(self) -> dict[str, int] | None:
        """Of the file, as rows have it."""
        return None if self.size < 0 else {"bytes": self.size, "mtime_ns": self.mtime_ns}

    def id_at(self, state: object, signature: str) -> str:
        """The id that it would have of a file in this state, which a row says; "" for what is none."""
        size, mtime_ns = (state.get("bytes"), state.get("mtime_ns")) if isinstance(state, dict) else (-1, -1)
        if not isinstance(size, int) or not isinstance(mtime_ns, int):
            return ""
        return _id(signature, _File(self.path, size, mtime_ns), self.question, self.repeat)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The jobs that one of several runs takes; `number` counts from 1."""

    number: int
    of: int

    def has(self, id: str) -> bool:
        return shard_of(id, self.of) == self.number - 1


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int


def made(wanted: Iterable[Wanted], signature: str) -> list[Job]:
    """The jobs, in order; those that are equal in all get different ids, the same ones in each run."""
    files: dict[str, Job] = {}
    """By its path as it was asked for; a clip's first job also says what its file is."""
    questions: dict[str, str] = {}
    seen: dict[str, int] = {}
    jobs: list[Job] = []
    for one in wanted:
        file: _File | Job | None = files.get(one.path)
        if file is None:
            file = _file(one.path)
        question = questions.setdefault(one.question, one.question)
        id = _id(signature, file, question)
        count = seen.get(id, 0)
        seen[id] = count + 1
        if count:
            id = _id(signature, file, question, count)
        job = Job(
            id=id,
            path=file.path,
            question=question,
            size=file.size,
            mtime_ns=file.mtime_ns,
            fields=one.fields,
            repeat=count,
        )
        files.setdefault(one.path, job)
        jobs.append(job)
    return jobs


def has_changed(job: Job) -> bool:
    """Whether the file is another one than when the job was made, came or went."""
    return _facts(job.path) != (job.size, job.mtime_ns)


def signature(model: str, revision: str | None, settings: Mapping[str, object]) -> str:
    """What the jobs of a run have in common: equal text for equal settings, whatever their order."""
    return json.dumps([model, revision, settings], sort_keys=True, separators=(",", ":"))


def settings_of(
    wishes: Wishes, framing: Framing, sampling: Sampling, adapter: Adapter | None = None
) -> dict[str, object]:
    """All that changes an answer, and nothing that doesn't: a greedy run has no use for a seed."""
    return {
        "precision": wishes.precision,
        "attention": wishes.attention,
        "framing": asdict(framing),
        "sampling": _used(sampling),
        **({"adapter": adapter.sha256} if adapter else {}),
    }


def shard_of(id: str, count: int) -> int:
    """Which of `count` shards a job belongs to, from 0."""
    return int(id, 16) % count


def shard(text: str) -> Shard:
    """ "3/16" → Shard(number=3, of=16). Errors: UsageError."""
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, of = (int(part) for part in parts.groups()) if parts else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(f"{text!r} is not a shard: give its number and how many there are, 1/16 to 16/16.")
    return Shard(number=number, of=of)


def _used(sampling: Sampling) -> dict[str, object]:
    fields = asdict(sampling)
    if sampling.choices:
        return {name: fields[name] for name in ("choices", "is_calibrated")}
    unused = {"choices", "is_calibrated"} | ({"top_p", "seed"} if sampling.temperature == 0 else set())
    return {name: value for name, value in fields.items() if name not in unused}


def _file(path: str) -> _File:
    if "://" in path and scheme_of(path):
        return _File(path, -1, -1)
    plain = str(Path(path)) if _may_be_odd(path) else path
    size, mtime_ns = _facts(plain)
    return _File(plain, size, mtime_ns)


def _may_be_odd(path: str) -> bool:
    """Whether a Path may be written differently, as "./a.mp4" is; making a Path of each of a million takes seconds."""
    return os.sep != "/" or not path or path[0] == "." or path[-1] == "/" or "//" in path or "/." in path


def _facts(path: str) -> tuple[int, int]:
    """(size in bytes, mtime in nanoseconds), (-1, -1) where the file is missing or out of reach."""
    try:
        facts = os.stat(path)  # noqa: PTH116  (a Path for each of a million jobs costs seconds)
    except (OSError, ValueError):
        return -1, -1
    return facts.st_size, facts.st_mtime_ns


def _id(signature: str, file: _File | Job, question: str, repeat: int = 0) -> str:
    """Each part with its length before it, so that no two jobs are spelled alike."""
    parts = [
        signature.encode(),
        os.fsencode(file.path),
        b"%d" % file.size,
        b"%d" % file.mtime_ns,
        question.encode(errors="surrogatepass"),
    ]
    if repeat:
        parts.append(b"%d" % repeat)
    spelled = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return hashlib.sha256(spelled).hexdigest()[:ID_DIGITS]
