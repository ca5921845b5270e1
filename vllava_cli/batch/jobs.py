"""Jobs, each one question about one clip: their ids, the clips that they share, and the lists of jobs on the disk.

A job has the same id in every run that asks the same question about the same file with the same settings. FILE.jobs
beside the output FILE lists the jobs of a shard as JSON lines. It is written before the first answer, so that
`vllava merge` knows which jobs must have a row. The lists of one run have the same `of`, `all_jobs` and `checksum`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn

from vllava_cli.answers import Agreeing, Sampling
from vllava_cli.errors import OutputError, quoted
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.media.timeline.spoken import Passage, span_of
from vllava_cli.nouns import (
    Adapter,
    Framing,
    Window,
    Wishes,
    counted,
)
from vllava_cli.storage import files
from vllava_cli.storage.jsonl import line_of, read_rows
from vllava_cli.storage.session_file import framing_row

ID_DIGITS = 32
FIRST_KEYS = (
    *("id", "path", "question", "answer", "stop_reason", "frame_times_s"),
    *("model", "revision", "precision", "seconds", "error"),
)
"""The keys that a row has had from the first version on."""
PATH_BYTES = "path_bytes"
"""The key of a path's bytes in base64; only rows in files have it, and only if the path isn't UTF-8."""
CLIP_STATE = "clip_state"
WINDOW_KEYS = ("start_s", "end_s", "title")
"""The keys that only a row about a window has."""
CHOICES = "choices"
"""The key that only a row whose job has choices of its own has: their texts."""
SUBS = "subs"
"""The key that only a row of a run with --subs has."""
ROW_KEYS = (*FIRST_KEYS, "stray", "seed", CLIP_STATE, "made_with", "probabilities", PATH_BYTES)
"""The keys of a row in their order; a job's further fields come after these, under other names."""
_File = tuple[str, int, int]
"""(path, size in bytes, mtime in nanoseconds), -1 twice where the file is missing or out of reach."""
_NOTHING: Mapping[str, object] = {}
"""Shared by all jobs: a dictionary for each of a million jobs would take 64 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """A question about a clip, as the user asked it; `fields` are copied into its row."""

    path: str
    question: str
    fields: Mapping[str, object] = field(default_factory=lambda: _NOTHING)
    window: Window | None = None
    choices: tuple[str, ...] = ()
    """The choices of this question alone, as texts; if it has none, those of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request with an id and the state of its file; `size` (bytes) and `mtime_ns` are -1 for a URL or no file."""

    id: str
    path: str
    question: str
    size: int
    mtime_ns: int
    fields: Mapping[str, object] = field(default_factory=lambda: _NOTHING)
    repeat: int = 0
    """How many equal jobs come before it."""
    window: Window | None = None
    """The part of the clip that is asked about; None for the clip as the run's framing shows it."""
    choices: tuple[str, ...] = ()
    """The same as in `JobRequest`."""
    sidecar: _File | None = None
    """The clip's subtitle file, ("", -1, -1) where it has none; None in a run without --subs."""

    @property
    def state(self) -> dict[str, int] | None:
        """The file's size and time of change, as rows store them; None for a missing file and for a URL."""
        return None if self.size < 0 else {"bytes": self.size, "mtime_ns": self.mtime_ns}

    def id_at(self, state: object, signature: str) -> str:
        """Returns the id that the job would have with the file size and time in `state`; "" if `state` is malformed."""
        size, mtime_ns = (state.get("bytes"), state.get("mtime_ns")) if isinstance(state, dict) else (-1, -1)
        if not isinstance(size, int) or not isinstance(mtime_ns, int):
            return ""
        file = (self.path, size, mtime_ns)
        return _id(signature, file, self.question, self.window, self.repeat, sidecar=self.sidecar, choices=self.choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipJobs:
    """A clip, or a window of it, and the jobs about it, at least one, in their order."""

    jobs: tuple[Job, ...]
    shift: float = 0.0
    """The shift of the frames, where the clip is sampled several times."""

    @property
    def path(self) -> Path:
        return Path(self.jobs[0].path)

    def framing(self, whole: Framing) -> Framing:
        """Returns the framing of its frames, in a run whose clips are shown as `whole` says."""
        window = self.jobs[0].window
        framing = window.framing(whole) if window else whole
        return replace(framing, shift=self.shift) if self.shift else framing

    def passage(self, whole: Framing) -> Passage | None:
        """Returns the part of the clip whose spoken lines belong to the questions; None in a run without --subs."""
        job = self.jobs[0]
        if job.sidecar is None:
            return None
        start_s, end_s = (job.window.start_s, job.window.end_s) if job.window else span_of(whole)
        return Passage(sidecar=Path(job.sidecar[0]) if job.sidecar[0] else None, start_s=start_s, end_s=end_s)

    def questions(self) -> list[tuple[Job, ...]]:
        """Returns the jobs by question and choices: jobs "a", "b", "a" → (two jobs), (one job)."""
        asked: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
        for job in self.jobs:
            asked.setdefault((job.question, job.choices), []).append(job)
        return [tuple(jobs) for jobs in asked.values()]


def framed(
    clips: Iterable[ClipJobs], whole: Framing, agreeing: Agreeing | None
) -> Iterator[tuple[ClipJobs, Path, Framing, Passage | None]]:
    """Yields each clip with its path, framing and passage, once for each of its samples."""
    for clip in clips:
        for shift in agreeing.shifts(clip.framing(whole)) if agreeing else [0.0]:
            sample = replace(clip, shift=shift) if shift else clip
            yield sample, sample.path, sample.framing(whole), sample.passage(whole)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of the `of` parts into which --shard splits the jobs; `number` counts from 1."""

    number: int
    of: int

    def has(self, id: str) -> bool:
        return shard_number(id, self.of) == self.number


def make_jobs(
    requests: Iterable[JobRequest], signature: str, sidecar_of: Callable[[str], str | None] | None = None
) -> list[Job]:
    """Makes a job of each request, in order. Equal jobs get different ids, which are the same in each run.

    `sidecar_of` names the subtitle file of a clip, if subtitles are read; it is asked once for each clip.
    """
    sidecars: dict[str, _File | None] = {}
    files: dict[str, _File] = {}
    """The files by the path in the request, so that the state of each is read once."""
    questions: dict[str, str] = {}
    seen: dict[str, int] = {}
    jobs: list[Job] = []
    for request in requests:
        file = files.get(request.path)
        if file is None:
            file = files[request.path] = _file(request.path)
            if sidecar_of:
                beside = sidecar_of(file[0]) or ""
                sidecars[request.path] = (beside, *(_facts(beside) if beside else (-1, -1)))
        path, size, mtime_ns = file
        question = questions.setdefault(request.question, request.question)
        sidecar = sidecars.get(request.path)
        id = _id(signature, file, question, request.window, sidecar=sidecar, choices=request.choices)
        repeat = seen.get(id, 0)
        seen[id] = repeat + 1
        job = Job(
            id=_id(signature, file, question, request.window, repeat, sidecar=sidecar, choices=request.choices)
            if repeat
            else id,
            path=path,
            question=question,
            size=size,
            mtime_ns=mtime_ns,
            fields=renamed(request.fields, (SUBS,)) if sidecar else request.fields,
            repeat=repeat,
            window=request.window,
            choices=request.choices,
            sidecar=sidecar,
        )
        jobs.append(job)
    return jobs


def freed(request: JobRequest, names: Collection[str]) -> JobRequest:
    """Renames the fields of a request that its row needs for itself: "title" → "job_title"."""
    return replace(request, fields=renamed(request.fields, names))


def renamed(fields: Mapping[str, object], names: Collection[str]) -> Mapping[str, object]:
    """Gives other names to fields that are named like a row's own: ({"title": 1}, ("title",)) → {"job_title": 1}."""
    if not any(name in fields for name in names):
        return fields
    return {f"job_{name}" if name in names else name: value for name, value in fields.items()}


def check_unused(path: Path, jobs: Iterable[Job]) -> None:
    """Raises an OutputError if a file that is to be written is a clip of a job, or has the subtitles of one."""
    names = (str(name) for job in jobs for name in (job.path, *(job.sidecar or ())[:1]))
    if any(name.endswith(path.name) and Path(name).resolve() == path.resolve() for name in names):
        raise OutputError(f"{quoted(path)} is what is asked about, or is spoken in it: name another file.")


def group_by_clip(jobs: Iterable[Job]) -> Iterator[ClipJobs]:
    """Groups jobs by clip and window, in the order in which these first appear: jobs about a, b, a → (a, a), (b)."""
    groups: dict[tuple[str, Window | None], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.path, job.window), []).append(job)
    for its in groups.values():
        yield ClipJobs(jobs=tuple(its))


