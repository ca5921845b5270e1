"""Loads an Engine by a LoadPlan with transformers: from safetensors only, without remote code or silent gaps."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from vllava_cli.engine.adapter import changes, merge
from vllava_cli.engine.checkpoint import ADAPTER_CONFIG, CONFIG, read_config
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.scoring import blank_frames
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.weight_cache import WeightCache, origin_of
from vllava_cli.errors import CheckpointError, MemoryShortError, reason_of
from vllava_cli.nouns import SILENT, Checkpoint, Conversation, LoadPlan, Log, MediaKind
from vllava_cli.storage.fields import unusable

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

TOWERS = {"video_tower", "image_tower"}
PARTS = TOWERS | {"language_model", "multi_modal_projector"}
"""The parts of the model, beside its head."""
THREADS_SETTING = "OMP_NUM_THREADS"
NOT_QUANTISED = ["model.video_tower", "model.image_tower", "model.multi_modal_projector", "lm_head"]


def load(
    plan: LoadPlan, tokens: Tokens, kinds: Iterable[MediaKind], *, log: Log = SILENT, cache: WeightCache | None = None
) -> Engine:
    """Loads the weights; a tower for a kind that isn't among `kinds` is neither made nor read before it is needed.

    transformers makes the modules without memory and then fills each parameter once, from the mapped file straight to
    the device; tensors that no module has a place for are never touched.

    With a cache, weights that are to be quantised are read from there if it has them, and are put there if not.
    Errors: CheckpointError for weights that are damaged, missing or too many; MemoryShortError.
    """
    hush(has_bars=log.has_bars)
    kinds = set(kinds)
    changes(tokens.checkpoint)  # raises where the adapter doesn't fit, before a weight is read
    if cache and plan.quantisation:
        model = _quantised(plan, tokens, kinds, cache)
    else:
        model = _read(plan, tokens, TOWERS - {f"{kind}_tower" for kind in kinds})
    if plan.threads and THREADS_SETTING not in os.environ:  # who sets that has chosen
        torch.set_num_threads(plan.threads)
    return Engine(model=model.eval(), tokens=tokens, plan=plan, tower=partial(tower, plan, tokens), log=log)


def check(plan: LoadPlan, tokens: Tokens) -> None:
    """Raises what an answer about a video would raise before it begins; no weight is read.

    On the meta device a tensor has a name and a size, and no value. Errors: CheckpointError, ContextError.
    """
    hush(has_bars=False)
    tokens.prompt_ids(Conversation(attached=(blank_frames("video", tokens),)), "What?")
    changes(tokens.checkpoint)
    bare = replace(tokens, checkpoint=replace(tokens.checkpoint, adapter=None))
    _read(replace(plan, device="meta", quantisation=None, attention="eager"), bare, {"image_tower"})


def hush(*, has_bars: bool) -> None:
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels of the hub that nobody asked for
    show = transformers_logging.enable_progress_bar if has_bars else transformers_logging.disable_progress_bar
    show()


def load_documented(plan: LoadPlan, checkpoint: Checkpoint) -> VideoLlavaForConditionalGeneration:
    """The whole model as transformers' documentation loads it; bitsandbytes chooses what it quantises, towers as well.

    Errors: CheckpointError, MemoryShortError.
    """
    hush(has_bars=False)
    folder, options = checkpoint.folder, _options(plan)
    if plan.quantisation:
        options["quantization_config"].llm_int8_skip_modules = None
    model, _ = _from_pretrained((), folder, read_config(folder), options, plan.device)
    merge(model, checkpoint, plan)
    return model.eval()


def tower(plan: LoadPlan, tokens: Tokens, kind: MediaKind) -> torch.nn.Module:
    """The tower for a kind alone, for a model that was loaded without it; towers are never quantised.

    Errors: CheckpointError, MemoryShortError.
    """
    name = f"{kind}_tower"
    found: torch.nn.Module = getattr(_read(plan, tokens, PARTS - {name}).model, name)
    return found.eval()


def _quantised(
    plan: LoadPlan, tokens: Tokens, kinds: set[MediaKind], cache: WeightCache
) -> VideoLlavaForConditionalGeneration:
    """The kept language model, or the checkpoint's, which is then kept; towers are the checkpoint's, as they are."""
    checkpoint, settings = tokens.checkpoint, quantisation_config(plan).to_dict()
    origin = origin_of(checkpoint.folder, plan, settings, adapter=checkpoint.adapter)
    model, kept = None, cache.find(origin) if origin else None
    if kept:
        try:
            model = _read(plan, tokens, TOWERS, kept=kept)
            cache.log.detail(f"weights: read as they were kept in {kept}.")
        except CheckpointError as exc:
            cache.drop_if_damaged(kept, reason_of(exc))
    if model is None:
        model = _read(plan, tokens, TOWERS)
        again = origin_of(checkpoint.folder, plan, settings, adapter=checkpoint.adapter)
        if origin and origin == again:  # nobody changed it meanwhile
            cache.keep(model, origin, named=checkpoint.name)
    for kind in kinds:
        setattr(model.model, f"{kind}_tower", tower(plan, tokens, kind))
    return model


def _read(
    plan: LoadPlan, tokens: Tokens, lacking: Collection[str], *, kept: Path | None = None
) -> VideoLlavaForConditionalGeneration:
    """The model without some parts, from the checkpoint or from the folder of weights that were `kept`."""
    folder = kept or tokens.checkpoint.folder
    config, options = trimmed(read_config(tokens.checkpoint.folder)), _options(plan)
    if kept:
        config.quantization_config = options.pop("quantization_config").to_dict()
    elif "language_model" in lacking:
        options.pop("quantization_config", None)
    model, info = _from_pretrained(lacking, folder, config, options, plan.device)
    _check_complete(info, config, tokens, lacking)
    if not kept:
        merge(model, tokens.checkpoint, plan)
    return model


def _from_pretrained(
    lacking: Collection[str], folder: Path, config: VideoLlavaConfig, options: dict[str, Any], device: str
) -> tuple[VideoLlavaForConditionalGeneration, dict[str, Any]]:
    """The model, and what transformers found out about the tensors. Errors: CheckpointError, MemoryShortError."""
    try:
        with memory_faults(device), without_adapter(folder) as plain:
            found: tuple[VideoLlavaForConditionalGeneration, dict[str, Any]]
            found = _class_without(lacking).from_pretrained(plain, config=config, output_loading_info=True, **options)
            return found
    except (MemoryShortError, KeyboardInterrupt):
        raise
    except _UnfitConfigError as exc:
        raise unusable(folder / CONFIG, reason_of(exc)) from exc
    except Exception as exc:  # safetensors, transformers and torch each have their own types
        raise CheckpointError(f"The weights in {folder} can't be loaded: {reason_of(exc)}.") from exc


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A folder with the same files but for an adapter's config.

    Where peft is installed, from_pretrained would put the adapter on top of weights that are merged already.
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
    """No modules can be made as a config says."""


def _class_without(parts: Collection[str]) -> type[VideoLlavaForConditionalGeneration]:
    """The model's class, whose instances lack these parts; without a language model no words go in or come out.

    By its name and module transformers knows how to translate the published tensor names.
    """
    from transformers import VideoLlavaForConditionalGeneration as Whole

    class Partial(Whole):  # type: ignore[misc]  # transformers is not typed
        def __init__(self, config: VideoLlavaConfig) -> None:
            try:
                super().__init__(config)
            except Exception as exc:  # torch and transformers each have their own types
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
    """Removes the vision layers that run in vain: 24 layers, features of layer -2 → 23 layers, -1.

    Source: the tower's hidden_states[-2] is the output of its last layer but one, so nothing behind that is used.
    """
    layer = config.vision_feature_layer
    if isinstance(layer, int) and layer < -1:
        config.vision_config.num_hidden_layers += layer + 1
        config.vision_feature_layer = -1
    return config


def _options(plan: LoadPlan) -> dict[str, Any]:
    """The arguments of from_pretrained for a plan."""
    from transformers import GenerationConfig

    options: dict[str, Any] = {
        "generation_config": GenerationConfig(),  # so that nothing is read for generate, which nobody calls
        "dtype": getattr(torch, plan.dtype),
        "attn_implementation": plan.attention,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # reported by _check_complete, in a sentence
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


def _check_complete(info: dict[str, Any], config: VideoLlavaConfig, tokens: Tokens, unneeded: Collection[str]) -> None:
    """A gap would leave random weights behind a mere warning, so it is an error here."""
    kept = config.vision_config.num_hidden_layers
    surplus = [key for key in sorted(info["unexpected_keys"]) if not _is_left_out(key, kept, unneeded)]
    resized = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    faults = (("missing", sorted(info["missing_keys"])), ("of another size", resized), ("unexpected", surplus))
    for what, keys in faults:
        if keys:
            raise CheckpointError(
                f"The weights in {tokens.checkpoint.folder} don't match its config: {len(keys)} {what}, "
                f"{keys[0]} among them; take its files from the original again, or, if a newer transformers has saved "
                f"it, pip install -U transformers."
            )


def _is_left_out(key: str, kept_layers: int, unneeded: Collection[str]) -> bool:
    """True if a tensor is of a part that isn't needed, or of a layer of a tower that runs in vain."""
    found = re.search(r"(\w+_tower)\.(?:.*encoder\.layers\.(\d+)\.)?", key)
    if found is None:
        return any(part in key for part in unneeded) or ("language_model" in unneeded and "lm_head" in key)
    return found[1] in unneeded or (found[2] is not None and int(found[2]) >= kept_layers)
