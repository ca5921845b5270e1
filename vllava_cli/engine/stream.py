"""The engine: a generator that prefills a question, decodes an answer and yields it in pieces. It never prints.

Time to first token is the time to the first `next()`; interruption, length and loops all end the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.answering import Answering
from vllava_cli.engine.blank import Blank
from vllava_cli.engine.context import make_room
from vllava_cli.engine.forward import embed, memory_faults, prefill
from vllava_cli.engine.memory import Memory, Shown
from vllava_cli.engine.sight import Sight
from vllava_cli.engine.tokens import Tokens
from vllava_cli.nouns import Conversation, LoadPlan, MediaKind, Piece, Sampling

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


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
        self.blank = Blank(model=self.model, tokens=self.tokens)

    def stream(
        self,
        conversation: Conversation,
        question: str,
        sampling: Sampling,
        *,
        is_interrupted: Callable[[], bool] = never,
    ) -> Generator[Piece, None, None]:
        """Yields an answer as it is decoded; the last piece has the stop reason and the stats.

        With choices there is one piece: the likeliest of them, whole, with the probabilities of all.

        `is_interrupted` is asked before clips are looked at, each chunk of prefill and each token. When the stream
        ends, by whatever but an error, the turn so far is added to the conversation. Errors: UsageError, ContextError,
        MemoryShortError.
        """
        run = Answering(
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
        return self.memory.covers(shown, starts) >= len(shown.ids) - 1

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
            reused = self.memory.covers(shown, starts)
        if self.memory is None or not reused:
            self.memory = Memory(cache=DynamicCache())
        self.memory.crop(reused)
        self.memory.shown = shown
        return reused
