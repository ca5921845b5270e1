"""Quantised weights on this disk, a folder for each set, so that later starts needn't quantise again.

The folder's name is a hash of the paths, sizes and dates of the checkpoint's files, the form, the settings and the
versions of the libraries, so a set can never be stale. A set is written under another name, flushed to the disk and
renamed in one step. If that fails, nothing is kept, and no error is raised. torch isn't imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vllava_cli.engine.hub import shapes_in
from vllava_cli.errors import CheckpointError, LockedError, OutputError, reason_of
from vllava_cli.memory import free_gib, gib
from vllava_cli.nouns import SILENT, Adapter, LoadPlan, Log
from vllava_cli.storage.files import locked, make_private, private_fault, release, sync_folder

LABEL = "kept.json"
"""Describes the set of a folder. It is written last."""
LAYOUT = 2
"""The layout of the sets; increase it when load.py begins to hold weights in another way."""
PART = ".part"
LOCK = ".lock"
ORIGINAL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
LIBRARIES = ("transformers", "bitsandbytes", "torch")
LEAST_BYTES = 1 << 26
"""Less than this is quantised within seconds: on two cores of a CPU 0.5 GiB took 46 s, and 0.5 s to read again."""
FREE_PER_BYTE = 2
"""The bytes of the disk that must be free for each one that is kept: a cache is no reason to fill it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that determines the values of quantised weights."""

    files: tuple[dict[str, Any], ...]
    """Path, size and dates of the checkpoint's files, which aren't read. Links are resolved: in the hub's cache the
    path then names the content. A copy that keeps the old modification date still has a change date of its own."""
    form: tuple[str, ...]
    """Quantisation, dtype, kind of device (GPUs and CPUs round differently) and the digest of an adapter."""
    settings: str
    """The settings of the quantisation, as JSON."""
    versions: tuple[str, ...]
    layout: int = LAYOUT

    @property
    def name(self) -> str:
        return _name(asdict(self))


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """A set of quantised weights on this disk."""

    folder: Path
    model: str
    """The name under which the user loaded the model."""
    precision: str
    bytes: int


def origin_of(
    folder: Path, plan: LoadPlan, settings: dict[str, Any], *, adapter: Adapter | None = None
) -> Origin | None:
    """Returns the origin of the weights that a quantising plan makes of the checkpoint in `folder`.

    `settings` are those of the quantisation. Returns None if the checkpoint's files can't be examined.
    """
    try:
        paths = sorted({path.resolve(strict=True) for name in ORIGINAL_FILES for path in folder.glob(name)})
        facts = [(path, path.stat()) for path in paths]
    except OSError:
        return None
    files = (
        {"path": str(path), "bytes": each.st_size, "modified_ns": each.st_mtime_ns, "changed_ns": each.st_ctime_ns}
        for path, each in facts
    )
    form = (plan.quantisation or "", plan.dtype, plan.device.partition(":")[0], *([adapter.sha256] if adapter else []))
    return Origin(
        files=tuple(files),
        form=form,
        settings=json.dumps(settings, sort_keys=True, default=str),
        versions=tuple(f"{library} {_version(library)}" for library in LIBRARIES),
    )


def cache_folder() -> Path:
    """Returns the cache's folder, which is below VLLAVA_CACHE or, if that isn't set, below ~/.cache/vllava on Linux."""
    from platformdirs import user_cache_path

    wish = os.environ.get("VLLAVA_CACHE")
    return (Path(wish).expanduser() if wish else user_cache_path("vllava", appauthor=False)) / "quantised"


def all_cached(cache: Path) -> tuple[CachedWeights, ...]:
    """Lists all sets, sorted by model; empty if the cache holds none or can't be read."""
    found = (weights for folder in _folders(cache) if (weights := read_cached(folder)))
    return tuple(sorted(found, key=lambda weights: (weights.model, weights.precision, weights.folder)))


