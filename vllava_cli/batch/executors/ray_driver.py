"""The executor on a Ray cluster: passes over a manifest of clips until each job has its result.

If every process that is given a clip dies, the clip's jobs get errors. The driver may be outside the cluster.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import re
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllava_cli
from vllava_cli.batch.executors import RunControl
from vllava_cli.batch.executors.local import longest_question
from vllava_cli.batch.executors.ray_actors import Allocation, QueueItems, RayPass, ResultQueue, StageSetup, manifest_row
from vllava_cli.batch.jobs import ClipJobs, Job, group_by_clip
from vllava_cli.batch.request import LOCAL, BatchRequest, Destination, Inputs, RayOptions
from vllava_cli.batch.rows import JobError, Result, write_groups
from vllava_cli.errors import ClusterError, UsageError, WishError
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import counted
from vllava_cli.storage.files import Part, as_output_error
from vllava_cli.storage.objects import Objects, is_url, scratch

if TYPE_CHECKING:
    from vllava_cli.nouns import Source

MANIFEST = "manifest.parquet"
MOST_TAKEN = 1000
"""Results that are fetched, written and synced at once."""
MOST_PASSES = 3
"""The number of passes with one clip at a time. After them the clips are blamed, not the machines."""
MOST_SUSPECTS = 50
"""If an earlier run left at most this many jobs, their clips may be the ones that end engines."""
LEAST_CPUS = 3
"""An engine, a decoder and the reader of the manifest need a CPU each; with fewer CPUs they wait for ever."""
SPARE_CPUS = 2
CLIPS_ON_GPU, CLIPS_ON_CPU = 16, 4
"""How many clips an engine is given at once if --batch-size isn't given."""
_CALLS_AT_ONCE = 8
"""How many calls a queue answers at the same time: one may wait for results while others report."""
_HEAD = {"node:__internal_head__": 0.001}
"""Places the queue on the head, without which there is no cluster."""
_PATIENCE_S = 10.0
_CLIENT = "ray://"
_AGAIN_S = (2.0, 5.0)
"""The pauses before the second and the third try to connect, if the server refuses a client."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Node:
    """The CPUs and GPUs of one machine that Ray may use."""

    cpus: int
    gpus: int = 0


@contextmanager
def connected(address: str, detail: Callable[[str], object]) -> Iterator[tuple[Node, ...]]:
    """Connects to a cluster, or starts one on this machine alone; gives the CPUs and GPUs of each machine.

    `detail` is called with each line that Ray prints meanwhile. Errors: UsageError if Ray isn't installed;
    ClusterError if no cluster answers.
    """
    # A thread of Ray prints messages about machines and tasks to stdout.
    with redirect_stdout(_Lines(detail)):
        ray = _imported()
        if address not in (LOCAL, "auto"):
            _check_reach(address)
        try:
            _init(ray, address)
        except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
            remedy = "Check it with ray status; if it asks for a token, set RAY_AUTH_MODE=token"
            raise ClusterError(f"Ray can't be used at {address}: {_reason(exc)}. {remedy}.") from exc
        try:
            resources = [each["Resources"] for each in ray.nodes() if each["Alive"]]
            yield tuple(Node(cpus=int(each.get("CPU", 0)), gpus=int(each.get("GPU", 0))) for each in resources)
        finally:
            ray.shutdown()


def take_results(task: RayPass, *, is_stopping: Callable[[], bool]) -> Iterator[QueueItems]:
    """Runs a pass on the cluster; yields items every second or two, with or without results.

    Errors: ClusterError if the cluster has another version of vllava.
    """
    import ray
    from ray.exceptions import RayError

    results: Any = ray.remote(ResultQueue).options(num_cpus=0, resources=_HEAD, max_concurrency=_CALLS_AT_ONCE)
    results = results.remote(task)
    try:
        there, here = ray.get(results.version.remote()), vllava_cli.__version__
        if there != here:
            raise ClusterError(
                f"The cluster has vllava {there}, and this is {here}. Install the same one on all machines."
            )
        while not is_stopping():
            items: QueueItems = ray.get(results.take.remote(MOST_TAKEN))
            yield items
            if items.is_over:
                return
    except RayError as exc:
        yield QueueItems(results=(), is_over=True, fault=_sentence(exc))
    finally:
        ray.kill(results)


@dataclass(kw_only=True)
class RayExecutor:
    """Answers clips' jobs on a cluster."""

    batch: BatchRequest
    source: Source
    control: RunControl
    has_earlier_answers: bool = False
    """Whether an earlier run has answered other jobs of this batch."""
    connect: Callable[[str, Callable[[str], object]], AbstractContextManager[tuple[Node, ...]]] = connected
    take: Callable[..., Iterator[QueueItems]] = take_results
    """`connect` and `take` use Ray; tests replace them."""
    _left: dict[str, Job] = field(default_factory=dict)
    """The jobs without a result, by id. A result that comes twice, as after a machine ended, counts once."""
    _has_answered: bool = False
    _has_reported_vain: bool = False

    def outcomes(self, clip_jobs: Sequence[ClipJobs], /) -> Generator[Result, None, None]:
        """Yields a result for each job, as `Executor.outcomes` asks. Errors: ClusterError, WishError, OutputError."""
        options = self.batch.ray or RayOptions()
        self._left = {job.id: job for clip in clip_jobs for job in clip.jobs}
        self.control.waiting_for = "Starting Ray" if options.address == LOCAL else f"Connecting to {options.address}"
        started_s = time.perf_counter()
        with self.connect(options.address, self.control.detail) as nodes:
            share = allocate(nodes, self.batch)
            self.control.engines, self.control.decoders = share.actors, share.decoders
            self.control.counters.load_s = time.perf_counter() - started_s
            gpus = f"{counted(share.gpus_per_actor, 'GPU')} and " if share.gpus_per_actor else ""
            engines = f"{counted(share.actors, 'engine')} with {gpus}{counted(share.cpus_per_actor, 'CPU')} each"
            more = f"{counted(share.decoders, 'decoder')}, {counted(share.clips, 'clip')} at once"
            self.control.detail(f"ray: {counted(len(nodes), 'machine')}; {engines}, {more}.")
            self.control.waiting_for = "waiting for the first rows"
            yield from self._passes(share)

    def _passes(self, allocation: Allocation) -> Iterator[Result]:
        """Makes passes until no job is left. After the first pass, engines are given one clip at a time."""
        # The stages don't get the inputs, which may be a million paths.
        setup = StageSetup(
            batch=replace(self.batch, inputs=Inputs(), destination=Destination()),
            source=self.source,
            longest=longest_question(self._left.values(), self.batch),
            folder=os.getcwd(),  # noqa: PTH109  (its name is all that is needed)
            recipe=read_video_recipe(self.source.folder),
        )
        passes_alone = 0
        while self._left and not self.control.is_stopping():
            before = len(self._left)
            fault = yield from self._pass(setup, allocation)
            if fault and len(self._left) == before:
                raise ClusterError(fault)
            if not self._left or self.control.is_stopping():
                return
            self.control.detail(f"{counted(len(self._left), 'job')} without a row: another pass.")
            allocation = replace(allocation, clips=1)
            passes_alone += fault is None
            if passes_alone > MOST_PASSES:
                message = "Each process of the cluster that was given this clip ended without an error message."
                error = JobError(kind="bug", message=f"{message} Ask about it alone, with ask.")
                yield from (Result(job=job, error=error) for job in self._left.values())
                self._left = {}

    def _pass(self, setup: StageSetup, allocation: Allocation) -> Generator[Result, None, str | None]:
        """Makes one pass and yields its results. Returns the fault that ended the pass early, or None."""
        manifest = write_manifest(self.batch.destination.parts or "", group_by_clip(self._left.values()))
        few_left = self.has_earlier_answers and len(self._left) <= MOST_SUSPECTS
        task = RayPass(
            setup=setup,
            allocation=allocation,
            manifest=manifest,
            may_end_engines=self._has_answered or few_left,
        )
        for items in self.take(task, is_stopping=self.control.is_stopping):
            yield from self._new(items)
            self.control.on_pause()
            if items.vain_starts and not self._has_reported_vain:
                self._has_reported_vain = True
                self.control.notice(
                    "vllava: an engine's process ended before it had answered anything; it is started again. "
                    "If that goes on, its machine lacks memory."
                )
            if items.fault:
                return items.fault
        return None

    def _new(self, items: QueueItems) -> Iterator[Result]:
        """Yields the results of jobs that had none yet. Errors: ClusterError if no engine could be loaded."""
        paths: set[str] = set()
        for found in map(pickle.loads, items.results):
            if isinstance(found, str):
                raise ClusterError(found)
            job = self._left.pop(found.job.id, None)
            if job:
                paths.add(job.path)
                self._has_answered |= found.answer is not None
                yield replace(found, job=job)
        self.control.counters.clips += len(paths)


