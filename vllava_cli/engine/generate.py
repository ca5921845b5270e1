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
from vllava_cli.engine.attention import PART_TOKENS
from vllava_cli.engine.calibration import Blank
from vllava_cli.engine.cancel import CancelError, never
from vllava_cli.engine.context_window import make_room
from vllava_cli.engine.decoding import Steps, steps_over
from vllava_cli.engine.forward import embed, memory_faults, prefill
from vllava_cli.engine.kv_cache import roomy_cache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.prompt_cache import Memory, Shown
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.vision import Sight
from vllava_cli.nouns import Conversation, LoadPlan, MediaKind, Piece, Sampling

if TYPE_CHECKING:
    from transformers import DynamicCache, VideoLlavaForConditionalGeneration


@dataclass(kw_only=True)
class Engine:
    """A loaded model with the KV cache of the conversation that it answered last, and what it has seen."""

    model: VideoLlavaForConditionalGeneration
    tokens: Tokens
    plan: LoadPlan
    memory: Memory | None = None
    is_static: bool | None = None
    """Whether decoding writes into a cache that doesn't move; None: where the device can be told a step at once."""
    runs_ahead: bool = False
    """Whether the next step begins before a token is read, because the device works on its own."""
    tower: Callable[[MediaKind], torch.nn.Module] | None = None
    """Loads the tower for media of a kind that wasn't foreseen, when the first of them is looked at."""
    notice: Callable[[str], object] = str
    """Is told what a user should know, a sentence."""

    def __post_init__(self) -> None:
        is_cuda = self.model.device.type == "cuda"
        self.is_static = is_cuda if self.is_static is None else self.is_static
        self.runs_ahead = self.runs_ahead or is_cuda
        self._cache: DynamicCache | None = None
        self._steps: Steps | None = None
        self.llama = Llama(self.model, self.plan.attention)
        self.sight = Sight(model=self.model, tokens=self.tokens, tower=self.tower, cancel=self.llama.cancel)
        self.blank = Blank(model=self.model, llama=self.llama, tokens=self.tokens)

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

        `is_interrupted` is asked between the layers of each pass and behind each token. When the stream ends, by
        whatever but an error, the turn so far is added to the conversation. Errors: UsageError, ContextError,
        MemoryShortError, OverflowedError.
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

    @property
    def steps(self) -> Steps:
        """How a token is fed into the cache of the memory."""
        if self._cache is None or self._steps is None:
            raise RuntimeError("a step of decoding without a prefill")
        return self._steps

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
            try:
                with self.llama.cancel.asking(is_interrupted):
                    rows = self.sight.rows(shown.media, shown.fit, skipped=skipped)
            except CancelError:
                return reused, None
            new = shown.ids[reused:]
            embeddings = embed(self.llama, list(new), rows, self.tokens)
            fed, logits = prefill(
                self.llama, embeddings, self.memory.cache, is_interrupted=is_interrupted, chunk_tokens=chunk_tokens
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
        """Runs passes; whatever but CancelError breaks one off leaves uneven layers, so the cache is dropped."""
        try:
            with memory_faults(self.plan.device, self.plan):
                yield
        except CancelError:  # the layers are even again
            raise
        except BaseException:
            self.memory = self._cache = self._steps = None
            raise

    def _cut_memory(self, shown: Shown) -> int:
        """Cuts the memory back to what a prompt shares with it, or makes a new one; returns how many ids are shared."""
        reused = 0
        if self.memory:
            starts = self.tokens.media_starts(shown.ids, shown.media)
            reused = self.memory.covers(shown, starts)
        if self.memory is None or not reused:
            self.memory = Memory(cache=self._emptied())
        self.memory.crop(reused)
        self.memory.shown = shown
        return reused

    def _emptied(self) -> DynamicCache:
        """A cache with nothing in it; one that doesn't move stays, and what was captured over it."""
        if self._cache is None or not self.is_static:
            room = -(-self.tokens.context_tokens // PART_TOKENS) * PART_TOKENS if self.is_static else 0
            self._cache = roomy_cache(len(self.llama.blocks), least_room=room)
            is_captured = self.model.device.type == "cuda" and self.plan.quantisation != "8bit"
            self._steps = steps_over(
                self.llama,
                self._cache,
                is_static=bool(self.is_static),
                is_captured=is_captured,
                notice=self.notice,
            )
        for layer in self._cache.layers:
            layer.hold(0)
        return self._cache
