"""Finds a LoRA adapter, checks it against a checkpoint by the headers of their files, and merges it into a model.

An adapter has the module names of the transformers version that trained it, so modules are compared by their plain
names. torch is imported only to merge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.engine import hub
from vllava_cli.engine.checkpoint import ADAPTER_CONFIG, CONFIG, base_of
from vllava_cli.engine.hub_download import repository_folder
from vllava_cli.errors import CheckpointError, MemoryShortError, UsageError, reason_of
from vllava_cli.nouns import (
    SILENT,
    UNKNOWN_REVISION,
    Adapter,
    Checkpoint,
    LoadPlan,
    Log,
    Source,
    Wishes,
)
from vllava_cli.storage.fields import read_object, unusable

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import VideoLlavaForConditionalGeneration

ADAPTER_WEIGHTS = "adapter_model.safetensors"
UNMERGEABLE = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora"),
)
"""Settings with which an adapter does something other than change the matrices that it names."""
SWITCHES = ("use_dora", "use_rslora")
REBASED = ("corda", "kasa", "loftq", "lora_ga", "olora", "pissa")
"""Initialisations that change the base's own weights: such an adapter fits no published base."""
_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>[\w.]+?)\.(?:base_layer\.)?(?P<part>weight|bias|lora_embedding_[AB]"
    r"|lora_magnitude_vector|lora_A\.weight|lora_B\.(?:weight|bias))"
)
Shape = tuple[int, ...]
_LITERAL = re.compile(r"\^?((?:\w|\\?\.)+)\$?")


@dataclass(frozen=True, kw_only=True)
class ModuleChange:
    """The change that an adapter makes to one module of the model."""

    module: str
    """The plain name of the module."""
    alpha: float
    """The added matrix is scaled by alpha / rank, or by alpha / √rank if `is_rank_rooted`."""
    is_rank_rooted: bool
    tensors: dict[str, str] = field(default_factory=dict)
    """The adapter's tensor for each part: {"lora_A.weight": "base_model.model.….lora_A.weight", …}."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file of a checkpoint."""

    file: Path
    name: str
    shape: Shape


def locate(wishes: Wishes, log: Log = SILENT) -> Source:
    """Finds a checkpoint and the adapter that the user asks for, and warns if they may not belong together.

    Errors: UsageError if peft is missing, CheckpointError, HubError.
    """
    source = hub.locate(wishes.model, wishes.revision, log=log)
    return _joined(source, hub.locate_adapter(wishes.adapter, log=log) if wishes.adapter else None, log)


def foreseen(wishes: Wishes, log: Log = SILENT) -> Source:
    """Finds a model and its adapter without the network; the revision is UNKNOWN_REVISION if either isn't here.

    Errors: UsageError if peft is missing, CheckpointError; HubError for a name that can't be a hub id.
    """
    source = hub.find_here(wishes.model, wishes.revision)
    if source is None:
        commit = wishes.revision if re.fullmatch("[0-9a-f]{40}", wishes.revision or "") else UNKNOWN_REVISION
        source = Source(model=wishes.model, folder=repository_folder(wishes.model), revision=commit)
    adapter = hub.find_here(wishes.adapter, kind="adapter") if wishes.adapter else None
    if wishes.adapter and hub.missing_adapter(adapter):
        return replace(source, revision=UNKNOWN_REVISION)
    return _joined(source, adapter, log)


def _joined(source: Source, found: Source | None, log: Log) -> Source:
    """Returns a checkpoint with the adapter that was found for it, and warns if they may not belong together."""
    if found:
        source = replace(source, adapter=described(found))
        base = base_of(found.folder)
        if base and Path(base).name != Path(source.model).name:
            log.notice(
                f"vllava: warning: the adapter {found.model} was trained on {base}, and the model is {source.model}."
            )
    elif (source.folder / ADAPTER_CONFIG).exists() and (source.folder / CONFIG).exists():
        log.notice(
            f"vllava: {source.model} has an {ADAPTER_CONFIG} beside its weights, which are taken as merged already; if "
            f"they aren't, add --adapter {source.model}."
        )
    return source