def write_manifest(folder: str, clip_jobs: Iterable[ClipJobs]) -> str:
    """Writes the clips as Parquet into a folder or below a URL; returns the file's path or URL. Errors: OutputError."""
    import pyarrow as pa

    columns, rows = {"path": pa.binary(), "jobs": pa.binary()}, map(manifest_row, clip_jobs)
    if is_url(folder):
        objects = Objects(folder)
        with scratch() as local:
            write_groups(local / MANIFEST, columns, rows)
            objects.put_file(local / MANIFEST, MANIFEST)
        return f"{objects.url}/{MANIFEST}"
    path = Path(folder).absolute() / MANIFEST
    with Part(path) as part, as_output_error(path):
        write_groups(part.path, columns, rows)
    return str(path)


def allocate(nodes: tuple[Node, ...], batch: BatchRequest) -> Allocation:
    """Divides the CPUs and GPUs among engines and decoders. Errors: WishError if there are too few of them."""
    nodes = tuple(node for node in nodes if node.cpus)  # the head of many a cluster takes no work
    options, cpus = batch.ray or RayOptions(), sum(node.cpus for node in nodes)
    if cpus < LEAST_CPUS:
        raise WishError(
            f"Ray has {counted(cpus, 'CPU')} here, and {LEAST_CPUS} are needed: one for the model, one to decode, one "
            "to read the list of clips. Leave --ray out, or use a larger cluster."
        )
    gpus = options.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if batch.wishes.device != "cpu" and any(node.gpus for node in nodes) else 0.0
    most = cpus - SPARE_CPUS
    if gpus:  # a share of a GPU never spans two GPUs: 0.4 fits twice into each
        each = [math.floor(1 / gpus) * node.gpus if gpus < 1 else math.floor(node.gpus / gpus) for node in nodes]
        most = min(sum(each), most)
    if most < 1:
        raise WishError(
            f"No machine of the cluster has {counted(gpus, 'GPU')} for an actor. Give fewer with --gpus-per-actor."
        )
    actors = options.actors or (most if gpus else min(most, len(nodes)))
    if actors > most:
        is_short_of_gpus = gpus and most < cpus - SPARE_CPUS
        what = f"{counted(gpus, 'GPU')} each" if is_short_of_gpus else f"{cpus} CPUs, of which 2 stay free"
        raise WishError(f"--actors {actors} is more than the {most} that the cluster has room for, with {what}.")
    # Without GPUs half of the CPUs decode, and no engine gets more CPUs than any machine can give.
    share = min((cpus - SPARE_CPUS) // (2 * actors), min(node.cpus for node in nodes) - 1)
    cpus_per_actor = 1 if gpus else max(1, share)
    return Allocation(
        actors=actors,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus,
        decoders=min(batch.decoders or cpus, max(1, cpus - actors * cpus_per_actor - 1)),
        clips=batch.most_rows or (CLIPS_ON_GPU if gpus else CLIPS_ON_CPU),
    )


def _init(ray: Any, address: str) -> None:
    """Starts Ray. A head that was just started, or is busy, may refuse a client at first, so a client tries again."""
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:  # whatever RAY_ADDRESS says, "local" starts a cluster of our own
        settings["include_dashboard"] = False
    for wait_s in (*_AGAIN_S, None):
        try:
            ray.init(**settings)
        except ConnectionAbortedError:
            if wait_s is None or not address.startswith(_CLIENT):
                raise
            time.sleep(wait_s)
        else:
            return


class _Lines(io.TextIOBase):
    """A stream that calls a function with each line."""

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report = report
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            self._report(_COLOUR.sub("", line))
        return len(text)


def _imported() -> Any:
    """Imports Ray with its usage reports and warnings switched off. Errors: UsageError if Ray isn't installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise UsageError("--ray needs Ray Data, which isn't installed: pip install 'vllava[ray]'.") from exc
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _check_reach(address: str) -> None:
    """Checks that a server listens at `address`; Ray would try for minutes. Errors: UsageError, ClusterError."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except ValueError as exc:
        raise UsageError(f"{address!r} is not the address of a cluster: give ray://HOST:10001 or HOST:6379.") from exc
    except OSError as exc:
        reason = exc.strerror or str(exc) or type(exc).__name__
        raise ClusterError(f"No Ray cluster answers at {address}: {reason}. Check it there with ray status.") from exc


def _reason(error: BaseException) -> str:
    """Returns the first line of an error; if a traceback of the server follows, its last line, too."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    sentence = f"{first} {others[-1].strip()}" if others and first.endswith(":") else first
    return sentence.rstrip(".:")


def _sentence(error: Exception) -> str:
    """Makes a sentence of an error that may hold a traceback from another machine."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    missing = next((line for line in lines if "ModuleNotFoundError" in line), None)
    if missing:
        return f"The cluster's machines lack something: {missing}. Install vllava[ray] on each of them."
    return f"The process that hands out rows ended: {lines[-1] if lines else type(error).__name__}"
