"""The two sides of a benchmark, with the same methods: this tool's engine, and the documentation's snippet.

The snippet calls from_pretrained and `generate(do_sample=False)`. Its video processor needs torchvision, which isn't
installed with this tool: pixels and ids come from `media.pixels` and `Tokens`, which give the same bits. Its towers are
untrimmed, and `generate` makes its cache. On both sides an answer ends only when it has all its tokens.

Random weights have real shapes, so that speed can be measured without a download. They are drawn on the device and in
the dtype in which they stay, from a seed that their name gives: two models have the same values. Buffers (positions,
the frequencies of the rotary embedding) are computed by transformers.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vllava_cli import demo
from vllava_cli.answers import (
    Answer,
    Conversation,
    Sampling,
    Turn,
)
from vllava_cli.engine.adapter import plain
from vllava_cli.engine.answering import AnswerRequest
from vllava_cli.engine.batch import BatchScheduler, rows_that_fit
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, facts, read_config
from vllava_cli.engine.cpu.held_weights import hold
from vllava_cli.engine.cpu.linear import CpuLinear, Workspace
from vllava_cli.engine.device_speed import finish, seconds_of
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.load import NOT_QUANTISED, hush, quantisation_config, trimmed
from vllava_cli.engine.modules.model_config import usual
from vllava_cli.engine.modules.video_llava import VideoLlava
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.errors import MemoryShortError
from vllava_cli.interrupt import Cancel, CancelError
from vllava_cli.media.pixels import video_pixels
from vllava_cli.nouns import Frames, LoadPlan, Source

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

DEVIATION = 0.02
"""The deviation with which Llama's training began: activations neither vanish nor overflow in 16 bits."""


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMA, TOWER = (*SIZES, "vocab_size", "max_position_embeddings"), (*SIZES, "image_size", "patch_size")
SHAPES = {
    "7b": ((4096, 11008, 32, 32, 32064, 4096), (1024, 4096, 24, 16, 224, 14)),
    "1b": ((2048, 5632, 22, 16, 32064, 4096), (1024, 4096, 24, 16, 224, 14)),
    "tiny": ((256, 704, 4, 8, 1024, 4096), (128, 256, 4, 4, 64, 16)),
}
"""The names that --random-weights knows, with the sizes of the language model and of a tower."""


@dataclass(frozen=True, kw_only=True)
class BenchQuestion:
    """A question about a clip. Its answer always has `new_tokens` tokens, whatever the model would say."""

    tokens: Tokens
    frames: Frames
    question: str
    new_tokens: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the prompt. Errors: UsageError for an empty question, ContextError if the prompt doesn't fit."""
        return tuple(self.tokens.prompt_ids(Conversation(attached=(self.frames,)), self.question))

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.new_tokens, has_guard=False)


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
        return seconds_of(lambda: self.engine.vision.features(asked.frames, "crop"), self.engine.plan.device)

    def prefill_s(self, asked: BenchQuestion) -> float:
        """Measures the prefill of the whole prompt; the clip is encoded before."""
        self.engine.vision.features(asked.frames, "crop")
        self.engine.prompt_cache = None
        return seconds_of(lambda: self._read(asked), self.engine.plan.device)

    def first_token_s(self, asked: BenchQuestion) -> float:
        self.forget()
        return self.turn(replace(asked, new_tokens=1)).stats.first_token_s

    def answer(self, asked: BenchQuestion, sequences: int = 1) -> tuple[tuple[int, ...], float]:
        """Answers the question in `sequences` sequences at once; returns the ids of the first answer and the seconds.

        The seconds are those from the first tokens to the last. Errors: MemoryShortError, ContextError.
        """
        if sequences == 1:
            turn = self.turn(asked)
            return turn.answer_ids, turn.stats.decode_s
        self.engine.prompt_cache = None
        answers = self._batch(asked, [asked.frames] * sequences, sequences)
        return answers[0].ids, max(each.stats.decode_s for each in answers)

    def clips_s(self, asked: BenchQuestion, clips: int) -> float:
        """Measures the answers about `clips` clips, in batches as large as `vllava batch` would make them."""
        self.forget()
        # Equal frames are the same clip to the engine only where they are the same object.
        media = [replace(asked.frames) for _ in range(clips)]
        most = rows_that_fit(self.engine, asked.sampling, question_characters=len(asked.question))
        return seconds_of(lambda: self._batch(asked, media, min(clips, most)), self.engine.plan.device)

    def turn(self, asked: BenchQuestion) -> Turn:
        """Answers the question; what earlier answers left behind is used."""
        conversation, cancel = Conversation(attached=(asked.frames,)), Cancel(self.is_interrupted)
        list(self.engine.stream(conversation, asked.question, asked.sampling, cancel=cancel))
        return conversation.turns[-1]

    @torch.inference_mode()
    def logits(self, asked: BenchQuestion, new_ids: Sequence[int]) -> Tensor:
        """Returns the logits [len(new_ids), vocabulary] before each of these ids, which are decoded one by one."""
        self.forget()
        found = [self._read(asked)]
        for held, token in enumerate(new_ids[:-1], len(asked.ids)):
            fed = torch.tensor([token], device=found[0].device)
            found.append(self.engine.step(fed, held).clone())  # the next step overwrites these logits
        self.forget()  # the cache holds more than the prompt that it stands for
        return torch.stack(found)

    def _read(self, asked: BenchQuestion) -> Tensor:
        try:
            return self.engine.read(Prompt(ids=asked.ids, media=(asked.frames,)), cancel=Cancel(self.is_interrupted))
        except CancelError:
            raise KeyboardInterrupt from None

    def _batch(self, asked: BenchQuestion, media: Sequence[Frames], most: int) -> list[Answer]:
        """Answers the question about each of the media, `most` at once.

        Errors: MemoryShortError, as going on with fewer at once would be another measurement.
        """
        given = iter([[AnswerRequest(key=None, medium=medium, question=asked.question) for medium in media]])
        scheduler: BatchScheduler[None] = BatchScheduler(
            engine=self.engine,
            sampling=asked.sampling,
            fit="crop",
            most_rows=most,
            cancel=Cancel(self.is_interrupted),
            on_shortage=_refuse_fewer,
        )
        finished = list(scheduler.answers(lambda _, *, is_waiting: next(given, None)))  # noqa: ARG005
        for fault in filter(None, (each.fault for each in finished)):
            raise fault
        return [each.answer for each in finished if each.answer]


