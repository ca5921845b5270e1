"""Which quantised weights are kept on this disk, and of what: a folder each, named after all that they follow from.

A checkpoint that changed, another library or another form give another name: what is found under a name is what would
be quantised anew. torch is not needed here, and nothing is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vllava_cli.engine.hub import shapes_in
from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import Adapter, LoadPlan

LABEL = "kept.json"
"""Says what a folder holds. It is written last."""

LAYOUT = 2
"""Of what is kept; raised where load.py begins to hold weights in another way."""

ORIGINAL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
LIBRARIES = ("transformers", "bitsandbytes", "torch")


@dataclass(frozen=True, kw_only=True)
class OriginalFile:
    """A file of the checkpoint, as far as it can be told without reading it."""

    path: str
    """Behind all links: in the hub's cache that is the name of its content."""
    bytes: int
    modified_ns: int
    changed_ns: int
    """When its content or its name did: a copy that takes the old date with it has a new one here."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that quantised weights follow from."""

    files: tuple[OriginalFile, ...]
    form: tuple[str, ...]
    """Quantisation, dtype, kind of device (GPUs and CPUs round differently) and the digest of an adapter."""
    settings: str
    """bitsandbytes' own, as JSON."""
    versions: tuple[str, ...]
    layout: int = LAYOUT

    @property
    def name(self) -> str:
        return _name(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Quantised weights on this disk."""

    folder: Path
    model: str
    """As the user named it who had them made."""
    precision: str
    bytes: int


def origin_of(
    folder: Path,
    plan: LoadPlan,
    settings: dict[str, Any],
    *,
    adapter: Adapter | None = None,
) -> Origin | None:
    """Of the checkpoint in `folder` under a plan that quantises; None where its files can't be looked at."""
    try:
        paths = sorted({path.resolve(strict=True) for name in ORIGINAL_FILES for path in folder.glob(name)})
        files = tuple(_original(path) for path in paths)
    except OSError:
        return None
    return Origin(
        files=files,
        form=(
            plan.quantisation or "",
            plan.dtype,
            plan.device.partition(":")[0],
            *([adapter.sha256] if adapter else []),
        ),
        settings=json.dumps(settings, sort_keys=True, default=str),
        versions=tuple(_version(library) for library in LIBRARIES),
    )


def cache_folder() -> Path:
    """Where quantised weights are kept: below VLLAVA_CACHE, else ~/.cache/vllava on Linux."""
    from platformdirs import user_cache_path

    wish = os.environ.get("VLLAVA_CACHE")
    return (Path(wish).expanduser() if wish else user_cache_path("vllava", appauthor=False)) / "quantised"


def is_damaged(folder: Path) -> bool:
    """Whether the files of kept weights are proved to be others than were written: by their sizes or their headers."""
    if read_kept(folder) is None:
        return True
    try:
        for path in folder.glob("*.safetensors"):
            shapes_in(path)
    except CheckpointError:
        return True
    return False


def all_kept(cache: Path) -> tuple[Kept, ...]:
    """By model; nothing where nothing is kept or can be read."""
    found = (kept for folder in _folders(cache) if (kept := read_kept(folder)))
    return tuple(sorted(found, key=lambda kept: (kept.model, kept.precision, kept.folder)))


def outdated(origin: Origin, cache: Path) -> list[Path]:
    """What weights of this origin replace: those of the same checkpoint in the same form, before something changed."""
    files, form = [file.path for file in origin.files], list(origin.form)
    return [
        folder
        for folder in _folders(cache)
        if folder.name != origin.name
        and (label := _label(folder))
        and ([file["path"] for file in label["origin"]["files"]], label["origin"]["form"]) == (files, form)
    ]


def read_kept(folder: Path) -> Kept | None:
    """What a folder holds; None for one that is not here, not whole or not ours."""
    label = _label(folder)
    if label is None:
        return None
    precision, size = label["origin"]["form"][0], sum(label["sizes"].values())
    return Kept(folder=folder, model=label["model"], precision=precision, bytes=size)


def label_of(origin: Origin, model: str, folder: Path) -> str:
    """What LABEL says of the files that are in `folder` by now."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return json.dumps({"model": model, "sizes": sizes, "origin": asdict(origin)}, indent=1)


def _label(folder: Path) -> Any:
    """What LABEL says, where the files are as it says, else None."""
    try:
        label = json.loads((folder / LABEL).read_text(encoding="utf-8"))
        is_whole = all((folder / name).stat().st_size == size for name, size in label["sizes"].items())
        is_ours = folder.name == _name(label["origin"]) and isinstance(label["model"], str)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return label if is_whole and is_ours else None


def _folders(cache: Path) -> list[Path]:
    try:
        return sorted(cache.iterdir())
    except OSError:
        return []


def _name(origin: Any) -> str:
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:24]


def _original(path: Path) -> OriginalFile:
    facts = path.stat()
    return OriginalFile(
        path=str(path), bytes=facts.st_size, modified_ns=facts.st_mtime_ns, changed_ns=facts.st_ctime_ns
    )


def _version(library: str) -> str:
    try:
        return f"{library} {metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return library
