"""A LoRA adapter's files: what they say, and what they would change in a checkpoint. No tensor is read.

Trainers name modules as their version of transformers does. All are compared by their plain names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import util
from pathlib import Path
from typing import Any

from vllava_cli.engine import hub
from vllava_cli.engine.folder_faults import ADAPTER_CONFIG, CONFIG, base_of
from vllava_cli.engine.hub import Source
from vllava_cli.engine.repository import repository_folder
from vllava_cli.errors import CheckpointError, UsageError
from vllava_cli.nouns import Adapter, Checkpoint, Wishes
from vllava_cli.storage.fields import read_object, unusable

ADAPTER_WEIGHTS = "adapter_model.safetensors"
UNMERGEABLE = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora"),
)
"""Settings with which a module's answer isn't that of one changed matrix, or not of one that an adapter names."""
SWITCHES = ("use_dora", "use_rslora")
REBASED = ("corda", "kasa", "loftq", "lora_ga", "olora", "pissa")
"""Beginnings that change the base's own weights: an adapter that is trained from there fits no published base."""
_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>[\w.]+?)\.(?:base_layer\.)?(?P<part>weight|bias|lora_embedding_[AB]"
    r"|lora_magnitude_vector|lora_A\.weight|lora_B\.(?:weight|bias))"
)
_LITERAL = re.compile(r"\^?((?:\w|\\?\.)+)\$?")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an adapter does to one module of the model."""

    module: str
    """Its plain name."""
    alpha: float
    """Divided by the rank, or its root, it scales what is added."""
    is_rank_rooted: bool
    tensors: dict[str, str] = field(default_factory=dict)
    """The adapter's tensor for each part: {"lora_A.weight": "base_model.model.….lora_A.weight", …}."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor of a checkpoint is."""

    file: Path
    name: str
    shape: tuple[int, ...]


def locate(wishes: Wishes, notice: Callable[[str], object], *, is_quiet: bool) -> Source:
    """As `hub.locate`, with the adapter that is wished for; `notice` hears what a user may not expect.

    Errors: UsageError where peft is missing, CheckpointError, HubError.
    """
    source = hub.locate(wishes.model, wishes.revision, is_quiet=is_quiet)
    return _joined(source, hub.locate_adapter(wishes.adapter, is_quiet=is_quiet) if wishes.adapter else None, notice)


def foreseen(wishes: Wishes, notice: Callable[[str], object]) -> Source:
    """As `locate`, without the network; the revision is UNKNOWN where this disk lacks the model or its adapter.

    Errors: UsageError where peft is missing, CheckpointError; HubError for a name that no hub takes.
    """
    source = hub.find_here(wishes.model, wishes.revision)
    if source is None:
        commit = wishes.revision if re.fullmatch("[0-9a-f]{40}", wishes.revision or "") else hub.UNKNOWN
        source = Source(model=wishes.model, folder=repository_folder(wishes.model), revision=commit)
    adapter = hub.find_here(wishes.adapter) if wishes.adapter else None
    is_whole = adapter and (adapter.revision is None or (adapter.folder / ADAPTER_WEIGHTS).exists())
    if wishes.adapter and not is_whole:
        return replace(source, revision=hub.UNKNOWN)
    return _joined(source, adapter, notice)


def _joined(source: Source, found: Source | None, notice: Callable[[str], object]) -> Source:
    """A checkpoint with the adapter that was found for it."""
    if found:
        source = replace(source, adapter=described(found))
        base = base_of(found.folder)
        if base and Path(base).name != Path(source.model).name:
            notice(
                f"vllava: warning: the adapter {found.model} was trained on {base}, and the model is {source.model}."
            )
    elif (source.folder / ADAPTER_CONFIG).exists() and (source.folder / CONFIG).exists():
        notice(
            f"vllava: {source.model} has an {ADAPTER_CONFIG} beside its weights, which are taken as merged already; if "
            f"they aren't, add --adapter {source.model}."
        )
    return source


def described(source: Source) -> Adapter:
    """What an adapter's files say. Errors: UsageError where peft is missing, CheckpointError for any other adapter."""
    folder, weights = source.folder, source.folder / ADAPTER_WEIGHTS
    if not (folder / ADAPTER_CONFIG).exists():
        if (folder / CONFIG).exists():
            raise CheckpointError(f"{source.model} is a model and no adapter: give it with --model.")
        raise CheckpointError(f"{source.model} is no adapter: it has no {ADAPTER_CONFIG}.")
    settings = read_object(folder / ADAPTER_CONFIG)
    _check_settings(source.model, settings)
    for name in SWITCHES:
        if not isinstance(settings.get(name), bool | None):
            raise unusable(folder / ADAPTER_CONFIG, f"{name} is {settings[name]!r} and must be true or false")
    pickled = weights.with_suffix(".bin")
    if pickled.exists() and not weights.exists():
        raise CheckpointError(
            f"The adapter {source.model} has its weights in {pickled.name}, and vllava reads them from safetensors "
            "files only: load it with peft where you trust it, and save it with save_pretrained."
        )
    hub.shapes_in(weights)
    if util.find_spec("peft") is None:
        raise UsageError("--adapter needs peft, which isn't installed: pip install 'vllava[adapter]'.")
    digest = hashlib.sha256((folder / ADAPTER_CONFIG).read_bytes())
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Adapter(name=source.model, folder=folder, revision=source.revision, sha256=digest.hexdigest())


