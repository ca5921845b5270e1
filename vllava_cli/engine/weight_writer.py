"""Writes quantised weights for later starts, whole or not at all. A failure is no error: then nothing is kept.

One process writes at a time. A set grows in PART, is brought to the disk and takes its place in one step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.engine.weight_cache import LABEL, Origin, is_damaged, label_of, outdated, read_kept
from vllava_cli.errors import LockedError, OutputError, reason_of
from vllava_cli.fit import free_gib, gib
from vllava_cli.storage.files import locked, private_fault, release, sync_folder

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

PART = ".part"
LOCK = ".lock"
SHARD_SIZE = "1GB"
"""What of a GPU's weights passes through RAM at once."""

LEAST_BYTES = 1 << 26
"""Less than this is quantised within seconds: on two cores of a CPU 0.5 GiB took 46 s, and 0.5 s to read again."""

FREE_PER_BYTE = 2
"""How much of the disk must be free for each byte that is kept: a cache is no reason to fill it."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where quantised weights are kept, and who is told about it."""

    folder: Path
    notice: Callable[[str], object]
    """What a user should know: that there is something new on the disk."""
    detail: Callable[[str], object]
    least_bytes: int = LEAST_BYTES
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def found(self, origin: Origin) -> Iterator[Path]:
        """The folder with weights of this origin, if there is one that nobody else could have written to."""
        folder = self.folder / origin.name
        if not read_kept(folder):
            return
        for path in (self.folder, folder, *folder.iterdir()):
            if fault := private_fault(path):
                self.detail(f"weights: those kept in {folder} are not read: {path} is not yours alone, {fault}.")
                return
        yield folder

    def drop_if_damaged(self, folder: Path, reason: str) -> None:
        """Removes what is proved to be damaged, and says why the rest isn't used."""
        if is_damaged(folder):
            self.detail(f"weights: those kept in {folder} are damaged and dropped; they are quantised anew.")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self.detail(f"weights: those kept in {folder} stay there unused: {reason}.")

    def keep(self, model: VideoLlavaForConditionalGeneration, origin: Origin, *, named: str) -> None:
        """Writes a model that was quantised just now, if it is worth it and the disk has room."""
        size = sum(value.nbytes for value in model.state_dict().values())
        if size < self.least_bytes:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if fault := private_fault(self.folder):
                raise OutputError(f"{fault}; run chmod 700, or set VLLAVA_CACHE to a folder of your own")
            self.folder.chmod(0o700)
            free = self.free_bytes(self.folder)
            if free < FREE_PER_BYTE * size:
                raise OutputError(f"they take {gib(size)}, and of the disk only {free_gib(free)} GiB are free")
            with self._alone() as part:
                if read_kept(self.folder / origin.name):  # another process was faster
                    return
                self._write(model, origin, part, named=named)
        except LockedError:
            self.detail(f"weights: not kept in {self.folder}: another vllava is keeping some there now.")
            return
        except Exception as exc:  # a full disk has another type in each library
            self.detail(f"weights: not kept in {self.folder}: {reason_of(exc)}.")
            return
        self.notice(
            f"vllava: kept the {origin.form[0]} weights ({gib(size)}) in {self.folder / origin.name}; "
            "later starts read those."
        )

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """An empty PART that no other process writes to; it is gone in the end. Errors: LockedError, OutputError."""
        descriptor = locked(self.folder / LOCK)
        part = self.folder / PART
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
            release(descriptor)

    def _write(self, model: VideoLlavaForConditionalGeneration, origin: Origin, part: Path, *, named: str) -> None:
        model.save_pretrained(part, max_shard_size=SHARD_SIZE)
        (part / LABEL).write_text(label_of(origin, named, part), encoding="utf-8")
        for path in part.iterdir():
            _sync(path)
        target = self.folder / origin.name
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        sync_folder(target)
        for folder in outdated(origin, self.folder):
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """A name may outlive a power cut that its content doesn't."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
