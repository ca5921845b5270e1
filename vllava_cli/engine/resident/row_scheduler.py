"""Makes answers side by side: a turn reads a piece of the prompts that wait, and then decodes a token for each row.

Rows join as soon as their prompts have been read, and leave when they end. So neither a long prompt nor many of them
stop the rows that decode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from vllava_cli.answers import Answer
from vllava_cli.engine.batch import ANSWER_TOKENS, rows_at_once
from vllava_cli.engine.decode_batch import DecodeBatch
from vllava_cli.engine.forward import CHUNK_TOKENS, SMALL_CHUNK_TOKENS, embed, free, memory_faults
from vllava_cli.engine.generate import Engine, peak_bytes_of
from vllava_cli.engine.kv_cache import HeldIds, LayerStates, Prompt
from vllava_cli.engine.resident.answer_events import RunningAnswer, fault_of
from vllava_cli.engine.resident.answer_row import AnswerRow, ReadTarget
from vllava_cli.engine.resident.prefix_store import PrefixKeys, PrefixStore, keys_of, part_of
from vllava_cli.engine.scoring import blank_frames, log_likelihoods, probabilities, weight
from vllava_cli.engine.sequence import Sequence as Answering
from vllava_cli.engine.sequence import greedy
from vllava_cli.errors import MemoryShortError, ServerError, VllavaError
from vllava_cli.interrupt import Cancel, CancelError
from vllava_cli.media.pixels import PixelDigests
from vllava_cli.nouns import Fit, Frames, MediaKind

CPU_PIECE_TOKENS = 512
GPU_PIECE_TOKENS = 2048
"""The most tokens of prompts that are read between two tokens of the answers that are being made."""
MOST_LOOKED_AT = 64
"""The waiting rows of which some are read together."""
RECOVERY_ANSWERS = 8
"""After memory ran out, a further row is allowed for so many answers that ended."""
Pieces = Generator[None, None, None]


@dataclass(kw_only=True)
class Reading:
    """Prompts, or their beginnings, that are being read."""

    rows: list[AnswerRow]
    pieces: Pieces
    """Each `next` reads a piece."""
    takes_rows: bool
    """True if the rows then decode; False if only their beginnings are read, and the rows wait on."""


@dataclass(kw_only=True)
class RowScheduler:
    """The part of a resident engine that its own thread runs; `most_rows` answers are made at once."""

    engine: Engine
    most_rows: int
    row_bytes: int
    """The memory that the rows may take, as far as there is more than one."""
    store: PrefixStore
    begins: Callable[[RunningAnswer], bool]
    """Called before a row's prompt is read; returns False if its answer was cancelled."""
    ends: Callable[[RunningAnswer, Answer | None, Exception | None], object]
    """Called with the answer or the fault of a row that ended."""
    _waiting: deque[AnswerRow] = field(default_factory=deque)
    _rows: list[AnswerRow] = field(default_factory=list)
    """The rows of the batch, in its order."""
    _batch: DecodeBatch | None = None
    _reading: Reading | None = None
    _ended: int = 0
    _blank: dict[MediaKind, Frames] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._usual_rows = self.most_rows
        engine = self.engine
        self._banned = torch.tensor(engine.tokens.banned_ids, device=engine.model.device)
        self._digests = engine.clips.digests if engine.clips else PixelDigests(engine.tokens.checkpoint)
        self._piece_tokens = CPU_PIECE_TOKENS if engine.llama.device.type == "cpu" else GPU_PIECE_TOKENS
        is_small = engine.llama.device.type == "cpu" and not engine.llama.is_held
        self._idle_piece_tokens = SMALL_CHUNK_TOKENS if is_small else CHUNK_TOKENS

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting or self._rows or self._reading)

    def put(self, running: RunningAnswer, sequence: Answering[None]) -> None:
        """Adds an answer that is to be made."""
        target = self._target(sequence.prompt)
        self._waiting.append(AnswerRow(running=running, sequence=sequence, target=target))

    def turn(self) -> None:
        """Reads a piece of the prompts that wait, and decodes a token for each row."""
        self._sweep()
        self._guarded(self._read_piece, self._fail_reading)
        self._guarded(self._decode, self._fail_rows)

    def _guarded(self, work: Callable[[], object], fail: Callable[[VllavaError], object]) -> None:
        """Works, and turns what goes wrong into a fault of the rows in the pass."""
        fault: VllavaError
        try:
            with memory_faults(self.engine.plan.device, self.engine.plan):
                work()
            return
        except Exception as exc:
            fault = fault_of(exc)
        if isinstance(fault, MemoryShortError):
            self._retreat(fault)
            return
        if isinstance(fault, ServerError):
            self.engine.log.notice(f"vllava: {fault}")
        fail(fault)

    # Reading

    def _sweep(self) -> None:
        """Removes cancelled rows from those that wait."""
        waiting, self._waiting = self._waiting, deque()
        for row in waiting:
            if not row.is_cancelled:
                self._waiting.append(row)
            elif row.running.state != "ended":
                self._end(row)

    def _read_piece(self) -> None:
        if self._reading is None:
            self._reading = self._next_reading()
        if self._reading is None:
            return
        try:
            next(self._reading.pieces)
        except StopIteration:
            self._reading = None
        except CancelError:
            rows, self._reading = self._reading.rows if self._reading.takes_rows else [], None
            for row in rows:
                self._end(row)

    def _next_reading(self) -> Reading | None:
        """Chooses what to read next: a beginning that several rows need, or the prompts of rows that then decode."""
        free = self.most_rows - len(self._rows)
        if not self._waiting or free <= 0:
            return None
        first = self._waiting[0]
        if self._rows and not self._has_room(1, len(first.target.keys)):
            return None
        candidates = [*islice(self._waiting, MOST_LOOKED_AT)]
        for row in candidates:
            self._find(row)
        equal: dict[bytes | int, list[AnswerRow]] = {}
        for row in candidates:
            equal.setdefault(row.prompt_key, []).append(row)
        firsts = [rows[0] for rows in equal.values()]
        groups: dict[bytes, list[AnswerRow]] = {}
        for row in firsts:
            if row.lacks_beginning and not row.is_alone:
                groups.setdefault(row.beginning_key, []).append(row)
        shared = [rows for rows in groups.values() if len(rows) > 1]
        if any(first in rows for rows in shared):
            return self._beginnings(shared)
        late = {row for rows in shared for row in rows}
        rows = self._alike(first, [row for row in firsts[1:] if row not in late], free)
        rows = self._with_equals(rows, [row for each in rows for row in equal[each.prompt_key][1:]], free)
        taken = set(rows)
        self._waiting = deque(row for row in self._waiting if row not in taken)
        rows = [row for row in rows if self.begins(row.running)]
        return Reading(rows=rows, pieces=self._read_rows(rows), takes_rows=True) if rows else None

    def _beginnings(self, shared: list[list[AnswerRow]]) -> Reading:
        """Returns the reading of beginnings that several rows need, as many as are read in a pass."""
        some: list[list[AnswerRow]] = []
        longest = 0
        for rows in shared:
            longest = max(longest, rows[0].beginning - len(rows[0].target.held))
            if some and len(some) >= rows_at_once(self.engine.llama, longest):
                break
            some.append(rows)
        all_rows = [row for rows in some for row in rows]
        return Reading(rows=all_rows, pieces=self._read_beginnings(some), takes_rows=False)

    def _alike(self, first: AnswerRow, others: Sequence[AnswerRow], free_rows: int) -> list[AnswerRow]:
        """Returns rows to read together: the first, and others with which at most half of the pass is padding."""
        rows, total, longest, widest = [first], first.target.rest, first.target.rest, len(first.target.keys)
        for row in others if not first.is_alone else ():
            count, most = len(rows) + 1, max(longest, row.target.rest)
            if count > free_rows:
                break
            is_alike = row.scoring == first.scoring and not row.is_alone
            is_dense = count * most <= 2 * (total + row.target.rest) and count <= rows_at_once(self.engine.llama, most)
            if is_alike and is_dense and self._has_room(count, wide := max(widest, len(row.target.keys))):
                rows.append(row)
                total, longest, widest = total + row.target.rest, most, wide
        return rows

    def _with_equals(self, rows: list[AnswerRow], equals: Sequence[AnswerRow], free_rows: int) -> list[AnswerRow]:
        """Adds rows whose prompts are read by `rows`, as far as there is room."""
        width = max(len(row.target.keys) for row in rows)
        room = range(len(rows) + 1, free_rows + 1)
        return rows + [row for count, row in zip(room, equals, strict=False) if self._has_room(count, width)]

    def _has_room(self, count: int, width: int) -> bool:
        """Returns True if there is memory for so many more rows of this width: all are as wide as the widest."""
        columns = max(self._batch.is_used.shape[1] if self._batch else 0, width) + ANSWER_TOKENS
        token_bytes = self.engine.tokens.checkpoint.cache_values_per_token * self.engine.model.dtype.itemsize
        return bool((len(self._rows) + count) * columns * token_bytes <= self.row_bytes)

    def _find(self, row: AnswerRow) -> None:
        """Looks for the beginning of a row's prompt in the store, and once in the clip cache."""
        held = self.store.find(row.target.keys[:-1])
        if len(held) > len(row.target.held):
            row.target.held = held
        clips = self.engine.clips
        if clips and not row.was_recalled:
            row.was_recalled = True
            for beginning in clips.beginnings(row.sequence.prompt):
                if len(beginning.ids) <= len(row.target.held):
                    return
                if found := clips.find(beginning):
                    device = self.engine.llama.device
                    self._hold([row], [(keys.to(device), values.to(device)) for keys, values in found])
                    return

    def _hold(self, rows: Sequence[AnswerRow], states: LayerStates) -> None:
        """Gives rows the beginning that they share, and keeps it."""
        held = HeldIds(parts=[states])
        for row in rows:
            row.target.held = held
        keys = rows[0].target.keys[: len(held)]
        self.store.put(keys, lambda start, end: part_of(states, start, end))

    def _read_beginnings(self, groups: list[list[AnswerRow]]) -> Pieces:
        """Reads the beginning of each group's prompts, which the rows of a group share."""
        targets = [rows[0].target.until(rows[0].beginning) for rows in groups]
        rows = [row for group in groups for row in group]
        owners = [group[0] for group in groups]
        batch = yield from self._read(targets, owners, Cancel(lambda: all(row.is_cancelled for row in rows)))
        for number, (target, group) in enumerate(zip(targets, groups, strict=True)):
            group[0].reused = len(target.held)
            self._hold(group, batch.held(number, 0, len(target.keys)))

    def _read_rows(self, rows: list[AnswerRow]) -> Pieces:
        """Reads the prompts of rows, and takes the rows in, or scores their choices."""
        blanks = [self._blank_target(row) for row in rows] if rows[0].scoring == "calibrated" else []
        places: dict[bytes | int, int] = {}
        for row in rows:
            row.begin(is_read=row.prompt_key not in places)
            places.setdefault(row.prompt_key, len(places))
        numbers = [places[row.prompt_key] for row in rows]
        readers = [rows[numbers.index(place)] for place in range(len(places))]
        targets = [*(row.target for row in readers), *blanks]
        owners = [*readers, *(None for _ in blanks)]
        batch = yield from self._read(targets, owners, Cancel(lambda: all(row.is_cancelled for row in rows)))
        for number, target in enumerate(targets):
            self._remember(batch, number, target.keys[: readers[number % len(readers)].beginning])
        if rows[0].scoring:
            self._score(batch, rows, targets)
            return
        if len(readers) < len(rows):
            batch.leave(numbers)
        if self._batch is None:
            self._batch, self._rows = batch, rows
        else:
            self._batch.join(batch)
            self._rows = self._rows + rows

    def _read(
        self, targets: Sequence[ReadTarget], owners: Sequence[AnswerRow | None], cancel: Cancel
    ) -> Generator[None, None, DecodeBatch]:
        """Reads what isn't held of targets, piece by piece, and returns them as the rows of a batch."""
        engine = self.engine
        yield from self._look(targets, owners, cancel)
        embeddings = []
        for target in targets:
            start = len(target.held)
            features = engine.vision.rows(target.prompt, start, cancel)
            embeddings.append(embed(engine.llama, target.prompt.ids[start:], features, engine.tokens)[0])
        width = max(map(len, embeddings))
        with torch.inference_mode():
            inputs = embeddings[0].new_zeros((len(targets), width, embeddings[0].shape[1]))
            for row, each in zip(inputs, embeddings, strict=True):
                row[width - len(each) :] = each
        firsts = torch.tensor([[width - len(each)] for each in embeddings], device=inputs.device)
        are_real = torch.arange(width, device=inputs.device) >= firsts
        batch = DecodeBatch.after(engine.llama, [target.held for target in targets])
        start = 0
        while start < width:
            most = self._piece_tokens if self._rows else self._idle_piece_tokens
            end = start + max(1, most // len(targets))
            cancel.check()
            batch.feed(inputs[:, start:end], are_real[:, start:end], cancel)
            start = end
            if start < width:
                yield
        return batch

    def _look(self, targets: Sequence[ReadTarget], owners: Sequence[AnswerRow | None], cancel: Cancel) -> Pieces:
        """Computes the features of clips that must be read, some of them in each piece."""
        vision, tokens = self.engine.vision, self.engine.tokens
        new: list[tuple[Frames, Fit]] = []
        for target, owner in zip(targets, owners, strict=True):
            fit, starts = target.prompt.fit, tokens.media_starts(target.prompt.ids, target.prompt.media)
            for medium, start in zip(target.prompt.media, starts, strict=True):
                is_held = start + tokens.tokens_of(medium.kind) <= len(target.held)
                if is_held or (medium, fit) in new or vision.has(medium, fit):
                    continue
                new.append((medium, fit))
                if owner:
                    owner.sequence.tower_calls += 1
        while new:
            medium, fit = new[0]
            most = rows_at_once(self.engine.llama, tokens.tokens_of(medium.kind))
            some = [each for each in new if each[1] == fit][:most]
            vision.all_features([medium for medium, _ in some], fit, cancel)
            new = [each for each in new if each not in some]
            yield

    def _blank_target(self, row: AnswerRow) -> ReadTarget:
        """Returns the prompt of a row in which each clip is a blank one."""
        tokens, prompt = self.engine.tokens, row.sequence.prompt
        for kind in {medium.kind for medium in prompt.media} - set(self._blank):
            self._blank[kind] = blank_frames(kind, tokens)
        media = tuple(self._blank[medium.kind] for medium in prompt.media)
        target = self._target(Prompt(ids=prompt.ids, media=media))
        target.held = self.store.find(target.keys[:-1])
        return target

    def _target(self, prompt: Prompt) -> ReadTarget:
        return ReadTarget(prompt=prompt, keys=keys_of(prompt, self.engine.tokens, self._digests))

    def _remember(self, batch: DecodeBatch, number: int, keys: PrefixKeys) -> None:
        """Keeps what a row of a batch holds of the ids that these keys stand for."""
        self.store.put(keys, lambda start, end: batch.held(number, start, end))

    def _score(self, batch: DecodeBatch, rows: list[AnswerRow], targets: Sequence[ReadTarget]) -> None:
        """Scores the choices of rows whose prompts were just read, and ends the rows: they decode nothing."""
        options = [row.sequence.options for row in rows]
        options += options[: len(targets) - len(rows)]  # behind the rows are the same prompts with blank clips
        scores = log_likelihoods(self.engine.llama, batch.cache, batch.is_used, batch.logits, options)
        blanks = [weight(each, row.sequence.sampling) for row, each in zip(rows, scores[len(rows) :], strict=False)]
        found = probabilities(scores[: len(rows)], blanks)
        for row, chances in zip(rows, found, strict=True):
            if row.is_cancelled:
                self._end(row)
                continue
            try:
                row.sequence.choose(chances)
            except VllavaError as exc:
                self.ends(row.running, None, exc)
            else:
                self._end(row)
        for number, target in enumerate(targets):
            self._remember(batch, number, target.keys)

    # Decoding

    def _decode(self) -> None:
        """Decodes one token for each row; rows that end with it, or were cancelled, leave the batch."""
        batch, rows = self._batch, self._rows
        if batch is None:
            return
        staying, leaving = list[int](), list[int]()
        for number, (row, token) in enumerate(zip(rows, self._picked(batch, rows), strict=True)):
            try:
                is_over = row.is_cancelled or row.push(token, batch.logits[number])
            except VllavaError as exc:
                self.ends(row.running, None, exc)
                continue
            (leaving if is_over else staying).append(number)
            if is_over:
                self._end(row)
        for number in leaving:
            self._remember_answer(batch, number, rows[number])
        self._rows = [rows[number] for number in staying]
        if not staying:
            self._batch = None
            return
        if len(staying) < len(rows):
            batch.leave(staying)
        batch.step([row.sequence.ids[-1] for row in self._rows])

    def _picked(self, batch: DecodeBatch, rows: list[AnswerRow]) -> list[int]:
        """Chooses the next id of each row, by its own sampling."""
        chosen = greedy(batch.logits, self._banned)
        for number, row in enumerate(rows):
            if row.sequence.sampling.temperature:
                if row.drawn is None:
                    row.drawn = int(row.sequence.pick(batch.logits[number]))
                chosen[number] = row.drawn
        return chosen

    def _remember_answer(self, batch: DecodeBatch, number: int, row: AnswerRow) -> None:
        """Keeps the whole row, for a question that follows it. Its last id was perhaps not read."""
        read = int(batch.is_used[number].sum())
        prompt_keys = row.target.keys[: len(row.sequence.prompt.ids)]
        keys = np.concatenate([prompt_keys, np.array(row.sequence.ids, dtype=np.int64)])[:read]
        self._remember(batch, number, keys)

    # Ends

    def _end(self, row: AnswerRow) -> None:
        self.ends(row.running, row.finish(peak_bytes_of(self.engine.model.device)), None)
        self._ended += 1
        if self.most_rows < self._usual_rows and self._ended % RECOVERY_ANSWERS == 0:
            self.most_rows += 1

    def _fail_reading(self, fault: VllavaError) -> None:
        """Ends the row whose prompt couldn't be read; if there were several, each is read again by itself."""
        reading, self._reading = self._reading, None
        rows = [row for row in reading.rows if row.running.state != "ended"] if reading else []
        if len(rows) == 1 and reading and reading.takes_rows:
            self.ends(rows[0].running, None, fault)
            return
        for row in rows:
            row.is_alone = True
        if reading and reading.takes_rows:
            self._waiting.extendleft(reversed(rows))

    def _fail_rows(self, fault: VllavaError) -> None:
        rows, self._batch, self._rows = self._rows, None, []
        for row in rows:
            self.ends(row.running, None, fault)

    def _retreat(self, fault: MemoryShortError) -> None:
        """Reads all rows anew, half as many at once, after memory ran out; each answer goes on from its last id.

        A row that was alone when memory ran out is too large: at the second time it fails.
        """
        reading, self._reading = self._reading, None
        own = reading.rows if reading and reading.takes_rows else []
        rows = [row for row in [*self._rows, *own] if row.running.state != "ended"]
        self._batch, self._rows = None, []
        self.store.clear()
        if len(rows) > 1:
            self.most_rows = len(rows) // 2
        elif reading and not reading.takes_rows:
            for row in reading.rows:
                row.is_alone = True
        elif rows and rows[0].is_short:
            self.ends(rows.pop().running, None, fault)
            self.most_rows = self._usual_rows
        elif rows:
            rows[0].is_short = True
        self._waiting.extendleft(reversed(rows))
        for row in self._waiting:
            row.requeue()
        free(str(self.engine.llama.device))
