"""Loads an Engine by a LoadPlan: from safetensors only, without remote code or silent gaps."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from vllava_cli.answers import Conversation
from vllava_cli.engine.adapter import changes, merge
from vllava_cli.engine.checkpoint import ADAPTER_CONFIG, CONFIG, read_config, read_full_config
from vllava_cli.engine.cpu.held_weights import held_bytes, hold, keep, read_ahead, settings_of, stored_dtype, take_kept
from vllava_cli.engine.cpu.linear import Workspace
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import weight_files
from vllava_cli.engine.modules.model_config import ModelConfig
from vllava_cli.engine.modules.video_llava import VideoLlava
from vllava_cli.engine.modules.weights import check_complete, fill, is_left_out
from vllava_cli.engine.scoring import blank_frames
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.weight_cache import WeightCache, origin_of
from vllava_cli.errors import CheckpointError, MemoryShortError, reason_of
from vllava_cli.nouns import (
    SILENT,
    Checkpoint,
    LoadPlan,
    Log,
    MediaKind,
)
from vllava_cli.storage.fields import unusable
from vllava_cli.times import Activity

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

TOWERS = {"video_tower", "image_tower"}
PARTS = TOWERS | {"language_model", "multi_modal_projector"}
"""The parts of the model, besides its head."""
THREADS_SETTING = "OMP_NUM_THREADS"
SHARD_SIZE = "1GB"
"""The part of a GPU's quantised weights that passes through RAM at once."""
NOT_QUANTISED = ["model.video_tower", "model.image_tower", "model.multi_modal_projector", "lm_head"]
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of missing kernels that aren't needed


def load(
    plan: LoadPlan, tokens: Tokens, kinds: Iterable[MediaKind], *, log: Log = SILENT, cache: WeightCache | None = None
) -> Engine:
    """Loads the weights into an engine; a tower for a kind that isn't in `kinds` is loaded only when it is needed.

    Modules are made without memory, and then each parameter is filled once, from the mapped file straight to the
    device; tensors for which no module has a place are never touched. transformers does that, and is imported, only for
    a plan by which bitsandbytes quantises and for a config that isn't usual.

    If the plan quantises, quantised weights come from the cache if it has them; if not, they are put there. Errors:
    CheckpointError for weights that are damaged, missing or too many; MemoryShortError.
    """
    kinds = set(kinds)
    changes(tokens.checkpoint)  # raises where the adapter doesn't fit, before a weight is read
    if _usual(plan, tokens.checkpoint.folder) is None:
        hush(has_bars=log.has_bars and not plan.is_held)  # held weights are mapped in a moment
    if plan.threads and THREADS_SETTING not in os.environ:  # a user who sets it has chosen
        torch.set_num_threads(plan.threads)
    if plan.is_held:
        model: Any = _held(plan, tokens, kinds, cache, log)
    elif cache and plan.quantisation:
        model = _quantised(plan, tokens, kinds, cache)
    else:
        model = _read(plan, tokens, TOWERS - {f"{kind}_tower" for kind in kinds})
    return Engine(model=model.eval(), tokens=tokens, plan=plan, tower=partial(tower, tower_plan(plan), tokens), log=log)


def check(plan: LoadPlan, tokens: Tokens) -> None:
    """Raises the errors that a question about a video would raise before its answer begins; no weight is read.

    The model is loaded on the meta device, where a tensor has a size but no values. Errors: CheckpointError,
    ContextError.
    """
    tokens.prompt_ids(Conversation(attached=(blank_frames("video", tokens),)), "What?")
    changes(tokens.checkpoint)
    if _usual(plan, tokens.checkpoint.folder) is None:
        hush(has_bars=False)
    bare = replace(tokens, checkpoint=replace(tokens.checkpoint, adapter=None))
    _read(replace(plan, device="meta", quantisation=None, attention="eager"), bare, {"image_tower"})


def hush(*, has_bars: bool) -> None:
    from transformers.utils import logging as transformers_logging

    show = transformers_logging.enable_progress_bar if has_bars else transformers_logging.disable_progress_bar
    show()


def load_documented(plan: LoadPlan, checkpoint: Checkpoint) -> VideoLlavaForConditionalGeneration:
    """Loads the whole model as transformers' documentation does; bitsandbytes chooses what to quantise, towers as well.

    Errors: CheckpointError, MemoryShortError.
    """
    hush(has_bars=False)
    folder, options = checkpoint.folder, _options(plan)
    if plan.quantisation:
        options["quantization_config"].llm_int8_skip_modules = None
    model, _ = _from_pretrained((), folder, read_full_config(folder), options, plan.device)
    merge(model, checkpoint, plan)
    return model.eval()


def tower(plan: LoadPlan, tokens: Tokens, kind: MediaKind) -> torch.nn.Module:
    """Loads the tower for one kind of media, for a model that was loaded without it; towers are never quantised.

    Errors: CheckpointError, MemoryShortError.
    """
    name = f"{kind}_tower"
    found: torch.nn.Module = getattr(_read(plan, tokens, PARTS - {name}).model, name)
    return found.eval()