def has_changed(job: Job) -> bool:
    """True if the file has changed, appeared or vanished since the job was made."""
    return _facts(job.path) != (job.size, job.mtime_ns)


def signature(model: str, revision: str | None, settings: Mapping[str, object]) -> str:
    """Returns the text that goes into the ids of all jobs of a run; the order of `settings` doesn't change it."""
    return json.dumps([model, revision, settings], sort_keys=True, separators=(",", ":"))


def settings_of(
    wishes: Wishes,
    framing: Framing,
    sampling: Sampling,
    adapter: Adapter | None = None,
    agreeing: Agreeing | None = None,
) -> dict[str, object]:
    """Returns all settings that change an answer and no others: the seed of a greedy run is left out.

    A setting that older releases didn't have is left out where it has its default, so that ids stay.
    """
    return {
        "precision": wishes.precision,
        "attention": wishes.attention,
        "framing": {"fit": framing.fit, **framing_row(framing)},
        "sampling": _used(sampling),
        **({"adapter": adapter.sha256} if adapter else {}),
        **({"agree": asdict(agreeing)} if agreeing else {}),
    }


def shard_number(id: str, of: int) -> int:
    """Returns the number, from 1, of the shard that the job with this id belongs to."""
    return int(id, 16) % of + 1


class ListedJob(NamedTuple):
    """A job in a list, FILE.jobs; its id is 16 bytes."""

    id: bytes
    path: str
    question: str


