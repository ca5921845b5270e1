"""The model's stage: one engine in each actor, clips that were decoded → rows. It never raises, either.

Only an engine that can't be had ends the run: then a failure stands in the place of the rows.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from vllava_cli.batch.executors import local
from vllava_cli.batch.ray_cluster.decode_task import CLIP, Decoded
from vllava_cli.batch.ray_cluster.setup import Setup
from vllava_cli.batch.rows import Fault, Outcome, row_of
from vllava_cli.errors import VllavaError
from vllava_cli.media.decoder.read_ahead import Read
from vllava_cli.storage.jsonl import exact, line_of

if TYPE_CHECKING:
    from vllava_cli.batch.clip_jobs import Unit
    from vllava_cli.engine.generate import Engine
    from vllava_cli.media.fingerprint import Fingerprint
    from vllava_cli.nouns import Frames, MediaKind

ROW = "row"
FAILURE = "failure"


class Reports(Protocol):
    """Where an actor tells how it fares: what ends its process it can't tell."""

    def begun(self) -> None:
        """A process is about to import and load what an engine is."""

    def settled(self) -> None:
        """It has answered something."""


class Answering:
    """An actor's callable. The engine is loaded with the first clips, with the towers that they need."""

    def __init__(self, setup: Setup, reports: Reports) -> None:
        reports.begun()
        with suppress(OSError):
            os.chdir(setup.folder)
        local.import_engine()
        self._setup = setup
        self._reports = reports
        self._is_settled = False
        self._engine: Engine | None = None

    def __call__(self, batch: Mapping[str, Sequence[bytes]]) -> dict[str, list[bytes]]:
        """Columns of pickled `Decoded` → a column of rows as JSON."""
        clips: list[Decoded] = [pickle.loads(clip) for clip in batch[CLIP]]
        try:
            return {ROW: [line_of(row) for row in self.rows(clips)]}
        except VllavaError as exc:
            return {ROW: [line_of({FAILURE: str(exc)})]}

    def rows(self, clips: Sequence[Decoded]) -> Iterator[dict[str, Any]]:
        """One for each job. Errors: VllavaError where the engine can't be had."""
        good = [clip for clip in clips if clip.frames]
        if good or not all(clip.is_early for clip in clips):
            self._load({clip.frames.kind for clip in good if clip.frames})
        about = self._setup.about
        precision = self._engine.plan.precision if self._engine else None
        for clip in clips:
            if clip.fault:
                for job in clip.unit.jobs:
                    outcome = Outcome(job=job, fault=clip.fault, precision=None if clip.is_early else precision)
                    yield row_of(outcome, about)
        for outcome in self._outcomes(good):
            yield row_of(replace(outcome, precision=precision), about)
        if good and not self._is_settled:
            self._is_settled = True
            self._reports.settled()

    def _outcomes(self, clips: Sequence[Decoded]) -> Iterator[Outcome]:
        """Whatever breaks is a fault of what it broke, and the next clips get a new engine."""
        left = {job.id: job for clip in clips for job in clip.unit.jobs}
        try:
            for outcome in self._answered(clips):
                del left[outcome.job.id]
                yield outcome
        except Exception as exc:
            self._engine = None
            for job in left.values():
                yield Outcome(job=job, fault=Fault.of_question(exc))

    def _answered(self, clips: Sequence[Decoded]) -> Iterator[Outcome]:
        if not clips or self._engine is None:
            return
        setup = self._setup
        batch = replace(setup.batch, is_hashing=False)  # that was done where the clips are
        line = local.line(self._engine, Given(clips), batch, longest=setup.longest, is_stopping=_never, tell=_nowhere)
        prints = {clip.unit.jobs[0].path: clip.fingerprint for clip in clips}
        for outcome in line.outcomes():
            yield _with_print(outcome, prints[outcome.job.path])

    def _load(self, kinds: set[MediaKind]) -> None:
        """Errors: any VllavaError."""
        if self._engine:
            return
        setup = self._setup
        tokens = local.read_tokens(_found(setup))
        self._engine, _ = local.load(
            setup.batch.wishes, tokens, kinds or {"video"}, tell=_nowhere, notice=_nowhere, is_quiet=True
        )


class Given:
    """Clips that are all there, in the way of `Ahead`."""

    waited_s = 0.0

    def __init__(self, clips: Sequence[Decoded]) -> None:
        self._clips = list(clips)

    @property
    def is_over(self) -> bool:
        return not self._clips

    def take(
        self,
        most: int,
        *,
        is_waiting: bool,  # noqa: ARG002
        is_interrupted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Read[Unit, Frames]]:
        taken, self._clips = self._clips[:most], self._clips[most:]
        return [Read(key=clip.unit, found=clip.frames, fault=None, seconds=clip.seconds) for clip in taken]


def _with_print(outcome: Outcome, found: Fingerprint | None) -> Outcome:
    """With the size and the hash of the clip, where they are known."""
    making = outcome.making
    if making is None or found is None:
        return outcome
    clips = tuple(replace(clip, bytes=found.bytes, sha256=found.sha256) for clip in making.clips)
    return replace(outcome, making=replace(making, clips=clips))


def failure_of(row: Mapping[str, Any]) -> str | None:
    """What stands in the place of a row where there was no engine."""
    return str(row[FAILURE]) if FAILURE in row and "id" not in row else None


def row_in(line: bytes) -> dict[str, Any]:
    return exact(json.loads(line))


def _found(setup: Setup) -> Any:
    """The checkpoint on this machine, which need not be where the driver has it."""
    from vllava_cli.engine.adapter import locate

    source, wishes = setup.source, setup.batch.wishes
    is_here = source.folder.exists() and (source.adapter is None or source.adapter.folder.exists())
    return source if is_here else locate(replace(wishes, revision=source.revision))


def _never() -> bool:
    return False


def _nowhere(_: str) -> None:
    pass