def tower_plan(plan: LoadPlan) -> LoadPlan:
    """Returns the plan by which the towers are loaded, which are never held in fewer bits than they compute in."""
    return replace(plan, quantisation=None, dtype=plan.wide_dtype) if plan.is_held else plan


def _held(
    plan: LoadPlan, tokens: Tokens, kinds: set[MediaKind], cache: WeightCache | None, log: Log
) -> VideoLlavaForConditionalGeneration:
    """Loads the model with a language model that the CPU holds in 16, 8 or 4 bits; quantised weights are kept."""
    checkpoint = tokens.checkpoint
    workspace = Workspace(wide_dtype=getattr(torch, plan.wide_dtype))
    settings = settings_of(plan, workspace)
    with memory_faults("cpu", plan):
        dtype = stored_dtype(checkpoint.folder) if plan.quantisation else plan.dtype
    whole = replace(plan, quantisation=None, dtype=dtype)
    form = replace(plan, dtype=dtype)  # quantised weights don't depend on the dtype of products, which was measured
    origin = origin_of(checkpoint.folder, form, settings, adapter=checkpoint.adapter) if plan.quantisation else None
    kept = cache.find(origin) if cache and origin else None
    model = _read(whole, tokens, TOWERS, merges=False)
    if cache and kept:
        try:
            take_kept(model, kept, plan, workspace)
            cache.log.detail(f"weights: read from the weight cache, {kept}.")
        except Exception as exc:  # safetensors raises its own types
            cache.drop_if_damaged(kept, reason_of(exc))
            model, kept = _read(whole, tokens, TOWERS, merges=False), None
    if not kept:
        read_ahead(checkpoint.folder / name for name in weight_files(checkpoint.folder))
    merge(model, checkpoint, whole)
    activity = Activity()
    if plan.quantisation and not kept:
        layers = read_config(checkpoint.folder).text_config.num_hidden_layers
        activity.begin(f"quantising to {plan.quantisation[0]} bits, once", total=layers, unit="layers")
    else:
        activity.begin("loading the model")
    with memory_faults("cpu", plan), log.progress(lambda: [activity.text]):
        for share in hold(model, plan, workspace):
            activity.advance(share)
    again = origin_of(checkpoint.folder, form, settings, adapter=checkpoint.adapter)
    if cache and origin and not kept and origin == again:  # the checkpoint hasn't changed meanwhile
        cache.keep(partial(keep, model), held_bytes(model), origin, named=checkpoint.name)
    for kind in kinds:
        setattr(model.model, f"{kind}_tower", tower(tower_plan(plan), tokens, kind))
    return model


def _quantised(
    plan: LoadPlan, tokens: Tokens, kinds: set[MediaKind], cache: WeightCache
) -> VideoLlavaForConditionalGeneration:
    """Loads the quantised language model from the cache, or quantises it and keeps it there; then loads the towers."""
    checkpoint, settings = tokens.checkpoint, quantisation_config(plan).to_dict()
    origin = origin_of(checkpoint.folder, plan, settings, adapter=checkpoint.adapter)
    model: Any = None
    kept = cache.find(origin) if origin else None
    if kept:
        try:
            model = _read(plan, tokens, TOWERS, kept=kept)
            cache.log.detail(f"weights: read from the weight cache, {kept}.")
        except CheckpointError as exc:
            cache.drop_if_damaged(kept, reason_of(exc))
    if model is None:
        model = _read(plan, tokens, TOWERS)
        again = origin_of(checkpoint.folder, plan, settings, adapter=checkpoint.adapter)
        if origin and origin == again:  # the checkpoint hasn't changed meanwhile
            write = partial(model.save_pretrained, max_shard_size=SHARD_SIZE)
            size = sum(value.nbytes for value in model.state_dict().values())
            cache.keep(write, size, origin, named=checkpoint.name)
    for kind in kinds:
        setattr(model.model, f"{kind}_tower", tower(plan, tokens, kind))
    return model


def _usual(plan: LoadPlan, folder: Path) -> ModelConfig | None:
    """Returns the config of a model that is loaded without transformers; None if the plan or the config needs it."""
    config = read_config(folder) if plan.quantisation is None or plan.is_held else None
    return config if isinstance(config, ModelConfig) else None


def _read(
    plan: LoadPlan, tokens: Tokens, lacking: Collection[str], *, kept: Path | None = None, merges: bool = True
) -> VideoLlava | VideoLlavaForConditionalGeneration:
    """Loads the model without the `lacking` parts, from the checkpoint or from the cache's folder `kept`."""
    folder = kept or tokens.checkpoint.folder
    if usual := _usual(plan, tokens.checkpoint.folder):
        return _read_usual(plan, tokens, lacking, usual, merges=merges)
    config, options = trimmed(read_full_config(tokens.checkpoint.folder)), _options(plan)
    if kept:
        config.quantization_config = options.pop("quantization_config").to_dict()
    elif "language_model" in lacking:
        options.pop("quantization_config", None)
    model, info = _from_pretrained(lacking, folder, config, options, plan.device)
    _check_loaded(info, config, tokens, lacking)
    if merges and not kept:
        merge(model, tokens.checkpoint, plan)
    return model


