"""The two sides of a benchmark, with the same methods: this tool's engine, and the documentation's snippet.

The snippet calls from_pretrained and `generate(do_sample=False)`. Its video processor needs torchvision, which isn't
installed with this tool: pixels and ids come from `media.pixels` and `Tokens`, which give the same bits. Its towers are
untrimmed, and `generate` makes its cache. On both sides an answer ends only when it has all its tokens.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vllava_cli.engine.batch import AnswerRequest, BatchScheduler, rows_that_fit
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import MemoryShortError
from vllava_cli.interrupt import Cancel, CancelError
from vllava_cli.media.pixels import video_pixels
from vllava_cli.nouns import Conversation, Frames, LoadPlan, Sampling, Stats, Turn

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

ENDINGS = ("", " Why?", " What comes first?", " Tell me more about it.")
"""They follow the questions of a batch, whose prompts differ in length as those of a user do."""


@dataclass(frozen=True, kw_only=True)
class BenchQuestion:
    """A question about a clip. Its answer always has `new_tokens` tokens, whatever the model would say."""

    tokens: Tokens
    frames: Frames
    question: str
    new_tokens: int
    turns: tuple[Turn, ...] = ()
    """The earlier turns; the clip came with the first."""

    @property
    def conversation(self) -> Conversation:
        return Conversation(turns=list(self.turns), attached=() if self.turns else (self.frames,))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the prompt. Errors: UsageError for an empty question, ContextError if the prompt doesn't fit."""
        return tuple(self.tokens.prompt_ids(self.conversation, self.question))


