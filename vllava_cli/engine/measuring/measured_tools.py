"""Both sides of a benchmark, with the same methods: what this tool's commands run, and what the documentation shows.

The snippet is from_pretrained, pixels, `generate(do_sample=False)`. Its video processor needs torchvision, which isn't
installed with this tool: pixels and ids come from `media.pixels` and `Tokens`, which give the same bits. The towers are
whole, the cache is the one that generate makes. Nothing ends an answer before it has all its tokens.
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
from vllava_cli.nouns import Answer, Conversation, Frames, LoadPlan, Sampling, Stats, Turn

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

ENDINGS = ("", " Why?", " What comes first?", " Tell me more about it.")
"""They follow the questions of a batch, whose prompts differ in length as those of a user do."""


@dataclass(frozen=True, kw_only=True)
class BenchQuestion:
    """One question about one clip, and how many tokens answer it, whatever the model would say."""

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
        """Errors: UsageError for an empty question, ContextError where the prompt doesn't fit."""
        return tuple(self.tokens.prompt_ids(self.conversation, self.question))


@dataclass(frozen=True, kw_only=True)
class MeasuredEngine:
    """A loaded engine whose answers nothing ends too early: the ids that would are unset in its tokens."""

    engine: Engine
    is_interrupted: Callable[[], bool]

    def forget(self) -> None:
        """Drops all of earlier questions, prompts and clips."""
        self.engine.prompt_cache = None
        self.engine.vision.forget()

    def vision_s(self, asked: BenchQuestion) -> float:
        self.engine.vision.forget()
        return self._seconds(lambda: self.engine.vision.features(asked.frames, "crop"))

    def prefill_s(self, asked: BenchQuestion) -> float:
        """Reads the whole prompt; the clip has been encoded before."""
        self.engine.vision.features(asked.frames, "crop")
        self.engine.prompt_cache = None
        return self._seconds(lambda: self._read(asked))

    def first_token_s(self, asked: BenchQuestion) -> float:
        self.forget()
        return self._seconds(lambda: self.turn(asked, 1))

    def second_turn_s(self, asked: BenchQuestion, again: BenchQuestion) -> float:
        """From a second question to its first token, in a conversation whose first turn was just answered."""
        self.turn(asked, 2)
        return self._seconds(lambda: self.turn(again, 1))

    def answer(self, asked: BenchQuestion, *, sequences: int = 1) -> tuple[tuple[int, ...], float]:
        """Answers it so many times at once; returns the ids of one, and the seconds from first tokens to last ones.

        Errors: MemoryShortError, ContextError.
        """
        if sequences == 1:
            turn, stats = self.turn(asked, asked.new_tokens)
            return turn.answer_ids, stats.decode_s
        self.engine.prompt_cache = None
        questions = [asked.question + ENDINGS[number % len(ENDINGS)] for number in range(sequences)]
        found = self._batch(asked, [(asked.frames, question) for question in questions], sequences)
        decoded = sum(stats.new_tokens - 1 for stats in found)  # an ending may leave less of the context
        return (), max(stats.decode_s for stats in found) * sequences * (asked.new_tokens - 1) / max(1, decoded)

    def clips_s(self, asked: BenchQuestion, clips: int) -> float:
        """Answers a question about each of so many clips, in batches as large as `vllava batch` would make them."""
        self.forget()
        # Equal frames are the same clip to the engine only where they are the same object.
        jobs = [(replace(asked.frames), asked.question) for _ in range(clips)]
        most = rows_that_fit(self.engine, _sampling(asked.new_tokens), question_characters=len(asked.question))
        return self._seconds(lambda: self._batch(asked, jobs, min(clips, most)))

    def turn(self, asked: BenchQuestion, new_tokens: int) -> tuple[Turn, Stats]:
        """An answer in a conversation of its own, as the turn that it becomes; the cache holds it then."""
        conversation, sampling = asked.conversation, _sampling(new_tokens)
        pieces = self.engine.stream(conversation, asked.question, sampling, cancel=Cancel(self.is_interrupted))
        stats = Answer.of(pieces).stats
        return conversation.turns[-1], stats

    @torch.inference_mode()
    def logits(self, asked: BenchQuestion, new_ids: Sequence[int]) -> Tensor:
        """[len(new_ids), vocabulary] before each of these ids, as they are decoded one by one."""
        self.forget()
        found = [self._read(asked)]
        cache = self.engine.prompt_cache
        if cache is None:
            raise RuntimeError("a prompt that was read left no cache")
        for token in new_ids[:-1]:
            fed = torch.tensor([token], device=found[0].device)
            found.append(self.engine.step(fed, len(cache.ids)).clone())  # they are good until the next step
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
        """Errors: MemoryShortError, ContextError: fewer sequences at once would be another measurement."""
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
    """A model as from_pretrained gives it; what this tool's has as well may be shared with that."""

    model: VideoLlavaForConditionalGeneration
    plan: LoadPlan

    def __post_init__(self) -> None:
        self.model.generation_config.eos_token_id = None

    def share(self, ours: VideoLlavaForConditionalGeneration) -> None:
        """Takes over all parameters that ours has as well, so that both compute with the same weights.

        In a quantised plan towers and projector are its own: bitsandbytes quantises them, and this tool doesn't. Whole
        towers aren't shared, or each layer's output, which transformers records by hooks, would be recorded twice.
        """
        self.model.model.language_model, self.model.lm_head = ours.model.language_model, ours.lm_head
        if self.plan.quantisation is None:
            others = dict(ours.named_modules())
            for name, module in self.model.named_modules():
                theirs = others[name]._parameters if name in others else {}
                module._parameters |= {key: each for key, each in theirs.items() if key in module._parameters}

    def own_bytes(self, ours: nn.Module) -> int:
        """Bytes of the parameters that it doesn't share; from then on they are in memory, not in a mapped file."""
        shared = {id(parameter) for parameter in ours.parameters()}
        own = [parameter for parameter in self.model.parameters() if id(parameter) not in shared]
        for parameter in own:
            parameter.detach().max()
        return sum(parameter.nbytes for parameter in own)

    def vision_s(self, asked: BenchQuestion) -> float:
        return seconds_of(lambda: self._features(asked), self.plan.device)

    @torch.no_grad()
    def prefill_s(self, asked: BenchQuestion) -> float:
        """Reads the whole prompt's embeddings into an empty cache."""
        from transformers import DynamicCache

        ids = torch.tensor([asked.ids], device=self.model.device)
        embeddings = self.model.get_input_embeddings()(ids)
        embeddings[ids == asked.tokens.placeholders["video"]] = self._features(asked)
        words = {"past_key_values": DynamicCache(), "use_cache": True, "logits_to_keep": 1}
        return seconds_of(lambda: self.model(inputs_embeds=embeddings, **words), self.plan.device)

    def first_token_s(self, asked: BenchQuestion) -> float:
        return seconds_of(lambda: self.answer(asked, new_tokens=1), self.plan.device)

    def second_turn_s(self, _: BenchQuestion, again: BenchQuestion) -> float:
        """It has no conversation: the whole prompt is read, clip and first turn included."""
        return self.first_token_s(again)

    def answer(
        self,
        asked: BenchQuestion,
        *,
        new_tokens: int | None = None,
        sequences: int = 1,
        suppressed: Sequence[int] = (),
    ) -> tuple[tuple[int, ...], float]:
        """Answers as `MeasuredEngine.answer` does, with the last ids on the host; `suppressed` ids never come."""
        first_s: list[float] = []

        def note(ids: Tensor, _scores: object, **_: object) -> Tensor:
            """Ends no answer. It is called behind each token, before the device has finished with it."""
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
        """It takes clips one after the other, so one is measured for all."""
        return clips * seconds_of(lambda: self.answer(asked), self.plan.device)

    @torch.no_grad()
    def logits(self, asked: BenchQuestion, new_ids: Sequence[int]) -> Tensor:
        """[len(new_ids), vocabulary] before each of these ids, from one pass over the prompt and all of them."""
        ids = torch.tensor([[*asked.ids, *new_ids[:-1]]], device=self.model.device)
        words = {"attention_mask": torch.ones_like(ids), "pixel_values_videos": self._pixels(asked)}
        logits: Tensor = self.model(input_ids=ids, logits_to_keep=len(new_ids), **words).logits[0]
        return logits

    @torch.no_grad()
    def _features(self, asked: BenchQuestion) -> Tensor:
        """[tokens, hidden] of the clip."""
        output = self.model.model.get_video_features(self._pixels(asked))
        features: Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, -2)

    def _pixels(self, asked: BenchQuestion) -> Tensor:
        pixels = video_pixels(asked.frames, asked.tokens.checkpoint.video_recipe)
        return pixels.to(self.model.device, self.model.dtype)


def _sampling(new_tokens: int) -> Sampling:
    return Sampling(max_new_tokens=new_tokens, has_guard=False)


def _refuse_fewer(rows: int) -> None:
    raise MemoryShortError(f"The memory ran out: there is room for {rows} rows at once, so ask for fewer of them.")


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Runs `work` when nothing is under way any more, and reads the clock when the device has finished it."""
    finish(device)
    started_s = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started_s


def finish(device: str) -> None:
    """Waits until a device that computes on its own has done all that it was given."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def free(device: str) -> None:
    """Gives back the memory that nobody refers to any more."""
    gc.collect()
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.empty_cache()
