"""`vllava batch`: finds the jobs, skips those that are done, and answers the rest; each job gets exactly one row."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.batch import job_files
from vllava_cli.batch.divide import Division, KnownClips
from vllava_cli.batch.executors import Executor, RunControl, local
from vllava_cli.batch.job_checks import check_choices, check_schemes, choice_faults, with_own_names, with_times
from vllava_cli.batch.jobs import (
    ClipJobs,
    Job,
    JobRequest,
    freed,
    group_by_clip,
    list_path,
    make_jobs,
    settings_of,
    signature,
    write_lists,
)
from vllava_cli.batch.merge import mismatches
from vllava_cli.batch.output import Output, opened
from vllava_cli.batch.preflight import Headers, Preflight
from vllava_cli.batch.progress import Progress, report_end, report_found, report_plan, report_unreadable, report_unused
from vllava_cli.batch.request import BatchRequest
from vllava_cli.batch.rows import Result, RunInfo, check_fields, row_of
from vllava_cli.commands.provenance import AGREEMENT_KEYS
from vllava_cli.commands.sheets import check_unread
from vllava_cli.commands.start import cut_notice, warn_of_demo
from vllava_cli.errors import INTERRUPTED, UsageError
from vllava_cli.hardware import cpu_cores
from vllava_cli.interrupt import sigint_flag
from vllava_cli.media import inputs
from vllava_cli.media.timeline.sidecars import SUFFIXES, check_apart, finder
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import readable
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.client.connection import Address
    from vllava_cli.engine.answering import AnswerEngine
    from vllava_cli.media.decoder.pool import Pool
    from vllava_cli.nouns import Source

_SLICE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The parts of a run that another command may replace: its output, its report, and how it finds windows."""

    open_output: Callable[..., AbstractContextManager[Output]] = opened
    report: Callable[..., None] = report_end
    conclude: Callable[[Sequence[Job], Output, Callable[[], AnswerEngine], Callable[[], bool]], bool] | None = None
    """Called with the jobs, their rows, an engine and Ctrl-C once all is answered; returns False if it was stopped."""
    division: Callable[[], Division] = Division


def run(batch: BatchRequest, screen: Screen, ends: Ends = Ends()) -> int:
    """Returns the exit code: 0, 1 if a job has failed or lacks its row, 130 after Ctrl-C. Errors: any VllavaError."""
    watch = Stopwatch(began_s=BEGAN_S)
    watch.lap("start")
    with ExitStack() as stack:
        code = _run(batch, screen, watch, stack, ends)
    watch.lap("finishing")
    screen.detail(f"took {watch.account()}.")
    return code


def _run(batch: BatchRequest, screen: Screen, watch: Stopwatch, stack: ExitStack, ends: Ends) -> int:
    progress, pool, division = Progress(), None, ends.division()
    if batch.inputs.jobs and batch.destination.path:
        check_unread(batch.destination.path, [batch.inputs.jobs])
    if batch.windowing:
        from vllava_cli.media.decoder.pool import Pool, default_workers

        pool = stack.enter_context(Pool(batch.decoders or default_workers(cpu_cores()), batch.limits))
    from vllava_cli.engine.adapter import foreseen, locate

    # A dry run looks for the checkpoint on this machine alone.
    source = (foreseen if batch.is_dry else locate)(batch.wishes, screen.log)
    info = run_info(batch, source)
    every, complaints = jobs_of(batch, info, screen, pool, division)
    every = with_times(batch, every, division, screen)
    watch.lap("windows") if batch.windowing else None
    jobs = [job for job in every if batch.shard.has(job.id)] if batch.shard else every
    check_schemes(batch, jobs)
    with (
        ends.open_output(batch.destination, jobs, info, screen, every=every, is_dry=batch.is_dry) as out,
        sigint_flag(is_early=lambda: not progress.has_begun) as is_interrupted,
    ):
        todo = [job for job in jobs if not out.is_done(job)]
        progress.total, progress.skipped = len(jobs), len(jobs) - len(todo)
        progress.skipped_errors = sum(out.had_failed(job) for job in jobs)
        progress.unknown = _unknown(batch, source, has_rows=bool(out.before))
        if batch.subs:
            progress.subtitles = _subtitle_files(jobs)
        work = _Work(
            batch=batch,
            source=source,
            info=info,
            out=out,
            progress=progress,
            screen=screen,
            is_interrupted=is_interrupted,
            watch=watch,
            pool=pool,
            division=division,
        )
        watch.lap("jobs")
        is_cut = False
        try:
            work.do(list(group_by_clip(todo)))
            out.finish(jobs)
            if ends.conclude and not progress.left and not batch.is_dry:
                is_cut = not ends.conclude(jobs, out, work.loaded, is_interrupted)
        except KeyboardInterrupt:
            is_cut = True
        is_cut |= is_interrupted() and (progress.left > 0 or batch.is_dry)
        if not batch.is_dry:
            ends.report(progress, screen, is_interrupted=is_cut, can_resume=out.is_kept)
        if is_cut:
            return INTERRUPTED
        faults: list[str] = []
        if batch.ray and not batch.is_dry and not progress.left:
            with screen.waiting("Reconciling the rows with the jobs"):
                faults = mismatches(jobs, out.ids(), out.before)
        for fault in faults:
            screen.error(f"The rows don't match the jobs: {fault}")
    is_planned = batch.is_dry and batch.ray is not None  # a plan succeeds whatever failed before
    return 1 if complaints or (progress.failed and not is_planned) or faults or out.faults else 0