@dataclass(frozen=True, kw_only=True)
class JobList:
    """A list of jobs, FILE.jobs, as its first row describes it."""

    path: Path
    shard: int
    of: int
    jobs: int
    """The number of jobs in this list."""
    all_jobs: int
    """The number of jobs in the lists of all shards."""
    checksum: str
    """The sum of the ids of all shards, in hex digits; it differs if two runs have equally many, but other jobs."""

    @classmethod
    def read(cls, path: Path) -> JobList:
        """Reads the first row of a list. Errors: OutputError where the file can't be read or is no list."""
        header = next(read_rows(path), {})
        numbers = [header.get(name) for name in ("shard", "of", "jobs", "all_jobs")]
        shard, of, jobs, all_jobs = (number if type(number) is int else -1 for number in numbers)
        checksum = header.get("checksum")
        is_sound = header.get("type") == "jobs" and 1 <= shard <= of and 0 <= jobs <= all_jobs
        if not is_sound or not isinstance(checksum, str):
            _refuse(path, "its first row doesn't describe a list of jobs")
        return cls(path=path, shard=shard, of=of, jobs=jobs, all_jobs=all_jobs, checksum=checksum)

    def listed(self) -> Iterator[ListedJob]:
        """Yields the jobs of the list; the file is read anew each time. Errors: OutputError."""
        rows = read_rows(self.path)
        next(rows, None)
        count = 0
        for count, row in enumerate(rows, 1):
            id, clip, question = id_of(row), row.get("path"), row.get("question")
            if id is None or not isinstance(clip, str) or not isinstance(question, str):
                _refuse(self.path, f"line {count + 1} is not a job")
            yield ListedJob(id, clip, question)
        if count != self.jobs:
            _refuse(self.path, f"it has {counted(count, 'job')} instead of {self.jobs:,}")


