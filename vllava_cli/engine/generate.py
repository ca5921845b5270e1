"""The engine: a generator that prefills a question, decodes an answer and yields it in pieces. It never prints.

Time to first token is the time to the first `next()`; an interruption, the length limit or a loop just ends the stream.
On CUDA the next step is started before the host reads a token: the GPU works on that step while the host shows the
token, so that showing text costs no time. On other devices a step begins only when the caller wants more text.
"""

from __future__ import annotations

import sys
import time
from collections import abc
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.answering import AnswerResult, Batching, K, NextRequests
from vllava_cli.engine.clip_cache import ClipCache
from vllava_cli.engine.cuda_graph import PART_TOKENS, CudaGraphDecoder, CudaRecorder
from vllava_cli.engine.forward import embed, memory_faults, prefill, step
from vllava_cli.engine.kv_cache import KVCache, Prompt, PromptCache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.scoring import Calibrator, log_likelihoods, probabilities, weight
from vllava_cli.engine.sequence import Sequence
from vllava_cli.engine.tokens import Tokens, dropped
from vllava_cli.engine.vision import VisionEncoder
from vllava_cli.interrupt import NEVER, Cancel, CancelError
from vllava_cli.nouns import SILENT, LoadPlan, Log, MediaKind
from vllava_cli.times import Activity

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