@dataclass(frozen=True, kw_only=True)
class MeasuredEngine:
    """A loaded engine whose answers never end early, as its tokens have no stop ids."""

    engine: Engine
    is_interrupted: Callable[[], bool]

    def forget(self) -> None:
        """Empties the prompt cache, and drops the features of all clips."""
        self.engine.prompt_cache = None
        self.engine.vision.forget()

    def vision_s(self, asked: BenchQuestion) -> float:
        self.engine.vision.forget()
        return self._seconds(lambda: self.engine.vision.features(asked.frames, "crop"))

    def prefill_s(self, asked: BenchQuestion) -> float:
        """Measures the prefill of the whole prompt; the clip is encoded before."""
        self.engine.vision.features(asked.frames, "crop")
        self.engine.prompt_cache = None
        return self._seconds(lambda: self._read(asked))

    def first_token_s(self, asked: BenchQuestion) -> float:
        self.forget()
        return self._seconds(lambda: self.turn(asked, 1))

    def second_turn_s(self, asked: BenchQuestion, again: BenchQuestion) -> float:
        """Measures from a second question (`again`) to its first token; the first turn is answered before."""
        self.turn(asked, 2)
        return self._seconds(lambda: self.turn(again, 1))

    def answer(self, asked: BenchQuestion, *, sequences: int = 1) -> tuple[tuple[int, ...], float]:
        """Answers the question in `sequences` sequences at once, and measures from their first tokens to their last.

        Returns the ids of the answer (empty if there are several sequences) and the seconds.
        Errors: MemoryShortError, ContextError.
        """
        if sequences == 1:
            turn, stats = self.turn(asked, asked.new_tokens)
            return turn.answer_ids, stats.decode_s
        self.engine.prompt_cache = None
        questions = [asked.question + ENDINGS[number % len(ENDINGS)] for number in range(sequences)]
        found = self._batch(asked, [(asked.frames, question) for question in questions], sequences)
        decoded = sum(stats.new_tokens - 1 for stats in found)  # an ending may leave less room in the context
        return (), max(stats.decode_s for stats in found) * sequences * (asked.new_tokens - 1) / max(1, decoded)

    def clips_s(self, asked: BenchQuestion, clips: int) -> float:
        """Measures the answers about `clips` clips, in batches as large as `vllava batch` would make them."""
        self.forget()
        # Equal frames are the same clip to the engine only where they are the same object.
        jobs = [(replace(asked.frames), asked.question) for _ in range(clips)]
        most = rows_that_fit(self.engine, _sampling(asked.new_tokens), question_characters=len(asked.question))
        return self._seconds(lambda: self._batch(asked, jobs, min(clips, most)))

    def turn(self, asked: BenchQuestion, new_tokens: int) -> tuple[Turn, Stats]:
        """Answers the question in its own conversation, and returns the turn; the prompt cache then holds the turn."""
        conversation, sampling = asked.conversation, _sampling(new_tokens)
        for _ in self.engine.stream(conversation, asked.question, sampling, cancel=Cancel(self.is_interrupted)):
            pass
        turn = conversation.turns[-1]
        return turn, turn.stats

    @torch.inference_mode()
    def logits(self, asked: BenchQuestion, new_ids: Sequence[int]) -> Tensor:
        """Returns the logits [len(new_ids), vocabulary] before each of these ids, which are decoded one by one."""
        self.forget()
        found = [self._read(asked)]
        cache = self.engine.prompt_cache
        if cache is None:
            raise RuntimeError("a prompt that was read left no cache")
        for token in new_ids[:-1]:
            fed = torch.tensor([token], device=found[0].device)
            found.append(self.engine.step(fed, len(cache.ids)).clone())  # the next step overwrites these logits
            cache.ids.append(token)
        cache.cache.set_length(len(cache.ids))
        return torch.stack(found)

    def _seconds(self, work: Callable[[], object]) -> float:
        return seconds_of(work, self.engine.plan.device)

    def _read(self, asked: BenchQuestion) -> Tensor:
        try:
            return self.engine.read(Prompt(ids=asked.ids, media=(asked.frames,)), cancel=Cancel(self.is_interrupted))
        except CancelError:
            raise KeyboardInterrupt from None

    def _batch(self, asked: BenchQuestion, jobs: Sequence[tuple[Frames, str]], most: int) -> list[Stats]:
        """Answers the jobs, `most` at once, and returns their stats.

        Errors: ContextError; MemoryShortError, as going on with fewer jobs at once would be another measurement.
        """
        requests = [AnswerRequest(key=key, medium=medium, question=text) for key, (medium, text) in enumerate(jobs)]
        given = iter([requests])
        scheduler: BatchScheduler[int] = BatchScheduler(
            engine=self.engine,
            sampling=_sampling(asked.new_tokens),
            fit="crop",
            most_rows=most,
            cancel=Cancel(self.is_interrupted),
            on_shortage=_refuse_fewer,
        )
        finished = list(scheduler.answers(lambda _, *, is_waiting: next(given, None)))  # noqa: ARG005
        if fault := next((each.fault for each in finished if each.fault), None):
            raise fault
        return [each.answer.stats for each in finished if each.answer]


