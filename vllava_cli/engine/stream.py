"""The engine: a generator that prefills a question, decodes an answer and yields it in pieces. It never prints.

Time to first token is the time to the first `next()`; interruption, length and loops all end the same stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.choose import Chooser
from vllava_cli.engine.context import make_room
from vllava_cli.engine.forward import embed, memory_faults, prefill, step
from vllava_cli.engine.memory import Memory
from vllava_cli.engine.repetition import is_looping
from vllava_cli.engine.sight import Sight
from vllava_cli.engine.tokens import GrowingText, Tokens
from vllava_cli.nouns import Conversation, Fit, Frames, LoadPlan, MediaKind, Piece, Sampling, Stats, StopReason, Turn

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A prompt, or the beginning of one, with the media that it has placeholders for."""

    ids: tuple[int, ...]
    media: tuple[Frames, ...]
    fit: Fit


def never() -> bool:
    return False


@dataclass(kw_only=True)
class Engine:
    """A loaded model with the KV cache of the conversation that it answered last, and what it has seen."""

    model: VideoLlavaForConditionalGeneration
    tokens: Tokens
    plan: LoadPlan
    memory: Memory | None = None

    def __post_init__(self) -> None:
        self.sight = Sight(model=self.model, tokens=self.tokens)

    def stream(
        self,
        conversation: Conversation,
        question: str,
        sampling: Sampling,
        *,
        is_interrupted: Callable[[], bool] = never,
    ) -> Generator[Piece, None, None]:
        """Yields an answer as it is decoded; the last piece has the stop reason and the stats.

        `is_interrupted` is asked before clips are looked at, each chunk of prefill and each token. When the stream
        ends, by whatever but an error, the turn so far is added to the conversation. Errors: UsageError, ContextError,
        MemoryShortError.
        """
        run = _Run(
            engine=self,
            conversation=conversation,
            question=question,
            sampling=sampling,
            is_interrupted=is_interrupted,
        )
        try:
            yield from run.pieces()
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            run.keep()
            raise

    def make_room(self, conversation: Conversation, question: str, sampling: Sampling) -> range:
        """As `context.make_room`."""
        return make_room(self.tokens, conversation, question, sampling)

    def read(
        self, shown: Shown, *, is_interrupted: Callable[[], bool] = never, chunk_tokens: int | None = None
    ) -> tuple[int, torch.Tensor | None]:
        """Brings the cache to hold all ids of a prompt, prefilling only what it lacks; clips are looked at once.

        Returns how many ids it held, and the logits [vocabulary] behind the last; None where it was interrupted: then
        what was read stays in the cache. Errors: MemoryShortError; whatever breaks a pass off costs the cache.
        """
        with self.passes():
            reused = self._cut_memory(shown)
            if is_interrupted() or self.memory is None:
                return reused, None
            skipped: dict[MediaKind, int] = {
                "video": shown.ids[:reused].count(self.tokens.video_id),
                "image": shown.ids[:reused].count(self.tokens.image_id),
            }
            rows = self.sight.rows(shown.media, shown.fit, skipped=skipped)
            new = shown.ids[reused:]
            embeddings = embed(self.model, list(new), rows, self.tokens)
            fed, logits = prefill(
                self.model, embeddings, self.memory.cache, is_interrupted=is_interrupted, chunk_tokens=chunk_tokens
            )
            self.memory.ids.extend(new[:fed])
            return reused, logits

    def has_read(self, shown: Shown) -> bool:
        """Whether the cache holds all of these ids, but for the last one perhaps."""
        if self.memory is None:
            return False
        starts = self.tokens.media_starts(shown.ids, shown.media)
        return self.memory.covers(shown.ids, shown.media, starts, fit=shown.fit) >= len(shown.ids) - 1

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Runs passes; whatever breaks one off leaves the cache's layers uneven, so the cache is dropped."""
        try:
            with memory_faults(self.plan.device):
                yield
        except BaseException:
            self.memory = None
            raise

    def _cut_memory(self, shown: Shown) -> int:
        """Cuts the memory back to what a prompt shares with it, or makes a new one; returns how many ids are shared."""
        from transformers import DynamicCache

        reused = 0
        if self.memory:
            starts = self.tokens.media_starts(shown.ids, shown.media)
            reused = self.memory.covers(shown.ids, shown.media, starts, fit=shown.fit)
        if self.memory is None or not reused:
            self.memory = Memory(cache=DynamicCache())
        self.memory.crop(reused)
        self.memory.media, self.memory.fit = shown.media, shown.fit
        return reused