def changes(adapter: Adapter, checkpoint: Checkpoint) -> list[Change]:
    """What an adapter changes, a module each. Errors: CheckpointError where a tensor has no place in the checkpoint."""
    settings = read_object(adapter.folder / ADAPTER_CONFIG)
    is_rooted = bool(settings.get("use_rslora"))
    found: dict[str, Change] = {}
    shapes = hub.shapes_in(adapter.folder / ADAPTER_WEIGHTS)
    places = tensors_of(checkpoint.folder)
    lost = []
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        module = plain(match["module"]) if match else ""
        if match is None or not _fits(match["part"], shape, places, module):
            lost.append(name)
            continue
        alpha = _alpha(adapter.folder / ADAPTER_CONFIG, settings, match["module"])
        change = found.setdefault(module, Change(module=module, alpha=alpha, is_rank_rooted=is_rooted))
        change.tensors[match["part"]] = name
    if lost or not found:
        what = (
            f"{len(lost)} of its {len(shapes)} tensors have no place there, {lost[0]} among them"
            if lost
            else "it is empty"
        )
        raise CheckpointError(f"The adapter {adapter.name} doesn't fit the model {checkpoint.model}: {what}.")
    for change in found.values():
        _check_whole(adapter, change, shapes, is_dora=bool(settings.get("use_dora")))
    return list(found.values())


def tensors_of(folder: Path) -> dict[str, Place]:
    """Where a checkpoint's tensors are, by their plain names. Errors: CheckpointError."""
    return {
        plain(name): Place(file=folder / file, name=name, shape=shape)
        for file in hub.weight_files(folder)
        for name, shape in hub.shapes_in(folder / file).items()
    }


def plain(name: str) -> str:
    """A module's or tensor's name whichever version gave it: language_model.model.norm → language_model.norm."""
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.model\.", "language_model.", name)
    return name.replace("language_model.lm_head", "lm_head").replace("_tower.vision_model.", "_tower.")


def _fits(part: str, shape: tuple[int, ...], places: Mapping[str, Place], module: str) -> bool:
    """Whether a part of a change suits the tensor of the module that it is for."""
    if part in ("weight", "bias"):
        place = places.get(f"{module}.{part}")
        return place is not None and place.shape == shape
    place = places.get(f"{module}.weight")
    if place is None or not shape:
        return False
    out, into = place.shape[0], place.shape[1:]
    sizes = {
        "lora_A.weight": (shape[0], *into),
        "lora_B.weight": (out, *shape[1:2], *(1 for _ in into[1:])),
        "lora_B.bias": (out,),
        "lora_embedding_A": (shape[0], out),
        "lora_embedding_B": (*into, *shape[1:]),
    }
    return part == "lora_magnitude_vector" or sizes[part] == shape


def _check_settings(named: str, settings: Mapping[str, Any]) -> None:
    """Errors: CheckpointError, by name, for what can't be merged into a matrix."""
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
    """Of a module by the name that it had in training. Errors: CheckpointError."""
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


def _check_whole(adapter: Adapter, change: Change, shapes: Mapping[str, tuple[int, ...]], *, is_dora: bool) -> None:
    """Errors: CheckpointError for parts that peft would fill up with random values, or could not multiply."""
    parts = change.tensors.keys() - {"weight", "bias"}
    if not parts:
        return
    is_embedding = any(part.startswith("lora_embedding") for part in parts)
    first, second = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
    if missing := sorted({first, second, *(["lora_magnitude_vector"] if is_dora else [])} - parts):
        raise _misfit(adapter, f"lacks {missing[0]} of {change.module}")
    into, out = (shapes[change.tensors[part]] for part in (first, second))
    if not into[0] == out[1] > 0:
        raise _misfit(adapter, f"has rank {into[0]} in {first} and {out[1]} in {second} of {change.module}")
    wanted = (out[0],) if len(out) == 2 else (1, out[0], *out[2:])
    found = shapes[change.tensors["lora_magnitude_vector"]] if "lora_magnitude_vector" in parts else wanted
    if found != wanted:
        raise _misfit(
            adapter, f"has a lora_magnitude_vector of {list(found)} where {change.module} needs {list(wanted)}"
        )


def _misfit(adapter: Adapter, what: str) -> CheckpointError:
    return CheckpointError(f"The adapter {adapter.name} {what}: save it again.")