def _read_usual(
    plan: LoadPlan, tokens: Tokens, lacking: Collection[str], config: ModelConfig, *, merges: bool = True
) -> VideoLlava:
    """Loads a model of a usual config without transformers."""
    folder, dtype = tokens.checkpoint.folder, getattr(torch, plan.dtype)
    with _faults(folder, plan.device):
        model = VideoLlava(config, plan.attention, lacking)
        fill(model, folder, dtype=dtype, device=plan.device, lacking=lacking)
    if merges:
        merge(model, tokens.checkpoint, plan)
    return model


def _from_pretrained(
    lacking: Collection[str], folder: Path, config: VideoLlavaConfig, options: dict[str, Any], device: str
) -> tuple[VideoLlavaForConditionalGeneration, dict[str, Any]]:
    """Loads a model; returns it with transformers' report on its tensors. Errors: CheckpointError, MemoryShortError."""
    with _faults(folder, device), without_adapter(folder) as plain:
        found: tuple[VideoLlavaForConditionalGeneration, dict[str, Any]]
        found = _class_without(lacking).from_pretrained(plain, config=config, output_loading_info=True, **options)
        return found


@contextmanager
def _faults(folder: Path, device: str) -> Iterator[None]:
    """Turns errors of libraries into those of this tool. Errors: CheckpointError, MemoryShortError."""
    try:
        with memory_faults(device):
            yield
    except (CheckpointError, MemoryShortError, KeyboardInterrupt):
        raise
    except _UnfitConfigError as exc:
        raise unusable(folder / CONFIG, reason_of(exc)) from exc
    except Exception as exc:  # safetensors, transformers and torch each raise their own types
        raise CheckpointError(f"The weights in {folder} can't be loaded: {reason_of(exc)}.") from exc


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """Yields a folder with the same files, except an adapter's config.

    If peft is installed, from_pretrained would add the adapter to weights into which it is already merged.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        yield folder
        return
    with TemporaryDirectory(prefix="vllava-") as links:
        for path in folder.iterdir():
            if path.is_file() and path.name != ADAPTER_CONFIG:
                (Path(links) / path.name).symlink_to(path.resolve())
        yield Path(links)


class _UnfitConfigError(Exception):
    """The modules that a config describes can't be made."""


def _class_without(parts: Collection[str]) -> type[VideoLlavaForConditionalGeneration]:
    """Makes a class of the model without these `parts`; without the language model it has no head, either.

    The class has the name and the module of the original, by which transformers knows how to translate the published
    tensor names.
    """
    from transformers import VideoLlavaForConditionalGeneration as Whole

    class Partial(Whole):  # type: ignore[misc]  # transformers is not typed
        def __init__(self, config: VideoLlavaConfig) -> None:
            try:
                super().__init__(config)
            except Exception as exc:  # torch and transformers each raise their own types
                raise _UnfitConfigError(exc) from exc
            for part in parts:
                setattr(self.model, part, None)
            if "language_model" in parts:
                self.lm_head = None

        if "language_model" in parts:

            def get_input_embeddings(self) -> None:
                return None

            def get_output_embeddings(self) -> None:
                return None

            def tie_weights(self, *_: Any, **__: Any) -> None:
                pass

    Partial.__name__, Partial.__module__ = Whole.__name__, Whole.__module__
    return Partial


def trimmed(config: VideoLlavaConfig) -> VideoLlavaConfig:
    """Removes the vision layers whose output isn't used: 24 layers, features of layer -2 → 23 layers, -1.

    The features are the tower's hidden_states[-2], the output of its last layer but one; the last layer isn't needed.
    """
    layer = config.vision_feature_layer
    if isinstance(layer, int) and layer < -1:
        config.vision_config.num_hidden_layers += layer + 1
        config.vision_feature_layer = -1
    return config


def _options(plan: LoadPlan) -> dict[str, Any]:
    """Makes the arguments of from_pretrained for a plan."""
    from transformers import GenerationConfig

    options: dict[str, Any] = {
        "generation_config": GenerationConfig(),  # else a file is read for `generate`, which is never called
        "dtype": getattr(torch, plan.dtype),
        "attn_implementation": plan.attention,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # reported by _check_loaded, in a sentence
        "device_map": {"": plan.device},
    }
    if plan.quantisation:
        options["quantization_config"] = quantisation_config(plan)
    return options


def quantisation_config(plan: LoadPlan) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    if plan.quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, plan.dtype),
        llm_int8_skip_modules=NOT_QUANTISED,
    )


def _check_loaded(info: dict[str, Any], config: VideoLlavaConfig, tokens: Tokens, lacking: Collection[str]) -> None:
    """Raises CheckpointError for missing, surplus or resized weights; transformers would warn and use random ones."""
    kept = config.vision_config.num_hidden_layers
    check_complete(
        tokens.checkpoint.folder,
        missing=info["missing_keys"],
        resized=[str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]],
        surplus=[key for key in info["unexpected_keys"] if not is_left_out(key, kept, lacking)],
    )
