"""Answers many questions side by side: rows join a batch as others finish, and none is lost when memory runs out.

A clip goes through its tower once, and its part of the prompt through the model once, however many questions there are
about the clip. The batch is padded on the left; each row is one answer being made.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic

import torch

from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.answering import AnswerRequest, AnswerResult, K, NextRequests
from vllava_cli.engine.decode_batch import DecodeBatch, read_prefixes
from vllava_cli.engine.forward import embed, free_bytes, memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.sequence import Sequence, greedy
from vllava_cli.errors import MemoryShortError, OverflowedError, VllavaError
from vllava_cli.interrupt import NEVER, Cancel, CancelError
from vllava_cli.nouns import Fit, Frames

CPU_PASS_TOKENS = 2048
GPU_PASS_TOKENS = 8192
"""About how many tokens go through the model at once while prompts are read."""
MOST_ON_GPU = 64
MOST_ON_CPU = 32
"""With the demo model 32 rows take a third of the time of 8, and 48 no less than 32; see docs/batch.md."""
ANSWER_TOKENS = 128
"""Memory is kept free for answers of this length; if longer ones don't fit, fewer rows continue."""
SHARE = 0.7
"""The part of the free memory that is used: a row that joins is in memory twice for a moment, layer by layer."""


@dataclass(kw_only=True)
class BatchScheduler(Generic[K]):
    """Answers the requests of a source, at most `most_rows` at once; after a cancel, only those that were begun.

    If memory runs out, it answers fewer at once, and calls `on_shortage` with their number.
    """

    engine: Engine
    sampling: Sampling
    fit: Fit
    most_rows: int
    cancel: Cancel = NEVER
    on_shortage: Callable[[int], object] = str
    _rows: list[Sequence[K]] = field(default_factory=list)
    """The rows of the batch, in its order."""
    _batch: DecodeBatch | None = None
    _given: deque[AnswerRequest[K]] = field(default_factory=deque)
    """Requests that wait for a free row; a clip may have any number of questions."""
    _waiting: deque[Sequence[K]] = field(default_factory=deque)
    _prefixes: dict[Frames, KVCache] = field(default_factory=dict)
    """The shared beginning of the prompts about each medium, already read, while waiting rows may need it."""
    _ended: deque[AnswerResult[K]] = field(default_factory=deque)
    _in_pass: int = 0
    """The number of rows in the pass that runs, or that ran out of memory."""
    _is_over: bool = False
    _usual_rows: int = 0

    def __post_init__(self) -> None:
        self._usual_rows = self.most_rows
        self._banned = torch.tensor(self.engine.tokens.banned_ids, device=self.engine.model.device)

    def answers(self, source: NextRequests[K]) -> Iterator[AnswerResult[K]]:
        """Yields one result for each request, in the order in which they end; a fault in one affects no other."""
        while True:
            self._take(source)
            if self._rows or self._waiting:
                if fault := self._pass():
                    self._retreat(fault)
            elif self._is_over and not self._ended and not self._given:
                return
            while self._ended:
                yield self._ended.popleft()

    def _pass(self) -> MemoryShortError | None:
        """Takes in rows that wait and decodes a token for each row; returns an error if memory ran out.

        The returned error is a copy: the one that was raised would keep all tensors of the pass in memory.
        """
        try:
            with memory_faults(self.engine.plan.device, self.engine.plan):
                with suppress(CancelError):  # the rows wait on, and `_take` removes them
                    self._begin()
                self._advance()
        except MemoryShortError as exc:
            return MemoryShortError(*exc.args)
        return None

    def _take(self, source: NextRequests[K]) -> None:
        """Takes requests from the source for the free rows, once half of all rows are free; after a cancel, none."""
        if self.cancel.is_asked():
            self._is_over = True
            self._given.clear()
            self._waiting = deque(row for row in self._waiting if row.was_begun)
        free = self._free()
        while not self._is_over and self._queued() < free and len(self._ended) < self.most_rows:
            is_idle = not (self._rows or self._queued() or self._ended)
            given = source(free - self._queued(), is_waiting=is_idle)
            self._is_over = given is None
            for each in given or ():
                if isinstance(each, AnswerResult):
                    self._ended.append(each)
                else:
                    self._given.append(each)
            if not given:
                break
        while self._given and len(self._waiting) < free:
            self._put(self._given.popleft())

    def _queued(self) -> int:
        return len(self._waiting) + len(self._given)

    def _put(self, request: AnswerRequest[K]) -> None:
        conversation = Conversation(attached=(request.medium,), fit=self.fit)
        sampling = request.sampling(self.sampling)
        try:
            row = Sequence.of(request.key, self.engine.tokens, conversation, request.question, sampling)
        except VllavaError as exc:
            self._ended.append(AnswerResult(key=request.key, fault=exc))
        else:
            self._waiting.append(row)

    def _free(self) -> int:
        free = self.most_rows - len(self._rows)
        return free if 2 * free >= self.most_rows else 0

    def _begin(self) -> None:
        """Reads the prompts of rows that wait, as many as the batch has room for, and takes these rows in.

        Rows stay in the queue until their prompts have been read, so that a failure loses no row.
        """
        free = self._free()
        while free and self._waiting:
            rows = self._next(free)
            self._in_pass = len(self._rows) + len(rows)
            batch = self._read(rows)
            self._score(batch, rows)
            self._decode(batch, rows)
            free -= len(rows)
            wanted = {_medium(row) for row in self._waiting} | {each.medium for each in [*self._given][:1]}
            self._prefixes = {medium: prefix for medium, prefix in self._prefixes.items() if medium in wanted}

    def _next(self, free: int) -> list[Sequence[K]]:
        """Returns rows for one pass: the first waiting row, and others whose shared beginnings are equally long."""
        shared, longest = self._waiting[0].shared, 0
        rows: list[Sequence[K]] = []
        media: set[Frames] = set()
        for row in self._waiting:
            if row.shared != shared:
                continue
            media.add(_medium(row))
            longest = max(longest, len(row.prompt.ids) - shared)
            most = min(free, rows_at_once(self.engine.llama, longest))
            if rows and (len(rows) >= most or len(media) > rows_at_once(self.engine.llama, shared)):
                break
            rows.append(row)
        return rows

    def _read(self, rows: list[Sequence[K]]) -> DecodeBatch:
        """Reads the prompts of rows into a new batch. Errors: CancelError, unless one of the rows had begun before."""
        engine, shared = self.engine, rows[0].shared
        cancel = NEVER if any(row.was_begun for row in rows) else self.cancel
        self._recall(rows)
        first = {_medium(row): row for row in reversed(rows) if _medium(row) not in self._prefixes}
        for row in rows:
            row.begin(is_first_of_medium=first.get(_medium(row)) is row)
        if first:
            began_s = time.perf_counter()
            features = engine.vision.all_features(tuple(first), self.fit, cancel)
            embeddings = [
                embed(engine.llama, row.prompt.ids[:shared], {medium.kind: each}, engine.tokens)
                for (medium, row), each in zip(first.items(), features, strict=True)
            ]
            self._prefixes |= zip(first, read_prefixes(engine.llama, embeddings, cancel), strict=True)
            self._keep(first.values(), (time.perf_counter() - began_s) / len(first), cancel)
        prefixes = [self._prefixes[_medium(row)] for row in rows]
        return DecodeBatch.of(engine.llama, prefixes, [row.prompt.ids[shared:] for row in rows], cancel)

    def _recall(self, rows: list[Sequence[K]]) -> None:
        """Takes the beginnings of prompts that an earlier process read from the clip cache."""
        for row in rows if self.engine.clips else ():
            medium = _medium(row)
            if self.engine.clips and medium not in self._prefixes and (found := self.engine.clips.find(row.beginning)):
                self._prefixes[medium] = prefix = KVCache(len(self.engine.llama.blocks))
                for layer, (keys, values) in zip(prefix.layers, found, strict=True):
                    layer.put(keys.to(self.engine.llama.device), values.to(self.engine.llama.device))

    def _keep(self, rows: Iterable[Sequence[K]], made_s: float, cancel: Cancel) -> None:
        """Writes beginnings that were just read to the clip cache, where it has room: a batch may have any number."""
        for row in rows if self.engine.clips else ():
            with suppress(CancelError):
                if self.engine.clips:
                    prefix = self._prefixes[_medium(row)]
                    self.engine.clips.keep(row.beginning, prefix, made_s, cancel=cancel, drops_others=False)

    def _score(self, batch: DecodeBatch, rows: list[Sequence[K]]) -> None:
        """Scores the choices of rows whose prompts were just read, and ends these rows: they decode nothing."""
        if not any(row.options for row in rows):
            return
        scores = self.engine.score(batch.cache, batch.is_used, batch.logits, rows, NEVER)
        self._unqueue(row for row in rows if row.options)
        for row, probabilities in zip(rows, scores, strict=True):
            if not row.options:
                continue
            try:
                row.choose(probabilities)
                self._end(row)
            except OverflowedError as exc:
                self._end(row, exc)

    def _decode(self, batch: DecodeBatch, rows: list[Sequence[K]]) -> None:
        """Lets the rows without choices, whose prompts were just read, be decoded with those of the batch."""
        staying = [number for number, row in enumerate(rows) if not row.options]
        if not staying:
            return
        if len(staying) < len(rows):
            batch.leave(staying)
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)
        new = [rows[number] for number in staying]
        self._rows = self._rows + new
        self._unqueue(new)

    def _unqueue(self, rows: Iterable[Sequence[K]]) -> None:
        taken = set(rows)
        self._waiting = deque(row for row in self._waiting if row not in taken)

    def _advance(self) -> None:
        """Decodes one token for each row; rows that end with it leave the batch."""
        if self._batch is None:
            return
        batch, rows = self._batch, self._rows
        self._in_pass = len(rows)
        if self.sampling.temperature:
            chosen = [int(row.pick(logits)) for row, logits in zip(rows, batch.logits, strict=True)]
        else:
            chosen = greedy(batch.logits, self._banned)
        self._rows, staying = [], list[int]()
        for number, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            try:
                stop = row.push(token)
            except OverflowedError as exc:
                self._end(row, exc)
                continue
            if stop:
                row.text.rest()
                self._end(row)
            else:
                staying.append(number)
                self._rows.append(row)
        if not staying:
            self._batch = None
            return
        if len(staying) < len(rows):
            batch.leave(staying)
        batch.step([row.ids[-1] for row in self._rows])

    def _end(self, row: Sequence[K], fault: VllavaError | None = None) -> None:
        """Adds the result of a row that left: its answer, or the fault."""
        answer = None if fault else row.answer()
        since_s = time.perf_counter() - row.started_s
        seconds = answer.stats.first_token_s + answer.stats.decode_s if answer else since_s
        self._ended.append(AnswerResult(key=row.key, answer=answer, fault=fault, seconds=seconds))

    def _retreat(self, fault: MemoryShortError) -> None:
        """Begins all rows anew, half as many at once, after memory ran out.

        A row that was alone when memory ran out is too large: it fails, and the others run at the usual batch size.
        """
        self._waiting.extendleft(row.again() for row in reversed(self._rows))
        self._batch, self._rows, self._prefixes = None, [], {}
        before = self.most_rows
        if self._in_pass > 1:
            self.most_rows = self._in_pass // 2
        else:
            self._end(self._waiting.popleft(), fault)
            self.most_rows = self._usual_rows
        if self.most_rows != before:
            self.on_shortage(self.most_rows)
        if self.engine.model.device.type == "cuda":
            torch.cuda.empty_cache()


