"""The protocols of an engine, be it in this process or behind a server; torch isn't imported here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.nouns import Fit, Frames, LoadPlan
from vllava_cli.times import Activity

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRequest(Generic[K]):
    """One question about one medium; the caller chooses `key`, and the result has it, too."""

    key: K
    medium: Frames
    question: str
    seed: int | None = None
    """The seed to use if the sampling has none."""
    choices: tuple[str, ...] = ()
    """The choices of this request alone; if it has none, those of the sampling."""

    def sampling(self, shared: Sampling) -> Sampling:
        """Returns the sampling of this request, in a batch whose requests share `shared`."""
        seed = self.seed if shared.seed is None else shared.seed
        return replace(shared, seed=seed, choices=self.choices or shared.choices)


@dataclass(frozen=True, kw_only=True)
class AnswerResult(Generic[K]):
    """The answer to a request, or the fault that prevented it; `seconds` is the time since its prompt was begun."""

    key: K
    answer: Answer | None = None
    fault: Exception | None = None
    seconds: float = 0.0


class NextRequests(Protocol[K]):
    """Gives about `most` requests, all those about one medium together; [] if none is ready, None at the end.

    With `is_waiting`, it waits until one is ready. A request that can't be made is replaced by a result with the fault.
    """

    def __call__(self, most: int, *, is_waiting: bool) -> Sequence[AnswerRequest[K] | AnswerResult[K]] | None: ...


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The settings that all requests of a batch share."""

    sampling: Sampling
    fit: Fit
    most_rows: int
    """The most answers that are made at once."""
    cancel: Cancel = NEVER
    """Ends the batch once the answers that were begun have ended."""
    on_shortage: Callable[[int], object] = str
    """Called with the number of answers that are made at once from now on, when memory ran out."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """The parts of an answer's provenance that only the process with the weights knows."""

    quantisation: str | None
    versions: tuple[tuple[str, str], ...]
    """Pairs of a library and its release."""


class AskEngine(Protocol):
    """The part of an engine that streams one answer, and tells how it was made, for `vllava ask`."""

    @property
    def tokens(self) -> Tokens: ...
    @property
    def plan(self) -> LoadPlan: ...
    @property
    def activity(self) -> Activity: ...
    @property
    def maker(self) -> Maker | None:
        """The provenance of answers that another process makes; None if this one makes them."""
        ...

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]: ...

    def keep_clips(self, cancel: Cancel = NEVER) -> None: ...


class AnswerEngine(AskEngine, Protocol):
    """Answers questions about media: `Engine` in this process, `RemoteEngine` by a server."""

    @property
    def tower_calls(self) -> int:
        """The number of media that went through a vision tower for this process."""
        ...

    @property
    def used_bytes(self) -> int | None:
        """The memory that this process has reserved on a GPU; None if it uses none."""
        ...

    def make_room(self, conversation: Conversation, question: str, sampling: Sampling) -> range: ...

    def reading_of(self, conversation: Conversation, chunk_tokens: int) -> Callable[[Cancel], object] | None:
        """Returns the work that reads the next prompt before its question is known; None if nothing is left to read."""
        ...

    def rows_that_fit(self, sampling: Sampling, *, question_characters: int) -> int:
        """Returns how many answers can be made at once, at least 1."""
        ...

    def answers(self, source: NextRequests[K], batching: Batching) -> Iterator[AnswerResult[K]]:
        """Yields one result for each request, in the order in which they end; a fault in one affects no other."""
        ...