@dataclass(kw_only=True)
class MeasuredSnippet:
    """A model as from_pretrained loads it; it may share parameters with this tool's model."""

    model: VideoLlavaForConditionalGeneration
    plan: LoadPlan

    def __post_init__(self) -> None:
        self.model.generation_config.eos_token_id = None

    def share(self, ours: VideoLlavaForConditionalGeneration) -> None:
        """Takes over all parameters that our model has as well, so that both compute with the same weights.

        In a quantised plan the snippet keeps its own towers and projector: bitsandbytes quantises these for the
        snippet, and this tool doesn't. The towers' modules aren't shared, only their parameters: transformers records
        each layer's output by hooks, and in a shared module it would do so twice.
        """
        self.model.model.language_model, self.model.lm_head = ours.model.language_model, ours.lm_head
        if self.plan.quantisation is None:
            others = dict(ours.named_modules())
            for name, module in self.model.named_modules():
                theirs = others[name]._parameters if name in others else {}
                module._parameters |= {key: each for key, each in theirs.items() if key in module._parameters}

    def own_bytes(self, ours: nn.Module) -> int:
        """Counts the bytes of the parameters that it doesn't share, and reads them from a mapped file into memory."""
        shared = {id(parameter) for parameter in ours.parameters()}
        own = [parameter for parameter in self.model.parameters() if id(parameter) not in shared]
        for parameter in own:
            parameter.detach().max()
        return sum(parameter.nbytes for parameter in own)

    def vision_s(self, asked: BenchQuestion) -> float:
        return seconds_of(lambda: self._features(asked), self.plan.device)

    @torch.no_grad()
    def prefill_s(self, asked: BenchQuestion) -> float:
        """Measures the prefill of the whole prompt; the clip is encoded before."""
        from transformers import DynamicCache

        ids = torch.tensor([asked.ids], device=self.model.device)
        embeddings = self.model.get_input_embeddings()(ids)
        embeddings[ids == asked.tokens.placeholders["video"]] = self._features(asked)
        words = {"past_key_values": DynamicCache(), "use_cache": True, "logits_to_keep": 1}
        return seconds_of(lambda: self.model(inputs_embeds=embeddings, **words), self.plan.device)

    def first_token_s(self, asked: BenchQuestion) -> float:
        return seconds_of(lambda: self.answer(asked, new_tokens=1), self.plan.device)

    def second_turn_s(self, _: BenchQuestion, again: BenchQuestion) -> float:
        """Measures the whole prompt, clip and first turn included, as the snippet has no conversation."""
        return self.first_token_s(again)

    def answer(
        self,
        asked: BenchQuestion,
        *,
        new_tokens: int | None = None,
        sequences: int = 1,
        suppressed: Sequence[int] = (),
    ) -> tuple[tuple[int, ...], float]:
        """Answers as `MeasuredEngine.answer` does, but always returns the ids of the first sequence.

        The seconds end when the ids are on the host. The model never chooses a `suppressed` id.
        """
        first_s: list[float] = []

        def note(ids: Tensor, _scores: object, **_: object) -> Tensor:
            """Notes the time of the first token; ends no answer. The device may still be computing meanwhile."""
            if not first_s:
                finish(self.plan.device)
                first_s.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        ids = torch.tensor([asked.ids] * sequences, device=self.model.device)
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=torch.cat([self._pixels(asked)] * sequences),
            max_new_tokens=new_tokens or asked.new_tokens,
            do_sample=False,
            stopping_criteria=[note],
            suppress_tokens=list(suppressed) or None,
        )
        return tuple(made[0, ids.shape[1] :].tolist()), time.perf_counter() - first_s[0]

    def clips_s(self, asked: BenchQuestion, clips: int) -> float:
        """Measures one clip and counts it for all, as the snippet takes them one after the other."""
        return clips * seconds_of(lambda: self.answer(asked), self.plan.device)

    @torch.no_grad()
    def logits(self, asked: BenchQuestion, new_ids: Sequence[int]) -> Tensor:
        """Returns the logits [len(new_ids), vocabulary] before each of these ids, from one pass over prompt and ids."""
        ids = torch.tensor([[*asked.ids, *new_ids[:-1]]], device=self.model.device)
        words = {"attention_mask": torch.ones_like(ids), "pixel_values_videos": self._pixels(asked)}
        logits: Tensor = self.model(input_ids=ids, logits_to_keep=len(new_ids), **words).logits[0]
        return logits

    @torch.no_grad()
    def _features(self, asked: BenchQuestion) -> Tensor:
        """Returns the features [tokens, hidden] of the clip."""
        output = self.model.model.get_video_features(self._pixels(asked))
        features: Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, -2)

    def _pixels(self, asked: BenchQuestion) -> Tensor:
        pixels = video_pixels(asked.frames, asked.tokens.checkpoint.video_recipe)
        return pixels.to(self.model.device, self.model.dtype)


def _sampling(new_tokens: int) -> Sampling:
    return Sampling(max_new_tokens=new_tokens, has_guard=False)


def _refuse_fewer(rows: int) -> None:
    raise MemoryShortError(f"The memory ran out: only {rows} questions fit at once, so choose a smaller --batch-size.")


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Runs `work` on an idle device, and returns the seconds until the device has finished it."""
    finish(device)
    started_s = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started_s


def finish(device: str) -> None:
    """Waits until a GPU has done all its work; the CPU has none left when a call returns."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def free(device: str) -> None:
    """Frees the memory of objects that are no longer in use, also on the GPU."""
    gc.collect()
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.empty_cache()