def rows_at_once(llama: Llama, length: int) -> int:
    """Returns how many rows of `length` tokens are read in one pass."""
    return max(1, (CPU_PASS_TOKENS if llama.device.type == "cpu" else GPU_PASS_TOKENS) // length)


def rows_that_fit(engine: Engine, sampling: Sampling, *, question_characters: int) -> int:
    """Returns how many rows fit into the free memory, at least 1.

    `question_characters` is the length of the longest question.
    """
    checkpoint, device = engine.tokens.checkpoint, engine.model.device
    media = max(checkpoint.tokens_per_video, checkpoint.tokens_per_image)
    text = question_characters + min(sampling.max_new_tokens, ANSWER_TOKENS)  # a token for each letter at most
    tokens = min(media + text, engine.tokens.context_tokens)
    row_bytes = checkpoint.cache_values_per_token * tokens * engine.model.dtype.itemsize
    return rows_in(free_bytes(str(device)), row_bytes, most=MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU)


def rows_in(free: int, row_bytes: int, *, most: int) -> int:
    """Counts the rows that fit into a share of free bytes: rows_in(10, 2, most=64) → 3; rows_in(0, 2, most=64) → 1."""
    return max(1, min(most, int(free * SHARE) // max(1, row_bytes)))


def _medium(row: Sequence[K]) -> Frames:
    return row.prompt.media[0]