def read_cached(folder: Path) -> CachedWeights | None:
    """Describes the set in a folder; None if the folder is missing, incomplete or not ours."""
    label = _label(folder)
    if label is None:
        return None
    precision, size = label["origin"]["form"][0], sum(label["sizes"].values())
    return CachedWeights(folder=folder, model=label["model"], precision=precision, bytes=size)


def label_of(origin: Origin, model: str, folder: Path) -> str:
    """Makes the content of LABEL for the files that `folder` holds now."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return json.dumps({"model": model, "sizes": sizes, "origin": asdict(origin)}, indent=1)


@dataclass(frozen=True, kw_only=True)
class WeightCache:
    """Finds and keeps sets of quantised weights; one process writes at a time."""

    folder: Path
    log: Log = SILENT
    least_bytes: int = LEAST_BYTES
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def find(self, origin: Origin) -> Path | None:
        """Returns the folder with weights of this origin; None if there is none or another user could write to it."""
        folder = self.folder / origin.name
        if not read_cached(folder):
            return None
        for path in (self.folder, folder, *folder.iterdir()):
            if fault := private_fault(path):
                self._report(f"the cached set in {folder} is not read: {path} is not yours alone, {fault}")
                return None
        return folder

    def drop_if_damaged(self, folder: Path, reason: str) -> None:
        """Removes a set if the sizes or headers of its files show that it is damaged; else logs why it isn't used."""
        try:
            for path in folder.glob("*.safetensors"):
                shapes_in(path)
            is_damaged = read_cached(folder) is None
        except CheckpointError:
            is_damaged = True
        if is_damaged:
            self._report(f"the cached set in {folder} is damaged and dropped; the weights are quantised again")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._report(f"the cached set in {folder} stays there unused: {reason}")

    def keep(self, write: Callable[[Path], object], size: int, origin: Origin, *, named: str) -> None:
        """Lets `write` put weights of this size into a folder, if they are large and the disk has enough free space."""
        if size < self.least_bytes:
            return
        try:
            self._check_folder(size)
            with self._alone() as part:
                if read_cached(self.folder / origin.name):  # another process was faster
                    return
                self._write(write, origin, part, named=named)
        except LockedError:
            self._report(f"not kept in {self.folder}: another vllava is keeping some there now")
        except Exception as exc:  # each library raises another type for a full disk
            self._report(f"not kept in {self.folder}: {reason_of(exc)}")
        else:
            target = self.folder / origin.name
            self.log.notice(
                f"vllava: kept the {origin.form[0]} weights ({gib(size)}) in {target}; later starts read those."
            )

    def _report(self, what: str) -> None:
        self.log.detail(f"weights: {what}.")

    def _check_folder(self, size: int) -> None:
        """Makes the folder. Errors: OutputError if it isn't the user's alone, or the disk has too little free space."""
        make_private(self.folder)
        free = self.free_bytes(self.folder)
        if free < FREE_PER_BYTE * size:
            raise OutputError(f"they take {gib(size)}, and only {free_gib(free)} GiB of the disk are free")

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """Yields a new folder that is this process's alone, then removes it. Errors: LockedError, OutputError."""
        descriptor = locked(self.folder / LOCK)
        part = self.folder / PART
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
            release(descriptor)

    def _write(self, write: Callable[[Path], object], origin: Origin, part: Path, *, named: str) -> None:
        write(part)
        (part / LABEL).write_text(label_of(origin, named, part), encoding="utf-8")
        for path in part.iterdir():
            with path.open("rb+") as file:  # else a power cut could leave the name and lose the content
                os.fsync(file.fileno())
        target = self.folder / origin.name
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        sync_folder(target)
        paths, form = [file["path"] for file in origin.files], list(origin.form)
        for folder in _folders(self.folder):  # older sets of this checkpoint in this form are of no use
            old = label["origin"] if folder != target and (label := _label(folder)) else None
            if old and ([file["path"] for file in old["files"]], old["form"]) == (paths, form):
                shutil.rmtree(folder, ignore_errors=True)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # bitsandbytes isn't made for every machine
        return "none"


def _label(folder: Path) -> Any:
    """Reads a folder's label; None if vllava didn't write it, or if a file has another size than the label says."""
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
