"""Merges a LoRA adapter into a loaded model, one module after the other; peft computes what is merged.

Where a module is quantised already, its weight is read from the checkpoint once more, changed in the type that is
computed in and quantised again, so that no more than one matrix is ever held twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn

from vllava_cli.engine.adapter import ADAPTER_WEIGHTS, Change, changes, plain, tensors_of
from vllava_cli.engine.forward import memory_faults
from vllava_cli.errors import CheckpointError, MemoryShortError, reason_of
from vllava_cli.nouns import Adapter, Checkpoint, LoadPlan

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


def check_fits(checkpoint: Checkpoint) -> None:
    """Errors: CheckpointError for an adapter with a tensor that has no place in the checkpoint."""
    if checkpoint.adapter:
        changes(checkpoint.adapter, checkpoint)


def merge(model: VideoLlavaForConditionalGeneration, checkpoint: Checkpoint, plan: LoadPlan) -> None:
    """Changes the modules that are loaded; those that aren't are left to whoever loads them.

    Errors: CheckpointError, MemoryShortError.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        return
    modules = {plain(name): module for name, module in model.named_modules()}
    merging = _Merging(adapter=adapter, folder=checkpoint.folder, dtype=getattr(torch, plan.dtype))
    try:
        with memory_faults(plan.device), torch.no_grad():
            for change in changes(adapter, checkpoint):
                if change.module in modules:
                    merging.into(modules[change.module], change)
    except (MemoryShortError, CheckpointError, KeyboardInterrupt):
        raise
    except Exception as exc:  # peft, safetensors and torch each have their own types
        raise CheckpointError(f"The adapter {adapter.name} can't be merged: {reason_of(exc)}.") from exc


@dataclass(frozen=True, kw_only=True)
class _Merging:
    adapter: Adapter
    folder: Path
    """The checkpoint's."""
    dtype: torch.dtype

    def into(self, module: Any, change: Change) -> None:
        with safe_open(self.adapter.folder / ADAPTER_WEIGHTS, framework="pt") as file:
            tensors = {part: file.get_tensor(name) for part, name in change.tensors.items()}
        whole: Any = module if module.weight.is_floating_point() else self._original(module, change.module)
        for part in ("weight", "bias"):
            if part in tensors:
                old = getattr(whole, part)
                setattr(whole, part, nn.Parameter(tensors.pop(part).to(old.device, old.dtype), requires_grad=False))
        if tensors:
            _add(whole, tensors, change)
        if whole is not module:
            _quantise(module, whole.weight)

    def _original(self, module: Any, name: str) -> nn.Module:
        """A module with the weight that a quantised one was made from."""
        place = tensors_of(self.folder)[f"{name}.weight"]
        with safe_open(place.file, framework="pt") as file:
            weight = file.get_tensor(place.name).to(module.weight.device, self.dtype)
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        made.weight = nn.Parameter(weight, requires_grad=False)
        return made


def _add(module: Any, tensors: dict[str, torch.Tensor], change: Change) -> None:
    """Adds what the tensors of a change multiply to, as peft does it."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    first = tensors["lora_A.weight" if "lora_A.weight" in tensors else "lora_embedding_A"]
    config = LoraConfig(
        r=first.shape[0],
        lora_alpha=change.alpha,
        target_modules=["part"],
        use_rslora=change.is_rank_rooted,
        use_dora="lora_magnitude_vector" in tensors,
        lora_bias="lora_B.bias" in tensors,
    )
    tuner = LoraModel(nn.ModuleDict({"part": module}), config, "default")
    places = dict(tuner.model["part"].named_parameters())
    for part, tensor in tensors.items():
        kind, _, rest = part.partition(".")
        name = ".".join(filter(None, (kind, "default", rest or ("weight" if kind == "lora_magnitude_vector" else ""))))
        places[name].data = tensor.to(module.weight.device, torch.float32)
    tuner.merge_and_unload(safe_merge=True)


def _quantise(module: Any, weight: nn.Parameter) -> None:
    """Puts a weight into a module of bitsandbytes in the form that it had."""
    import bitsandbytes

    old, device = module.weight, module.weight.device
    if isinstance(old, bitsandbytes.nn.Params4bit):
        settings = {
            name: getattr(old, name) for name in ("quant_type", "compress_statistics", "blocksize", "quant_storage")
        }
        made = bitsandbytes.nn.Params4bit(weight.data, requires_grad=False, module=module, **settings)
    else:
        made = bitsandbytes.nn.Int8Params(weight.data, requires_grad=False, has_fp16_weights=False)
    module.weight = made.to(device)
