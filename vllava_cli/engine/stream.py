"""The engine: a generator that prefills a question, decodes an answer and yields it in pieces. It never prints.

Time to first token is the time to the first `next()`; interruption, length and loops all end the same stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.choose import Chooser
from vllava_cli.engine.forward import embed, media_features, memory_faults, prefill, step
from vllava_cli.engine.memory import Memory
from vllava_cli.engine.repetition import is_looping
from vllava_cli.engine.tokens import GrowingText, Tokens
from vllava_cli.nouns import Conversation, LoadPlan, Piece, Sampling, Stats, StopReason, Turn

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


def never() -> bool:
    return False


@dataclass(kw_only=True)
class Engine:
    """A loaded model with the KV cache of the conversation that it answered last."""

    model: VideoLlavaForConditionalGeneration
    tokens: Tokens
    plan: LoadPlan
    memory: Memory | None = None

    def stream(
        self,
        conversation: Conversation,
        question: str,
        sampling: Sampling,
        *,
        is_interrupted: Callable[[], bool] = never,
    ) -> Iterator[Piece]:
        """Yields an answer as it is decoded; the last piece has the stop reason and the stats.

        `is_interrupted` is asked before each token and each chunk of prefill. When the stream ends, however it ends,
        the turn so far is added to the conversation. Errors: UsageError, ContextError, MemoryShortError.
        """
        run = _Run(engine=self, conversation=conversation, sampling=sampling, is_interrupted=is_interrupted)
        run.ids = self.tokens.prompt_ids(conversation, question)
        try:
            yield from run.pieces()
        finally:
            conversation.turns.append(Turn(question=question, answer=run.text.text))
            conversation.token_ids = run.ids + run.text.ids


@dataclass(kw_only=True)
class _Run:
    """One answer on its way."""

    engine: Engine
    conversation: Conversation
    sampling: Sampling
    is_interrupted: Callable[[], bool]
    ids: list[int] = field(default_factory=list)
    reused: int = 0
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None

    def __post_init__(self) -> None:
        self.text = GrowingText(tokens=self.engine.tokens, holds_stray=self.sampling.has_guard)

    def pieces(self) -> Iterator[Piece]:
        stop: StopReason | None = None
        logits = self._forward(self._prefill)
        chooser = Chooser(self.sampling, self.engine.tokens.banned_ids, self.engine.model.device)
        while logits is not None:
            token = chooser.choose(logits)
            self.first_s = self.first_s or time.perf_counter()
            if token in self.engine.tokens.stop_ids:
                stop = "end"
                break
            if new := self.text.push(token):
                yield Piece(text=new)
            if stop := self._stop():
                break
            logits = self._forward(self._step)
        rest = self.text.rest()
        if self.sampling.has_guard and self.text.has_stray:
            stop = "repetition"
        yield Piece(text=rest, stop_reason=stop or "interrupted", stats=self._stats())

    def _stop(self) -> StopReason | None:
        new = len(self.text.ids)
        if self.sampling.has_guard and (self.text.has_stray or is_looping(self.text.ids)):
            return "repetition"
        if new >= self.sampling.max_new_tokens:
            return "length"
        if len(self.ids) + new >= self.engine.tokens.context_tokens:
            return "context"
        return "interrupted" if self.is_interrupted() else None

    def _forward(self, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """Runs a pass; whatever breaks it off leaves the cache's layers uneven, so the cache is dropped."""
        try:
            with memory_faults(self.engine.plan.device):
                return work()
        except BaseException:
            self.engine.memory = None
            raise

    def _prefill(self) -> torch.Tensor | None:
        engine = self.engine
        memory = self._memory()
        media = {} if self.reused else media_features(engine.model, self.conversation, engine.tokens)
        new = self.ids[self.reused :]
        embeddings = embed(engine.model, new, media, engine.tokens)
        logits = prefill(engine.model, embeddings, memory.cache, is_interrupted=self.is_interrupted)
        if logits is None:
            engine.memory = None
        else:
            memory.ids.extend(new)
        return logits

    def _memory(self) -> Memory:
        """The engine's memory cut back to what this prompt shares with it, or a new one."""
        from transformers import DynamicCache

        engine, conversation = self.engine, self.conversation
        last = max((i for i, token in enumerate(self.ids) if token in self._placeholders()), default=-1)
        if engine.memory:
            self.reused = engine.memory.covers(conversation, self.ids, media_end=last + 1)
        if engine.memory is None or not self.reused:
            engine.memory = Memory(cache=DynamicCache(), media=conversation.media, fit=conversation.fit)
        engine.memory.crop(self.reused)
        return engine.memory

    def _placeholders(self) -> tuple[int, int]:
        return (self.engine.tokens.video_id, self.engine.tokens.image_id)

    def _step(self) -> torch.Tensor:
        memory = self.engine.memory
        if memory is None:
            raise RuntimeError("a step of decoding without a prefill")
        token = self.text.ids[-1]
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