@dataclass(frozen=True, kw_only=True)
class MeasuredSnippet:
    """A model that from_pretrained has loaded; to save memory, it may share the language model of this tool's model."""

    model: VideoLlavaForConditionalGeneration
    plan: LoadPlan

    def own_bytes(self, ours: nn.Module) -> int:
        """Counts the bytes of the parameters that `ours` lacks, and loads these parameters from a mapped file."""
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
        return seconds_of(lambda: self.answer(replace(asked, new_tokens=1)), self.plan.device)

    def answer(
        self, asked: BenchQuestion, sequences: int = 1, *, suppressed: Sequence[int] = ()
    ) -> tuple[tuple[int, ...], float]:
        """Answers as `MeasuredEngine.answer` does, but always returns the ids of the first sequence.

        The time ends when the ids are on the host. The model never chooses a `suppressed` id.
        """
        first_s: list[float] = []

        def note(ids: Tensor, _scores: object, **_: object) -> Tensor:
            """Stops nothing; it notes the time at which the device has finished the first token."""
            if not first_s:
                finish(self.plan.device)
                first_s.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        ids = torch.tensor([asked.ids] * sequences, device=self.model.device)
        self.model.generation_config.eos_token_id = None
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=torch.cat([self._pixels(asked)] * sequences),
            max_new_tokens=asked.new_tokens,
            do_sample=False,
            stopping_criteria=[note],
            suppress_tokens=list(suppressed) or None,
        )
        return tuple(made[0, ids.shape[1] :].tolist()), time.perf_counter() - first_s[0]

    def clips_s(self, asked: BenchQuestion, clips: int) -> float:
        """Measures one clip and multiplies its time by `clips`, as the snippet answers about one clip after another."""
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


def _refuse_fewer(rows: int) -> None:
    raise MemoryShortError(f"The memory ran out: only {rows} questions fit at once, so choose a smaller --batch-size.")


def random_tokens(name: str) -> Tokens:
    """Returns the demo's tokenizer with a checkpoint of these shapes; no weight is made.

    Ids beyond the demo's vocabulary have no text.
    """
    config = random_config(name)
    side = config.vision_config.image_size
    recipe = replace(DEFAULT_CHECKPOINT.video_recipe, short_side=side, crop_height=side, crop_width=side)
    return read_tokens(facts(config, Source(model=f"random {name}", folder=demo.CHECKPOINT), recipe))


def random_config(name: str) -> VideoLlavaConfig:
    """Returns the config of a whole, untrimmed model, with the ids of the demo's placeholders."""
    from transformers import VideoLlavaConfig

    return VideoLlavaConfig(**_settings(name))


def _settings(name: str) -> dict[str, Any]:
    of_demo, (llama, tower) = read_config(demo.CHECKPOINT), SHAPES[name]
    return {
        "text_config": dict(zip(LLAMA, llama, strict=True)) | {"pad_token_id": of_demo.text_config.pad_token_id},
        "vision_config": dict(zip(TOWER, tower, strict=True)),
        "image_token_index": of_demo.image_token_id,
        "video_token_index": of_demo.video_token_id,
        "tie_word_embeddings": False,
    }