def described(source: Source) -> Adapter:
    """Reads and checks an adapter's files. Errors: UsageError if peft is missing, CheckpointError."""
    folder, weights = source.folder, source.folder / ADAPTER_WEIGHTS
    if not (folder / ADAPTER_CONFIG).exists():
        if (folder / CONFIG).exists():
            raise CheckpointError(f"{source.model} is a model, not an adapter: give it with --model.")
        raise CheckpointError(f"{source.model} is not an adapter: it has no {ADAPTER_CONFIG}.")
    settings = read_object(folder / ADAPTER_CONFIG)
    _check_settings(source.model, settings)
    for name in SWITCHES:
        if not isinstance(settings.get(name), bool | None):
            raise unusable(folder / ADAPTER_CONFIG, f"{name} is {settings[name]!r} and must be true or false")
    pickled = weights.with_suffix(".bin")
    if pickled.exists() and not weights.exists():
        raise CheckpointError(
            f"The adapter {source.model} has its weights in {pickled.name}, and vllava reads them from safetensors "
            "files only: load it with peft if you trust it, and save it with save_pretrained."
        )
    hub.shapes_in(weights)
    if util.find_spec("peft") is None:
        raise UsageError("--adapter needs peft, which isn't installed: pip install 'vllava[adapter]'.")
    digest = hashlib.sha256((folder / ADAPTER_CONFIG).read_bytes())
    with weights.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    return Adapter(name=source.model, folder=folder, revision=source.revision, sha256=digest.hexdigest())


def changes(checkpoint: Checkpoint) -> list[ModuleChange]:
    """Lists the changes that the checkpoint's adapter makes, one for each module; no adapter → [].

    Errors: CheckpointError if a tensor has no place in the checkpoint, is missing, or has the wrong shape.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        return []
    settings = read_object(adapter.folder / ADAPTER_CONFIG)
    found: dict[str, ModuleChange] = {}
    shapes = hub.shapes_in(adapter.folder / ADAPTER_WEIGHTS)
    stored = tensors_of(checkpoint.folder)
    lost = []
    for name in shapes:
        match = _TENSOR.fullmatch(name)
        module = plain(match["module"]) if match else ""
        if match is None or f"{module}.{'bias' if match['part'] == 'bias' else 'weight'}" not in stored:
            lost.append(name)
            continue
        alpha = _alpha(adapter.folder / ADAPTER_CONFIG, settings, match["module"])
        is_rooted = bool(settings.get("use_rslora"))
        change = found.setdefault(module, ModuleChange(module=module, alpha=alpha, is_rank_rooted=is_rooted))
        change.tensors[match["part"]] = name
    fault = None if found else "it is empty"
    if lost:
        fault = f"{len(lost)} of its {len(shapes)} tensors have no place there, {lost[0]} among them"
    is_dora = bool(settings.get("use_dora"))
    for change in found.values():
        sizes = {part: shapes[name] for part, name in change.tensors.items()}
        fault = fault or _fault(change.module, sizes, stored, is_dora=is_dora)
    if fault:
        raise CheckpointError(f"The adapter {adapter.name} doesn't fit the model {checkpoint.model}: {fault}.")
    return list(found.values())


def tensors_of(folder: Path) -> dict[str, StoredTensor]:
    """Maps the plain names of a checkpoint's tensors to the tensors in its files. Errors: CheckpointError."""
    found: dict[str, StoredTensor] = {}
    for file in hub.weight_files(folder):
        for name, shape in hub.shapes_in(folder / file).items():
            tensor = StoredTensor(file=folder / file, name=name, shape=shape)
            if (other := found.setdefault(plain(name), tensor)) is not tensor:
                raise unusable(folder / file, f"{other.name} and {name} are two tensors of one place")
    return found


def plain(name: str) -> str:
    """Returns a name common to all versions of transformers: language_model.model.norm → language_model.norm."""
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.model\.", "language_model.", name)
    return name.replace("language_model.lm_head", "lm_head").replace("_tower.vision_model.", "_tower.")


def _fault(module: str, sizes: Mapping[str, Shape], stored: Mapping[str, StoredTensor], *, is_dora: bool) -> str | None:
    """Returns a clause about a part of a module's change that is missing or has the wrong shape; None if all fit.

    peft would fill a missing part with random values.
    """
    needed = {part: stored[f"{module}.{part}"].shape for part in ("weight", "bias") if part in sizes}
    if added := sizes.keys() - needed:
        is_embedding = any(part.startswith("lora_embedding") for part in added)
        first, second = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
        if missing := sorted({first, second, *(["lora_magnitude_vector"] if is_dora else [])} - added):
            return f"it lacks {missing[0]} of {module}"
        rank = (*sizes[first], 1)[0] or 1
        out, *into = stored[f"{module}.weight"].shape or (0,)
        if is_embedding:
            needed |= {first: (rank, out), second: (*into, rank), "lora_magnitude_vector": (*into,)}
        else:
            ones = [1 for _ in into[1:]]
            magnitudes = (1, out, *ones) if ones else (out,)
            needed |= {first: (rank, *into), second: (out, rank, *ones), "lora_magnitude_vector": magnitudes}
            needed["lora_B.bias"] = (out,)
    for part, size in sizes.items():
        if needed.get(part) != size:
            return f"its {part} of {module} is {list(size)} and must be {list(needed.get(part, ()))}"
    return None