@dataclass(kw_only=True)
class Engine:
    """A loaded model with the KV cache of the conversation that it answered last, and the features of its clips."""

    model: VideoLlavaForConditionalGeneration
    tokens: Tokens
    plan: LoadPlan
    prompt_cache: PromptCache | None = None
    clips: ClipCache | None = None
    """Has the beginnings of prompts that other processes read; None keeps and finds none."""
    tower: Callable[[MediaKind], torch.nn.Module] | None = None
    """Loads the tower for media of a kind that wasn't foreseen, when the first of them is looked at."""
    log: Log = SILENT
    activity: Activity = field(default_factory=Activity)
    """What the engine is doing before the first token of an answer."""
    graph: CudaGraphDecoder | None = field(default=None, init=False)
    """Decodes over a cache that doesn't move; None until it is needed."""
    maker: None = field(default=None, init=False)
    """Answers are made in this process."""
    _unkept: Prompt | None = field(default=None, init=False)
    """The beginning of a conversation, with its clips, that `keep_clips` may write."""

    def __post_init__(self) -> None:
        # CUDA computes on its own: it gets a cache that doesn't move, and the next step before the host reads a token.
        self.is_static = self.runs_ahead = self.model.device.type == "cuda"
        self.llama = Llama(self.model, self.plan.attention)
        self.llama.on_layer = self.activity.advance
        self.vision = VisionEncoder(model=self.model, tokens=self.tokens, tower=self.tower, activity=self.activity)
        self.calibrator = Calibrator(model=self.model, llama=self.llama, tokens=self.tokens, tower=self.tower)

    def stream(
        self,
        conversation: Conversation,
        question: str,
        sampling: Sampling,
        *,
        cancel: Cancel = NEVER,
    ) -> Generator[str, None, None]:
        """Yields the text of an answer, in pieces as they are decoded; with choices, the likeliest choice, whole.

        `cancel` is checked after each token and, except on CUDA, between the layers of each pass. When the stream ends
        without an error, even if it is closed, the turn so far is added to the conversation. Errors: UsageError,
        ContextError, CheckpointError, MemoryShortError, OverflowedError.
        """
        sequence = Sequence.of(None, self.tokens, conversation, question, sampling)
        calls = self.vision.calls
        if self.clips and not conversation.window:
            self._unkept = next(iter(self.clips.beginnings(sequence.prompt)), None)

        try:
            with suppress(CancelError):
                yield from self._texts(sequence, cancel)
            if not sequence.options:
                sequence.text.rest()
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            self._keep(sequence, conversation, question, calls)
            raise
        self._keep(sequence, conversation, question, calls)
        if text := sequence.new_text():
            yield text

    def make_room(self, conversation: Conversation, question: str, sampling: Sampling) -> range:
        """Drops the oldest turns until a question and its answer fit, and returns the indices of the dropped turns."""
        before, conversation.dropped = conversation.dropped, dropped(self.tokens, conversation, question, sampling)
        return range(before, conversation.dropped)

    def read(self, prompt: Prompt, *, cancel: Cancel = NEVER, chunk_tokens: int | None = None) -> Tensor:
        """Prefills the part of a prompt that the cache lacks, and returns the logits [vocabulary] after its last id.

        Errors: CancelError, MemoryShortError. After CancelError the cache keeps what was read; after any other error it
        is dropped.
        """
        with self.passes():
            cache = self._cut(prompt)
            cancel.check()
            began_s, reused = time.perf_counter(), len(cache.ids)
            new = prompt.ids[reused:]
            self.activity.begin("looking at the clip", total=100, unit="percent")
            embeddings = embed(self.llama, new, self.vision.rows(prompt, reused, cancel), self.tokens)
            self.activity.begin("reading", total=len(new), unit="tokens")
            try:
                return prefill(self.llama, embeddings, cache.cache, cancel=cancel, chunk_tokens=chunk_tokens)
            finally:
                cache.ids.extend(new[: len(cache.cache) - reused])
                cache.made_s += time.perf_counter() - began_s

    def reusable(self, prompt: Prompt) -> int:
        """Counts the first ids of a prompt that the cache holds already."""
        if self.prompt_cache is None:
            return 0
        return self.prompt_cache.covers(prompt, self.tokens.media_starts(prompt.ids, prompt.media))

    def recall(self, prompt: Prompt) -> int:
        """Takes the beginning of a prompt from the clip cache if it has more than the KV cache; counts as `reusable`.

        Errors: MemoryShortError.
        """
        for beginning in self.clips.beginnings(prompt) if self.clips else ():
            if len(beginning.ids) <= self.reusable(prompt) + 1:
                break
            if self.clips and (found := self.clips.find(beginning)):
                with self.passes(), torch.inference_mode():
                    self.prompt_cache = None
                    cache = self._emptied()
                    for layer, (keys, values) in zip(cache.layers, found, strict=True):
                        layer.update(keys.to(self.llama.device), values.to(self.llama.device))
                    self.prompt_cache = PromptCache(cache=cache, prompt=beginning, ids=list(beginning.ids))
                break
        return self.reusable(prompt)

    def reading_of(self, conversation: Conversation, chunk_tokens: int) -> Callable[[Cancel], object] | None:
        """Returns the work that reads the next prompt up to its question, in chunks; None if nothing is left to read.

        Call it in the thread that asks, as a tokenizer serves one thread at a time; the work may run in another.
        """
        ids = tuple(self.tokens.known_ids(conversation))
        shown = Prompt(ids=ids, media=conversation.media, fit=conversation.fit)
        if not ids or not (self.clips or self.reusable(shown) < len(ids) - 1):
            return None

        def work(cancel: Cancel) -> None:
            if self.recall(shown) < len(shown.ids) - 1:
                self.read(shown, cancel=cancel, chunk_tokens=chunk_tokens)
            self.keep_clips(cancel)

        return work

    def rows_that_fit(self, sampling: Sampling, *, question_characters: int) -> int:
        """Returns how many answers fit into the free memory at once, at least 1."""
        from vllava_cli.engine.batch import rows_that_fit

        return rows_that_fit(self, sampling, question_characters=question_characters)

    def answers(self, source: NextRequests[K], batching: Batching) -> Iterator[AnswerResult[K]]:
        """Yields one result for each request, as `BatchScheduler` does."""
        from vllava_cli.engine.batch import BatchScheduler

        scheduler: BatchScheduler[K] = BatchScheduler(
            engine=self,
            sampling=batching.sampling,
            fit=batching.fit,
            most_rows=batching.most_rows,
            cancel=batching.cancel,
            on_shortage=batching.on_shortage,
        )
        return scheduler.answers(source)

    @property
    def tower_calls(self) -> int:
        return self.vision.calls

    @property
    def used_bytes(self) -> int | None:
        """The memory that is reserved on the GPU; None on the CPU."""
        device = self.model.device
        return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else None

    def keep_clips(self, cancel: Cancel = NEVER) -> None:
        """Writes what was read of the first turn's clips to the clip cache, if it took long. Errors: CancelError.

        On a GPU passes are only queued while `read` measures them, and a disk is slower: nothing is written.
        """
        beginning, held = self._unkept, self.prompt_cache
        if self.clips and beginning and held and len(held.ids) >= len(beginning.ids) == self.reusable(beginning) + 1:
            self.clips.keep(beginning, held.cache, held.made_s, cancel=cancel)
        self._unkept = None

    def step(self, token: Tensor, held: int, cancel: Cancel = NEVER) -> Tensor:
        """Feeds an id [1] after the first `held` ids of the cache, and returns the logits [vocabulary] for the next id.

        The logits are valid until the next step. Errors: CancelError, MemoryShortError.
        """
        with self.passes():
            if self.graph:
                return self.graph.step(token, held, cancel)
            return step(self.llama, token, self._read_cache.cache, held, cancel)

    def score(
        self, cache: KVCache, is_used: Tensor, logits: Tensor, sequences: abc.Sequence[Sequence[Any]], cancel: Cancel
    ) -> list[tuple[float, ...]]:
        """Returns the probability of each choice after each sequence's prompt; () for a sequence without choices.

        `cache`, `is_used` and `logits` are those of `log_likelihoods`. Errors: CancelError.
        """
        options = [each.options for each in sequences]
        scores = log_likelihoods(self.llama, cache, is_used, logits, options, cancel)
        return probabilities(scores, [self._blank_of(each, cancel) for each in sequences])

    def _blank_of(self, sequence: Sequence[Any], cancel: Cancel) -> Tensor | None:
        """Returns what calibrating subtracts from a sequence's scores; None if they aren't calibrated."""
        if not (sequence.options and sequence.sampling.is_calibrated):
            return None
        return weight(self.calibrator.scores(sequence.prompt.ids, sequence.options, cancel), sequence.sampling)

    @property
    def _read_cache(self) -> PromptCache:
        if self.prompt_cache is None:
            raise RuntimeError("a step of decoding without a prefill")
        return self.prompt_cache

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Runs passes in the block; on any error but CancelError drops the cache, whose layers may differ in length."""
        try:
            with memory_faults(self.plan.device, self.plan):
                yield
        except CancelError:  # the layers hold the same tokens again
            raise
        except BaseException:
            self.prompt_cache = self.graph = None
            raise

    def _texts(self, sequence: Sequence[None], cancel: Cancel) -> Generator[str, None, None]:
        """Yields the text of an answer until the answer ends.

        The KV cache then holds the answer's ids; the last one may be missing, as no pass has read it.
        """
        sequence.reused_tokens = self.recall(sequence.prompt)
        logits = self.read(sequence.prompt, cancel=cancel)
        cache = self._read_cache
        if sequence.options:
            is_used = torch.ones(1, len(cache.ids), dtype=torch.bool, device=logits.device)
            with memory_faults(self.plan.device, self.plan):
                scores = self.score(cache.cache, is_used, logits[None], [sequence], cancel)
            sequence.choose(scores[0])
            return
        try:
            token = sequence.pick(logits)
            while True:
                reading, held = _reading(token), len(cache.ids)
                if self.runs_ahead:  # even a token that fills the context is fed: there is capacity for it
                    token = self._next(sequence, token, held, cancel)
                number = reading()
                if self.runs_ahead:
                    cache.ids.append(number)
                stop = sequence.push(number)
                if text := sequence.new_text():
                    yield text
                if stop or cancel.is_asked():
                    return
                if not self.runs_ahead:
                    token = self._next(sequence, token, held, cancel)
                    cache.ids.append(number)
        finally:
            if self.prompt_cache is cache:
                cache.cache.set_length(len(cache.ids))

    def _keep(self, sequence: Sequence[None], conversation: Conversation, question: str, calls_before: int) -> None:
        """Adds the answer so far to the conversation, as a turn."""
        sequence.tower_calls = self.vision.calls - calls_before
        answer = sequence.answer(peak_bytes=peak_bytes_of(self.model.device))
        conversation.turns.append(answer.turn(question, conversation.attached, sequence.sampling))
        conversation.attached = ()

    def _next(self, sequence: Sequence[None], token: Tensor, held: int, cancel: Cancel) -> Tensor:
        return sequence.pick(self.step(token.clamp(min=0), held, cancel))  # the unread id may be OVERFLOWED

    def _cut(self, prompt: Prompt) -> PromptCache:
        """Returns the cache, cut back to the ids that it shares with a prompt, or an empty one if they share none."""
        reused = self.recall(prompt)
        if self.prompt_cache is None or not reused:
            self.prompt_cache = PromptCache(cache=self._emptied())
        self.prompt_cache.crop(reused)
        self.prompt_cache.prompt = prompt
        return self.prompt_cache

    def _emptied(self) -> KVCache:
        """Returns an empty cache. A static cache is emptied and used again, as captured steps refer to its buffers."""
        if not self.is_static:
            return KVCache(len(self.llama.blocks))
        if self.graph is None:
            capacity = -(-self.tokens.context_tokens // PART_TOKENS) * PART_TOKENS
            is_captured = self.model.device.type == "cuda" and self.plan.quantisation != "8bit"
            self.graph = CudaGraphDecoder(
                self.llama,
                KVCache(len(self.llama.blocks), least_capacity=capacity),
                record=CudaRecorder() if is_captured else None,
                notice=self.log.notice,
            )
        self.graph.cache.set_length(0)
        return self.graph.cache


def _reading(token: Tensor) -> Callable[[], int]:
    """Starts sending an id [1] to the host. The returned function waits for the id, but for no work begun later."""
    if token.device.type != "cuda":
        return lambda: int(token)
    cuda: Any = torch.cuda
    host = torch.empty(1, dtype=token.dtype, pin_memory=True)
    host.copy_(token, non_blocking=True)
    sent = cuda.Event()
    sent.record()
    return lambda: sent.synchronize() or int(host)


def peak_bytes_of(device: torch.device) -> int | None:
    """Returns the most memory that was in use: what CUDA counts, or the process's resident set; None on Windows."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
