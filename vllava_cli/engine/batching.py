"""Many questions answered side by side: rows are taken in as others finish, and none is lost when memory runs out.

A clip goes through its tower once and its part of the prompt through the model once, however many questions there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol

import torch

from vllava_cli.engine.cancel import CancelError, never
from vllava_cli.engine.decode_batch import Crowd, Prefix, gathered, read_prefixes, rows_at_once
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.row import Finished, K, Query, Row
from vllava_cli.engine.sampler import greedy
from vllava_cli.engine.scoring import log_likelihoods, probabilities
from vllava_cli.errors import MemoryShortError, VllavaError
from vllava_cli.nouns import Fit, Frames, Sampling

__all__ = ["Batching", "Finished", "Query", "Source"]


class Source(Protocol[K]):
    """Gives queries, about `most`, all those about one medium together; [] where none is ready, None at the end.

    What can't become a query is given as finished already.
    """

    def __call__(self, most: int, *, is_waiting: bool) -> Sequence[Query[K] | Finished[K]] | None: ...


def _nothing(_rows: int) -> None:
    pass


@dataclass(kw_only=True)
class Batching(Generic[K]):
    """Answers what a source gives, at most `most_rows` at once; once `is_stopping`, only what was begun.

    `on_shortage` is told how many rows there will be at once after memory ran out.
    """

    engine: Engine
    sampling: Sampling
    fit: Fit
    most_rows: int
    is_stopping: Callable[[], bool] = never
    on_shortage: Callable[[int], None] = _nothing
    _rows: list[Row[K]] = field(default_factory=list)
    """Those in the crowd, in its order."""
    _crowd: Crowd | None = None
    _given: deque[Query[K]] = field(default_factory=deque)
    """What the source gave beyond the rows that are free; a clip may have any number of questions."""
    _waiting: deque[Row[K]] = field(default_factory=deque)
    _prefixes: dict[Frames, Prefix] = field(default_factory=dict)
    """Of the media that rows wait for or that were just read."""
    _ended: deque[Finished[K]] = field(default_factory=deque)
    _in_hand: int = 0
    """How many rows the pass has that runs, or that ran out of memory."""
    _is_over: bool = False
    _usual_rows: int = 0

    def __post_init__(self) -> None:
        self._usual_rows = self.most_rows
        self._banned = torch.tensor(self.engine.tokens.banned_ids, device=self.engine.model.device)

    def answers(self, source: Source[K]) -> Iterator[Finished[K]]:
        """Every query comes back once, in the order in which they end; what fails in one concerns no other."""
        while True:
            self._take(source)
            if self._rows or self._waiting:
                fault = self._pass()
                if fault:
                    self._retreat(fault)
            elif self._is_over and not self._ended and not self._given:
                return
            while self._ended:
                yield self._ended.popleft()

    def _pass(self) -> MemoryShortError | None:
        """Takes in what waits and decodes a token for each row.

        Where memory runs out the sentence alone is given: the error itself would hold all that the pass had made.
        """
        try:
            with memory_faults(self.engine.plan.device, self.engine.plan):
                with suppress(CancelError):  # the rows wait on, and leave when it is seen that the run stops
                    self._begin()
                self._advance()
        except MemoryShortError as exc:
            return MemoryShortError(*exc.args)
        return None

    def _take(self, source: Source[K]) -> None:
        """Lets queries wait for the rows that are free, once these are half of all."""
        if self.is_stopping():
            self._is_over = True
            self._given.clear()
            self._waiting = deque(row for row in self._waiting if row.was_begun)
        free = self._free()
        while not self._is_over and self._queued() < free and len(self._ended) < self.most_rows:
            is_idle = not (self._rows or self._queued() or self._ended)
            given = source(free - self._queued(), is_waiting=is_idle)
            self._is_over = given is None
            for each in given or ():
                if isinstance(each, Finished):
                    self._ended.append(each)
                else:
                    self._given.append(each)
            if not given:
                break
        while self._given and len(self._waiting) < free:
            self._put(self._given.popleft())

    def _queued(self) -> int:
        return len(self._waiting) + len(self._given)

    def _put(self, query: Query[K]) -> None:
        try:
            self._waiting.append(Row.of(query, self.engine.tokens, self.sampling, self.fit))
        except VllavaError as exc:
            self._ended.append(Finished(key=query.key, fault=exc))

    def _free(self) -> int:
        free = self.most_rows - len(self._rows)
        return free if 2 * free >= self.most_rows else 0

    def _begin(self) -> None:
        """Takes in what waits and has room. Rows stay waiting until they are in, so that a failure loses none."""
        free = self._free()
        while free and self._waiting:
            rows = self._next(free)
            self._in_hand = len(self._rows) + len(rows)
            crowd = self._read(rows)
            if self.sampling.choices:
                self._ended += self._scored(crowd, rows)
            else:
                self._join(crowd, rows)
            taken = set(rows)
            self._waiting = deque(row for row in self._waiting if row not in taken)
            free -= len(rows)
            wanted = {query.medium for query in [row.query for row in self._waiting] + [*self._given][:1]}
            self._prefixes = {medium: prefix for medium, prefix in self._prefixes.items() if medium in wanted}

    def _next(self, free: int) -> list[Row[K]]:
        """The first row that waits, and others with equally long beginnings, no more than are read at once."""
        shared, longest = self._waiting[0].shared, 0
        rows: list[Row[K]] = []
        media: set[Frames] = set()
        for row in self._waiting:
            if row.shared != shared:
                continue
            media.add(row.query.medium)
            longest = max(longest, len(row.prompt) - shared)
            most = min(free, rows_at_once(self.engine.llama, longest))
            if rows and (len(rows) >= most or len(media) > rows_at_once(self.engine.llama, shared)):
                break
            rows.append(row)
        return rows

    def _read(self, rows: list[Row[K]]) -> Crowd:
        """Reads their prompts. Errors: CancelError where the run stops and none of them had been begun."""
        is_asked = never if any(row.was_begun for row in rows) else self.is_stopping
        with self.engine.llama.cancel.asking(is_asked):
            return self._read_whole(rows)

    def _read_whole(self, rows: list[Row[K]]) -> Crowd:
        engine = self.engine
        first = {row.query.medium: row for row in reversed(rows) if row.query.medium not in self._prefixes}
        for row in rows:
            row.begin(is_first_of_medium=first.get(row.query.medium) is row)
        if first:
            seen = zip(first.items(), engine.sight.all_features(tuple(first), self.fit), strict=True)
            prompts = [(row.prompt[: row.shared], {medium.kind: each}) for (medium, row), each in seen]
            self._prefixes |= zip(first, read_prefixes(engine.llama, prompts, engine.tokens), strict=True)
        return gathered(engine.llama, [(self._prefixes[row.query.medium], row.prompt) for row in rows])

    def _join(self, crowd: Crowd, rows: list[Row[K]]) -> None:
        if self._crowd is None:
            self._crowd = crowd
        else:
            self._crowd.join(crowd)
        self._rows += rows

    def _scored(self, crowd: Crowd, rows: list[Row[K]]) -> list[Finished[K]]:
        """Rows that choose among the same answers are done as soon as their prompts are read."""
        engine, options = self.engine, rows[0].options
        scores = log_likelihoods(engine.llama, crowd.cache, crowd.is_held, crowd.logits, options)
        blank = None
        if self.sampling.is_calibrated:
            said = [engine.blank.scores(row.prompt, options, is_interrupted=never) for row in rows]
            blank = torch.stack([each for each in said if each is not None])
        return [row.chosen(tuple(each)) for row, each in zip(rows, probabilities(scores, blank).tolist(), strict=True)]

    def _advance(self) -> None:
        """One token for each row; those that end with it leave."""
        if self._crowd is None:
            return
        crowd, rows = self._crowd, self._rows
        self._in_hand = len(rows)
        chosen = self._chosen(crowd, rows)
        self._rows, staying = [], list[int]()
        for number, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            if finished := row.take(token):
                self._ended.append(finished)
            else:
                staying.append(number)
                self._rows.append(row)
        if not staying:
            self._crowd = None
            return
        if len(staying) < len(rows):
            crowd.leave(staying)
        crowd.step([row.ids[-1] for row in self._rows])

    def _chosen(self, crowd: Crowd, rows: list[Row[K]]) -> list[int]:
        if self.sampling.temperature:
            return [row.choose(logits) for row, logits in zip(rows, crowd.logits, strict=True)]
        return greedy(crowd.logits, self._banned)

    def _retreat(self, fault: MemoryShortError) -> None:
        """Begins all rows anew, half as many at once.

        A row that was alone already has failed: it was too large, not the others too many, so these go on as before it.
        """
        self._waiting.extendleft(row.again() for row in reversed(self._rows))
        self._crowd, self._rows, self._prefixes = None, [], {}
        before = self.most_rows
        if self._in_hand > 1:
            self.most_rows = self._in_hand // 2
        else:
            self._ended.append(self._waiting.popleft().failed(fault))
            self.most_rows = self._usual_rows
        if self.most_rows != before:
            self.on_shortage(self.most_rows)
        if self.engine.model.device.type == "cuda":
            torch.cuda.empty_cache()