def run_info(batch: BatchRequest, source: Source) -> RunInfo:
    settings = settings_of(batch.wishes, batch.framing, batch.sampling, source.adapter, batch.agreeing)
    settings |= {"choice_style": "letter"} if batch.has_letters else {}
    return RunInfo(
        model=source.model,
        revision=source.revision,
        choices=batch.sampling.choices,
        has_letters=batch.has_letters,
        has_agreement=batch.agreeing is not None,
        signature=signature(batch.wishes.model, source.revision, settings),
    )


def jobs_of(
    batch: BatchRequest, info: RunInfo, screen: Screen, pool: Pool | None = None, division: Division | None = None
) -> tuple[list[Job], int]:
    """Returns the jobs of all shards and the number of faulty folders; writes the list of this shard.

    If the batch has windows, their clips are divided with the pool, and `division` gets what was found.
    """
    complaints: list[str] = []
    unused: dict[str, str] = {}
    requests: Iterable[JobRequest] = _requests(batch, complaints.append, screen, unused)
    if batch.inputs.jobs:
        requests = with_own_names(list(requests), batch)
    if batch.windowing and pool and division is not None:
        asked = list(requests)
        with screen.progress(lambda: [f"Finding windows: {division.done:,}/{division.total:,} clips"], is_shared=False):
            division.divide((each.path for each in asked), pool, batch.windowing, batch.framing)
        requests = division.requests(asked)
    if batch.agreeing:
        requests = [freed(request, AGREEMENT_KEYS) for request in requests]
    every = make_jobs(requests, info.signature, finder(batch.subs))
    if isinstance(batch.subs, Path) and len(named := {job.path for job in every}) > 1:
        raise UsageError(f"--subs {batch.subs} is about one clip, and there are {len(named):,}: give --subs auto.")
    if batch.subs == "auto" and batch.destination.path:
        check_apart(batch.destination.path, {job.path for job in every})
    for complaint in complaints:
        screen.error(complaint)
    check_choices(batch, every)
    check_fields(batch.destination.fields, every, info)
    report_unused(tuple(map(readable, unused.values())), screen)
    path, shard = batch.destination.path, batch.shard
    if shard and path and not batch.is_dry:
        write_lists({shard.number: list_path(path)}, shard.of, every)
    return every, len(complaints)


def _requests(
    batch: BatchRequest, complain: Callable[[str], None], screen: Screen, unused: dict[str, str]
) -> Iterator[JobRequest]:
    stdin, given = sys.stdin.buffer if sys.stdin else None, batch.inputs
    if given.jobs:
        yield from job_files.requests_in(
            given.jobs,
            stdin=stdin,
            videos=given.videos,
            questions=given.questions,
            has_letters=batch.has_letters,
            unused=unused,
            notice=screen.notice,
            on_found=lambda found: report_found(found, batch, screen),
        )
        return
    for path in inputs.paths(
        given.paths,
        stdin=stdin,
        is_recursive=given.is_recursive,
        is_null=given.is_null,
        tell=complain,
        notice=lambda text: screen.notice(f"vllava: {text}"),
        aside=SUFFIXES if batch.subs else (),
    ):
        for question in given.questions:
            yield JobRequest(path=path, question=question)


def _subtitle_files(jobs: Sequence[Job]) -> str:
    """Says how many clips have a subtitle file; those without one are opened only when they are decoded."""
    has_file = {job.path: bool(job.sidecar and job.sidecar[0]) for job in jobs}
    count = sum(has_file.values())
    rest = "" if count == len(has_file) else "; the others may have a track"
    return f"a file for {count:,} of {counted(len(has_file), 'clip')}{rest}"


