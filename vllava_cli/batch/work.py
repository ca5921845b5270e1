"""The work of a run: headers, model, answers. Each outcome is a row before the next one is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from vllava_cli.batch import progress
from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.executors import local
from vllava_cli.batch.executors.processes import Crew
from vllava_cli.batch.executors.worker import Setup
from vllava_cli.batch.executors.worker_handle import devices, started
from vllava_cli.batch.output import Output
from vllava_cli.batch.preflight import Found, Preflight
from vllava_cli.batch.progress import Tally
from vllava_cli.batch.request import Batch
from vllava_cli.batch.rows import About, Outcome, row_of
from vllava_cli.hardware import cpu_cores
from vllava_cli.nouns import DEMO_MODEL
from vllava_cli.screen import Screen
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.media.decoder.pool import Pool
    from vllava_cli.nouns import Source

_SLICE_S = 0.2


@dataclass(kw_only=True)
class Work:
    """What a run has in hand."""

    batch: Batch
    source: Source
    about: About
    out: Output
    tally: Tally
    screen: Screen
    is_interrupted: Callable[[], bool]
    meter: Meter = field(default_factory=Meter)
    watch: Stopwatch = field(default_factory=Stopwatch)
    engines: int = 1
    has_failed: bool = False
    """Whether a row of this run is an error, and --fail-fast was given."""

    def do(self, units: list[Unit]) -> None:
        """All of it, or as much as there is time for. Errors: any VllavaError; KeyboardInterrupt."""
        from vllava_cli.media.decoder.pool import Pool, default_workers

        batch = self.batch
        if not units:
            if batch.is_dry:
                progress.tell_plan(self.tally, Found(), self.screen)
            return
        workers = min(batch.decoders or default_workers(cpu_cores()), len(units))
        with Pool(workers, batch.limits) as pool:
            preflight = Preflight(pool, units, None if batch.is_dry or batch.devices else batch.framing)
            self._await(preflight)
            if not self.is_stopping():
                self._note_bad(preflight.found, len(units))
                if batch.is_dry:
                    progress.tell_plan(self.tally, preflight.found, self.screen)
                elif preflight.found.good and not self.is_stopping():
                    self._answer(pool, preflight)
        if batch.has_stats:
            self._tell_stats(workers)

    def is_stopping(self) -> bool:
        """Whether nothing new is begun."""
        return self.is_interrupted() or self.has_failed

    def _await(self, preflight: Preflight) -> None:
        """Waits for the headers; what an engine takes is imported meanwhile."""

        def parts() -> list[str]:
            return [f"Reading headers: {preflight.done:,}/{preflight.total:,}"]

        with self.screen.progress(parts, is_shared=False):
            if not (self.batch.is_dry or self.batch.devices):
                local.import_engine()
                self.watch.lap("imports")
            while not preflight.wait(_SLICE_S) and not self.is_stopping():
                pass
        self.watch.lap("headers")

    def _note_bad(self, found: Found, total: int) -> None:
        progress.tell_unreadable([fault for _, fault in found.bad], total, self.screen, has_rows=not self.batch.is_dry)
        for unit, fault in found.bad:
            for job in unit.jobs:
                self._put(Outcome(job=job, fault=fault))

    def _answer(self, pool: Pool, preflight: Preflight) -> None:
        batch, found, screen = self.batch, preflight.found, self.screen
        if self.source.model == DEMO_MODEL:
            screen.notice(
                "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
            )
        longest = max(len(job.question) for unit in found.good for job in unit.jobs)
        if preflight.frames is None:
            pool.close()  # the processes below have decoders of their own
            self._answer_elsewhere(found, longest)
            return
        with screen.waiting("Reading the model's files"):
            tokens = local.read_tokens(self.source)
        self.watch.lap("the model's files")
        pool.fit_to(tokens.checkpoint.video_recipe)
        engine, self.meter.load_s = local.load(
            batch.wishes,
            tokens,
            found.kinds,
            tell=screen.detail,
            notice=screen.notice,
            is_quiet=not screen.is_moving,
            watch=self.watch,
        )
        line = local.line(
            engine, preflight.frames, batch, longest=longest, is_stopping=self.is_stopping, tell=screen.notice
        )
        line.meter = self.meter
        screen.detail(f"rows at once: {line.most_rows}.")
        self.tally.begin()
        self._consume(line.outcomes())

    def _answer_elsewhere(self, found: Found, longest: int) -> None:
        """By a process for each device; this one has no model."""
        batch = self.batch
        names = devices(batch.devices)
        self.engines = len(names)
        from vllava_cli.media.decoder.pool import default_workers

        decoders = batch.decoders or max(1, default_workers(cpu_cores()) // len(names))
        setups = [
            Setup(
                batch=batch,
                source=self.source,
                device=device,
                kinds=frozenset(found.kinds),
                longest=longest,
                decoders=decoders,
            )
            for device in names
        ]
        starts = [partial(started, setup) for setup in setups]
        listener = _Listener(screen=self.screen, ready=self.tally.begin)
        crew = Crew(found.good, starts, is_stopping=self.is_stopping, listener=listener, meter=self.meter)
        with closing(crew.outcomes()) as outcomes:
            self._consume(outcomes)

    def _consume(self, outcomes: Iterator[Outcome]) -> None:
        def parts() -> list[str]:
            return progress.standing(self.tally, self.meter, now_s=time.perf_counter())

        with self.screen.progress(parts, is_shared=False):  # rows come to the terminal only from the first one on
            first = list(islice(outcomes, 1))
        with self.screen.progress(parts, is_shared=not self.out.is_kept):
            for outcome in chain(first, outcomes):
                self._put(outcome)
        self.watch.lap("answering")

    def _put(self, outcome: Outcome) -> None:
        self.out.put(row_of(outcome, self.about))
        self.tally.note(outcome.fault.kind if outcome.fault else None)
        self.has_failed |= self.batch.is_failing_fast and outcome.fault is not None

    def _tell_stats(self, workers: int) -> None:
        now_s = time.perf_counter()
        since_s = now_s - (self.tally.ready_s or now_s)
        meter = self.meter
        stats = {
            "wall_s": now_s - self.tally.started_s,
            "load_s": meter.load_s,
            "answering_s": since_s,
            "idle_s": meter.idle_s,
            "idle_share": meter.idle_s / since_s / self.engines if since_s else 0.0,
            "decode_s": meter.decode_s,
            "clips": meter.clips,
            "jobs": self.tally.now,
            "new_tokens": meter.new_tokens,
            "tower_calls": meter.tower_calls,
            "rows_at_once": meter.rows_at_once,
            "decoders": workers,
        }
        progress.tell_stats(stats, self.screen)


@dataclass(frozen=True, kw_only=True)
class _Listener:
    """Hears what a crew has to say beside its outcomes."""

    screen: Screen
    ready: Callable[[], None]

    def notice(self, text: str) -> None:
        self.screen.notice(text)

    def detail(self, text: str) -> None:
        self.screen.detail(text)
