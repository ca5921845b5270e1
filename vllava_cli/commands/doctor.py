"""`vllava doctor`: says what this machine has, how a model would be loaded here and why, and what would speed it up.

Nothing is fetched and no weight is read.
"""

from __future__ import annotations

import platform
import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from vllava_cli import __version__
from vllava_cli.commands.provenance import version_of
from vllava_cli.errors import HubError, VllavaError
from vllava_cli.machine import Hardware
from vllava_cli.memory import GIB
from vllava_cli.nouns import (
    DEFAULT_MODEL,
    DEMO_MODEL,
    Adapter,
    Checkpoint,
    LoadPlan,
    Wishes,
    counted,
)
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

if TYPE_CHECKING:
    from vllava_cli.engine.clip_cache import KeptClips
    from vllava_cli.engine.weight_cache import CachedWeights
    from vllava_cli.nouns import Source

PACKAGES = ("torch", "transformers", "av", "pillow", "accelerate", "bitsandbytes", "flash-attn", "huggingface-hub")


@dataclass(frozen=True, kw_only=True)
class Health:
    """The findings of the doctor; `fault` says why the model can't be loaded here, and is None if it can."""

    hardware: Hardware
    versions: dict[str, str | None]
    model: str
    is_here: bool = False
    """True if all of the model's files are on this disk."""
    model_bytes: int = 0
    """The size of the weights on this disk; if files are missing, about the size of what is left to fetch."""
    here_bytes: int = 0
    """The size of the weights on this disk, including downloads that broke off."""
    missing: tuple[str, ...] = ()
    """The names of the files that are left to fetch, if the model is on this disk in part."""
    place: str = ""
    adapter: Adapter | None = None
    plan: LoadPlan | None = None
    fault: str | None = None
    advice: tuple[str, ...] = ()
    kept: tuple[CachedWeights, ...] = ()
    """The contents of the weight cache: quantised weights of any model, for later starts."""
    clips: KeptClips | None = None
    """The contents of the clip cache; None if it is empty."""


def run(wishes: Wishes, screen: Screen, *, as_json: bool = False) -> int:
    """Prints the findings; returns 0 if the model can be loaded here (once it is fetched), else 1."""
    with screen.waiting("Looking at this machine"):
        health = examine(wishes)
    if as_json:
        screen.answer(json_of(asdict(health), default=str) + "\n")
    else:
        for title, rows in _chapters(health):
            screen.answer(f"{title}\n")
            screen.facts([(f"  {name}", text) for name, text in rows], is_answer=True)
    return 0 if health.fault is None else 1


def examine(wishes: Wishes) -> Health:
    """Collects the findings; an error, as for an unknown model or an impossible wish, becomes `fault`."""
    from vllava_cli.engine.clip_cache import kept_clips
    from vllava_cli.engine.device_speed import planned
    from vllava_cli.engine.load import check
    from vllava_cli.engine.tokens import read_tokens
    from vllava_cli.engine.weight_cache import all_cached, cache_folder
    from vllava_cli.hardware import probe
    from vllava_cli.plan import advise

    versions = {name: version_of(name) for name in PACKAGES}
    health = Health(
        hardware=probe(),
        versions=versions,
        model=wishes.model,
        kept=all_cached(cache_folder()),
        clips=kept_clips(),
    )
    try:
        checkpoint, health = _with_files(health, wishes)
        loaded = checkpoint.seeing(["video"])
        tokens = read_tokens(checkpoint) if health.is_here else None
        chosen = planned(wishes, health.hardware, loaded)
        if tokens:
            check(chosen, tokens)
        return replace(health, plan=chosen, advice=advise(chosen, health.hardware, loaded))
    except VllavaError as exc:
        return replace(health, fault=str(exc))