def _unknown(batch: BatchRequest, source: Source, *, has_rows: bool) -> str:
    """Says what can't be known about the jobs because the checkpoint isn't on this machine; "" if all is known."""
    from vllava_cli.nouns import UNKNOWN_REVISION

    whats = ["done"] * has_rows + ["in the shard"] * bool(batch.shard)
    if source.revision != UNKNOWN_REVISION or not whats:
        return ""
    names = " and ".join(filter(None, (batch.wishes.model, batch.wishes.adapter)))
    return f"which jobs are {' or '.join(whats)}: their ids depend on the revision of {names}, which isn't here"


@dataclass(kw_only=True)
class _Work:
    """The work of a run: each result is written as a row before the executor is asked for the next one."""

    batch: BatchRequest
    source: Source
    info: RunInfo
    out: Output
    progress: Progress
    screen: Screen
    is_interrupted: Callable[[], bool]
    watch: Stopwatch
    pool: Pool | None
    """The pool that divided the clips; None in a run without windows."""
    division: Division
    spoken: Counter[str] = field(default_factory=Counter)
    """The answers that had subtitles, those that had less than all of them, and the characters that they lacked."""
    has_failed: bool = False
    """Whether a row of this run is an error, and --fail-fast was given."""
    engine: AnswerEngine | None = None
    """The engine of this process or of a server, once it is ready."""
    control: RunControl = field(init=False)
    address: Address | None = field(init=False)
    """Where the server listens that answers; None if the model is loaded here."""

    def __post_init__(self) -> None:
        self.address = local.server_of(self.batch)
        self.control = RunControl(
            is_stopping=self.is_stopping,
            is_wanted=self.out.is_wanted,
            notice=self.screen.notice,
            detail=self.screen.detail,
            on_ready=self.progress.begin,
            on_pause=self.out.flush,
        )

    def do(self, clip_jobs: list[ClipJobs]) -> None:
        """Answers the jobs until all are done or the run stops; a dry run only reports its plan.

        Errors: any VllavaError; KeyboardInterrupt.
        """
        if self.batch.is_dry and (self.batch.ray or not clip_jobs):
            report_plan(self.progress, None if self.batch.ray else Headers(), self.screen)
            return
        if clip_jobs and self.batch.ray:
            from vllava_cli.batch.executors.ray_driver import RayExecutor

            warn_of_demo(self.source.model, self.screen)
            has_earlier_answers = self.progress.skipped > self.progress.skipped_errors
            executor = RayExecutor(
                batch=self.batch, source=self.source, control=self.control, has_earlier_answers=has_earlier_answers
            )
            self._answer(executor, clip_jobs)
        elif clip_jobs:
            self._do_here(clip_jobs)
            self._report_spoken()
        if self.batch.has_stats and (clip_jobs or self.batch.ray):
            self._report_stats()

    def loaded(self) -> AnswerEngine:
        """Returns the engine that answered. If all was done before, loads one without towers, for text alone."""
        if self.engine is None:
            warn_of_demo(self.source.model, self.screen)
            with self.screen.waiting("Loading the model"):
                tokens = local.read_tokens(self.source)
                self.engine = local.find_engine(self.batch, self.address, tokens, (), self.control, watch=self.watch)
        return self.engine

    def is_stopping(self) -> bool:
        """True if no further job may be begun: after Ctrl-C, an error with --fail-fast, or the last wanted row."""
        return self.is_interrupted() or self.has_failed or self.out.is_full

    def _do_here(self, clip_jobs: list[ClipJobs]) -> None:
        """Reads the headers of the clips on this machine, then answers the jobs about the good clips."""
        from vllava_cli.media.decoder.pool import Pool, default_workers

        batch = self.batch
        self.control.decoders = min(batch.decoders or default_workers(cpu_cores()), len(clip_jobs))
        framing = None if batch.is_dry or batch.devices else batch.framing
        with nullcontext(self.pool) if self.pool else Pool(self.control.decoders, batch.limits) as pool:
            preflight: Preflight | KnownClips
            if self.pool:
                preflight = KnownClips(
                    pool,
                    clip_jobs,
                    framing,
                    division=self.division,
                    agreeing=batch.agreeing,
                    is_wanted=self.out.is_wanted,
                )
            else:
                preflight = Preflight(pool, clip_jobs, framing, agreeing=batch.agreeing)
            self._await(preflight, len(clip_jobs))
            headers = preflight.headers
            if not self.is_stopping():
                if batch.is_dry or not self.out.tells_errors:
                    faults = [error for _, error in headers.bad]
                    clips = len({clip.jobs[0].path for clip in clip_jobs})  # each may have many windows
                    report_unreadable(faults, clips, self.screen, has_rows=not batch.is_dry)
                for clip, error in headers.bad:
                    for job in clip.jobs:
                        self._put(Result(job=job, error=error))
                if batch.is_dry:
                    report_plan(self.progress, headers, self.screen)
            if headers.good and not batch.is_dry and not self.is_stopping():
                self._answer(self._here(pool, preflight), headers.good)

    def _await(self, preflight: Preflight | KnownClips, total: int) -> None:
        """Waits until the headers are read, and imports the libraries of an engine meanwhile."""

        def parts() -> list[str]:
            return [f"Reading headers: {preflight.headers.done:,}/{total:,}"]

        with self.screen.progress(parts, is_shared=False):
            has_none = isinstance(preflight, KnownClips) and not preflight.headers.good
            if not (self.batch.is_dry or self.batch.devices or self.address or has_none):
                local.import_engine()
                self.watch.lap("imports")
            while not preflight.wait(_SLICE_S) and not self.is_stopping():
                pass
        self.watch.lap("headers")

    def _here(self, pool: Pool, preflight: Preflight | KnownClips) -> Executor:
        """Makes the executor: a worker for each device of --gpus, or an engine in this process. Errors: VllavaError."""
        warn_of_demo(self.source.model, self.screen)
        batch, screen, headers = self.batch, self.screen, preflight.headers
        longest = local.longest_question((job for clip in headers.good for job in clip.jobs), batch)
        if preflight.frames is None:
            from vllava_cli.batch.executors.processes import worker_pool

            pool.close()  # the workers have their own decoders
            return worker_pool(batch, self.source, headers.kinds, longest, self.control)
        with screen.waiting("Reading the model's files"):
            tokens = local.read_tokens(self.source)
        if fault := choice_faults(tokens, (job for clip in headers.good for job in clip.jobs), batch):
            screen.notice(fault)
        self.watch.lap("the model's files")
        None if self.address else pool.fit_to(tokens.checkpoint.video_recipe)  # a server does that itself
        self.engine = engine = local.find_engine(
            batch, self.address, tokens, headers.kinds, self.control, is_quiet=not screen.is_moving, watch=self.watch
        )
        executor = local.LocalExecutor(
            engine=engine, batch=batch, reads=preflight.frames, control=self.control, longest=longest
        )
        screen.detail(f"rows at once: {executor.most_rows}.")
        self.progress.begin()
        return executor

    def _answer(self, executor: Executor, clip_jobs: Sequence[ClipJobs]) -> None:
        control = self.control

        def parts() -> list[str]:
            return self.progress.parts(control.counters, now_s=time.perf_counter(), waiting_for=control.waiting_for)

        with closing(executor.outcomes(clip_jobs)) as results:
            with self.screen.progress(parts, is_shared=False):  # no row is on the terminal yet
                first = list(islice(results, 1))
            with self.screen.progress(parts, is_shared=not self.out.is_kept):
                for result in chain(first, results):
                    self.progress.begin()
                    self._put(result)
        self.watch.lap("answering")

    def _put(self, result: Result) -> None:
        if not self.batch.is_dry:
            self.out.put(row_of(result, self.info))
        self.progress.note(result.error.kind if result.error else None)
        if result.making and (spoken := result.making.spoken):
            self.spoken += Counter(had=bool(spoken.text), cut=bool(spoken.cut), characters=spoken.cut)
        self.has_failed |= self.batch.is_failing_fast and result.error is not None

    def _report_spoken(self) -> None:
        """Says once how much of the subtitles had no room, and to how many answers subtitles were given."""
        if self.spoken["cut"]:
            self.screen.notice(cut_notice(self.spoken["characters"], self.spoken["cut"]))
        if self.batch.subs and not self.batch.is_dry:
            self.screen.detail(
                f"subtitles: {self.spoken['had']:,} of {counted(self.progress.answered, 'answer')} had some."
            )

    def _report_stats(self) -> None:
        """Writes the figures as one line of JSON for programs, also with --quiet, because --stats asked for it."""
        now_s, progress, control = time.perf_counter(), self.progress, self.control
        counters, answering_s = vars(control.counters).copy(), now_s - (progress.ready_s or now_s)
        del counters["used_bytes"]
        if self.batch.ray:
            load_s = counters["load_s"]
            counters = {"connect_s": load_s, "actors": control.engines if load_s else 0, "clips": counters["clips"]}
        else:
            counters["idle_share"] = counters["idle_s"] / answering_s / control.engines if answering_s else 0.0
        stats = {"wall_s": now_s - progress.started_s, "answering_s": answering_s, **counters}
        stats |= {"jobs": progress.now, "decoders": control.decoders}
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in stats.items()}
        self.screen.notice(f"vllava: stats: {json.dumps(rounded)}", is_asked=True)
