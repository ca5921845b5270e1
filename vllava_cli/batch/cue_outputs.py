"""Outputs that need the windows of a clip in time order: texts on stdout as they come, and a file beside each clip."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllava_cli.batch.jobs import Job
from vllava_cli.batch.output import JournalOutput, Output, check_single, ordered, table_of, tell_error
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import RunInfo
from vllava_cli.cues.formats import CUE_FORMATS
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import atomic_write

Row = Mapping[str, Any]


class OrderedOutput(Output):
    """Rows or cues on stdout, in the order of the jobs: each once all before it are there. Errors go to stderr."""

    is_kept = False

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        self._text = table_of(self.destination, jobs, self.info)
        self._places = {job.id: place for place, job in enumerate(jobs)}
        self._waiting: dict[int, Row] = {}
        """Rows whose turn hasn't come, by their places."""
        self._next = 0
        self._told: list[Row] = []
        """What summaries need of the rows, in order."""
        for line in () if is_dry else self._text.header():
            self.screen.answer(line)

    def finish(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002
        """Writes what still waits, also if rows are missing between: after Ctrl-C what was answered is shown."""
        self._write()
        for place in sorted(self._waiting):
            self._tell(self._waiting.pop(place))
        self._show(self._text.end())

    def in_order(self, jobs: Sequence[Job]) -> Iterable[Row]:  # noqa: ARG002
        return self._told

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        for row in rows:
            self._waiting[self._places[row["id"]]] = row
        while self._next in self._waiting:
            self._tell(self._waiting.pop(self._next))
            self._next += 1

    def _show(self, text: str) -> None:
        """Writes a text; a line for people is wrapped in its column where a terminal shows it."""
        width = self.screen.answer_width
        if text and width and self.destination.format == "lines":
            text = wrapped(text, width)
        self.screen.answer(text)

    def _tell(self, row: Row) -> None:
        self._show(self._text.line(row))
        self._told.append({name: row.get(name) for name in ("start_s", "end_s", "answer")})
        tell_error(row, self.screen)


@dataclass(kw_only=True)
class _Clip:
    """A clip whose file is to be written, the jobs about it, and its rows so far."""

    path: Path
    """The path of the file."""
    jobs: list[Job] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)


class BesideOutput(Output):
    """A file beside each clip, written once its last window is answered; the rows go to a journal, too, if it is named.

    A file that is there is left as it is, unless it is to be overwritten. A file that can't be written costs no other.
    """

    def __init__(self, destination: Destination, info: RunInfo, screen: Screen) -> None:
        super().__init__(destination, info, screen)
        form = destination.beside or "srt"
        self._form = replace(destination, path=None, format=form, fields=(), beside=None)
        self._rows_kept = JournalOutput(replace(destination, beside=None), info, screen) if destination.path else None
        self.is_kept = self._rows_kept is not None
        self.tells_errors = not self.is_kept
        self._left: set[str] = set()
        """The paths of clips that nothing is asked about, as their files are there."""
        self._clips: dict[str, _Clip] = {}
        """The clips whose files are to be written, by their paths."""

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        if self.destination.beside in CUE_FORMATS:
            check_single(jobs, str(self.destination.beside), has_many_clips=True)
        timed = [job for job in jobs if job.window or not self._form.has_cues]  # an image has no cues
        files = _files_beside(timed, str(self.destination.beside))
        if kept := self._rows_kept:
            kept.prepare(jobs, every, is_dry=is_dry)
            self.has_failed, self.before = kept.has_failed, kept.before
        again = {job.path for job in jobs if self.destination.is_retrying and not self.is_done(job)}
        there = {path for path, file in files.items() if os.path.lexists(file)}
        there -= set(files) if self.destination.is_overwriting else again
        self._left = set() if kept else there
        for job in timed:
            if job.path not in there:
                self._clips.setdefault(job.path, _Clip(path=files[job.path])).jobs.append(job)
        if there:
            what = f"{counted(len(there), 'clip')} with a file of this kind beside"
            self.screen.notice(f"vllava: {what}: it is left as it is, --overwrite replaces it.")
        for row in () if is_dry else self._known_rows(jobs):
            self._note(row)

    def is_done(self, job: Job) -> bool:
        return job.path in self._left or super().is_done(job)

    def put(self, row: Row) -> None:
        if self._rows_kept:
            self._rows_kept.put(row)
        if self.tells_errors:
            tell_error(row, self.screen, is_named=True)
        self._note(row)

    def finish(self, jobs: Sequence[Job]) -> None:
        if self._rows_kept:
            self._rows_kept.finish(jobs)

    def ids(self) -> Iterable[bytes]:
        return self._rows_kept.ids() if self._rows_kept else ()

    def close(self) -> None:
        if self._rows_kept:
            self._rows_kept.close()

    def _write(self) -> None:
        if self._rows_kept:
            self._rows_kept.flush()

    def _known_rows(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """Yields the rows of an earlier run about clips whose files are missing."""
        wanted = [job for job in jobs if job.path in self._clips and self.is_done(job)]
        if wanted and self.destination.path:
            yield from ordered(self.destination.journal_of(self.destination.path), wanted, has_others=False)

    def _note(self, row: Row) -> None:
        """Takes a row; if it is the last of its clip, writes the clip's file."""
        clip = self._clips.get(row["path"])
        if clip is None:
            return
        clip.rows[row["id"]] = row
        if len(clip.rows) < len(clip.jobs):
            return
        del self._clips[row["path"]]
        rows = [clip.rows[job.id] for job in clip.jobs]
        if all(each["error"] for each in rows):
            return  # nothing was seen of it: a later run shall find no file
        lines = table_of(self._form, clip.jobs, self.info).lines(rows)
        try:
            atomic_write(clip.path, map(str.encode, lines))
        except OutputError as exc:
            self.faults += 1
            self.screen.error(str(exc))


def wrapped(line: str, width: int) -> str:
    """Wraps the text of "00:00:30-00:01:00  A dog runs." between words, under its own beginning."""
    times, _, _ = line.partition("  ")
    indent = " " * (len(times) + 2)
    lines = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _files_beside(jobs: Iterable[Job], ending: str) -> dict[str, Path]:
    """Returns the file beside each clip: talk.mp4 → talk.srt. Errors: UsageError for two clips with one file."""
    files = {path: Path(path).with_suffix(f".{ending}") for path in dict.fromkeys(job.path for job in jobs)}
    clips: dict[Path, str] = {}
    for path, file in files.items():
        if path != clips.setdefault(file, path):
            raise UsageError(
                f"{quoted(Path(clips[file]))} and {quoted(Path(path))} would both have {quoted(file)} beside them. "
                "Rename one of them, or write rows with -o FILE.jsonl."
            )
    return files