@dataclass(kw_only=True)
class _Run:
    """One answer on its way."""

    engine: Engine
    conversation: Conversation
    question: str
    sampling: Sampling
    is_interrupted: Callable[[], bool]
    reused: int = 0
    stop: StopReason = "interrupted"
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None

    is_kept: bool = False

    def __post_init__(self) -> None:
        self.ids = self.engine.tokens.prompt_ids(self.conversation, self.question)
        self.text = GrowingText(tokens=self.engine.tokens, holds_stray=self.sampling.has_guard)
        self.calls_before = self.engine.sight.calls

    def pieces(self) -> Iterator[Piece]:
        logits = self._prefill()
        chooser = Chooser(self.sampling, self.engine.tokens.banned_ids, self.engine.model.device)
        while logits is not None:
            token = chooser.choose(logits)
            self.first_s = self.first_s or time.perf_counter()
            if token in self.engine.tokens.stop_ids:
                self.stop = "end"
                break
            if new := self.text.push(token):
                yield Piece(text=new)
            if stop := self._stop():
                self.stop = stop
                break
            logits = self._step()
        rest = self.text.rest()
        if self.sampling.has_guard and self.text.has_stray:
            self.stop = "repetition"
        yield Piece(text=rest, stop_reason=self.stop, stats=self.keep())

    def keep(self) -> Stats:
        """Adds the turn to the conversation, once."""
        stats = self._stats()
        if self.is_kept:
            return stats
        self.is_kept = True
        turn = Turn(
            question=self.question,
            answer=self.text.text,
            answer_ids=tuple(self.text.ids),
            media=self.conversation.attached,
            stop_reason=self.stop,
            sampling=self.sampling,
            stats=stats,
        )
        self.conversation.turns.append(turn)
        self.conversation.attached = ()
        return stats

    def _stop(self) -> StopReason | None:
        new = len(self.text.ids)
        if self.sampling.has_guard and (self.text.has_stray or is_looping(self.text.ids)):
            return "repetition"
        if new >= self.sampling.max_new_tokens:
            return "length"
        if len(self.ids) + new >= self.engine.tokens.context_tokens:
            return "context"
        return "interrupted" if self.is_interrupted() else None

    def _prefill(self) -> torch.Tensor | None:
        conversation = self.conversation
        shown = Shown(ids=tuple(self.ids), media=conversation.media, fit=conversation.fit)
        self.reused, logits = self.engine.read(shown, is_interrupted=self.is_interrupted)
        return logits

    def _step(self) -> torch.Tensor:
        memory = self.engine.memory
        if memory is None:
            raise RuntimeError("a step of decoding without a prefill")
        token = self.text.ids[-1]
        with self.engine.passes():
            logits = step(self.engine.model, token, memory.cache)
        memory.ids.append(token)
        return logits

    def _stats(self) -> Stats:
        now = time.perf_counter()
        first = self.first_s or now
        return Stats(
            prompt_tokens=len(self.ids),
            reused_tokens=self.reused,
            new_tokens=len(self.text.ids),
            tower_calls=self.engine.sight.calls - self.calls_before,
            first_token_s=first - self.started_s,
            decode_s=now - first,
            peak_bytes=_peak_bytes(self.engine.model.device),
        )


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory that was in use: the GPU's own count, or the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
