"""The contract of the executors that answer clips' jobs: in this process, in a process for each device, or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vllava_cli.batch.jobs import ClipJobs
from vllava_cli.batch.rows import Result
from vllava_cli.interrupt import never


@dataclass(kw_only=True)
class Counters:
    """The counts of one engine, or the sums of several engines."""

    clips: int = 0
    new_tokens: int = 0
    decode_s: float = 0.0
    """Summed over the processes that decode."""
    idle_s: float = 0.0
    """How long the engine waited while no frames were ready."""
    load_s: float = 0.0
    tower_calls: int = 0
    rows_at_once: int = 0
    used_bytes: int | None = None
    """The GPU memory of this process."""

    def add(self, other: Counters) -> None:
        """Adds the counts of another engine; `load_s` becomes the longer one, as engines load at the same time."""
        load_s = max(self.load_s, other.load_s)
        for name, count in vars(other).items():
            if count is not None:
                setattr(self, name, (getattr(self, name) or 0) + count)
        self.load_s = load_s


@dataclass(kw_only=True)
class RunControl:
    """The connection between a run and its executor: whether to stop, where messages go, and what was counted."""

    is_stopping: Callable[[], bool] = never
    """Returns True if no further job may be begun."""
    is_wanted: Callable[[ClipJobs], bool] = lambda _: True
    """Returns False if the results about a clip aren't needed any more."""
    notice: Callable[[str], object] = str
    detail: Callable[[str], object] = str
    on_ready: Callable[[], object] = never
    """Called when the first engine is loaded."""
    on_pause: Callable[[], object] = never
    """Called when no further result waits: the results so far can be written together."""
    counters: Counters = field(default_factory=Counters)
    engines: int = 1
    decoders: int = 0
    waiting_for: str = "loading the model"
    """Shown until the first engine is ready."""


class Executor(Protocol):
    """Answers jobs. `tests/batch/executors/test_contract.py` checks this contract for every executor."""

    def outcomes(self, clip_jobs: Sequence[ClipJobs], /) -> Generator[Result, None, None]:
        """Yields one result for each job, in the order in which the jobs end; fewer if the run is stopped.

        A fault of a clip or a question becomes a result. Errors: VllavaError if no engine can be loaded.
        """
        ...
