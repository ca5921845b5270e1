"""The contract of every executor: here over an engine of this process, over processes, and over a cluster.

The last two have other ends that aren't there; `ray_cluster/real_contract.py` asks a real cluster.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.batch.executors.fakes import Cluster, Listed, Pooled, memory_for
from tests.batch.parts import batch_of, clip_jobs
from vllava_cli import demo
from vllava_cli.answers import Sampling
from vllava_cli.batch.executors import Executor, RunControl
from vllava_cli.batch.executors.local import LocalExecutor
from vllava_cli.batch.rows import Result
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import MediaError, VllavaError
from vllava_cli.media.decoder.pool import Read
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing

Kind = Literal["local", "processes", "ray"]
CLIPS = [clip_jobs(f"{number}.mp4", "Why?", "Who?") for number in range(6)]
PATHS = [clip.jobs[0].path for clip in CLIPS]


@dataclass(kw_only=True)
class Run:
    """A run of an executor over six clips with two questions each."""

    kind: Kind
    engine: Engine
    folder: Path
    deadly: Collection[str] = ()
    """Clips that end whatever reads or answers them."""
    bad: Collection[str] = ()
    """Clips that can't be read."""
    is_short: bool = False
    """Whether memory runs out on the way."""
    is_failing_fast: bool = False
    stop_after: int = 99
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.control = RunControl(is_stopping=self.is_stopping)
        self.pooled: Pooled | None = None
        self.cluster: Cluster | None = None

    def is_stopping(self) -> bool:
        has_failed = any(result.error for result in self.results)
        return len(self.results) >= self.stop_after or (self.is_failing_fast and has_failed)

    def done(self) -> list[Result]:
        with ExitStack() as stack, closing(self.executor(stack).outcomes(CLIPS)) as results:
            for result in results:
                self.results.append(result)
        return self.results

    def executor(self, stack: ExitStack) -> Executor:
        if self.kind == "local":
            return self._local(stack)
        if self.kind == "processes":
            script = {"deadly": self.deadly, "bad": self.bad}
            scripts = [{"deadly": PATHS[2:3]}, script] if self.is_short else [script]
            self.pooled = Pooled(scripts={"cpu": scripts}, units=CLIPS)
            self.pooled.control.is_stopping = self.is_stopping
            return self.pooled.pool
        losses = [PATHS[2:3]] if self.is_short else [self.deadly] * 9
        self.cluster = Cluster(losses=losses, bad=self.bad)
        return self.cluster.executor(self.folder, self.control)

    def _local(self, stack: ExitStack) -> LocalExecutor:
        """Decoding processes end for a deadly clip, and their pool says so."""
        frames = sample(demo.clips()[0], Framing())
        faults = dict.fromkeys(self.deadly, RuntimeError("it ended")) | dict.fromkeys(
            self.bad, MediaError("It is torn.")
        )
        reads = [(clip, faults.get(clip.jobs[0].path)) for clip in CLIPS]
        if self.is_short:
            stack.enter_context(memory_for(self.engine, 2))
        return LocalExecutor(
            engine=Engine(model=self.engine.model, tokens=self.engine.tokens, plan=self.engine.plan),
            batch=batch_of(sampling=Sampling(max_new_tokens=2), most_rows=3),
            reads=Listed(
                [Read(key=clip, found=None if fault else frames, fault=fault, seconds=0.0) for clip, fault in reads]
            ),
            control=self.control,
        )


@pytest.fixture(params=["local", "processes", "ray"])
def run(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Run:
    if request.param == "ray":
        pytest.importorskip("pyarrow")
    return Run(kind=request.param, engine=engine, folder=tmp_path)


def asked(results: Collection[Result]) -> list[tuple[str, str]]:
    return sorted((result.job.path, result.job.question) for result in results)


EVERY = sorted((job.path, job.question) for clip in CLIPS for job in clip.jobs)


def test_every_job_has_one_result_which_is_an_answer_or_an_error(run: Run) -> None:
    run.bad = PATHS[1:2]
    results = run.done()
    assert asked(results) == EVERY
    assert {result.job.path for result in results if result.error} == set(run.bad)
    assert all((result.answer is None) != (result.error is None) for result in results)


def test_what_ends_processes_is_an_error_of_its_clip_alone(run: Run) -> None:
    run.deadly = PATHS[3:4]
    results = run.done()
    assert asked(results) == EVERY
    errors = {(result.job.path, result.error.kind) for result in results if result.error}
    assert errors == {(PATHS[3], "bug")}


def test_a_shortage_of_memory_costs_no_job(run: Run) -> None:
    run.is_short = True
    results = run.done()
    assert asked(results) == EVERY
    assert [result.error for result in results] == [None] * len(EVERY)


@pytest.mark.parametrize("is_failing_fast", [False, True])
def test_a_run_that_stops_begins_nothing_more(run: Run, is_failing_fast: bool) -> None:
    """Clips that were given to an engine before may be answered."""
    run.is_failing_fast, run.stop_after = is_failing_fast, 99 if is_failing_fast else 1
    run.bad = PATHS[:1] if is_failing_fast else ()
    results = run.done()
    assert len(results) > 0 and len(asked(results)) == len(set(asked(results)))
    if run.kind != "processes":  # its fake answers at once all that it was given ahead
        assert len(results) < len(EVERY)


def test_a_run_that_stopped_before_it_began_has_no_results(run: Run) -> None:
    run.stop_after = 0
    assert run.done() == []


def test_a_caller_that_goes_away_leaves_nothing_behind(run: Run) -> None:
    with ExitStack() as stack, closing(run.executor(stack).outcomes(CLIPS)) as results:
        next(results)
    if run.pooled:
        assert [process.is_killed for process in run.pooled.processes] == [True]
    if run.cluster:
        assert run.cluster.is_left


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_an_engine_that_can_not_be_had_ends_the_run(kind: Kind, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    executor: Executor
    if kind == "processes":
        lazy, failing = [{"is_lazy": True}], [{"first": [("failure", VllavaError("It isn't there."))]}]
        pooled = Pooled(scripts={"cuda:0": lazy, "cuda:1": failing}, units=CLIPS)
        executor = pooled.pool
    else:
        executor = Cluster(failure="It isn't there.").executor(tmp_path, RunControl())
    with pytest.raises(VllavaError, match=r"^It isn't there\.$"):
        list(executor.outcomes(CLIPS))
    if kind == "processes":
        assert [process.is_killed for process in pooled.processes] == [True, True]