def list_path(output: Path) -> Path:
    """Returns the path of an output's list of jobs: a/b.jsonl → a/b.jsonl.jobs."""
    return output.with_name(f"{output.name}.jobs")


def id_of(row: Mapping[str, object]) -> bytes | None:
    """Returns the 16 bytes of a row's id; None if the row has no valid id."""
    text = row.get("id")
    if not isinstance(text, str) or len(text) != ID_DIGITS:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) * 2 == ID_DIGITS else None


def write_lists(paths: Mapping[int, Path], of: int, jobs: Collection[Job]) -> None:
    """Writes a list for each shard number in `paths`; `jobs` are those of all shards. Errors: OutputError."""
    checksum = sum(int(job.id, 16) for job in jobs) % (1 << 128)
    shares: dict[int, list[Job]] = {number: [] for number in paths}
    for job in jobs:
        shares.get(shard_number(job.id, of), []).append(job)
    for number, its in shares.items():
        header: Mapping[str, object] = {
            "type": "jobs",
            "shard": number,
            "of": of,
            "jobs": len(its),
            "all_jobs": len(jobs),
            "checksum": f"{checksum:032x}",
        }
        rows = ({"id": job.id, "path": job.path, "question": job.question} for job in its)
        files.atomic_write(paths[number], map(line_of, chain((header,), rows)))


def _refuse(path: Path, fault: str) -> NoReturn:
    raise OutputError(f"{quoted(path)} can't be used as a list of jobs: {fault}. Run that shard of vllava batch again.")


def _used(sampling: Sampling) -> dict[str, object]:
    fields = asdict(sampling)
    if sampling.choices:
        blank = ("blank_choice",) * bool(sampling.blank_choice)
        return {name: fields[name] for name in ("choices", "is_calibrated", *blank)}
    unused = {"choices", "blank_choice"} | ({"top_p", "seed"} if sampling.temperature == 0 else set())
    unused |= set() if sampling.is_calibrated else {"is_calibrated"}  # single jobs may have choices
    return {name: value for name, value in fields.items() if name not in unused}


def spelled(path: str) -> str:
    """Returns a path as jobs have it: "./a.mp4" → "a.mp4"; a URL stays as it is."""
    # A Path is made only where it may change the text: to make a million of them takes seconds.
    if os.sep != "/" or not path or path[0] == "." or path[-1] == "/" or "//" in path or "/." in path:
        return path if "://" in path and scheme_of(path) else str(Path(path))
    return path


def _file(path: str) -> _File:
    if "://" in path and scheme_of(path):
        return path, -1, -1
    path = spelled(path)
    return path, *_facts(path)


def _facts(path: str) -> tuple[int, int]:
    try:
        facts = os.stat(path)  # noqa: PTH116  (a Path for each of a million jobs costs seconds)
    except (OSError, ValueError):
        return -1, -1
    return facts.st_size, facts.st_mtime_ns


def _id(
    signature: str,
    file: _File,
    question: str,
    window: Window | None = None,
    repeat: int = 0,
    *,
    sidecar: _File | None = None,
    choices: Sequence[str] = (),
) -> str:
    """Returns a hash of a job's parts.

    The length of each part is hashed before it, so that no two jobs hash the same bytes.
    """
    path, size, mtime_ns = file
    parts = [
        signature.encode(),
        os.fsencode(path),
        b"%d" % size,
        b"%d" % mtime_ns,
        question.encode(errors="surrogatepass"),
    ]
    if repeat:
        parts.append(b"%d" % repeat)
    if window:
        parts.append(f"{window.start_s!r} {window.end_s!r}".encode())
    if choices:
        parts.append(b"choices " + json.dumps(choices).encode())
    if sidecar:
        name, size, mtime_ns = sidecar
        parts.append(b"subs %d %d " % (size, mtime_ns) + os.fsencode(name))
    written = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return hashlib.sha256(written).hexdigest()[:ID_DIGITS]