def _check_settings(named: str, settings: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a setting that keeps an adapter from being merged; `named` is its name."""
    kind, start = settings.get("peft_type"), settings.get("init_lora_weights")
    base_class = _object(settings, "auto_mapping").get("base_model_class", "VideoLlavaForConditionalGeneration")
    fault = next((name for name in UNMERGEABLE if settings.get(name)), None)
    if kind != "LORA":
        fault = f"peft_type {kind}"
    elif isinstance(start, str) and start.startswith(REBASED):
        fault = f"init_lora_weights {start} (peft's path_initial_model_for_weight_conversion makes a plain one of it)"
    elif base_class not in ("VideoLlavaForConditionalGeneration", "VideoLlavaModel"):
        fault = f"base_model_class {base_class}"
    if fault:
        raise CheckpointError(f"The adapter {named} has {fault}: vllava merges plain LoRA and DoRA for Video-LLaVA.")


def _alpha(path: Path, settings: Mapping[str, Any], module: str) -> float:
    """Returns the alpha of a module; `module` is its name in training. Errors: CheckpointError."""
    given: Any = settings.get("lora_alpha")
    for pattern, alpha in _object(settings, "alpha_pattern").items():
        literal = _LITERAL.fullmatch(pattern)
        if literal is None:
            raise CheckpointError(f"The file {path} has alpha_pattern {pattern!r}: give names without wildcards.")
        name = literal[1].replace("\\", "")
        if module == name or (module.endswith(f".{name}") and not pattern.startswith("^")):
            given = alpha
            break
    if type(given) not in (int, float) or not abs(given) < 1e9:
        raise unusable(path, f"lora_alpha is {given!r} and must be a number")
    return float(given)


def _object(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def merge(model: VideoLlavaForConditionalGeneration, checkpoint: Checkpoint, plan: LoadPlan) -> None:
    """Merges the adapter into the modules that are loaded, one after another; peft computes the merged weights.

    Modules without a weight of their own, which hold kept weights into which it is merged already, stay as they are.
    Errors: CheckpointError, MemoryShortError.
    """
    import torch

    from vllava_cli.engine.forward import memory_faults

    adapter = checkpoint.adapter
    if adapter is None:
        return
    modules = {plain(name): module for name, module in model.named_modules() if hasattr(module, "weight")}
    try:
        with memory_faults(plan.device), torch.no_grad():
            for change in changes(checkpoint):
                if change.module in modules:
                    _merge_into(modules[change.module], change, checkpoint.folder, adapter, getattr(torch, plan.dtype))
    except (MemoryShortError, CheckpointError, KeyboardInterrupt):
        raise
    except Exception as exc:  # peft, safetensors and torch each raise their own types
        raise CheckpointError(f"The adapter {adapter.name} can't be merged: {reason_of(exc)}.") from exc


def _merge_into(module: Any, change: ModuleChange, folder: Path, adapter: Adapter, dtype: torch.dtype) -> None:
    """Merges a change into one module of the model that was loaded from `folder`.

    If the module is already quantised, its weight is read from the folder again, changed in `dtype` and quantised anew,
    so that memory never holds more than one matrix twice.
    """
    from safetensors import safe_open
    from torch import nn

    with safe_open(adapter.folder / ADAPTER_WEIGHTS, framework="pt") as file:
        tensors = {part: file.get_tensor(name) for part, name in change.tensors.items()}
    whole: Any = module
    if not module.weight.is_floating_point():
        stored = tensors_of(folder)[f"{change.module}.weight"]
        with safe_open(stored.file, framework="pt") as file:
            weight = file.get_tensor(stored.name).to(module.weight.device, dtype)
        whole = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        whole.weight = nn.Parameter(weight, requires_grad=False)
    for part in ("weight", "bias"):
        if part in tensors:
            old = getattr(whole, part)
            setattr(whole, part, nn.Parameter(tensors.pop(part).to(old.device, old.dtype), requires_grad=False))
    if tensors:
        _add(whole, tensors, change)
    if whole is not module:
        _quantise(module, whole.weight)


def _add(module: Any, tensors: dict[str, torch.Tensor], change: ModuleChange) -> None:
    """Adds the product of a change's tensors to the weight of a module; peft computes it."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from torch import float32, nn

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
    parameters = dict(tuner.model["part"].named_parameters())
    for part, tensor in tensors.items():
        kind, _, rest = part.partition(".")
        name = ".".join(filter(None, (kind, "default", rest or ("weight" if kind == "lora_magnitude_vector" else ""))))
        parameters[name].data = tensor.to(module.weight.device, float32)
    tuner.merge_and_unload(safe_merge=True)


def _quantise(module: Any, weight: nn.Parameter) -> None:
    """Replaces the weight of a bitsandbytes module by another weight, quantised in the same way."""
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