def _with_files(health: Health, wishes: Wishes) -> tuple[Checkpoint, Health]:
    """Finds the model's files on this disk; returns the checkpoint, and `health` with facts about the files.

    Errors: HubError if too few files are here to describe the model, CheckpointError.
    """
    from vllava_cli.engine import hub
    from vllava_cli.engine.adapter import described
    from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, describe
    from vllava_cli.engine.hub_download import cache_folder

    source = hub.find_here(wishes.model, wishes.revision)
    adapter = described(_adapter_here(wishes.adapter)) if wishes.adapter else None
    missing = hub.missing_description(source.folder) if source and source.revision else []
    is_here = False
    if source and not missing:
        checkpoint = describe(replace(source, adapter=adapter))
        missing = hub.missing_weights(source.folder)
        is_here = not missing or source.revision is None
        if is_here:
            hub.fetch_weights(source)  # fetches nothing here; raises if a file is missing or damaged
    elif wishes.model == DEFAULT_MODEL:
        checkpoint = replace(DEFAULT_CHECKPOINT, adapter=adapter)
    else:
        raise _lacking(hub.lack(wishes.model, source, missing), wishes.model)
    here_bytes = hub.weights_bytes(source) if source else 0
    return checkpoint, replace(
        health,
        is_here=is_here,
        model_bytes=here_bytes if is_here else max(0, checkpoint.parameters * 2 - here_bytes),
        here_bytes=here_bytes,
        missing=tuple(missing),
        place=str(source.folder if source and is_here else cache_folder()),
        adapter=adapter,
    )


def _adapter_here(name: str) -> Source:
    """Finds an adapter on this disk. Errors: HubError if it isn't there, or lacks files."""
    from vllava_cli.engine import hub

    source = hub.find_here(name, kind="adapter")
    missing = hub.missing_adapter(source)
    if source is None or missing:
        raise _lacking(hub.lack(name, source, missing, kind="adapter"), name)
    return source


def _lacking(lack: str, name: str) -> HubError:
    return HubError(f"{lack}: run hf download {name}, then vllava doctor again.")


def _chapters(health: Health) -> list[tuple[str, list[tuple[str, str]]]]:
    installed = [(name, version or "not installed") for name, version in health.versions.items()]
    kept = [
        (each.precision, f"{each.model}, {_size(each.bytes)}; rm -r {shlex.quote(str(each.folder))} removes it.")
        for each in health.kept
    ]
    if clips := health.clips:
        what = f"{counted(clips.count, 'clip')} as read, {_size(clips.bytes)} of at most {_size(clips.most_bytes)}"
        kept.append(("clips", f"{what}; rm -r {shlex.quote(str(clips.folder))} removes them."))
    plan = health.plan
    chapters = [
        ("machine", _machine(health.hardware)),
        ("versions", [("vllava", __version__), ("python", platform.python_version()), *installed]),
        ("model", _model(health)),
        ("kept", kept),
        ("plan for videos", [(what, f"{choice}: {reason}") for what, choice, reason in plan.reasons] if plan else []),
        ("forms on this CPU", [(str(name), f"{what}.") for name, what in plan.forms] if plan else []),
        ("fault", [("", health.fault)] if health.fault else []),
        ("faster", [("", tip) for tip in health.advice or ("Nothing to suggest.",)] if plan else []),
    ]
    return [(title, rows) for title, rows in chapters if rows]


def _machine(hardware: Hardware) -> list[tuple[str, str]]:
    instructions = "with" if hardware.has_cpu_bf16 else "without"
    rows = [
        ("cpu", f"{hardware.cpu_name}, {counted(hardware.cpu_cores, 'core')}, {instructions} bf16 instructions"),
        ("ram", f"{hardware.ram_free_bytes / GIB:.1f} of {hardware.ram_total_bytes / GIB:.1f} GiB free"),
    ]
    for gpu in hardware.accelerators:
        capability = f", compute capability {gpu.capability[0]}.{gpu.capability[1]}" if gpu.capability else ""
        memory = f"{gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free"
        rows.append((gpu.device, f"{gpu.name}, {memory}{capability}"))
    if not hardware.accelerators:
        rows.append(("gpu", "none found"))
    return rows + [("gpu", fault) for fault in hardware.faults]


def _model(health: Health) -> list[tuple[str, str]]:
    label = "demo: tiny, knows only moving shapes" if health.model == DEMO_MODEL else health.model
    rows = [("name", label)]
    if health.place:
        size = _size(health.model_bytes)
        begun = f"{_size(health.here_bytes)} of it here" if health.missing else "not here yet"
        more = f" and {len(health.missing) - 1} more" if len(health.missing) > 1 else ""
        to_fetch = f"{begun}: about {size} to fetch into {', '.join([health.place, *health.missing[:1]])}{more}"
        rows.append(("files", f"complete, {size}, in {health.place}" if health.is_here else to_fetch))
    if health.adapter:
        rows.append(("adapter", f"{health.adapter.name}, in {health.adapter.folder}"))
    return rows


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / 1e6:.1f} MB"