def random_models(name: str, plan: LoadPlan) -> tuple[Any, VideoLlavaForConditionalGeneration]:
    """Makes our model and the snippet's with random weights; both have the same language model if both can use it."""
    if plan.is_held:
        return _random_held(name, plan)
    config = usual(_settings(name))
    if config and plan.quantisation is None:
        ours: Any = VideoLlava(config, plan.attention, {"image_tower"})
    else:
        ours = empty_model(trimmed(random_config(name)), plan, NOT_QUANTISED)
        ours.model.image_tower = None
    fill(ours, plan)
    snippet = empty_model(random_config(name), plan, ("lm_head",))
    share(ours, snippet)
    fill(snippet, plan)
    return ours, snippet


def _random_held(name: str, plan: LoadPlan) -> tuple[Any, VideoLlavaForConditionalGeneration]:
    """Makes the models for a CPU that holds the weights in 16 bits or fewer, one layer at a time.

    The snippet's matrices in 16 bits are ours; 8 and 4 bits are bitsandbytes' with the snippet, so it has its own.
    """
    whole = replace(plan, quantisation=None, dtype="float16" if plan.quantisation else plan.dtype)
    config = usual(_settings(name))
    if config is None:
        raise ValueError(f"the shapes {name} are no usual ones")
    ours: Any = VideoLlava(config, plan.attention, {"image_tower"})
    for part in (ours.model.video_tower, ours.model.multi_modal_projector):
        fill(part.to(getattr(torch, plan.wide_dtype)), replace(plan, dtype=plan.wide_dtype))
    language = ours.model.language_model
    layers, language.layers = language.layers, nn.ModuleList()
    fill(ours, whole)
    language.layers = layers
    workspace = Workspace(wide_dtype=getattr(torch, plan.wide_dtype))
    for _ in hold(ours, plan, workspace, prepare=lambda number: fill(layers[number], whole)):
        pass
    snippet = empty_model(random_config(name), plan, ("lm_head",))
    if plan.quantisation is None:
        held = {path: module.matrix for path, module in ours.named_modules() if isinstance(module, CpuLinear)}
        for path, matrix in held.items():
            snippet.get_submodule(path).weight = nn.Parameter(matrix.values, requires_grad=False)
    fill(snippet, plan)
    return ours, snippet


def share(ours: Any, snippet: VideoLlavaForConditionalGeneration) -> None:
    """Lets the snippet's model compute with the language model of ours, so that no weight is held twice."""
    if not isinstance(ours, VideoLlava):
        snippet.model.language_model, snippet.lm_head = ours.model.language_model, ours.lm_head
        return
    for path, parameter in ours.named_parameters():
        if path.startswith(("model.language_model.", "lm_head.")):
            owner, _, name = path.rpartition(".")
            setattr(snippet.get_submodule(owner), name, parameter)


def empty_model(
    config: VideoLlavaConfig, plan: LoadPlan, not_quantised: Sequence[str]
) -> VideoLlavaForConditionalGeneration:
    """Makes a model whose parameters are on the meta device, without values, and whose buffers are on the CPU."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    hush(has_bars=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, plan.dtype), attn_implementation=plan.attention
        )
    if plan.quantisation:
        from transformers.integrations import replace_with_bnb_linear

        replace_with_bnb_linear(model, list(not_quantised), quantization_config=quantisation_config(plan))
    return model.eval()


@torch.no_grad()
def fill(model: nn.Module, plan: LoadPlan) -> None:
    """Fills the parameters on the meta device, norms with 1 and 0, others at random.

    Parameters and buffers are then on the plan's device.
    """
    generator = torch.Generator(device=plan.device)
    for path, module in model.named_modules():
        is_norm = type(module).__name__.endswith("Norm")
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                generator.manual_seed(zlib.crc32(plain(f"{path}.{name}").encode()))
                values = torch.empty(parameter.shape, dtype=getattr(torch, plan.dtype), device=plan.device)
                values.fill_(name == "weight") if is_norm else values.normal_(0.0, DEVIATION, generator=generator)
                module._parameters[name] = _parameter_like(parameter, values)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(plan.device)


def _parameter_like(empty: nn.Parameter, values: torch.Tensor) -> Any:
    """Makes a parameter with these values, of the same class as the empty one.

    bitsandbytes quantises a parameter when it is moved to its device; for 8 bits, it must be moved from the CPU.
    """
    if type(empty) is nn.Parameter:
        return nn.Parameter(values, requires_grad=False)
    settings = {name: value for name, value in vars(empty).items() if name != "SCB"}
    is_8bit = type(empty).__name__ == "Int8Params"
    return type(empty)(values.cpu() if is_8bit else values, requires_grad=False, **settings).to(values.device)
